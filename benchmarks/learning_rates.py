"""What a tuned learning rate costs: a plain classifier's weight step with each, beside that at a constant one.

All that is compared is measured side by side in one run (timing.py); the table shows medians and quartiles over rounds.
The networks train on random images by SGD with momentum. The learning rates' own step sizes are 0: hypergradients are
computed, and the learning rate stays as it is.
"""

import json
from collections.abc import Callable

import timing
import torch
import torch.nn.functional as F
from timing import DTYPES
from torch import Tensor

from cnn.models import CLASSES, PLAIN
from stn.bilevel import Loss, StreamTask
from stn.hypergradients.policies import HD, MARTHE
from stn.hyperparameters import Draw, Hyperparameters
from stn.kernels.precision import of_products
from stn.learning_rates import LearningRate
from stn.methods import STN
from stn.scripts.options import positive_int
from stn.streams import Shuffled

LR, BATCH = 0.01, 128
NETWORKS = ("lenet", "vgg", "resnet")
CONSTANT = "constant"
RATES: dict[str, Callable[[], LearningRate]] = {
    CONSTANT: lambda: LearningRate(LR),
    "hd": lambda: HD(LR, hyper_lr=0.0),
    "marthe_double_backward": lambda: MARTHE(LR, hyper_lr=0.0, products="double_backward"),
    "marthe_differences": lambda: MARTHE(LR, hyper_lr=0.0, products="differences"),
    "marthe_first_order": lambda: MARTHE(LR, hyper_lr=0.0, first_order=True),
}
AIMS = {"marthe_double_backward": 4.5, "marthe_differences": 4.5, "marthe_first_order": 2.2}
RATIOS = {
    f"{rate.replace('_', ' ')} / {CONSTANT}": (f"{rate}_step_s", f"{CONSTANT}_step_s", aim, aim)
    for rate, aim in ((rate, AIMS.get(rate)) for rate in RATES if rate != CONSTANT)
}
MEMORY = 2.2  # the largest peak of MARTHE to aim at, beside that at a constant learning rate


class RandomImages(StreamTask):
    """Images (3, 32, 32) of noise, so many mini-batches of each split."""

    BATCHES = 4

    def __init__(self, network: str, dtype: torch.dtype, batch_size: int):
        self.model, self.dtype, self.batch_size = PLAIN[network](), dtype, batch_size
        examples = self.BATCHES * batch_size
        images, labels = torch.randn(examples, 3, 32, 32), torch.arange(examples) % CLASSES
        self.streams = {split: Shuffled((images, labels), batch_size) for split in ("train", "valid")}

    def predict(self, batch: tuple[Tensor, Tensor], draw: Draw) -> Tensor:  # noqa: ARG002
        dtype = of_products(self.dtype)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return self.model(batch[0]).float()

    def loss(self, prediction: Tensor, batch: tuple[Tensor, Tensor], draw: Draw) -> Loss:  # noqa: ARG002
        loss = F.cross_entropy(prediction, batch[1])
        return Loss(loss, loss.detach(), len(batch[1]))


class Subject:
    """A network that trains; `step` is what is timed. rate: of RATES."""

    def __init__(self, network: str, dtype: torch.dtype, batch_size: int, rate: str):
        torch.manual_seed(0)
        task, self.hyper, self.rate = RandomImages(network, dtype, batch_size), Hyperparameters(), RATES[rate]()
        self.method = STN(task.model, self.hyper, lr=LR, momentum=0.9)
        self.task = self.rate.attach(task, self.hyper, self.method)

    def step(self) -> None:
        self.rate.apply(self.method)
        self.method.weight_step(self.task, self.hyper)
        self.rate.after_step()


def main(argv: list[str] | None = None) -> None:
    parser = timing.parser(__file__, __doc__, rounds=15)
    add = parser.add_argument
    add("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="(default: all)")
    add("--batch_size", type=positive_int, default=BATCH, metavar="N", help="images (default: %(default)s)")
    args = parser.parse_args(argv)
    timing.prepare(args.threads)
    if args.peak:
        subject = Subject(args.network[0], DTYPES[args.peak], args.batch_size, [*RATES][args.delta])
        timing.say_peak([subject.step] * 4)
        return
    results: dict[str, dict] = {}
    for network in args.network:
        print(f"{network}, batch {args.batch_size}; {timing.machine()}")
        for name in args.dtype:
            steps = {f"{rate}_step_s": Subject(network, DTYPES[name], args.batch_size, rate).step for rate in RATES}
            seconds = timing.interleaved(steps, args.rounds)
            sizes = {"network": network, "batch_size": args.batch_size, "threads": args.threads}
            peaks = {
                f"{rate}_peak_rss_mib": timing.peak_memory(__file__, name, delta=number, **sizes)
                for number, rate in enumerate(RATES)
            }
            results.setdefault(network, {})[name] = timing.medians(seconds) | peaks
            aims = {f"{rate}_peak_rss_mib": MEMORY for rate in AIMS}
            memory = timing.relative_peak_lines(peaks, f"{CONSTANT}_peak_rss_mib", aims)
            print(*timing.table(name, seconds, RATIOS), *memory, sep="\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
