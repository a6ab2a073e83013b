"""Pictures compared by hand: a border drawn across two, or a row leafed through, by a slider that any browser has.

Where no script runs (PDF, GitHub, a notebook not trusted) or the page is printed, two pictures stand side by side.
``slider.html`` beside this module is the template of what a notebook shows.
"""

import html
import json
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sat2dem_core.errors import UnsupportedImagery, WrongShape
from sat2dem_core.views import View, data_address, fill, small_png

COMPARE_BUDGET, FRAMES_BUDGET = 240_000, 600_000  # bytes of HTML: a chapter with several must still load
QUALITY = 80, 65, 50, 35, 20, 10, 5  # of the pictures, the best that the budget allows
DPI, INCH = 150, 100  # of a figure: drawn px, more than shown for dense screens, and shown CSS px an inch
SHOWN, LARGEST = 448, 768  # the longer side of an array: CSS px that a small one is enlarged to, and px at most
_PANE = '<div class="pane{shown}"><img src="{source}" alt="{alt}" width="{width}" height="{height}" decoding="sync">' \
        '<span>{label}</span></div>\n'  # decoded at once: a picture that appears late would flicker


def compare(
    before: np.ndarray | Figure, after: np.ndarray | Figure, *, labels: Sequence[str] = ("before", "after"),
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
    return _view("wipe", [before, after], labels, title, alt, 0)


def frames(
    pictures: Sequence[np.ndarray | Figure], *, labels: Sequence[str], title: str, alt: str, start: int = 0
) -> View:
    """Show one of several pictures, which one a slider beneath says; without scripts, the one at ``start`` and the last.

    Args:
        pictures: two or more of one size, each (3, H, W) uint8 with square pixels, or a matplotlib figure, which is
            then closed. Up to 16 figures of 4.2 by 4.2 inches stay sharp.
        labels: one a picture, shown beneath it.
        title: the caption.
        alt: what the pictures show, for those who do not see them.
        start: number of the picture shown first.

    Raises:
        WrongShape: the pictures differ in size or are no pictures, or their number does not fit the labels or the start.
        UnsupportedImagery: an array is not uint8.
    """
    return _view("frames", list(pictures), labels, title, alt, start)


def _view(kind: str, pictures: list, labels: Sequence[str], title: str, alt: str, start: int) -> View:
    if len(pictures) < 2 or len(labels) != len(pictures):
        raise WrongShape(f"{len(pictures)} pictures with {len(labels)} labels: give two pictures or more, and each a label")
    if not 0 <= start < len(pictures):
        raise WrongShape(f"there is no picture {start} to start with: choose 0 to {len(pictures) - 1}")
    images = [_image(picture) for picture in pictures]
    sizes = {image.size: None for image in images}
    if len(sizes) > 1:
        told = ", ".join(f"{width} by {height}" for width, height in sizes)
        raise WrongShape(f"the pictures are {told} px wide and high: give all one size")
    scale = INCH / DPI if isinstance(pictures[0], Figure) else max(1, round(SHOWN / max(images[0].size)))
    size = round(scale * images[0].width), round(scale * images[0].height)
    ends = (start or 0, len(images) - 1) if start < len(images) - 1 else (0, start)  # what is seen without scripts
    beside = _side_by_side([images[end].resize(size, _filter(scale)) for end in ends], [labels[end] for end in ends])
    return View(title, _fill(kind, images, size, list(labels), title, alt, start, ends), small_png(beside))


def _image(picture: np.ndarray | Figure) -> Image.Image:
    if isinstance(picture, Figure):
        picture.set_dpi(DPI)
        canvas = FigureCanvasAgg(picture)
        canvas.draw()
        drawn = Image.fromarray(np.asarray(canvas.buffer_rgba()))
        plt.close(picture)  # or a notebook would show it once more
        return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[0] != 3 or not picture.size:
        raise WrongShape(f"a picture is {picture.shape}: give (3, H, W), or a matplotlib figure")
    if picture.dtype != np.uint8:
        raise UnsupportedImagery(f"a picture is {picture.dtype}: give uint8, so stretch it to 0 to 255 first")
    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(picture, 0, -1)))
    image.thumbnail((LARGEST, LARGEST), Image.LANCZOS)
    return image


def _filter(scale: float) -> Image.Resampling:
    return Image.NEAREST if scale >= 1 else Image.LANCZOS


def _side_by_side(images: list[Image.Image], labels: list[str]) -> Image.Image:
    """Two pictures with their labels, on white."""
    (width, height), gap, head = images[0].size, 16, 28  # px
    figure = Figure(figsize=((2 * width + gap) / 100, (height + head) / 100), dpi=100, facecolor="white")
    for left, image, label in zip((0, width + gap), images, labels):
        figure.figimage(np.asarray(image), left, 0, origin="upper")
        center = (left + width / 2) / (2 * width + gap)
        figure.text(center, 1 - head / 2 / (height + head), label, ha="center", va="center", parse_math=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()))


def _fill(
    kind: str, images: list[Image.Image], size: tuple[int, int], labels: list[str], title: str, alt: str, start: int,
    ends: tuple[int, int],
) -> str:
    """The template with everything in it, the pictures as good as the budget allows."""
    enlarged = size[0] > images[0].width
    budget = COMPARE_BUDGET if kind == "wipe" else FRAMES_BUDGET
    exact = [{"lossless": True}] if enlarged else []  # else their pixels would run into each other
    for options in [*exact, *({"quality": quality} for quality in QUALITY)]:
        sources = [data_address(image, **options) for image in images]
        if sum(map(len, sources)) > budget:
            continue
        panes = [
            _PANE.format(
                source=sources[end], alt=html.escape(f"{labels[end]}: {alt}"), label=html.escape(labels[end]),
                width=size[0], height=size[1], shown=" shown" if end == start else "",
            ) for end in ends
        ]
        data = {"labels": labels, "alt": alt, "ends": ends}
        data["rest"] = {number: source for number, source in enumerate(sources) if number not in ends}
        wipe = kind == "wipe"
        filled = fill("slider.html", {
            "KIND": kind, "PIXELS": "pixelated" if enlarged else "auto", "WIDTH": str(size[0]),
            "ASPECT": f"{size[0]} / {size[1]}", "PANES": "".join(panes), "CAPTION": html.escape(title),
            "NAME": html.escape(f"Border between {labels[0]} and {labels[1]}" if wipe else f"Which picture: {title}"),
            "STEPS": str(len(images) - 1), "MOST": "100" if wipe else str(len(images) - 1),
            "STEP": "any" if wipe else "1", "START": "50" if wipe else str(start),
            "DATA": json.dumps(data).replace("<", "\\u003c"),  # a label must not end the script
        })
        if len(filled.encode()) <= budget:
            return filled
    # Noise: nothing but fewer pixels makes it smaller.
    return _fill(kind, [image.reduce(2) for image in images], size, labels, title, alt, start, ends)
