"""What a step of the self-tuning AlexNet costs, beside the step of a plain one in PyTorch's own layers.

All that is compared is measured side by side in one run (timing.py); the table shows medians and quartiles over rounds.
"""

import json
from functools import partial
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
from stn.delta_stn import DeltaSTN
from stn.hyperparameters import Hyperparameters, Tuned
from stn.methods import STN
from stn.scripts.options import positive_int

BATCH = 128
NAMES = names_of("alexnet")
RATIOS = {
    "weight step / plain step": ("weight_step_s", "plain_step_s", 2.1, 2.1),
    "augmentation / weight step": ("augmentation_s", "weight_step_s", 0.08, None),
    "hyperparameter step / weight step": ("hyper_step_s", "weight_step_s", 0.75, 0.75),
    "Δ-STN's weight step / STN's": ("delta_weight_step_s", "weight_step_s", 1.8, 1.8),
    "Δ-STN's hyperparameter step / STN's": ("delta_hyper_step_s", "hyper_step_s", 1.1, 1.1),
}


class Subject:
    """A self-tuning AlexNet at work on random images; each call is one thing to be timed. delta: by the Δ-STN."""

    def __init__(self, dtype: torch.dtype, batch: int, delta: bool = False):
        torch.manual_seed(0)
        pixels = torch.randint(256, (4 * batch, 3, 32, 32), dtype=torch.uint8)
        images = Images(pixels, torch.arange(len(pixels)) % CLASSES)
        sets = ImageSets(images, images, images, tuple(map(str, range(CLASSES))), "")
        common = {"scale": 0.5, "feed": "centred" if delta else "unconstrained"}
        tuned = {
            name: Tuned(TABLE[name].initial, TABLE[name].range, discrete=TABLE[name].discrete, **common)
            for name in NAMES
        }
        self.hyper = Hyperparameters(**tuned)
        model = AlexNet(self.hyper.num_tuned, dtype)
        self.task = PlainInput(model, sets, batch)
        self.pixels = pixels[:batch]
        method = (DeltaSTN if delta else STN)(model, self.hyper, lr=0.01, momentum=0.9, hyper_lr=3e-3)
        self.weight_step = partial(method.weight_step, self.task, self.hyper)
        self.hyper_step = partial(method.hyper_step, self.task, self.hyper)

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
        shapes = zip(pairwise(AlexNet.CHANNELS), AlexNet.STRIDES, AlexNet.POOLED, strict=True)
        for (fan_in, fan_out), stride, pooled in shapes:
            pool = [nn.MaxPool2d(2)] if pooled else []
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride, padding=1), nn.ReLU(), *pool, nn.Dropout2d(0.05)]
        layers.append(nn.Flatten())
        for sizes in pairwise(AlexNet.FULLY_CONNECTED):
            layers += [nn.Dropout(0.05), nn.Linear(*sizes), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Linear(AlexNet.FULLY_CONNECTED[-1], CLASSES))
        self.update = STN(self.model, Hyperparameters(), lr=0.01, momentum=0.9).updates["weights"]
        self.images, self.labels = torch.randn(batch, 3, 32, 32), torch.arange(batch) % CLASSES
        self.dtype = dtype

    def step(self) -> None:
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            logits = self.model(self.images)
        self.update(F.cross_entropy(logits.float(), self.labels))


def main(argv: list[str] | None = None) -> None:
    parser = timing.parser(__file__, __doc__, rounds=15)
    parser.add_argument("--batch", type=positive_int, default=BATCH, metavar="N", help="images (default: %(default)s)")
    args = parser.parse_args(argv)
    timing.prepare(args.threads)
    if args.peak:
        subject = Subject(DTYPES[args.peak], args.batch, delta=bool(args.delta))
        timing.say_peak([subject.augmentation, subject.weight_step, subject.weight_step, subject.hyper_step] * 3)
        return
    print(f"AlexNet, batch {args.batch}, {len(NAMES)} tuned; {timing.machine()}")
    results = {}
    for name in args.dtype:
        subject, plain = Subject(DTYPES[name], args.batch), Plain(DTYPES[name], args.batch)
        delta = Subject(DTYPES[name], args.batch, delta=True)
        subjects = {
            "plain_step_s": plain.step,
            "weight_step_s": subject.weight_step,
            "augmentation_s": subject.augmentation,
            "hyper_step_s": subject.hyper_step,
            "delta_weight_step_s": delta.weight_step,
            "delta_hyper_step_s": delta.hyper_step,
        }
        seconds = timing.interleaved(subjects, args.rounds)
        peaks = timing.peak_memories(__file__, name, batch=args.batch, threads=args.threads)
        results[name] = timing.medians(seconds) | peaks
        print(*timing.table(name, seconds, RATIOS), *timing.peak_lines(peaks, 1536), sep="\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
