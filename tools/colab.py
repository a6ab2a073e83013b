"""Run chapters as Colab would: beside nothing but the installed package, on the versions that Colab brings.

Usage: _build/colab/venv/bin/python tools/colab.py constraints-colab.txt notebooks/*.ipynb
"""

import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import nbformat

WHERE = "import sat2dem_core\nprint(sat2dem_core.__file__)"


def check(pins: Path) -> None:
    """Print the versions in force; one that is not Colab's ends the program."""
    for line in pins.read_text().splitlines():
        if "==" in line and not line.startswith("#"):
            name, pin = line.split("==")
            found = version(name).split("+")[0]  # torch 2.13.0+cpu is its 2.13.0
            print(f"{name} {found}")
            if found != pin:
                raise SystemExit(f"{name} is {found} where {pins} has {pin}: pip was not given these constraints")


def run(chapter: Path) -> None:
    """Execute one chapter in an empty folder; prints its time and its warnings, and the log's end where it fails."""
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(WHERE))  # asked of the kernel itself, which need not be this Python
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:
        done = Path(folder) / chapter.name
        nbformat.write(notebook, done)
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", done.name, done.name]
        start = time.perf_counter()
        papermill = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if papermill.returncode:
            print(*papermill.stdout.splitlines()[-40:], sep="\n")
            raise SystemExit(f"{chapter} does not run on Colab's versions: see the log's end above")
        print(f"{chapter} {time.perf_counter() - start:.0f} s")
        outputs = [output for cell in nbformat.read(done, as_version=4).cells for output in cell.get("outputs", [])]
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
