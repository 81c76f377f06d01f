"""A self-tuned run at a glance: the hyperparameters' schedules beside the validation perplexity."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stn.figures.drawing import Drawing, Styles, line_styles, run_keys, select
from stn.figures.schedules import ROW, draw_schedules, moving_styles, panel_contents, schedule_axis, without_curves
from stn.figures.scores import best_key, best_markers, draw_validation, has_scores, needed_for, scale_x, without_scores
from stn.figures.style import PAGE, legend, set_titles, styled
from stn.runs.history import Run

COLUMNS, WIDE = 4, 2  # of panels of schedules; and as many of these is the panel of perplexities wide
TOP = 1.4  # times the lowest perplexity, where their axis ends: those of the first epochs would take all of it


@styled
def overview(runs: Sequence[Run]) -> Drawing:
    """Each hyperparameter's schedule, as in `schedules`, and beside them the validation perplexities against epochs.

    A marker shows each run's best epoch. Raises UserError where no run has a whole epoch's values and perplexities.
    """
    by, needed = schedule_axis(runs), needed_for("ppl")

    def why_not(run: Run) -> str | None:
        return without_curves(run, by) if has_scores(run, needed) else without_scores(run, needed, "perplexities")

    drawn, skipped = select(runs, lambda run: run.curves(by) and has_scores(run, needed), why_not)
    contents = panel_contents(drawn, runs, by)
    figure, panels, beside, spare = _panels(len(contents))
    set_titles(figure, panels, [content.title for content in contents])
    marks = draw_schedules(dict(zip(panels, contents, strict=True)), by, moving_styles(runs, by))
    for panel in panels:
        panel.xaxis.set_major_locator(MaxNLocator(3, steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))
    styles = line_styles(runs)
    bests = best_markers(runs, styles)
    _draw_perplexities(beside, drawn, styles, bests)
    keys = run_keys(drawn, runs, {run: styles[run] | bests[run] for run in drawn})
    legend(figure, spare, [*keys, best_key(bests[drawn[0]]), *marks])
    return Drawing(figure, skipped)


def _panels(count: int) -> tuple[Figure, list[Axes], Axes, Axes | None]:
    """A figure, its panels of schedules, the one beside them, and the cell that is left over, if any."""
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(PAGE, 0.35 + ROW * max(rows, 2)), layout="constrained")
    cells = figure.add_gridspec(rows, columns + WIDE)
    panels = [figure.add_subplot(cells[divmod(place, columns)]) for place in range(columns * rows)]
    for cell in panels[count:]:
        cell.set_axis_off()
    beside = figure.add_subplot(cells[:, columns:])
    return figure, panels[:count], beside, panels[count] if count < len(panels) else None


def _draw_perplexities(panel: Axes, drawn: Sequence[Run], styles: Styles, bests: Styles) -> None:
    """The runs' validation perplexities against epochs, but for those far above the lowest."""
    scale_x(panel, "epoch", drawn)
    for run in drawn:
        draw_validation(panel, run.epoch["epoch"].to_numpy(), run, "ppl", styles[run], bests[run])
    low, high = panel.dataLim.intervaly
    if high > TOP * low:
        panel.set_ylim(0.98 * low, TOP * low)
    panel.yaxis.set_major_locator(MaxNLocator(6))
    panel.set_ylabel("validation perplexity")
