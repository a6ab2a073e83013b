"""Where the package looks for its data."""

from pathlib import Path

from sat2dem_core import paths
from sat2dem_core.paths import downloads


def test_data_lie_where_the_user_says(monkeypatch, tmp_path):
    assert downloads("zion") == Path(paths.__file__).parents[1] / "data/zion"
    monkeypatch.setenv("SAT2DEM_DATA", str(tmp_path))
    assert downloads("zion") == tmp_path / "zion"
