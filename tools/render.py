"""Render the book to HTML from chapters that have been executed.

Usage: python tools/render.py CHAPTERS OUT

CHAPTERS is a folder of notebooks. The program replaces OUT only after it has rendered the book without a warning.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def all_but_notebooks(folder: str, names: list[str]) -> list[str]:
    """The names that a copy of the chapters leaves out."""
    return [name for name in names if not name.endswith(".ipynb")]


def render(chapters: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".book-") as folder:
        source = Path(folder)
        for path in (*ROOT.glob("*.md"), *(ROOT / name for name in ("_config.yml", "_toc.yml", "references.bib"))):
            shutil.copy(path, source)
        for name in ("_static", "_ext"):
            shutil.copytree(ROOT / name, source / name)
        shutil.copytree(chapters, source / "notebooks", ignore=all_but_notebooks)
        program = Path(sys.executable).with_name("jupyter-book")
        subprocess.run([program, "build", source, "--warningiserror", "--keep-going", "--quiet"], check=True)
        html = source / "_build/html"
        if not (html / "index.html").exists():  # another version of jupyter-book may report success and write nothing
            raise SystemExit("jupyter-book wrote no page and reported no error: install the version of constraints.txt")
        shutil.rmtree(out, ignore_errors=True)
        html.rename(out)


if __name__ == "__main__":
    render(Path(sys.argv[1]), Path(sys.argv[2]))
