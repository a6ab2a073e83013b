"""Files are whole or not there, whatever the disk does."""

import os

import pytest

from sat2dem_core.errors import CannotWrite
from sat2dem_core.rasters.atomic import replacing


def test_replacing_shows_the_old_file_or_the_new(tmp_path):
    path = tmp_path / "a" / "file.txt"
    for text in ("old", "new"):
        with replacing(path) as beside:
            beside.write_text(text)
            assert not path.exists() or path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(path.parent) == ["file.txt"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as beside:
        beside.write_text("half")
        1 / 0
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_a_full_disk_is_one_sentence(tmp_path, full_disk):
    path = tmp_path / "file.bin"
    with full_disk(1000) as reason, pytest.raises(CannotWrite, match=f"cannot write .*file.bin .{reason}"), replacing(path) as beside:
        beside.write_bytes(bytes(5000))
    assert not os.listdir(tmp_path)
