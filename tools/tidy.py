"""Make executed chapters the same wherever they were executed, and take the README's picture from the quickstart.

Usage: python tools/tidy.py [--check] notebooks/*.ipynb

With --check nothing is written: a chapter that would change, was never executed as a whole, or has code that is wider than
the page, ends the program.
"""

import base64
import sys
from pathlib import Path

import nbformat

WIDTH = 88  # characters of a line of code that fit the page
PICTURE = ("00_quickstart", "fig-00-check", Path("_static/prediction.png"))


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Drop what differs between two executions of the same chapter: timings, versions, progress bars, random ids."""
    notebook.metadata = nbformat.from_dict({
        "accelerator": "GPU",  # Colab: open with a GPU
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    })
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = nbformat.from_dict({
            key: value for key, value in cell.metadata.items() if key in ("tags", "mystnb") and value
        })
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def picture(notebook: nbformat.NotebookNode, name: str) -> bytes:
    """The PNG of the figure that a cell's metadata calls ``name``."""
    for cell in notebook.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name:
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output.data["image/png"])
    raise SystemExit(f"no cell holds the figure {name}: label one so in its metadata and execute the chapter")


def check(path: Path) -> None:
    """Raise SystemExit unless the chapter is tidy, fits the page, and holds the outputs of one run from top to bottom."""
    notebook = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        raise SystemExit(f"{path} was not executed in one go: make refresh CHAPTERS={path}")
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and (wide := max(map(len, cell.source.splitlines()), default=0)) > WIDTH:
            raise SystemExit(f"{path}, cell {number}: a line of {wide} characters, of which {WIDTH} fit the page: break it")
    tidy(notebook)
    if nbformat.writes(notebook) != path.read_text(encoding="utf-8").rstrip("\n"):
        raise SystemExit(f"{path} holds what differs between two executions: python tools/tidy.py {path}")


def main(paths: list[str]) -> None:
    if paths[:1] == ["--check"]:
        for path in paths[1:]:
            check(Path(path))
        return
    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)
        tidy(notebook)
        nbformat.write(notebook, path)
        chapter, name, target = PICTURE
        if path.stem == chapter:
            target.write_bytes(picture(notebook, name))


if __name__ == "__main__":
    main(sys.argv[1:])
