"""Draw training images as a run augmented them after its first, middle and last epoch."""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("cnn.save_augmentation_sheet")

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cnn.hyperparameters import AUGMENTATION, TABLE, names_of
from cnn.models import MODELS
from cnn.settings import ImageSettings
from cnn.task import augmented, scaled, unnormalized
from stn.datasets.images import Normalization
from stn.errors import UserError
from stn.figures import style
from stn.hyperparameters import Hyperparameters, Tuned
from stn.runs.folder import ARGS
from stn.runs.history import Run, read_run
from stn.schedules import SCALE, Constant
from stn.scripts import figures, options

NAME = "save_augmentation_sheet.py"
ROWS = 3  # of each epoch
MOST_IMAGES = 30  # beyond which they are too small to see
# Inches: the labels' width, an image's at most, a label's line, the space between two blocks and above the first.
MARGIN, LARGEST, LINE, GAP, TOP = 1.45, 0.6, 0.13, 0.12, 0.03
# What `augmented` may read, by what it is called in the sheet.
LABELS = {name: TABLE[name].label for name in AUGMENTATION}
# Of args.yaml, by what they are.
NEEDED = {"data": str, "data_checksum": str, "model": str, "percent_valid": float, "batch_size": int}
LATER = ("dataset", "normalize")  # which older runs may lack


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    parser = options.OneLineParser(prog=NAME, description=__doc__)
    add = parser.add_argument
    add("run", type=options.named, metavar="RUN", help="the folder of an image classifier's run")
    figures.add_out(parser, "plots/augmentation", "PATH", "the figure's path, with or without .pdf or .png")
    add("--images", type=options.positive_int, default=12, metavar="N", help="how many images, a column each")
    add("--seed", type=options.nonnegative_int, default=0, help="which images, and their random augmentation")
    args = parser.parse_args(argv)
    return options.exit_status(NAME, lambda: draw(**vars(args)), "start it again")


def draw(run: str, out: Path, images: int, seed: int) -> None:
    """Draw the sheet. Raises UserError where the run, its data or its epochs are not there, or it is of no images."""
    if images > MOST_IMAGES:
        raise UserError(f"--images {images} is more than a page has room for: give at most {MOST_IMAGES}")
    history = read_run(figures.find_run(run), TABLE)
    epochs = epochs_to_draw(history)
    pixels, normalization = some_images(history.settings, images, seed)
    blocks = [augmented_rows(pixels, drawer(row, history.settings), seed, normalization) for row in epochs]
    figures.write(sheet(scaled(pixels), blocks, epochs), out)


