"""Names from outside: those that pass stay in their folder on every system, and usual names pass."""

import ntpath
import posixpath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sat2dem_core.rasters.names import name_fault


@given(st.lists(st.sampled_from(["..", ".", "", "a", "C:", " ", ".. ", "\\", "\0", "é.tif", "~"]), max_size=5))
@example(["..."])
def test_a_name_without_fault_stays_in_its_folder(parts):
    name = "/".join(parts)
    if name_fault(name):
        return
    for system, root in ((posixpath, "/data/folder"), (ntpath, r"C:\data\folder")):
        path = system.normpath(system.join(root, name))
        assert system.commonpath([root, path]) == root and path != root


@pytest.mark.parametrize("name", [
    "original_DEM_cell_5209.tif", "./images/a b.tif", "__MACOSX/._tile.tif", "owner/name-v1.0.zip", "..tile", "12:30",
    "Peñalara.tif", "in/C:one", "sentinel images (1).zip",
])
def test_usual_names_pass(name):
    assert not name_fault(name)


@pytest.mark.parametrize("name", [
    "..", "a/..", "../a", ".. /a", "... /a", "/a", "//server/share", "C:a", "z:/a", r"a\b", "a\0", "",
    ".", "./", "//",
])
def test_other_names_are_refused(name):
    assert name_fault(name)
