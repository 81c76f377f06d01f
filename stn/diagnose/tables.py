"""Tables of the evidence on hypergradients: for a terminal, as CSV, and read back."""

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy
import pandas

from stn.diagnose.hypergradients import Estimate, Evidence
from stn.errors import UserError, one_line
from stn.files import read

AGREE = {True: "yes", False: "no", None: "–"}
INDEX = "hyperparameter"
NUMBERS = ("train_step", "value", "gate", "response", "response_error", "noise", "training", "training_error")
HEADS = ("", "value", "gate", "response", "noise", "training", "agree")


def table(evidence: Mapping[str, Evidence], train_step: int) -> pandas.DataFrame:
    """A row for each hyperparameter, every number in full. train_step: weight steps that the run has made."""
    rows = [
        (name, train_step, one.value, one.gate, *one.response, one.noise, *one.training)
        for name, one in evidence.items()
    ]
    found = pandas.DataFrame(rows, columns=[INDEX, *NUMBERS]).set_index(INDEX)
    return found.assign(agree=[AGREE[one.agree] for one in evidence.values()])


def read_csv(path: Path) -> pandas.DataFrame:
    """The numbers of a table that was written as CSV. Raises UserError where the file is none."""
    remedy = "give a run's folder, or what --csv printed"
    try:
        found = pandas.read_csv(io.BytesIO(read(path, "a table", remedy)), index_col=INDEX)
        numbers = found[[*NUMBERS]].astype(float)
        if found.empty or found.index.hasnans or not numpy.isfinite(numbers.to_numpy()).all():
            raise ValueError("cells are empty or not finite")
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is no table of hypergradients ({one_line(error)}): {remedy}") from error
    return numbers


def lines(evidence: Mapping[str, Evidence]) -> str:
    """The table for a terminal, slopes in thousandths of a nat."""
    rows = [HEADS, *(_row(name, one) for name, one in evidence.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in aligned)


def _row(name: str, one: Evidence) -> tuple[str, ...]:
    numbers = f"{one.value:.4g}", f"{one.gate:.3g}", _shown(one.response), f"{1000 * one.noise:.2g}"
    return name, *numbers, _shown(one.training), AGREE[one.agree]


def _shown(estimate: Estimate) -> str:
    """Mean ± standard error, in thousandths of a nat, to the error's second digit."""
    error = 1000 * estimate.error
    decimals = max(0, 1 - math.floor(math.log10(error))) if 0 < error < math.inf else 2
    return f"{1000 * estimate.mean:+.{decimals}f} ± {error:.{decimals}f}"
