"""Chapters on Colab's versions: which Python runs them, how a chapter that hangs ends, and chapter 1's file server."""

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import colab  # noqa: E402


def ended(pid: int, patience: float = 20) -> bool:
    """Whether a process ends; one that is dead and that its parent has not asked about has ended."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


# ---- which Python

@pytest.fixture
def path(tmp_path, require_system):
    """``path(script)``: the PATH of a machine whose python3.13 is a shell script, or that has none."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("make", "sh", "find"):
        (tools / name).symlink_to(require_system(name))
    (tools / "python3").symlink_to(sys.executable)

    def machine(script: str | None) -> str:
        if script:
            (tools / "python3.13").write_text(f"#!{require_system('sh')}\n{script}\n", encoding="utf-8")
            (tools / "python3.13").chmod(0o755)
        return str(tools)

    return machine


def plan(path: str, *arguments: str) -> str:
    """What ``make colab`` would do."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "COLAB", "PYENV"))}
    command = ["make", "--dry-run", "colab", *arguments]
    return subprocess.check_output(command, cwd=ROOT, text=True, env=environment | {"PATH": path})


FOUND = f'[ "$1" = --version ] && echo Python 3.13.0 || echo "$0"  # {sys.executable}'


@pytest.mark.parametrize("script", [FOUND, f'[ "$PYENV_VERSION" = 3.13 ] || [ "$1" = --version ] || exit 127\n{FOUND}'])
def test_colabs_own_python_runs_the_chapters_where_there_is_one(path, script):
    told = plan(path(script))
    assert "on Python 3.13.0 and the versions of constraints-colab.txt" in told
    assert "bin/python3.13 -m venv _build/colab/venv" in told and "colab.py constraints-colab.txt" in told


@pytest.mark.parametrize("script", [None, "exit 127"])
def test_without_it_the_versions_of_3_11_do(path, script):
    told = plan(path(script))
    assert "the versions of constraints-colab-3.11.txt" in told and "colab.py constraints-colab-3.11.txt" in told
    assert "python3 -m venv _build/colab/venv" in told


def test_a_user_can_name_one(path, tmp_path):
    other = shutil.copy(Path(path(FOUND)) / "python3.13", tmp_path / "mine")
    assert f"{other} -m venv" in plan(path(None), f"COLAB_PYTHON={other}")


# ---- a chapter that hangs

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_stopped_chapter_takes_its_kernel_along():
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    with process:
        child = int(process.stdout.readline())
        assert psutil.pid_exists(child)
        colab.stop(process)
    assert process.returncode != 0 and ended(child)
    colab.stop(process)  # one that has ended is no fault


def write_chapter(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_a_chapter_that_hangs_is_named_and_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(colab, "LIMIT", 0.5)
    with pytest.raises(SystemExit, match=r"slow\.ipynb takes more than 0\.5 s and was stopped"):
        colab.run(write_chapter(tmp_path / "slow.ipynb", "import time\ntime.sleep(600)"))


def test_the_cell_that_hangs_is_told(tmp_path):
    chapter = write_chapter(tmp_path / "slow.ipynb", "1 + 1", "import time\ntime.sleep(600)")
    assert colab.running(chapter) == ""
    notebook = nbformat.read(chapter, as_version=4)
    for cell, status in zip(notebook.cells, ("completed", "running")):
        cell.metadata["papermill"] = {"status": status}
    nbformat.write(notebook, chapter)
    assert colab.running(chapter) == " in the cell that begins 'import time'"


def test_a_chapter_that_fails_shows_why(tmp_path):
    with pytest.raises(SystemExit, match=r"(?s)broken\.ipynb does not run:.*ZeroDivisionError"):
        colab.run(write_chapter(tmp_path / "broken.ipynb", "1 / 0"))


# ---- chapter 1's file server

@pytest.fixture
def kernel(tmp_path):
    """A process that starts chapter 1's server of ``tmp_path`` with the chapter's own lines, and prints its address."""
    cells = nbformat.read(ROOT / "notebooks/01_dataset.ipynb", as_version=4).cells
    (cell,) = (cell.source for cell in cells if "SERVER" in cell.source)
    lines = cell[cell.index("SERVER") :]
    assert lines.rstrip().splitlines()[-1].startswith("address = ")
    before = f"import subprocess, sys, time\nfolder = {str(tmp_path)!r}"
    after = "print(address, server.pid, flush=True)\ntime.sleep(600)"
    command = [sys.executable, "-c", f"{before}\n{lines}\n{after}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.address, pid = process.stdout.readline().split()
        process.server = int(pid)
        yield process
        process.kill()


def test_chapter_1_serves_parts_of_files(kernel, tmp_path):
    (tmp_path / "a.tif").write_bytes(bytes(range(256)))
    ask = urllib.request.Request(f"{kernel.address}/a.tif", headers={"Range": "bytes=10-19"})
    with urllib.request.urlopen(ask, timeout=20) as answer:
        assert answer.status == 206 and answer.read() == bytes(range(10, 20))
        assert answer.headers["Content-Range"] == "bytes 10-19/256"
    with urllib.request.urlopen(f"{kernel.address}/a.tif", timeout=20) as answer:
        assert answer.status == 200 and len(answer.read()) == 256
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{kernel.address}/b.tif", timeout=20)


def test_chapter_1s_server_ends_with_the_kernel_however_that_ends(kernel):
    assert psutil.pid_exists(kernel.server)
    kernel.kill()
    assert ended(kernel.server)
