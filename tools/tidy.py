"""Make executed chapters light, and the same on every machine; take the README's picture from the quickstart.

Usage: python tools/tidy.py [--check] notebooks/*.ipynb

With --check nothing is written: a chapter that would change, was never executed as a whole, has code that is wider than
the page, or is too heavy, ends the program.

Among the outputs, the program re-encodes those of type image/png alone and keeps their size in pixels. Charts stay PNG,
without any loss. Satellite images and shaded maps become JPEG: as PNG with a palette of 256 colors they would be three
times as heavy, their pinks would turn brown and their color bars would show steps.
"""

import base64
import io
import sys
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image
from PIL.PngImagePlugin import PngInfo

WIDTH = 88  # characters of a line of code that fit the page
PICTURE = ("00_quickstart", "fig-00-check", "_static/prediction.jpg")
LIMIT = 1_200_000  # bytes of a chapter
TARGET = 1_180_000  # what tidying aims at, so that text may grow before the next execution
QUALITIES = range(90, 35, -5)  # of JPEG: a chapter gets the best one that keeps it below TARGET
NAME = "tools/tidy.py"  # marks a PNG as tidy: another version of zlib would write other bytes
MARK = PngInfo()
MARK.add_text("Software", NAME)


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


def lighten(notebook: nbformat.NotebookNode) -> None:
    """Re-encode the PNG outputs of a notebook: charts without loss, photographs as JPEG."""
    photographs = []
    for output in png_outputs(notebook):
        image = picture_to_encode(output.data["image/png"])
        if image is None:
            continue
        png = lossless(image)
        if is_photograph(image, png):
            photographs.append((output, image))
            del output.data["image/png"]
            if "image/png" in output.metadata:  # its width and height on the page
                output.metadata["image/jpeg"] = output.metadata.pop("image/png")
        else:
            output.data["image/png"] = to_base64(png)
    for quality in QUALITIES if photographs else ():
        for output, image in photographs:
            output.data["image/jpeg"] = to_base64(jpeg(image, quality))
        if len(nbformat.writes(notebook).encode("utf-8")) <= TARGET:
            break


def png_outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]


def picture_to_encode(png: str) -> Image.Image | None:
    """A PNG in base64 as RGB, or as RGBA if it is transparent; None if it is tidy, animated, or has 16 bits."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        if image.info.get("Software") == NAME or image.mode.startswith("I") or getattr(image, "is_animated", False):
            return None
        image = image.convert("RGBA")
    opaque = image.getextrema()[3] == (255, 255)
    return image.convert("RGB") if opaque else image


def lossless(image: Image.Image) -> bytes:
    """The smaller PNG of exactly these pixels, with or without a palette."""
    files = [encoded(image, "PNG", pnginfo=MARK)]
    if image.mode == "RGB" and image.getcolors(256):  # None for more colors than that
        files.append(encoded(image.quantize(256), "PNG", pnginfo=MARK))
    return min(files, key=len)


def is_photograph(image: Image.Image, png: bytes) -> bool:
    """Whether a picture has more colors than a palette holds, and JPEG takes less than half of the PNG's bytes."""
    return image.mode == "RGB" and not image.getcolors(256) and 2 * len(jpeg(image, QUALITIES[0])) < len(png)


def jpeg(image: Image.Image, quality: int) -> bytes:
    return encoded(image, "JPEG", quality=quality, progressive=True)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    with io.BytesIO() as file:
        image.save(file, kind, optimize=True, **options)
        return file.getvalue()


def to_base64(file: bytes) -> str:
    return base64.b64encode(file).decode("ascii")


def picture(notebook: nbformat.NotebookNode, name: str) -> bytes:
    """The JPEG of the figure that a cell's metadata calls ``name``."""
    for cell in notebook.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name:
            for output in cell.outputs:
                if "image/jpeg" in output.get("data", {}):
                    return base64.b64decode(output.data["image/jpeg"])
    raise SystemExit(f"no cell holds the figure {name} as JPEG: label one so in its metadata and execute the chapter")


def check(path: Path) -> None:
    """Raise SystemExit unless the chapter is tidy, light, fits the page, and holds the outputs of one run in order."""
    notebook = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        raise SystemExit(f"{path} was not executed in one go: make refresh CHAPTERS={path}")
    for number, cell in enumerate(notebook.cells):
        lines = [line for line in cell.source.splitlines() if "://" not in line]  # an address cannot be broken
        if cell.cell_type == "code" and (wide := max(map(len, lines), default=0)) > WIDTH:
            too_wide = f"a line of {wide} characters, of which {WIDTH} fit the page: break it"
            raise SystemExit(f"{path}, cell {number}: {too_wide}")
    tidy(notebook)
    lighten(notebook)
    if nbformat.writes(notebook) != path.read_text(encoding="utf-8").rstrip("\n"):
        untidy = "holds what differs between two executions, or heavy pictures"
        raise SystemExit(f"{path} {untidy}: python tools/tidy.py {path}")
    if (size := path.stat().st_size) > LIMIT:
        raise SystemExit(f"{path} has {size / 1e6:.2f} MB, the limit is {LIMIT / 1e6}: draw fewer or smaller pictures")


def main(paths: list[str]) -> None:
    if paths[:1] == ["--check"]:
        for path in paths[1:]:
            check(Path(path))
        return
    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)
        tidy(notebook)
        lighten(notebook)
        nbformat.write(notebook, path)
        chapter, name, target = PICTURE
        if path.stem == chapter:
            (path.resolve().parents[1] / target).write_bytes(picture(notebook, name))


if __name__ == "__main__":
    main(sys.argv[1:])
