"""What a step of a converted network costs beside the plain one: of the Transformer and the ResNet in examples/.

All that is compared is measured side by side in one run (timing.py); the table shows medians and quartiles over rounds.
Weights are updated by plain SGD everywhere, dropout rates are 0.1, and weight decay and augmentation are left out.
"""

import json
import warnings
from collections.abc import Callable
from functools import partial

import timing
import torch
import torch.nn.functional as F
from timing import DTYPES
from torch import Tensor, nn

from examples import resnet, transformer
from stn.conversion import convert
from stn.delta_stn import DeltaSTN
from stn.hyperparameters import Hyperparameters, Tuned
from stn.loaders import LoaderTask
from stn.methods import STN

TYPES = 10_000  # of words, as in Penn Treebank
WIDTH = 16  # of the ResNet's first stage
RATIOS = {
    "weight step / plain step": ("weight_step_s", "plain_step_s", 2.2, 2.2),
    "Δ-STN's weight step / plain step": ("delta_weight_step_s", "plain_step_s", 4.0, 4.0),
    "hyperparameter step / plain step": ("hyper_step_s", "plain_step_s", None, None),
}
MEMORY = 2.2  # the largest peak of either method to aim at, beside the plain network's
PLAIN, WAYS = "plain", {"": STN, "delta_": DeltaSTN}


def gpt() -> tuple[nn.Module, Tensor, Tensor, Callable[[Tensor, Tensor], Tensor], dict[str, str]]:
    tokens = torch.randint(TYPES, (transformer.BATCH, transformer.CONTEXT + 1))
    return transformer.GPT(TYPES, 0.1), tokens[:, :-1], tokens[:, 1:], transformer.loss, {"*": "rate"}


def resnet18() -> tuple[nn.Module, Tensor, Tensor, Callable[[Tensor, Tensor], Tensor], dict[str, str]]:
    labels = torch.arange(resnet.BATCH) % 10
    return resnet.resnet18(WIDTH), torch.randn(resnet.BATCH, 3, 32, 32), labels, F.cross_entropy, {}


NETWORKS = {"gpt": gpt, "resnet": resnet18}


class Subject:
    """A network at work on one mini-batch; each call is one thing to be timed. way: a method's prefix, or PLAIN."""

    def __init__(self, network: str, dtype: torch.dtype, way: str):
        torch.manual_seed(0)
        module, inputs, targets, loss, rates = NETWORKS[network]()
        if way == PLAIN:
            update = STN(module, Hyperparameters(), lr=0.01).updates["weights"]

            def step() -> None:
                with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                    objective = loss(module(inputs), targets)
                update(objective)

            self.steps = {"plain_step_s": step}
            return
        hyper = Hyperparameters(rate=Tuned(0.1, (0, 1)))
        net = convert(module, hyper, dropout=rates)
        loaders = {split: [(inputs, targets)] for split in ("train", "valid")}
        task = LoaderTask(net, loss, loaders, autocast=None if dtype == torch.float32 else dtype)
        method = WAYS[way](net, hyper, lr=0.01)
        steps = {"weight_step_s": method.weight_step, "hyper_step_s": method.hyper_step}
        self.steps = {way + name: partial(step, task, hyper) for name, step in steps.items()}


def main(argv: list[str] | None = None) -> None:
    parser = timing.parser(__file__, __doc__, rounds=15)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="(default: both)")
    args = parser.parse_args(argv)
    timing.prepare(args.threads)
    warnings.filterwarnings("ignore", "training does not read")  # the ResNet has no dropout that would
    ways = [PLAIN, *WAYS]
    if args.peak:
        subject = Subject(args.network[0], DTYPES[args.peak], ways[args.delta])
        timing.say_peak([*subject.steps.values()] * 4)
        return
    results: dict[str, dict] = {}
    for network in args.network:
        print(f"{network}, converted; {timing.machine()}")
        for name in args.dtype:
            subjects = [Subject(network, DTYPES[name], way) for way in ways]
            steps = {label: step for subject in subjects for label, step in subject.steps.items()}
            seconds = timing.interleaved(steps, args.rounds)
            peaks = {
                f"{way or 'stn_'}peak_rss_mib".replace(PLAIN, f"{PLAIN}_"): timing.peak_memory(
                    __file__, name, delta=number, network=network, threads=args.threads
                )
                for number, way in enumerate(ways)
            }
            results.setdefault(network, {})[name] = timing.medians(seconds) | peaks
            memory = timing.relative_peak_lines(peaks, f"{PLAIN}_peak_rss_mib", dict.fromkeys(peaks, MEMORY))
            print(*timing.table(name, seconds, RATIOS), *memory, sep="\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
