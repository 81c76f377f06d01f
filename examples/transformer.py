"""A small GPT, written in plain torch.nn, that tunes its own dropout rates.

    python examples/transformer.py                 self-tuning, from a rate of 0.1
    python examples/transformer.py --fixed 0.1     the plain network at that rate, in the same loop

It learns the built-in corpus, or that of --data FOLDER, and logs in logs/transformer. A run that was stopped goes on.
"""

import sys
from argparse import Namespace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stn
from stn.datasets.builtin_text import write_builtin_corpus
from stn.datasets.text import load_corpus
from stn.scripts.options import OneLineParser, exit_status, named, nonnegative_int, one_of, positive_int, rate

NAME, ROOT = "transformer.py", Path(__file__).resolve().parent.parent
CONTEXT, WIDTH, HEADS, DEPTH, BATCH = 64, 96, 4, 2, 32


class GPT(nn.Module):
    """Predicts each next word: tokens (B, T) -> logits (B, T, vocabulary), T at most CONTEXT."""

    def __init__(self, vocabulary: int, dropout: float):
        super().__init__()
        self.words = nn.Embedding(vocabulary, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        self.dropout = nn.Dropout(dropout)
        block = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout, F.gelu, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, DEPTH, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.decoder = nn.Linear(WIDTH, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        future = nn.Transformer.generate_square_subsequent_mask(length, tokens.device)
        x = self.dropout(self.words(tokens) + self.places[:length])
        return self.decoder(self.blocks(x, mask=future, is_causal=True))


def windows(stream: Tensor) -> TensorDataset:
    """A stream of tokens as stretches of CONTEXT and, one token further, what is to be predicted."""
    stretches = stream.unfold(0, CONTEXT + 1, CONTEXT)
    return TensorDataset(stretches[:, :-1], stretches[:, 1:])


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def hyperparameters(fixed: float | None) -> stn.Hyperparameters:
    names = ("embedding", "attention", "residual")
    if fixed is not None:
        return stn.Hyperparameters(**{name: stn.Constant(fixed) for name in names})
    return stn.Hyperparameters(**{name: stn.Tuned(0.1, range=(0, 1)) for name in names})


def train(args: Namespace) -> None:
    corpus = load_corpus(args.data or write_builtin_corpus(ROOT / "data" / "builtin"))
    torch.manual_seed(args.seed)
    hyper = hyperparameters(args.fixed)
    rates = {"dropout": "embedding", "*.self_attn": "attention", "*": "residual"}
    net = stn.convert(GPT(len(corpus.vocabulary), dropout=0.1), hyper, dropout=rates)
    train, valid, test = (windows(stream) for stream in (corpus.train, corpus.valid, corpus.test))
    name = f"fixed-{args.fixed:g}" if args.fixed is not None else args.method
    data = Path(args.data).resolve().name if args.data else "builtin"
    stn.fit(
        net,
        hyper,
        loss=loss,
        perplexity=True,
        train=DataLoader(train, BATCH, shuffle=True),
        valid=DataLoader(valid, BATCH, shuffle=True),
        test=DataLoader(test, BATCH),
        optimizer=torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0),
        method=args.method,
        clip=1.0,
        epochs=args.epochs,
        run=ROOT / "logs" / "transformer" / f"{data}-{name}-seed{args.seed}",
        resume=True,
    )


def main() -> int:
    parser = OneLineParser(prog=NAME, description=__doc__)
    parser.add_argument("--fixed", type=rate, metavar="RATE", help="tune nothing: keep all dropout at this rate")
    parser.add_argument("--method", type=one_of("stn", "delta_stn"), default="stn", help="(default: stn)")
    parser.add_argument("--data", type=named, metavar="FOLDER", help="of train.txt, valid.txt and test.txt")
    parser.add_argument("--epochs", type=positive_int, metavar="N", default=12, help="(default: 12)")
    parser.add_argument("--seed", type=nonnegative_int, metavar="N", default=1, help="(default: 1)")
    args = parser.parse_args()
    return exit_status(NAME, lambda: train(args), "start it again to continue")


if __name__ == "__main__":
    sys.exit(main())
