"""Files are whole or absent, whatever the disk does; a folder belongs to one process at a time."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings

import pytest

from sat2dem_core.errors import CannotWrite, RunBusy
from sat2dem_core.rasters import atomic
from sat2dem_core.rasters.atomic import claimed, replacing

HOLDER = """
import sys, time
from pathlib import Path
from sat2dem_core.rasters.atomic import claimed
with claimed(Path(sys.argv[1])):
    print("claimed", flush=True)
    time.sleep(600)
"""


def test_replacing_shows_the_old_file_or_the_new(tmp_path):
    path = tmp_path / "a" / "file.txt"
    for text in ("old", "new"):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            assert not path.exists() or path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new" and os.listdir(path.parent) == ["file.txt"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        1 / 0
    assert path.read_text(encoding="utf-8") == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_a_full_disk_is_one_sentence(tmp_path, full_disk):
    path = tmp_path / "file.bin"
    with (
        full_disk(1000) as reason, pytest.raises(CannotWrite, match=f"cannot write .*file.bin .{reason}"),
        replacing(path) as temporary,
    ):
        temporary.write_bytes(bytes(5000))
    assert not os.listdir(tmp_path)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder ``run``."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_a_folder_is_free_again_as_soon_as_its_process_is_killed(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(atomic, "PATIENCE", 0.2)
    leftover = tmp_path / "run" / f".last.json.{holder.pid}"
    leftover.write_text("half", encoding="utf-8")
    busy = r"another process is at work in .*run: wait until it ends, or choose another folder"
    with pytest.raises(RunBusy, match=busy), claimed(tmp_path / "run"):
        pass
    assert leftover.exists()
    holder.kill()
    holder.wait()
    with claimed(tmp_path / "run"):
        assert not os.listdir(tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]


def test_a_process_that_waits_gets_the_folder_anew_when_the_first_removes_it(tmp_path):
    """As a prediction removes the folder of its parts."""
    folder, order = tmp_path / "parts", []

    def second():
        with claimed(folder):
            order.append("second")
            assert not os.listdir(folder)

    with claimed(folder):
        (folder / "part").write_text("", encoding="utf-8")
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.3)
        shutil.rmtree(folder)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"] and os.listdir(tmp_path) == ["parts"]


def test_one_at_a_time_however_many_wait(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(5):
            with claimed(tmp_path / "run"):
                inside.append(0)
                time.sleep(0.002)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20 and os.listdir(tmp_path) == ["run"]


def test_a_folder_that_cannot_be_locked_is_still_used_and_that_is_said(tmp_path):
    (tmp_path / "run.lock").mkdir()  # no file can be opened under this name
    said = f"{tmp_path}: no lock can be had there .*: start no second command"
    with pytest.warns(UserWarning, match=said), claimed(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_system_without_locks_says_so(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    said = "no lock can be had there .Function not implemented"
    with pytest.warns(UserWarning, match=said), claimed(tmp_path / "run"):
        pass
    assert os.listdir(tmp_path / "run") == []


@pytest.mark.parametrize(("kind", "options", "said"), [
    ("fuse.sshfs", "rw,relatime", True), ("fuse.drive", "rw", True), ("nfs4", "rw,vers=4.2,local_lock=none", False),
    ("nfs", "rw,vers=3,nolock,local_lock=all", True), ("lustre", "rw,flock", False), ("lustre", "rw,localflock", True),
    ("ext4", "rw", False), ("fuse.gvfsd-fuse", "rw", False), ("cifs", "rw,nobrl", True),
])
def test_a_drive_whose_locks_other_computers_do_not_see_says_so(tmp_path, monkeypatch, kind, options, said):
    drive, mounts = tmp_path / "a drive", tmp_path / "mounts"
    drive.mkdir()
    place = str(drive).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/home {place} {kind} {options} 0 0\nbroken\n", encoding="utf-8")
    monkeypatch.setattr(atomic, "MOUNTS", mounts)
    with warnings.catch_warnings(record=True) as heard, claimed(tmp_path / "run"), claimed(drive / "run"):
        pass
    assert [str(warning.message) for warning in heard] == said * [
        f"{drive}: locks on this drive ({kind}) hold on this computer alone: start no second command on the "
        "same files"
    ]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CannotWrite, match="cannot write .*file/run"), claimed(tmp_path / "file" / "run"):
        pass
