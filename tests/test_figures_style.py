"""How figures look: their files."""

import pytest
from matplotlib.figure import Figure

from stn.errors import UserError
from stn.figures import style


def test_save_into_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        style.save(Figure(), tmp_path / "file" / "schedules")
