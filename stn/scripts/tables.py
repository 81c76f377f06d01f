"""Tables of results, in Markdown."""

from pathlib import Path

import pandas

from stn.files import write_atomically


def with_spread(mean: float, std: float, digits: int = 2) -> str:
    """Mean ± standard deviation, as far as there are any."""
    if pandas.isna(mean):
        return "–"
    return f"{mean:.{digits}f}" if pandas.isna(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def write_table(path: Path, table: pandas.DataFrame, page: str) -> list[Path]:
    """Write path.csv and, for people, path.md; the files written. Raises UserError where it cannot."""
    files = [path.with_name(f"{path.name}.csv"), path.with_name(f"{path.name}.md")]
    for file, text in zip(files, (table.to_csv(index=False), f"{page}\n"), strict=True):
        write_atomically(file, lambda new, text=text: new.write(text.encode()))
    return files


def markdown_table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = [header, ["-" * width for width in widths], *lines]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)
