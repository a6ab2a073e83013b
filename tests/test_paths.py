"""Where the package looks for its data, in a clone and in a wheel."""

from pathlib import Path

import pytest

from sat2dem_core import paths
from sat2dem_core.paths import cache_folder, data_folder, downloads, repository

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The package as a wheel installs it, with one data set, and a home of its own."""
    package = tmp_path / "site-packages" / "sat2dem_core"
    (package / "data" / "weights").mkdir(parents=True)
    monkeypatch.setattr(paths, "PACKAGE", package)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.delenv("SAT2DEM_DATA", raising=False)
    return package


def test_in_a_clone_data_lie_next_to_the_package(monkeypatch):
    monkeypatch.delenv("SAT2DEM_DATA", raising=False)
    assert repository() == ROOT and data_folder("weights") == ROOT / "data/weights"
    assert downloads("zion") == ROOT / "data/zion"


def test_in_a_wheel_data_lie_in_the_package_and_downloads_in_the_home(wheel):
    assert repository() is None and data_folder("weights") == wheel / "data/weights"
    assert downloads("zion") == wheel.parents[1] / "home/.cache/sat2dem/data/zion"


def test_the_environment_decides_where_downloads_and_runs_lie(wheel, monkeypatch, tmp_path):
    monkeypatch.setenv("SAT2DEM_DATA", str(tmp_path / "drive"))
    monkeypatch.setenv("SAT2DEM_CACHE", str(tmp_path / "runs"))
    assert downloads("zion") == tmp_path / "drive/zion" and cache_folder() == tmp_path / "runs"
    monkeypatch.delenv("SAT2DEM_CACHE")
    assert cache_folder() == tmp_path / "home/.cache/sat2dem"
