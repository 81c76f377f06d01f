"""Where a step's time goes: a table of operators, and the calls as a tree with a bar for each branch's share."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

LEAST = 0.01  # of the whole: smaller branches are not shown
BAR = 40


def profiled(step: Callable[[], None]) -> str:
    """The table and the tree of one step, after one to warm up."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        step()
    table = record.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40)
    return f"{table}\n{tree(record.events())}"


def tree(events) -> str:
    """The calls by their path of callers, longest first; events: as a profile's `events()`."""
    totals: dict[tuple[str, ...], float] = {}
    for event in events:
        path = path_of(event)
        totals[path] = totals.get(path, 0.0) + event.cpu_time_total
    whole = sum(time for path, time in totals.items() if len(path) == 1)
    lines: list[str] = []

    def show(parent: tuple[str, ...]) -> None:
        children = [path for path in totals if path[:-1] == parent and totals[path] >= LEAST * whole]
        for path in sorted(children, key=totals.__getitem__, reverse=True):
            share = totals[path] / whole
            lines.append(f"{share:>6.1%} {'#' * round(BAR * share):<{BAR}} {'  ' * len(parent)}{path[-1]}")
            show(path)

    show(())
    return "\n".join(lines)


def path_of(event) -> tuple[str, ...]:
    path = []
    while event is not None:
        path.append(event.name.removeprefix("autograd::engine::evaluate_function: "))
        event = event.cpu_parent
    return tuple(reversed(path))
