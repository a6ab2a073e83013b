"""Run chapters as Colab would: in an empty folder, with nothing but the installed package, on Colab's versions.

Usage: _build/colab/venv/bin/python tools/colab.py constraints-colab.txt notebooks/*.ipynb
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import nbformat
import psutil

LIMIT = 300  # seconds that a chapter may take
WHERE = "import sat2dem_core\nprint(sat2dem_core.__file__)"


def check(pins: Path) -> None:
    """Print the installed versions.

    Raises:
        SystemExit: a version is not the one that the file names.
    """
    for line in pins.read_text(encoding="utf-8").splitlines():
        if "==" in line and not line.startswith("#"):
            name, pin = line.split("==")
            installed = version(name).split("+")[0]  # torch 2.13.0+cpu is its 2.13.0
            print(f"{name} {installed}")
            if installed != pin:
                raise SystemExit(f"{name} is {installed} where {pins} has {pin}: pip was not given these constraints")


def stop(process: subprocess.Popen) -> None:
    """End a process and all processes that it started; a kernel has a session of its own, so no signal reaches both."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    for member in (process, *family):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def papermill(notebook: Path) -> str | None:
    """Execute a notebook in place, in its folder; returns what went wrong, or None."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", notebook.name, notebook.name]
    with open(notebook.with_suffix(".log"), "w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=notebook.parent, env=environment, stdout=log, stderr=log)
        try:
            failed = process.wait(LIMIT) != 0
        except subprocess.TimeoutExpired:
            return f"takes more than {LIMIT} s and was stopped{running(notebook)}"
        finally:
            stop(process)
        log.seek(0)
        return "\n".join(["does not run:", *log.read().splitlines()[-40:]]) if failed else None


def running(notebook: Path) -> str:
    """Which cell papermill is executing, as the end of a sentence."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.metadata.get("papermill", {}).get("status") == "running":
            return f" in the cell that begins {cell.source.splitlines()[0]!r}"
    return ""


def run(chapter: Path) -> None:
    """Execute one chapter in an empty folder; prints its time and its warnings.

    Raises:
        SystemExit: the chapter fails, takes longer than ``LIMIT`` or imports another copy of the package.
    """
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(WHERE))  # asks the kernel, which may be of another Python
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / chapter.name
        nbformat.write(notebook, copy)
        start = time.perf_counter()
        if fault := papermill(copy):
            raise SystemExit(f"{chapter} {fault}")
        print(f"{chapter} {time.perf_counter() - start:.0f} s", flush=True)
        outputs = [output for cell in nbformat.read(copy, as_version=4).cells for output in cell.get("outputs", [])]
    package = outputs.pop().text.strip()
    if not Path(package).is_relative_to(sys.prefix):
        raise SystemExit(f"{chapter} imported {package}, not the package installed in {sys.prefix}")
    for output in outputs:
        if output.get("name") == "stderr" and "Warning" in output.text:
            print(*(f"  {line}" for line in output.text.splitlines() if "Warning" in line), sep="\n")


def main(pins: str, *chapters: str) -> None:
    check(Path(pins))
    for chapter in map(Path, chapters):
        run(chapter)


if __name__ == "__main__":
    main(*sys.argv[1:])
