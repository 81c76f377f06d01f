"""What a notebook shows of a figure."""

import base64
import struct

from matplotlib.figure import Figure

from stn.figures.drawing import Drawing
from stn.figures.notebook import DPI, SHOWN, show


def test_a_figure_is_shown_as_an_image_in_its_size():
    figure = Figure(figsize=(3, 2))
    for shown in (show(figure), show(Drawing(figure, {}))):
        data, metadata = shown._repr_mimebundle_(include=None, exclude=None)
        image = base64.b64decode(data["image/png"])
        assert image.startswith(b"\x89PNG") and struct.unpack(">II", image[16:24]) == (3 * DPI, 2 * DPI)
        assert metadata == {"image/png": {"width": 3 * SHOWN}}
        assert repr(shown) == "<figure of 3.0 x 2.0 inches>"
