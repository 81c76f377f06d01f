"""How figures look: colours, line styles, panels, legends, files.

Nothing here needs a display, nor touches pyplot's global state.
"""

import textwrap
from pathlib import Path

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stn.files import explaining_os_errors, write_atomically

COLUMN, PAGE = 3.3, 7.0  # widths in inches of a paper's column and of its page
# Okabe & Ito (2008): told apart with any colour vision; the line styles tell runs apart in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 1)), (0, (4, 1, 1, 1)), (0, (1, 0.8)), (0, (4, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# What has an order: from dark to light with any colour vision, and in grey.
SHADES = ("#440154", "#414487", "#2A788E", "#22A884", "#7AD151")
CONSTANT = {"linestyle": (0, (2, 2)), "linewidth": 0.8}
BAND = {"alpha": 0.15, "linewidth": 0}
LABEL = 40  # characters of a legend's line

STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # letters, not outlines, as journals ask
}
styled = matplotlib.rc_context(STYLE)  # decorates what draws


@styled
def save(figure: Figure, path: Path | str) -> list[Path]:
    """Write path.pdf and path.png, making the folder; the files written. Raises UserError where it cannot."""
    path = Path(path)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("pdf", "png")]
    with explaining_os_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            write_atomically(file, lambda new, file=file: figure.savefig(new, format=file.suffix[1:]))
    return files


def grid(
    count: int, height: float = 1.35, sharey: bool = False, wide: bool = False
) -> tuple[Figure, list[Axes], Axes | None]:
    """A figure of `count` panels, and the cell that is left over for the legend, if any.

    height: inches a row. wide: as wide as a page, however few the panels.
    """
    columns = min(count, 4) if count != 4 else 2
    rows = -(-count // columns)
    width = PAGE if wide or columns > 2 else COLUMN
    figure = Figure(figsize=(width, 0.35 + height * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.07)
    cells = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for cell in cells[count:]:
        cell.set_axis_off()
    return figure, cells[:count], cells[count] if count < len(cells) else None


def key(label: str, **style) -> Line2D:
    """A legend's entry."""
    return Line2D([], [], label=label, **style)


def wrapped(label: str, width: int) -> str:
    """In lines, which may end after an underscore."""
    return "\n".join(line.replace("_ ", "_") for line in textwrap.wrap(label.replace("_", "_ "), width))


def legend(figure: Figure, cell: Axes | None, handles: list[Artist]) -> None:
    """In the cell that is left over; without one, or with labels too long for it, below the panels."""
    if not handles:
        return
    lines = [handle.get_label().split("\n") for handle in handles]
    longest = max(len(line) for label in lines for line in label)
    if cell is not None and longest <= 22 and len(handles) <= 7:
        cell.legend(handles=handles, loc="center")
        return
    columns = min(max(1, int(figure.get_figwidth() / (0.45 + 0.06 * longest))), len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    rows = -(-len(handles) // columns)
    tallest = max(sum(map(len, lines[first : first + rows])) for first in range(0, len(lines), rows))
    grow(figure, tallest - 1)


def grow(figure: Figure, lines: int) -> None:
    """Make room for lines of text, so that the panels keep their height."""
    figure.set_figheight(figure.get_figheight() + 0.14 * lines)
