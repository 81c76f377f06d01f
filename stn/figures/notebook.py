"""Figures in a notebook: without pyplot, sharp, and as large as a talk needs them."""

import base64
import io
from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.figure import Figure

from stn.figures.drawing import Drawing
from stn.figures.style import styled

DPI = 220  # of the image
SHOWN = 135  # pixels of the page that an inch of the figure takes


class Shown(NamedTuple):
    """What Jupyter displays where a cell ends with it."""

    figure: Figure

    def __repr__(self) -> str:
        width, height = self.figure.get_size_inches()
        return f"<figure of {width:.1f} x {height:.1f} inches>"

    @styled
    def _repr_mimebundle_(self, **_: object) -> tuple[Mapping[str, str], Mapping[str, Mapping[str, int]]]:
        image = io.BytesIO()
        self.figure.savefig(image, format="png", dpi=DPI)
        width = round(SHOWN * self.figure.get_figwidth())
        return {"image/png": base64.b64encode(image.getvalue()).decode()}, {"image/png": {"width": width}}


def show(figure: Figure | Drawing) -> Shown:
    """A figure, or the one that was drawn of some runs."""
    return Shown(figure.figure if isinstance(figure, Drawing) else figure)
