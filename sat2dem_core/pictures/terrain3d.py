"""A satellite image draped over its terrain, turning in the browser: plain WebGL, no library, nothing from the net.

Where no script runs (PDF, GitHub, a notebook not trusted) or WebGL does not start, a picture of the same view stands.
``terrain3d.html`` beside this module is the template of what a notebook shows.
"""

import html
import io
import json
import math
from base64 import b64encode

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image

from sat2dem_core.errors import NoElevation, UnsupportedImagery, WrongShape
from sat2dem_core.pictures.views import View, data_address, fill, small_png

VERTICES, TEXTURE = 192, 512  # a side at most; 192 squared is what WebGL's 16-bit indices can count
BUDGET = 240_000  # bytes of HTML: a chapter with several views must still load
QUALITY = 80, 65, 50, 35, 20, 10, 5  # of the texture, the best that the budget allows
ASPECT = 1.5  # width over height of the frame
AZIMUTH, TILT, DISTANCE = -0.45, 0.65, 5.0  # where the view begins: radians, radians, and radii of the block
EARTH = 0.52, 0.47, 0.42  # color of the walls around the block


def view3d(
    rgb: np.ndarray, dem: np.ndarray, gsd: tuple[float, float], *, exaggeration: float = 1.0, width: int = 512,
    title: str = "The image over its terrain",
    alt: str = "The satellite image draped over its terrain, a block of ground seen obliquely from the south.",
) -> View:
    """Drape an image over its terrain, to be turned by hand.

    Args:
        rgb: (3, H, W) uint8.
        dem: (H, W) meters, NaN for nodata, where nothing is drawn.
        gsd: ground sampling distance (down the rows, along the columns), meters.
        exaggeration: factor on the heights; the caption states one that is not 1.
        width: of the frame, CSS px; a narrower page shrinks it.
        title: the caption.
        alt: what the view shows, for those who do not see it.

    Raises:
        WrongShape: image and DEM differ in size, or are smaller than 2 by 2 px.
        UnsupportedImagery: the image is not uint8.
        NoElevation: no four neighboring pixels have an elevation.
    """
    rgb, dem = np.asarray(rgb), np.asarray(dem)
    if dem.ndim != 2 or min(dem.shape) < 2 or rgb.shape != (3, *dem.shape):
        raise WrongShape(
            f"the image is {rgb.shape} and the DEM {dem.shape}: a 3D view takes (3, H, W) and (H, W), 2 by 2 px or more"
        )
    if rgb.dtype != np.uint8:
        raise UnsupportedImagery(f"the image is {rgb.dtype}: a 3D view takes uint8, so stretch it to 0 to 255 first")
    heights = _block_mean(dem)
    if not _cells(np.isfinite(heights)).any():
        raise NoElevation("the DEM has no four neighboring pixels with an elevation: there is no ground to draw")
    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(rgb, 0, -1)))
    block = _block(heights, dem.shape, gsd, exaggeration)
    picture = _draw(heights, image, block, width)
    image.thumbnail((TEXTURE, TEXTURE), Image.Resampling.LANCZOS)
    caption = title if exaggeration == 1 else f"{title} (heights × {exaggeration:g})"
    page = Image.new("RGBA", picture.size, "white")
    flat = Image.alpha_composite(page, picture)
    return View(title, _fill(heights, image, block, picture, width, caption, alt), small_png(flat))


def _block_mean(dem: np.ndarray) -> np.ndarray:
    """The DEM with at most ``VERTICES`` a side: each the mean of the heights in its block, NaN where there is none."""
    rows, columns = (min(size, VERTICES) for size in dem.shape)
    valid = np.isfinite(dem)
    if not valid.any():
        return np.full((rows, columns), np.nan)
    middle = dem[valid].mean(dtype=np.float64)  # Pillow computes in single precision: keep the numbers small
    parts = np.where(valid, dem - middle, 0).astype(np.float32), valid.astype(np.float32)
    total, share = (np.asarray(Image.fromarray(part).resize((columns, rows), Image.Resampling.BOX)) for part in parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share > 1e-6, total.astype(np.float64) / share + middle, np.nan)


def _cells(valid: np.ndarray) -> np.ndarray:
    """Which squares between vertices (h, w) have their four corners: (h - 1, w - 1)."""
    return valid[:-1, :-1] & valid[:-1, 1:] & valid[1:, :-1] & valid[1:, 1:]


def _block(heights: np.ndarray, shape: tuple[int, int], gsd: tuple[float, float], exaggeration: float) -> dict:
    """The block of ground in units of its own radius: half its extent to east and north, its rise, its base."""
    north, east = (size * step / 2 for size, step in zip(shape, gsd))
    rise = exaggeration * float(np.nanmax(heights) - np.nanmin(heights))
    base = 0.06 * max(north, east)
    radius = math.hypot(north, east, rise / 2 + base)
    sizes = {"east": east, "north": north, "rise": rise, "base": base}
    return {name: round(size / radius, 6) for name, size in sizes.items()}


def _codes(heights: np.ndarray) -> np.ndarray:
    """Heights (h, w) as 16 bits: 1 for the lowest to 65535 for the highest, 0 for none."""
    low, high = np.nanmin(heights), np.nanmax(heights)
    scaled = 1 + np.rint((heights - low) / max(high - low, 1e-9) * 65534)
    return np.where(np.isnan(heights), 0, scaled).astype("<u2")


