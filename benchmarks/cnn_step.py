"""What a step of the self-tuning AlexNet costs, beside the step of a plain one in PyTorch's own layers.

All that is compared is measured side by side in one run (timing.py); the table shows medians and quartiles over rounds.
"""

import json
from itertools import pairwise

import timing
import torch
import torch.nn.functional as F
from timing import DTYPES
from torch import Tensor, nn

from cnn.hyperparameters import TABLE, names_of
from cnn.models import CLASSES, AlexNet
from cnn.task import ImageClassification, augmented, normalized, scaled
from stn.datasets.images import Images, ImageSets
from stn.hyperparameters import Hyperparameters, Tuned
from stn.methods import STN, Update
from stn.scripts.options import positive_int

BATCH = 128
NAMES = names_of("alexnet")
START = {"cutlength": 4.0, "cutholes": 1.0}
RATIOS = {
    "weight step / plain step": ("weight_step_s", "plain_step_s", 2.1, 2.1),
    "augmentation / weight step": ("augmentation_s", "weight_step_s", 0.08, None),
    "hyperparameter step / weight step": ("hyper_step_s", "weight_step_s", 0.75, 0.75),
}


class Subject:
    """A self-tuning AlexNet at work on random images; each method is one thing to be timed."""

    def __init__(self, dtype: torch.dtype, batch: int):
        torch.manual_seed(0)
        images = Images(
            torch.randint(256, (4 * batch, 3, 32, 32), dtype=torch.uint8), torch.arange(4 * batch) % CLASSES
        )
        sets = ImageSets(images, images, images, tuple(map(str, range(CLASSES))), "")
        self.hyper = Hyperparameters(
            **{
                name: Tuned(START.get(name, 0.05), TABLE[name].range, scale=0.5, discrete=TABLE[name].discrete)
                for name in NAMES
            }
        )
        model = AlexNet(self.hyper.num_tuned, dtype)
        self.task = PlainInput(model, sets, batch)
        self.pixels = images.pixels[:batch]
        self.method = STN(model, self.hyper, lr=0.01, momentum=0.9, hyper_lr=3e-3)

    def weight_step(self) -> None:
        self.method.weight_step(self.task, self.hyper)

    def hyper_step(self) -> None:
        self.method.hyper_step(self.task, self.hyper)

    def augmentation(self) -> None:
        augmented(self.pixels, self.hyper.perturbed(len(self.pixels)))


class PlainInput(ImageClassification):
    """Trains on images as they are: augmentation is timed by itself."""

    def prepared(self, pixels: Tensor, draw) -> Tensor:  # noqa: ARG002
        return normalized(scaled(pixels))


class Plain:
    """AlexNet in PyTorch's own layers with their own dropout; in bfloat16 by autocast."""

    def __init__(self, dtype: torch.dtype, batch: int):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for (fan_in, fan_out), stride, pooled in zip(
            pairwise(AlexNet.CHANNELS), AlexNet.STRIDES, AlexNet.POOLED, strict=True
        ):
            pool = [nn.MaxPool2d(2)] if pooled else []
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride, padding=1), nn.ReLU(), *pool, nn.Dropout2d(0.05)]
        layers.append(nn.Flatten())
        for sizes in pairwise(AlexNet.FULLY_CONNECTED):
            layers += [nn.Dropout(0.05), nn.Linear(*sizes), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Linear(AlexNet.FULLY_CONNECTED[-1], CLASSES))
        self.update = Update(torch.optim.SGD(self.model.parameters(), 0.01, 0.9, fused=True))
        self.images, self.labels = torch.randn(batch, 3, 32, 32), torch.arange(batch) % CLASSES
        self.dtype = dtype

    def step(self) -> None:
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            logits = self.model(self.images)
        self.update(F.cross_entropy(logits.float(), self.labels))


def measure(dtype: torch.dtype, batch: int, rounds: int) -> timing.Seconds:
    subject, plain = Subject(dtype, batch), Plain(dtype, batch)
    subjects = {
        "plain_step_s": plain.step,
        "weight_step_s": subject.weight_step,
        "augmentation_s": subject.augmentation,
        "hyper_step_s": subject.hyper_step,
    }
    return timing.interleaved(subjects, rounds)


def train_and_say_peak(dtype: str, batch: int) -> None:
    """Three alternations."""
    subject = Subject(DTYPES[dtype], batch)
    for _ in range(3):
        subject.augmentation()
        subject.weight_step()
        subject.weight_step()
        subject.hyper_step()
    timing.say_peak()


def main(argv: list[str] | None = None) -> None:
    parser = timing.parser(__file__, __doc__, rounds=15)
    parser.add_argument("--batch", type=positive_int, default=BATCH, metavar="N", help="images (default: %(default)s)")
    args = parser.parse_args(argv)
    timing.prepare(args)
    if args.peak:
        train_and_say_peak(args.peak, args.batch)
        return
    print(f"AlexNet, batch {args.batch}, {len(NAMES)} tuned; {timing.machine()}")
    results = {}
    for name in args.dtype:
        seconds = measure(DTYPES[name], args.batch, args.rounds)
        peak = timing.peak_memory(__file__, name, args)
        results[name] = timing.medians(seconds) | {"peak_rss_mib": peak}
        print(*timing.table(name, seconds, RATIOS), timing.peak_line(peak, 1536), sep="\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
