"""What a notebook shows that can be moved by hand: a piece of HTML on its own, and a picture where no script runs."""

import hashlib
import html
import io
import json
import re
from base64 import b64encode
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from sat2dem_core.rasters.atomic import replacing

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
</head>
<body>
{view}</body>
</html>
"""


@dataclass(frozen=True)
class View:
    """What ``view3d``, ``compare`` and ``frames`` return: a notebook shows it when it is a cell's last line."""

    title: str
    _html: str = field(repr=False)
    _png: bytes = field(repr=False)

    def png(self) -> bytes:
        """The picture for readers that run no scripts, on white like every figure of the book."""
        return self._png

    def save(self, path: str | PathLike) -> None:
        """Write a page that stands alone, without the net.

        Raises:
            CannotWrite: the disk is full or the folder not writable.
        """
        with replacing(Path(path)) as beside:
            beside.write_text(_PAGE.format(title=html.escape(self.title), view=self._html), encoding="utf-8")

    def _repr_html_(self) -> str:
        return self._html

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self._html, "image/png": b64encode(self._png).decode(), "text/plain": repr(self)}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as the bytes of a file."""
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def small_png(image: Image.Image, kmeans: int = 0) -> bytes:
    """A PNG of few colors: a third of the size. Rare ones, such as the ends of a color bar, need ``kmeans`` of 1."""
    return encoded(image.convert("RGB").quantize(256, kmeans=kmeans), "PNG", optimize=True)


def data_address(image: Image.Image, **options: Any) -> str:
    """An image as WebP within its address, so that nothing is fetched."""
    return f"data:image/webp;base64,{b64encode(encoded(image, 'WEBP', method=6, **options)).decode()}"


def fill(template: str, values: dict[str, str]) -> str:
    """A template beside this module with ``@NAME@`` replaced by its value, and ``@ID@`` by a name of its own.

    The name follows from the content: the same cell run again gives the same output.
    """
    values = values | {"ID": hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]}
    text = (Path(__file__).parent / template).read_text(encoding="utf-8")
    return re.sub("@([A-Z]+)@", lambda place: values[place[1]], text)