def _camera(points: np.ndarray, block: dict) -> tuple[np.ndarray, np.ndarray]:
    """Where points (..., 3) lie in the frame (..., 2), from -1 to 1, and how far behind the block's middle (...)."""
    cos, sin, reach = math.cos(TILT), math.sin(TILT), math.hypot(block["east"], block["north"])
    up = reach * sin + (block["rise"] / 2 + block["base"]) * cos
    near, far = up / (DISTANCE - reach * cos), up / (DISTANCE + reach * cos)
    focus = 0.98 * min(math.sqrt(DISTANCE**2 - reach**2) / reach, 2 / ASPECT / (near + far))
    x, y, z = np.moveaxis(points, -1, 0)
    across, behind = x * math.cos(AZIMUTH) - y * math.sin(AZIMUTH), x * math.sin(AZIMUTH) + y * math.cos(AZIMUTH)
    away = DISTANCE + behind * cos - z * sin
    upward = focus * ASPECT * ((behind * sin + z * cos) / away + (near - far) / 2)
    return np.stack([focus * across / away, upward], -1), behind


def _light(normals: np.ndarray) -> np.ndarray:
    """Factor (..., 1) on the color of ground with normals (..., 3): mild, for the image has shading of its own."""
    x, y, z = np.moveaxis(normals / np.linalg.norm(normals, axis=-1, keepdims=True), -1, 0)
    across, behind = x * math.cos(AZIMUTH) - y * math.sin(AZIMUTH), x * math.sin(AZIMUTH) + y * math.cos(AZIMUTH)
    return (0.72 + 0.4 * np.maximum(0, -0.5 * across - 0.3 * behind + 0.81 * z))[..., None]


def _draw(heights: np.ndarray, image: Image.Image, block: dict, width: int) -> Image.Image:
    """The view at its beginning, RGBA: squares and walls in painter's order, for matplotlib's 3D leaves seams."""
    rows, columns = heights.shape
    x = (2 * (np.arange(columns) + 0.5) / columns - 1) * block["east"]
    y = (1 - 2 * (np.arange(rows) + 0.5) / rows) * block["north"]
    z = (_codes(heights) / 65534 - 0.5) * block["rise"]
    top = np.stack(np.broadcast_arrays(x, y[:, None], z), -1)  # (h, w, 3)
    foot = np.concatenate([top[..., :2], np.full_like(top[..., :1], -block["rise"] / 2 - block["base"])], -1)

    here = _cells(np.isfinite(heights))
    before, after = slice(None, -1), slice(1, None)
    around = [(before, before), (before, after), (after, after), (after, before)]  # from the north-west, clockwise
    corners = [top[place] for place in around]
    normals = np.cross(corners[1] - corners[3], corners[0] - corners[2])
    half = image.width / columns / 2, image.height / rows / 2  # a square reaches from the middle of a block to the next
    inner = *half, image.width - half[0], image.height - half[1]
    color = np.asarray(image.resize((columns - 1, rows - 1), Image.Resampling.BOX, inner)) / 255 * _light(normals)
    polygons, colors = [np.stack(corners, 2)[here]], [color[here]]
    framed = np.pad(here, 1)
    # A wall stands where a square has no neighbor to the north, east, south or west.
    for side, (down, right) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
        edge = here & ~framed[1 + down : rows + down, 1 + right : columns + right]
        first, second = around[side], around[(side + 1) % 4]
        polygons.append(np.stack([top[first], top[second], foot[second], foot[first]], 2)[edge])
        shade = np.array(EARTH) * _light(np.array([right, -down, 0.0]))
        colors.append(np.broadcast_to(shade, (len(polygons[-1]), 3)))
    flat, behind = _camera(np.concatenate(polygons), block)
    order = np.argsort(-behind.mean(1), kind="stable")

    size = 2 * width, 2 * round(width / ASPECT)  # drawn twice as large: smooth outlines without seams
    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, facecolor="none")
    axis = figure.add_axes((0, 0, 1, 1), xlim=(-1, 1), ylim=(-1, 1))
    axis.set_axis_off()
    filled = np.concatenate(colors).clip(0, 1)[order]
    axis.add_collection(PolyCollection(list(flat[order]), facecolors=filled, edgecolors="none", antialiaseds=False))
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
        return Image.open(file).convert("RGBA").reduce(2)


def _fill(
    heights: np.ndarray, texture: Image.Image, block: dict, picture: Image.Image, width: int, caption: str, alt: str
) -> str:
    """The template with everything in it, texture and picture as good as the budget allows."""
    rows, columns = heights.shape
    data = {"rows": rows, "columns": columns, "azimuth": AZIMUTH, "tilt": TILT, "distance": DISTANCE} | block
    data |= {"earth": EARTH, "heights": b64encode(_codes(heights).tobytes()).decode()}
    for quality in QUALITY:
        data["texture"] = data_address(texture, quality=quality)
        values = {
            "WIDTH": str(width), "ASPECT": f"{ASPECT:g}", "PICTURE": data_address(picture, quality=min(quality, 75)),
            "ALT": html.escape(alt), "CAPTION": html.escape(caption), "DATA": json.dumps(data),
        }
        filled = fill("terrain3d.html", values)
        if len(filled.encode()) <= BUDGET:
            break
    return filled
