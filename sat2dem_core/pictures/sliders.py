"""Pictures compared by hand: a border drawn across two, or a row leafed through, by a slider that any browser has.

Where no script runs (PDF, GitHub, a notebook not trusted) or the page is printed, two pictures stand side by side.
``slider.html`` beside this module is the template of what a notebook shows.
"""

import html
import json
from collections.abc import Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sat2dem_core.errors import UnsupportedImagery, WrongShape
from sat2dem_core.pictures.views import View, data_address, fill, small_png

COMPARE_BUDGET, FRAMES_BUDGET = 240_000, 600_000  # bytes of HTML: a chapter with several must still load
QUALITY = 80, 65, 50, 35, 20, 10, 5  # of the pictures, the best that the budget allows
DPI, INCH = 150, 100  # of a figure: drawn px, more than shown for dense screens, and shown CSS px an inch
SHOWN, LARGEST = 448, 768  # the longer side of an array: CSS px that a small one is enlarged to, and px at most
_PANE = '<div class="pane{shown}"><img src="{source}" alt="{alt}" width="{width}" height="{height}" decoding="sync">' \
        '<span>{label}</span></div>\n'  # decoded at once: a picture that appears late would flicker


def compare(
    before: np.ndarray | Figure, after: np.ndarray | Figure, *, labels: Sequence[object] = ("before", "after"),
    title: str, alt: str,
) -> View:
    """Lay two pictures on each other, with a border between them to be moved by hand.

    Args:
        before: left of the border, (3, H, W) uint8 with square pixels, or a matplotlib figure, which is then closed.
        after: right of it, of the same size.
        labels: of the two, shown in their upper corners.
        title: the caption.
        alt: what the pictures show, for those who do not see them.

    Raises:
        WrongShape: the pictures differ in size or are no pictures, or there are not two labels.
        UnsupportedImagery: an array is not uint8.
    """
    return _view("wipe", [before, after], [str(label) for label in labels], title, alt, 0)


def frames(
    pictures: Sequence[np.ndarray | Figure], *, labels: Sequence[object], title: str, alt: str, start: int = 0
) -> View:
    """Show one of several pictures: a slider beneath picks which; without scripts, the one at ``start`` and the last.

    Args:
        pictures: two or more of one size, each (3, H, W) uint8 with square pixels, or a matplotlib figure, which is
            then closed. Up to 16 figures of 4.2 by 4.2 inches stay sharp.
        labels: one a picture, shown beneath it.
        title: the caption.
        alt: what the pictures show, for those who do not see them.
        start: number of the picture shown first.

    Raises:
        WrongShape: the pictures differ in size or are no pictures, or their number fits not the labels or the start.
        UnsupportedImagery: an array is not uint8.
    """
    return _view("frames", list(pictures), [str(label) for label in labels], title, alt, start)


def _view(kind: str, pictures: list, labels: list[str], title: str, alt: str, start: int) -> View:
    if len(pictures) < 2 or len(labels) != len(pictures):
        raise WrongShape(f"{len(pictures)} pictures, {len(labels)} labels: give two pictures or more, a label each")
    if not 0 <= start < len(pictures):
        raise WrongShape(f"there is no picture {start} to start with: choose 0 to {len(pictures) - 1}")
    images = [_image(picture) for picture in pictures]
    sizes = {image.size: None for image in images}
    if len(sizes) > 1:
        told = ", ".join(f"{width} by {height}" for width, height in sizes)
        raise WrongShape(f"the pictures are {told} px wide and high: give all one size")
    if isinstance(pictures[0], Figure):
        scale = INCH / DPI
    else:
        scale = max(1, round(SHOWN / max(images[0].size)))
        for image in images:
            image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    size = round(scale * images[0].width), round(scale * images[0].height)
    ends = (start, len(images) - 1) if start < len(images) - 1 else (0, start)  # what is seen without scripts
    kept = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    beside = _side_by_side([images[end].resize(size, kept) for end in ends], [labels[end] for end in ends])
    return View(title, _fill(kind, images, size, labels, title, alt, start, ends), small_png(beside, kmeans=1))


def _image(picture: np.ndarray | Figure) -> Image.Image:
    if isinstance(picture, Figure):
        picture.set_dpi(DPI)
        canvas = FigureCanvasAgg(picture)
        canvas.draw()  # type: ignore[no-untyped-call]
        drawn = Image.fromarray(np.asarray(canvas.buffer_rgba()))  # type: ignore[no-untyped-call]
        plt.close(picture)  # or a notebook would show it once more
        return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[0] != 3 or not picture.size:
        raise WrongShape(f"a picture is {picture.shape}: give (3, H, W), or a matplotlib figure")
    if picture.dtype != np.uint8:
        raise UnsupportedImagery(f"a picture is {picture.dtype}: give uint8, so stretch it to 0 to 255 first")
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(picture, 0, -1)))


def _side_by_side(images: list[Image.Image], labels: list[str]) -> Image.Image:
    """Two pictures with their labels, on white."""
    (width, height), gap, head = images[0].size, 16, 28  # px
    dpi = 128  # a power of two: no px is lost between px and inches
    figure = Figure(figsize=((2 * width + gap) / dpi, (height + head) / dpi), dpi=dpi, facecolor="white")
    for left, image, label in zip((0, width + gap), images, labels):
        figure.figimage(np.asarray(image), left, 0, origin="upper")
        center = (left + width / 2) / (2 * width + gap)
        figure.text(center, 1 - head / 2 / (height + head), label, size=8, ha="center", va="center", parse_math=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return Image.fromarray(np.asarray(canvas.buffer_rgba()))  # type: ignore[no-untyped-call]


def _fill(
    kind: str, images: list[Image.Image], size: tuple[int, int], labels: list[str], title: str, alt: str, start: int,
    ends: tuple[int, int],
) -> str:
    """The template with everything in it, the pictures as good as the budget allows."""
    wipe, enlarged = kind == "wipe", size[0] > images[0].width
    kinds: list[dict[str, Any]] = [{"lossless": True}] if enlarged else []  # lossy, the few pixels would run into each other
    kinds += [{"quality": quality} for quality in QUALITY]
    for shrink, options in product((1, 2, 4), kinds):
        sources = [data_address(image.reduce(shrink), **options) for image in images]
        data: dict[str, Any] = {"labels": labels, "alt": alt, "ends": ends}
        data["rest"] = {number: source for number, source in enumerate(sources) if number not in ends}
        panes = [
            _PANE.format(
                source=sources[end], alt=html.escape(f"{labels[end]}: {alt}"), label=html.escape(labels[end]),
                width=size[0], height=size[1], shown=" shown" if end == start else "",
            ) for end in ends
        ]
        filled = fill("slider.html", {
            "KIND": kind, "WIDTH": str(size[0]), "ASPECT": f"{size[0]} / {size[1]}",
            "PIXELS": "pixelated" if enlarged else "auto", "PANES": "".join(panes), "CAPTION": html.escape(title),
            "NAME": html.escape(f"Border between {labels[0]} and {labels[1]}" if wipe else ": ".join(filter(None, ("Which picture", title)))),
            "STEPS": str(len(images) - 1), "MOST": "100" if wipe else str(len(images) - 1),
            "STEP": "any" if wipe else "1", "START": "50" if wipe else str(start),
            "DATA": json.dumps(data).replace("<", "\\u003c"),  # no label may end the script
        })
        if len(filled.encode()) <= (COMPARE_BUDGET if wipe else FRAMES_BUDGET):
            break
    return filled
