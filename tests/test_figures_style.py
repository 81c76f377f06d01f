"""How figures look: their files, and how runs are told apart."""

from itertools import combinations

import numpy
import pytest
from matplotlib import rc_context
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from stn.errors import UserError
from stn.figures import style


def test_save_into_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        style.save(Figure(), tmp_path / "file" / "schedules")


@pytest.mark.parametrize("path", ["/", ".", "..", ""])
def test_a_path_without_a_name_is_an_error(path):
    with pytest.raises(UserError, match="is a folder"):
        style.save(Figure(), path)


@pytest.mark.parametrize("looks", [style.COLORS, style.DASHES, style.MARKERS])
def test_twelve_runs_do_not_share_a_look(looks):
    assert len({str(look) for look in looks[:12]}) == 12


# What people with protanopia, deuteranopia and tritanopia see of linear RGB (Machado et al. 2009).
VISIONS = [
    numpy.eye(3),
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
]
XYZ = numpy.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(color, vision):
    """CIELAB of a colour as that vision sees it."""
    rgb = numpy.array(to_rgb(color))
    linear = numpy.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ numpy.clip(numpy.array(vision) @ linear, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = numpy.where(xyz > 0.008856, numpy.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return numpy.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS, ids=["normal", "protanopia", "deuteranopia", "tritanopia"])
def test_colours_are_apart_with_any_colour_vision(vision):
    seen = [lab(color, vision) for color in style.COLORS]
    assert min(numpy.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 15


def test_nothing_of_a_users_own_style_is_in_a_figure():
    @style.styled
    def drawn():
        figure, panels, _ = style.grid(1)
        style.set_titles(figure, panels, ["title"])
        return panels[0].title, panels[0].get_facecolor()

    expected = drawn()[1]
    with rc_context({"text.usetex": True, "axes.facecolor": "red", "font.family": "serif"}):
        title, color = drawn()
    assert not title.get_usetex() and color == expected and title.get_fontfamily() == ["sans-serif"]


def test_letters_that_the_font_does_not_have_are_known():
    figure = Figure()
    figure.text(0, 0, "ab±学\n")
    figure.legend(handles=[style.key("习 c")])
    assert style.boxes(figure) == {"学", "习"}


def test_bytes_that_are_no_text_are_drawn_as_a_letter():
    assert style.wrapped("a\udcff\x1b b\nc", 40) == "a?? b c"
