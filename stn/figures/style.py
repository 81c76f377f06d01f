"""How figures look: colours, line styles, panels, legends, files.

Nothing here needs a display, nor touches pyplot's global state.
"""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.text import Text

from stn.errors import UserError
from stn.files import explaining_os_errors, write_atomically

COLUMN, PAGE = 3.3, 7.0  # widths in inches of a paper's column and of its page
# Twelve of each. The first seven colours are Okabe & Ito's (2008); with any colour vision the others are as far from
# them, and from each other, as these seven are. Dashes and markers tell runs apart in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLORS += ("#882255", "#DDCC77", "#332288", "#666633", "#661100")
DASHES = ("-", (0, (5, 1)), (0, (4, 1, 1, 1)), (0, (1, 0.8)), (0, (4, 1, 1, 1, 1, 1)), (0, (9, 2)))
DASHES += ((0, (1, 2)), (0, (8, 1, 3, 1)), (0, (2, 1)), (0, (9, 1, 1, 1)), (0, (3, 3)), (0, (6, 1, 2, 1, 2, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "d", ">", "p")
MANY = 4  # runs from which on lines are thin, and their bands left out
THIN = 0.8  # width of such a line
# What has an order: from dark to light with any colour vision, and in grey.
SHADES = ("#440154", "#414487", "#2A788E", "#22A884", "#7AD151")
CONSTANT = {"linestyle": (0, (2, 2)), "linewidth": 0.8}
BAND = {"alpha": 0.15, "linewidth": 0}
WARM_UP = {"facecolor": "none", "edgecolor": "0.8", "hatch": "//////", "linewidth": 0, "zorder": 0.6}
LABEL = 40  # characters of a legend's line
PER_INCH = 12  # characters of a title

STYLE = {
    "font.size": 8,
    "text.parse_math": False,  # a run's name may hold any letters
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.titlepad": 3.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.8,  # long enough for the longest dashes
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.4,
    "lines.linewidth": 1.2,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # letters, not outlines, as journals ask
}
# Nothing of a user's own matplotlibrc, which might ask for LaTeX or for fonts that are not there.
DEFAULTS = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}
styled = matplotlib.rc_context(DEFAULTS | STYLE)  # decorates what draws


@styled
def save(figure: Figure, path: Path | str) -> list[Path]:
    """Write path.pdf and path.png, making the folder; the files written. Raises UserError where it cannot."""
    files = files_of(path)
    path = Path(path)
    with explaining_os_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            with warnings.catch_warnings():
                # `boxes` says which letters they are.
                warnings.filterwarnings("ignore", "Glyph .* missing")
                write_atomically(file, lambda new, file=file: figure.savefig(new, format=file.suffix[1:]))
    return files


@styled
def boxes(figure: Figure) -> set[str]:
    """The letters in a figure that the font does not have, and that are drawn as boxes."""
    letters = {letter for text in figure.findobj(Text) for letter in text.get_text() if not letter.isspace()}
    has = get_font(findfont(FontProperties())).get_charmap()
    return {letter for letter in letters if ord(letter) not in has}


def files_of(path: Path | str) -> list[Path]:
    """The files that `save` writes: path.pdf and path.png. Raises UserError for a path without a name, such as "."."""
    path = Path(path)
    if path.name in ("", ".."):
        raise UserError(f"{path} is a folder, not a figure's path: add the figure's name to it")
    return [path.with_name(f"{path.name}.{suffix}") for suffix in ("pdf", "png")]


def grid(
    count: int, height: float = 1.35, sharey: bool = False, wide: bool = False, most: int = 4
) -> tuple[Figure, list[Axes], Axes | None]:
    """A figure of `count` panels, and the cell that is left over for the legend, if any.

    height: inches a row. wide: as wide as a page, however few the panels. most: panels of a row.
    """
    columns = min(count, most) if count != 4 else 2
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


def set_titles(figure: Figure, panels: Sequence[Axes], titles: Sequence[str]) -> None:
    """Title the panels of a grid, in lines no wider than a panel, and grow the figure by these lines."""
    columns = panels[0].get_gridspec().ncols
    lines = [wrapped(title, int(PER_INCH * figure.get_figwidth() / columns)) for title in titles]
    for panel, title in zip(panels, lines, strict=True):
        panel.set_title(title)
    tallest: dict[int, int] = {}  # of each row
    for panel, title in zip(panels, lines, strict=True):
        row, count = panel.get_subplotspec().rowspan.start, 1 + title.count("\n") if title else 0
        tallest[row] = max(tallest.get(row, 0), count)
    grow(figure, sum(tallest.values()))


def wrapped(label: str, width: int) -> str:
    """In lines, which may end after an underscore; without what is no letter, such as bytes of no encoding."""
    label = "".join(letter if letter.isprintable() or letter.isspace() else "?" for letter in label)
    return "\n".join(line.replace("_ ", "_") for line in textwrap.wrap(label.replace("_", "_ "), width))


def legend(
    figure: Figure, cell: Axes | None, handles: list[Artist], loc: str = "outside lower center", **options
) -> None:
    """In the cell that is left over; without one, or with labels too long for it, outside of the panels, at `loc`.

    options: of matplotlib's legend there. The figure grows by all but the first line.
    """
    if not handles:
        return
    lines = [handle.get_label().split("\n") for handle in handles]
    longest = max(len(line) for label in lines for line in label)
    if cell is not None and longest <= 22 and sum(map(len, lines)) <= 8:
        cell.legend(handles=handles, loc="center")
        return
    columns = min(max(1, int(figure.get_figwidth() / (0.55 + 0.06 * longest))), len(handles))
    figure.legend(handles=handles, loc=loc, ncols=columns, **options)
    rows = -(-len(handles) // columns)
    tallest = max(sum(map(len, lines[first : first + rows])) for first in range(0, len(lines), rows))
    grow(figure, tallest - 1)


def grow(figure: Figure, lines: int) -> None:
    """Make room for lines of text, so that the panels keep their height."""
    figure.set_figheight(figure.get_figheight() + 0.14 * lines)