def epochs_to_draw(run: Run) -> list[dict[str, float]]:
    """The rows of epoch.csv for the first, middle and last epoch, as far as these differ.

    Raises UserError where no epoch has ended, or the run is of no image classifier, or of one that augments nothing.
    """
    if [name for name in NEEDED if name not in run.settings] or run.settings["model"] not in [*MODELS]:
        raise UserError(f"{run.path} is no run of an image classifier: give one of cnn/hypertrain.py")
    model, recipe = run.settings["model"], run.settings.get("recipe")
    needed = [name for name in names_of(model, recipe=recipe) if name in LABELS]
    if not needed:
        models = " or ".join(sorted(other for other in MODELS if {*names_of(other)} & LABELS.keys()))
        raise UserError(f"{run.path} has --model {model}, which trains on images as they are: give one of {models}")
    for name, kind in NEEDED.items():
        if not isinstance(run.settings[name], kind) or not run.settings[name]:
            cause = f"{run.path / ARGS} says {name}: {run.settings[name]!r}"
            raise UserError(f"{cause}: mend it, or give another run")
    if run.epoch.empty:
        raise UserError(f"no epoch of {run.path} has ended yet: let it train first")
    if missing := [name for name in needed if name not in run.epoch]:
        raise UserError(f"{run.path / 'epoch.csv'} has no column {missing[0]}: give a run of cnn/hypertrain.py")
    last = len(run.epoch) - 1
    rows = [run.epoch.iloc[place].to_dict() for place in sorted({0, last // 2, last})]
    for row in rows:
        check_ranges(run, row)
    return rows


def check_ranges(run: Run, row: Mapping[str, float]) -> None:
    """Raise UserError where an epoch's row has a value that was not in the range in which it was tuned."""
    for name in LABELS.keys() & row.keys():
        low, high = run.settings.get("ranges", {}).get(name, (-math.inf, math.inf))
        if not low < row[name] < high:
            place = f"not inside its range ({low:g}, {high:g})"
            cause = f"{run.path / 'epoch.csv'} holds a {name} of {row[name]:g}, {place}"
            raise UserError(f"{cause}: mend it, or give another run")


def some_images(settings: Mapping, count: int, seed: int) -> tuple[Tensor, Normalization]:
    """Training images of a run, chosen by the seed: (count, C, H, W) uint8; and how they are normalized.

    Raises UserError where its data is not there or has changed, or there are not so many.
    """
    own = {name: settings[name] for name in (*NEEDED, *LATER) if name in settings}
    sets = ImageSettings(label="", **own).load()
    pixels = sets.train.pixels
    if count > len(pixels):
        raise UserError(f"--images {count} is more than the {len(pixels)} training images: lower it")
    chosen = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))[:count]
    return pixels[chosen], sets.normalization


def drawer(row: Mapping[str, float], settings: Mapping) -> Hyperparameters:
    """The hyperparameters of augmentation as an epoch's row recorded them; those tuned, with their scales."""
    sources = {name: Constant(row[name]) for name in LABELS if name in row}
    for name, ends in settings.get("ranges", {}).items():
        if name in sources and name + SCALE in row:
            # A discrete one starts half above its initial value; the row has it as it is.
            start, discrete = row[name] - 0.5 * TABLE[name].discrete, TABLE[name].discrete
            sources[name] = Tuned(start, tuple(ends), row[name + SCALE], discrete=discrete)
    return Hyperparameters(**sources)


def augmented_rows(pixels: Tensor, hyper: Hyperparameters, seed: int, by: Normalization) -> Tensor:
    """pixels (N, C, H, W) uint8 -> (ROWS, N, C, H, W) in [0, 1], each perturbed and augmented by itself.

    The same seed has the same random numbers, as far as the same operations are on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        examples = pixels.repeat(ROWS, 1, 1, 1)
        images = augmented(examples, hyper.perturbed(len(examples)), by)
    return unnormalized(images, by).clamp(0, 1).unflatten(0, (ROWS, len(pixels)))


@style.styled
def sheet(originals: Tensor, blocks: Sequence[Tensor], epochs: Sequence[Mapping[str, float]]) -> style.Figure:
    """A row of originals (N, C, H, W), and a block of rows (ROWS, N, C, H, W) for each epoch; all in [0, 1].

    epochs: rows of epoch.csv, whose values stand beside the blocks.
    """
    blocks = [originals[None], *blocks]
    texts = [("original", {})]
    for row in epochs:
        values = {label: in_use(name, row[name]) for name, label in LABELS.items() if name in row}
        texts.append((f"epoch {row['epoch']:g}", values))
    side = min((style.PAGE - MARGIN) / len(originals), LARGEST)
    pairs = zip(blocks, texts, strict=True)
    heights = [max(len(block) * side, (1 + len(values)) * LINE) for block, (_, values) in pairs]
    width, height = MARGIN + len(originals) * side, TOP + sum(heights) + GAP * (len(blocks) - 1)
    figure = style.Figure(figsize=(width, height))
    top = height - TOP
    for block, tall, text in zip(blocks, heights, texts, strict=True):
        high = len(block) * side
        box = (MARGIN / width, (top - high) / height, 1 - MARGIN / width, high / height)
        draw_block(figure.add_axes(box), block)
        write_label(figure, top, *text)
        top -= tall + GAP
    return figure


def in_use(name: str, value: float) -> str:
    """A hyperparameter's value as augmentation uses it: a discrete one rounded down."""
    return str(math.floor(value)) if TABLE[name].discrete else f"{value:.3f}"


def draw_block(panel: style.Axes, block: Tensor) -> None:
    """block: (R, N, C, H, W) in [0, 1], of colour or grey, as one picture with white between the images."""
    padded = torch.nn.functional.pad(block, (1, 1, 1, 1), value=1.0)
    rows, count, channels, high, wide = padded.shape
    picture = padded.permute(0, 3, 1, 4, 2).reshape(rows * high, count * wide, channels).expand(-1, -1, 3)
    panel.imshow(picture.numpy(), interpolation="nearest", aspect="auto")
    panel.set_axis_off()


def write_label(figure: style.Figure, top: float, heading: str, values: Mapping[str, str]) -> None:
    """A heading in the margin, `top` inches above the bottom; below it names on the left, values on the right."""
    width, height = figure.get_size_inches()
    figure.text(0.0, top / height, heading, va="top", weight="bold")
    small = style.STYLE["xtick.labelsize"]
    for line, (name, value) in enumerate(values.items(), start=1):
        y = (top - line * LINE) / height
        figure.text(0.0, y, name, va="top", fontsize=small)
        figure.text((MARGIN - 0.12) / width, y, value, va="top", ha="right", fontsize=small)
