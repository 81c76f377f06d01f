"""Converted networks beside hand-written self-tuning ones; random compositions of layers; Δ-STN steps of both."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import stn
from cnn.models import AlexNet
from lstm.model import AWDLSTM
from stn.layers import gates

pytestmark = pytest.mark.usefixtures("double")
BATCH = 4


@pytest.fixture
def hyper():
    return stn.Hyperparameters(
        rate=stn.Tuned(0.2, range=(0, 1), feed="unconstrained"),
        other=stn.Tuned(0.3, range=(0, 1), scale=0.5, feed="unconstrained"),
    )


def randomized(net):
    for gate in gates(net):
        nn.init.normal_(gate, std=0.3)
    return net.eval()


class PlainAWDLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(13, 6)
        self.layers = nn.ModuleList([nn.LSTM(6, 9), nn.LSTM(9, 6)])
        self.decoder = nn.Linear(6, 13)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x, _ = layer(x)
        return self.decoder(x)


class PlainAlexNet(nn.Module):
    def __init__(self):
        super().__init__()
        widths, strides = (3, 64, 192, 384, 256, 256), (2, 1, 1, 1, 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(widths[place], widths[place + 1], 3, stride, padding=1) for place, stride in enumerate(strides)
        )
        self.hidden = nn.ModuleList([nn.Linear(1024, 4096), nn.Linear(4096, 4096)])
        self.classifier = nn.Linear(4096, 10)

    def forward(self, x):
        for convolution, pooled in zip(self.convolutions, (True, True, False, False, True), strict=True):
            x = convolution(x).relu()
            x = F.max_pool2d(x, 2) if pooled else x
        x = x.flatten(1)
        for layer in self.hidden:
            x = layer(x).relu()
        return self.classifier(x)


def test_a_converted_awd_lstm_is_the_hand_written_one(hyper):
    torch.manual_seed(0)
    net = randomized(stn.convert(PlainAWDLSTM(), hyper, batch_axis=1))
    written = AWDLSTM(13, 6, 9, 2, hyper.num_tuned).eval()
    written.load_state_dict(net.module.state_dict())
    tokens = torch.randint(13, (7, BATCH))
    for draw in (hyper.perturbed(BATCH), hyper.current()):
        assert_close(net(tokens, draw=draw), written(tokens, None, draw)[0])


def test_a_converted_alexnet_is_the_hand_written_one(hyper):
    torch.manual_seed(0)
    net = randomized(stn.convert(PlainAlexNet(), hyper))
    written = AlexNet(hyper.num_tuned).eval()
    written.load_state_dict(net.module.state_dict())
    images = torch.randn(BATCH, 3, 32, 32)
    for draw in (hyper.perturbed(BATCH), hyper.current()):
        assert_close(net(images, draw=draw), written(images, draw))


LAYERS = {
    "linear": lambda random: nn.Linear(8, 8, bias=random() < 0.5),
    "convolution": lambda random: nn.Conv1d(5, 5, 3, padding=1, groups=5 if random() < 0.5 else 1),
    "lstm": lambda random: nn.LSTM(8, 4 if random() < 0.5 else 8, batch_first=True),
    "encoder": lambda _: nn.TransformerEncoderLayer(8, 2, 6, 0.1, batch_first=True),
    "norm": lambda _: nn.LayerNorm(8),
    "dropout": lambda _: nn.Dropout(0.1),
    "batch norm": lambda _: nn.BatchNorm1d(5),
    "activation": lambda random: nn.Tanh() if random() < 0.5 else nn.GELU(),
}


class Composition(nn.Module):
    """Layers of (B, 5, 8) to (B, 5, 8), some used twice, some around a residual."""

    def __init__(self, random):
        super().__init__()
        names = list(LAYERS)
        chosen = ["linear", "dropout", *(names[int(random() * len(names))] for _ in range(1 + int(4 * random())))]
        self.layers = nn.ModuleList(LAYERS[name](random) for name in chosen)
        if random() < 0.3:
            self.layers.append(self.layers[0])
        self.residual = [random() < 0.5 for _ in self.layers]

    def forward(self, x):
        for layer, residual in zip(self.layers, self.residual, strict=True):
            y = layer(x)
            if isinstance(y, tuple):
                y = F.pad(y[0], (0, 8 - y[0].shape[-1]))
            x = x + y if residual else y
        return x


@pytest.mark.parametrize("seed", range(25))
def test_random_compositions(hyper, seed):
    torch.manual_seed(seed)
    plain = Composition(lambda: torch.rand(()).item()).eval()
    net = stn.convert(plain, hyper, dropout="rate").eval()
    x = torch.randn(BATCH, 5, 8)
    expected = plain(x)
    assert_close(net(x, draw=hyper.perturbed(BATCH)), expected)
    randomized(net)
    collapsed = stn.collapse(net)
    assert [*collapsed.state_dict()] == [*plain.state_dict()]
    draw = hyper.current()
    assert_close(collapsed(x), net(x, draw=draw))
    with torch.no_grad():
        assert_close(collapsed(x), net(x, draw=draw))
    rows = hyper.perturbed(BATCH)
    together = net(x, draw=rows)
    for place in range(BATCH):
        one = stn.Draw(rows.h[place : place + 1], rows.tuned_values[place : place + 1], rows.columns, rows.shared, {})
        assert_close(net(x, draw=one)[place], together[place])
    net.train()(x, draw=rows).square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
