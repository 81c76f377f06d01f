"""What a step of a self-tuning AlexNet or VGG-16 costs, beside the step of a plain one in PyTorch's own layers.

All that is compared is measured side by side in one run (timing.py); the table shows medians and quartiles over rounds.
"""

import json
from functools import partial
from itertools import chain

import timing
import torch
import torch.nn.functional as F
from timing import DTYPES
from torch import Tensor, nn

from cnn.hyperparameters import TABLE, names_of
from cnn.models import CLASSES, MODELS
from cnn.task import ImageClassification, augmented, normalized, scaled
from stn.datasets.images import Images, ImageSets
from stn.delta_stn import DeltaSTN
from stn.hyperparameters import Hyperparameters, Tuned
from stn.methods import STN
from stn.scripts.options import positive, positive_int

BATCH = 128
STEP, AUGMENTATION = "weight step / plain step", "augmentation / weight step"
RATIOS = {
    STEP: ("weight_step_s", "plain_step_s", 2.1, 2.1),
    AUGMENTATION: ("augmentation_s", "weight_step_s", 0.08, None),
    "hyperparameter step / weight step": ("hyper_step_s", "weight_step_s", 0.75, 0.75),
    "Δ-STN's weight step / STN's": ("delta_weight_step_s", "weight_step_s", 1.8, 1.8),
    "Δ-STN's hyperparameter step / STN's": ("delta_hyper_step_s", "hyper_step_s", 1.1, 1.1),
}
RATIOS_OF = {
    "alexnet": RATIOS,
    "vgg16": {
        **RATIOS,
        STEP: ("weight_step_s", "plain_step_s", 2.2, None),
        AUGMENTATION: ("augmentation_s", "weight_step_s", None, None),
        "Δ-STN's weight step / plain step": ("delta_weight_step_s", "plain_step_s", 4.0, None),
    },
}
PEAKS = {"alexnet": 1536, "vgg16": None}  # MiB to aim at


class Subject:
    """A self-tuning network at work on random images; each call is one thing to be timed.

    delta: by the Δ-STN. checkpointed: with its activations computed again in the backward pass.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        batch: int,
        delta: bool = False,
        checkpointed: bool = False,
        network: str = "alexnet",
        width: float = 1.0,
    ):
        torch.manual_seed(0)
        pixels = torch.randint(256, (4 * batch, 3, 32, 32), dtype=torch.uint8)
        images = Images(pixels, torch.arange(len(pixels)) % CLASSES)
        sets = ImageSets(images, images, images, tuple(map(str, range(CLASSES))), "")
        common = {"scale": 0.5, "feed": "centred" if delta else "unconstrained"}
        tuned = {
            name: Tuned(TABLE[name].initial, TABLE[name].range, discrete=TABLE[name].discrete, **common)
            for name in names_of(network)
        }
        self.hyper = Hyperparameters(**tuned)
        model = MODELS[network](self.hyper.num_tuned, dtype, width=width, checkpoint_activations=checkpointed)
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
    """The network in PyTorch's own layers with their own dropout; in bfloat16 by autocast."""

    def __init__(self, dtype: torch.dtype, batch: int, network: str = "alexnet", width: float = 1.0):
        torch.manual_seed(0)
        twin = MODELS[network](0, width=width)
        layers: list[nn.Module] = []
        for own, pooled in zip(twin.convolutions, twin.POOLED, strict=True):
            pool = [nn.MaxPool2d(2)] if pooled else []
            convolution = nn.Conv2d(own.in_channels, own.out_channels, own.kernel_size, own.stride, own.padding)
            layers += [convolution, nn.ReLU(), *pool, nn.Dropout2d(0.05)]
        layers.append(nn.Flatten())
        for own in twin.hidden:
            layers += [nn.Dropout(0.05), nn.Linear(own.in_features, own.out_features), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Linear(twin.classifier.in_features, CLASSES))
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
    parser.add_argument("--model", choices=RATIOS_OF, default="alexnet", help="(default: %(default)s)")
    parser.add_argument(
        "--width", type=positive, default=1.0, metavar="X", help="factor of every layer's channels (default: 1)"
    )
    timing.add_checkpointing(parser)
    args = parser.parse_args(argv)
    network = {"network": args.model, "width": args.width}
    timing.prepare(args.threads)
    if args.peak:
        subject = Subject(DTYPES[args.peak], args.batch, bool(args.delta), bool(args.checkpointed), **network)
        timing.say_peak([subject.augmentation, subject.weight_step, subject.weight_step, subject.hyper_step] * 3)
        return
    size = f"width {args.width:g}, " if args.width != 1 else ""
    name = MODELS[args.model].__name__
    print(f"{name}, {size}batch {args.batch}, {len(names_of(args.model))} tuned; {timing.machine()}")
    results, sizes = {}, {"batch": args.batch, "threads": args.threads, "model": args.model, "width": args.width}
    for name in args.dtype:
        if args.checkpoint_activations:
            make = partial(Subject, DTYPES[name], args.batch, **network)
            lines, results[name] = timing.checkpointing(__file__, name, args.rounds, make, **sizes)
            print(*lines, sep="\n", flush=True)
            continue
        made = {"dtype": DTYPES[name], "batch": args.batch, **network}
        subject, delta, plain = Subject(**made), Subject(**made, delta=True), Plain(**made)
        subjects = {
            "plain_step_s": plain.step,
            "weight_step_s": subject.weight_step,
            "augmentation_s": subject.augmentation,
            "hyper_step_s": subject.hyper_step,
            "delta_weight_step_s": delta.weight_step,
            "delta_hyper_step_s": delta.hyper_step,
        }
        seconds = timing.interleaved(subjects, args.rounds)
        peaks = timing.peak_memories(__file__, name, **sizes)
        results[name] = timing.medians(seconds) | peaks
        lines = timing.table(name, seconds, RATIOS_OF[args.model]), timing.peak_lines(peaks, PEAKS[args.model])
        print(*chain(*lines), sep="\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
