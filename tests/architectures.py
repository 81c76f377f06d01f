"""Networks as their authors would write them, in plain torch.nn, and inputs for four examples."""

import torch
import torch.nn.functional as F
from torch import nn

BATCH = 4


class Residual(nn.Module):
    def __init__(self, channels, stride=1):
        super().__init__()
        wider = channels * stride
        self.conv1 = nn.Conv2d(channels, wider, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wider)
        self.conv2 = nn.Conv2d(wider, wider, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wider)
        self.shortcut = nn.Conv2d(channels, wider, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, stride=2, padding=1, padding_mode="reflect")
        self.bottom = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=2)
        self.dropout = nn.Dropout2d(0.2)
        self.up = nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.out = nn.Conv2d(9, 2, 1)

    def forward(self, image):
        y = self.up(self.dropout(self.bottom(self.down(image).relu()).relu()))
        return self.out(torch.cat([y, image], 1))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Dropout(0.1), nn.Linear(7, 5))
        self.channels = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 8))

    def forward(self, x):
        x = x + self.tokens(x.mT).mT
        return x + self.channels(x)


class Block(nn.Module):
    """Of a GPT: its author's own attention, and sub-modules that are called by keyword."""

    def __init__(self, width=8):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, hidden_states):
        query, key, value = (
            part.unflatten(-1, (2, -1)).transpose(1, 2)
            for part in self.query_key_value(input=self.norm(input=hidden_states)).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return hidden_states + self.dropout(input=self.project(input=attended.transpose(1, 2).flatten(2)))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8, padding_idx=0)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.decoder = nn.Linear(8, 11, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, input_ids, *, scale=1.0):
        hidden = self.embedding(input_ids)
        for block in self.blocks:
            hidden = block(hidden_states=hidden)
        return {"logits": scale * self.decoder(hidden)}


class SharedLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.again = self.layer
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.again(self.layer(x).tanh()).tanh())


class Tagger(nn.Module):
    """An LSTM whose batch is the second axis, below a classifier of its last output, whose batch is the first."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 6, num_layers=2, dropout=0.3)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.lstm(x)[0][-1])


class Wider(nn.Linear):
    """A class of its author's, which computes as nn.Linear does."""


def frozen_start():
    network = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 3))
    network[0].requires_grad_(False)
    return network


def weight_normed():
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Linear(8, 6)), nn.Tanh(), norm(nn.Conv1d(5, 4, 3, padding="same")), Wider(6, 3))


SEQUENCES = (BATCH, 5, 8)
PADDING = torch.tensor([[False] * 5] * 3 + [[False] * 3 + [True] * 2])
CAUSAL = nn.Transformer.generate_square_subsequent_mask(5).double()


def encoder():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)


# Of each: how it is made, its inputs' shapes, "ids" for a shape of tokens, named inputs, the options of convert.
ARCHITECTURES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 3)), [(BATCH, 8)], {}, {}),
    "transformer": (
        lambda: nn.Transformer(8, 2, 1, 2, 16),
        [(5, BATCH, 8), (5, BATCH, 8)],
        {"tgt_mask": CAUSAL, "tgt_is_causal": True, "src_key_padding_mask": PADDING},
        {"batch_axis": 1},
    ),
    "encoder": (encoder, [SEQUENCES], {"src_key_padding_mask": PADDING}, {}),
    "lstm": (lambda: nn.LSTM(8, 6, bias=False), [(5, BATCH, 8)], {}, {"batch_axis": 1}),
    "lstm, both directions": (
        lambda: nn.LSTM(8, 6, num_layers=2, dropout=0.2, bidirectional=True, batch_first=True),
        [SEQUENCES],
        {},
        {},
    ),
    "tagger": (Tagger, [(5, BATCH, 8)], {}, {"batch_axis": {"lstm": 1}}),
    "resnet": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            Residual(4),
            Residual(4, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        [(BATCH, 3, 8, 8)],
        {},
        {},
    ),
    "unet": (UNet, [(BATCH, 3, 8, 8)], {}, {}),
    "mixer": (Mixer, [SEQUENCES], {}, {}),
    "gpt": (GPT, ["ids"], {"scale": 0.5}, {}),
    "shared layer": (SharedLayer, [SEQUENCES], {}, {}),
    "frozen layer": (frozen_start, [SEQUENCES], {}, {}),
    "weight norm": (weight_normed, [SEQUENCES], {}, {}),
}


def inputs_of(name):
    """Positional and named inputs of a network."""
    _, shapes, named, _ = ARCHITECTURES[name]
    made = [torch.randint(1, 11, SEQUENCES[:2]) if shape == "ids" else torch.randn(shape) for shape in shapes]
    return made, named
