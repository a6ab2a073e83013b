"""Interactive outputs of a notebook: HTML that needs nothing else, and a picture for readers that run no scripts."""

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

from sat2dem_core.paths import PACKAGE
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
        """The picture for where no script runs, on white like every figure of the book."""
        return self._png

    def save(self, path: str | PathLike) -> None:
        """Write the view as an HTML page that needs no other file and no network.

        Raises:
            CannotWrite: the disk is full or the folder not writable.
        """
        with replacing(Path(path)) as temporary:
            temporary.write_text(_PAGE.format(title=html.escape(self.title), view=self._html), encoding="utf-8")

    def _repr_html_(self) -> str:
        return self._html

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self._html, "image/png": b64encode(self._png).decode(), "text/plain": repr(self)}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file of this kind, ``"PNG"`` for example, with Pillow's options."""
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def small_png(image: Image.Image, kmeans: int = 0) -> bytes:
    """A PNG of 256 colors, a third of the size; ``kmeans`` of 1 keeps rare colors, such as the ends of a color bar."""
    return encoded(image.convert("RGB").quantize(256, kmeans=kmeans), "PNG", optimize=True)


def data_address(image: Image.Image, **options: Any) -> str:
    """An image as a WebP data URL, so that the browser fetches nothing."""
    return f"data:image/webp;base64,{b64encode(encoded(image, 'WEBP', method=6, **options)).decode()}"


def fill(template: str, values: dict[str, str]) -> str:
    """A template of this folder with each ``@NAME@`` replaced by its value, and ``@ID@`` by a digest of the values.

    A digest, because the same cell run again must give the same output.
    """
    values = values | {"ID": hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]}
    text = (PACKAGE / "pictures" / template).read_text(encoding="utf-8")
    return re.sub("@([A-Z]+)@", lambda match: values[match[1]], text)
