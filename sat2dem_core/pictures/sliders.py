"""Pictures that a reader compares: two under a border that moves, or a series, one picture at a time.

A slider of the browser moves the border or picks the picture. Where no script runs (PDF, GitHub, an untrusted
notebook), and on paper, two pictures stand side by side. The template is ``slider.html`` in this folder.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
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
QUALITY = 80, 65, 50, 35, 20, 10, 5  # of the pictures: the first that the budget allows
DPI, INCH = 150, 100  # of a figure, per inch: px drawn, and CSS px shown; the former are more, for dense screens
SHOWN, LARGEST = 448, 768  # the longer side of an array: CSS px that a small one is enlarged to, and px at most
_PANE = '<div class="pane{shown}"><img src="{source}" alt="{alt}" width="{width}" height="{height}" decoding="sync">' \
        '<span>{label}</span></div>\n'  # decoded at once: a picture that appears late would flicker


def compare(
    before: np.ndarray | Figure, after: np.ndarray | Figure, *, labels: Sequence[object] = ("before", "after"),
    title: str, alt: str,
) -> View:
    """Lay one picture over another, with a border between them that the reader moves.

    Args:
        before: left of the border, (3, H, W) uint8 with square pixels, or a matplotlib figure, which is then closed.
        after: right of it, of the same size.
        labels: of the two, shown in their upper corners.
        title: the caption.
        alt: what the pictures show, for readers who cannot see them.

    Raises:
        WrongShape: the pictures differ in size or are no pictures, or the number of labels is not two.
        UnsupportedImagery: an array is not uint8.
    """
    return _view("wipe", [before, after], [str(label) for label in labels], title, alt, 0)


def frames(
    pictures: Sequence[np.ndarray | Figure], *, labels: Sequence[object], title: str, alt: str, start: int = 0
) -> View:
    """Show one of several pictures, which the reader picks with a slider.

    Where no script runs, the picture at ``start`` and the last one stand side by side.

    Args:
        pictures: two or more of one size, each (3, H, W) uint8 with square pixels, or a matplotlib figure, which is
            then closed. Up to 16 figures of 4.2 by 4.2 inches stay sharp.
        labels: one for each picture, shown beneath it.
        title: the caption.
        alt: what the pictures show, for readers who cannot see them.
        start: number of the picture shown first, from 0.

    Raises:
        WrongShape: the pictures differ in size or are no pictures, or labels or ``start`` do not fit their number.
        UnsupportedImagery: an array is not uint8.
    """
    return _view("frames", list(pictures), [str(label) for label in labels], title, alt, start)


@dataclass(frozen=True)
class _Slider:
    """What the template shows.

    Attributes:
        kind: ``"wipe"``, a border across two pictures, or ``"frames"``, one picture at a time.
        images: the pictures, all of one size.
        size: width and height as shown, CSS px.
        start: number of the picture that frames show first.
    """

    kind: str
    images: list[Image.Image]
    size: tuple[int, int]
    labels: list[str]
    title: str
    alt: str
    start: int

    @property
    def ends(self) -> tuple[int, int]:
        """The two pictures that stand side by side without scripts: the one at the start and the last."""
        last = len(self.images) - 1
        return (self.start, last) if self.start < last else (0, last)

    @property
    def enlarged(self) -> bool:
        return self.size[0] > self.images[0].width


def _view(kind: str, pictures: list, labels: list[str], title: str, alt: str, start: int) -> View:
    if len(pictures) < 2 or len(labels) != len(pictures):
        raise WrongShape(
            f"{len(pictures)} pictures, {len(labels)} labels: give two pictures or more, and one label for each"
        )
    if not 0 <= start < len(pictures):
        raise WrongShape(f"there is no picture {start} to start with: choose 0 to {len(pictures) - 1}")
    images = [_image(picture) for picture in pictures]
    _check_sizes(images)
    if isinstance(pictures[0], Figure):
        scale = INCH / DPI
    else:
        scale = max(1, round(SHOWN / max(images[0].size)))
        for image in images:
            image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    size = round(scale * images[0].width), round(scale * images[0].height)
    slider = _Slider(kind, images, size, labels, title, alt, start)
    return View(title, _html(slider), small_png(_side_by_side(slider), kmeans=1))


def _check_sizes(images: list[Image.Image]) -> None:
    sizes = {image.size: None for image in images}
    if len(sizes) > 1:
        listed = ", ".join(f"{width} by {height}" for width, height in sizes)
        raise WrongShape(f"the pictures are {listed} px wide and high: give all one size")


def _image(picture: np.ndarray | Figure) -> Image.Image:
    if isinstance(picture, Figure):
        picture.set_dpi(DPI)
        canvas = FigureCanvasAgg(picture)
        canvas.draw()  # type: ignore[no-untyped-call]
        drawn = Image.fromarray(np.asarray(canvas.buffer_rgba()))  # type: ignore[no-untyped-call]
        plt.close(picture)  # or a notebook would show it again
        return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[0] != 3 or not picture.size:
        raise WrongShape(f"a picture has the shape {picture.shape}: give (3, H, W), or a matplotlib figure")
    if picture.dtype != np.uint8:
        raise UnsupportedImagery(f"a picture is {picture.dtype}: give uint8, so stretch it to 0 to 255 first")
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(picture, 0, -1)))


def _side_by_side(slider: _Slider) -> Image.Image:
    """The two pictures that are seen without scripts, with their labels, on white."""
    kept = Image.Resampling.NEAREST if slider.enlarged else Image.Resampling.LANCZOS
    (width, height), gap, head = slider.size, 16, 28  # px
    dpi = 128  # a power of two: no px is lost between px and inches
    figure = Figure(figsize=((2 * width + gap) / dpi, (height + head) / dpi), dpi=dpi, facecolor="white")
    for left, number in zip((0, width + gap), slider.ends):
        image = slider.images[number].resize(slider.size, kept)
        figure.figimage(np.asarray(image), left, 0, origin="upper")
        center = (left + width / 2) / (2 * width + gap)
        label = slider.labels[number]
        figure.text(center, 1 - head / 2 / (height + head), label, size=8, ha="center", va="center", parse_math=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return Image.fromarray(np.asarray(canvas.buffer_rgba()))  # type: ignore[no-untyped-call]


def _html(slider: _Slider) -> str:
    """The template with everything in it, the pictures as good as the budget allows."""
    # Where few pixels are enlarged, lossy compression would blur them into each other.
    kinds: list[dict[str, Any]] = [{"lossless": True}] if slider.enlarged else []
    kinds += [{"quality": quality} for quality in QUALITY]
    budget = COMPARE_BUDGET if slider.kind == "wipe" else FRAMES_BUDGET
    for shrink, options in product((1, 2, 4), kinds):
        page = _filled(slider, [data_address(image.reduce(shrink), **options) for image in slider.images])
        if len(page.encode()) <= budget:
            break
    return page


def _filled(slider: _Slider, sources: list[str]) -> str:
    """The template with the pictures from these addresses."""
    if slider.kind == "wipe":
        name = f"Border between {slider.labels[0]} and {slider.labels[1]}"
        most, step, value = "100", "any", "50"
    else:
        name = ": ".join(filter(None, ("Which picture", slider.title)))
        most, step, value = str(len(sources) - 1), "1", str(slider.start)
    data: dict[str, Any] = {"labels": slider.labels, "alt": slider.alt, "ends": slider.ends}
    data["rest"] = {number: source for number, source in enumerate(sources) if number not in slider.ends}
    width, height = slider.size
    return fill("slider.html", {
        "KIND": slider.kind, "WIDTH": str(width), "ASPECT": f"{width} / {height}",
        "PIXELS": "pixelated" if slider.enlarged else "auto",
        "PANES": "".join(_pane(slider, end, sources[end]) for end in slider.ends),
        "CAPTION": html.escape(slider.title), "NAME": html.escape(name),
        "STEPS": str(len(sources) - 1), "MOST": most, "STEP": step, "START": value,
        "DATA": json.dumps(data).replace("<", "\\u003c"),  # no label may end the script
    })


def _pane(slider: _Slider, number: int, source: str) -> str:
    return _PANE.format(
        source=source, alt=html.escape(f"{slider.labels[number]}: {slider.alt}"),
        label=html.escape(slider.labels[number]), width=slider.size[0], height=slider.size[1],
        shown=" shown" if number == slider.start else "",
    )
