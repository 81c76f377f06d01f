"""Tables of results, in Markdown."""

import pandas


def with_spread(mean: float, std: float, digits: int = 2) -> str:
    """Mean ± standard deviation, as far as there are any."""
    if pandas.isna(mean):
        return "–"
    return f"{mean:.{digits}f}" if pandas.isna(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def markdown_table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = [header, ["-" * width for width in widths], *lines]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)
