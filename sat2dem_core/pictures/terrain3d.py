"""A satellite image draped over its terrain, which the reader turns in the browser: plain WebGL without a library.

Where no script runs (PDF, GitHub, an untrusted notebook) or WebGL does not start, the reader sees a picture of the same
view. The template is ``terrain3d.html`` in this folder.
"""

import html
import io
import json
import math
from base64 import b64encode
from collections.abc import Iterator

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image

from sat2dem_core.errors import NoElevation, UnsupportedImagery, WrongShape
from sat2dem_core.pictures.views import View, data_address, fill, small_png

VERTICES, TEXTURE = 192, 512  # a side at most; WebGL's 16-bit indices count no more than 65536 vertices
BUDGET = 240_000  # bytes of HTML: a chapter with several views must still load
QUALITY = 80, 65, 50, 35, 20, 10, 5  # of the texture: the first that the budget allows
ASPECT = 1.5  # width over height of the frame
AZIMUTH, TILT, DISTANCE = -0.45, 0.65, 5.0  # of the first view: radians, radians, and radii of the block
EARTH = 0.52, 0.47, 0.42  # color of the walls around the block


def view3d(
    rgb: np.ndarray, dem: np.ndarray, gsd: tuple[float, float], *, exaggeration: float = 1.0, width: int = 512,
    title: str = "The image over its terrain",
    alt: str = "The satellite image draped over its terrain, a block seen obliquely from the south.",
) -> View:
    """Drape an image over its terrain, for the reader to turn.

    Args:
        rgb: (3, H, W) uint8.
        dem: (H, W) meters; the view leaves out NaN, which is nodata.
        gsd: ground sampling distance (down the rows, along the columns), meters.
        exaggeration: factor on the heights; the caption states it unless it is 1.
        width: of the frame, CSS px; a narrower page shrinks it.
        title: the caption.
        alt: what the view shows, for readers who cannot see it.

    Raises:
        WrongShape: image and DEM differ in size, or are smaller than 2 by 2 px.
        UnsupportedImagery: the image is not uint8.
        NoElevation: no four neighboring pixels have an elevation.
    """
    rgb, dem = np.asarray(rgb), np.asarray(dem)
    _check(rgb, dem)
    heights = _block_mean(dem)
    if not _cells(np.isfinite(heights)).any():
        raise NoElevation("the DEM has no four neighboring pixels with an elevation, so there is no terrain to draw")
    texture = Image.fromarray(np.ascontiguousarray(np.moveaxis(rgb, 0, -1)))
    block = _block(heights, dem.shape, gsd, exaggeration)
    picture = _draw(heights, texture, block, width)
    texture.thumbnail((TEXTURE, TEXTURE), Image.Resampling.LANCZOS)
    caption = title if exaggeration == 1 else f"{title} (heights × {exaggeration:g})"
    on_white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return View(title, _html(heights, texture, block, picture, width, caption, alt), small_png(on_white))


def _check(rgb: np.ndarray, dem: np.ndarray) -> None:
    if dem.ndim != 2 or min(dem.shape) < 2 or rgb.shape != (3, *dem.shape):
        raise WrongShape(
            f"the image is {rgb.shape} and the DEM {dem.shape}: a 3D view takes (3, H, W) and (H, W), 2 by 2 px or more"
        )
    if rgb.dtype != np.uint8:
        raise UnsupportedImagery(f"the image is {rgb.dtype}: a 3D view takes uint8, so stretch it to 0 to 255 first")


def _block_mean(dem: np.ndarray) -> np.ndarray:
    """The heights of the mesh, at most ``VERTICES`` a side: means over blocks of the DEM, NaN for an empty block."""
    rows, columns = (min(size, VERTICES) for size in dem.shape)
    valid = np.isfinite(dem)
    if not valid.any():
        return np.full((rows, columns), np.nan)
    middle = dem[valid].mean(dtype=np.float64)  # subtracted, because Pillow computes in single precision
    parts = np.where(valid, dem - middle, 0).astype(np.float32), valid.astype(np.float32)
    total, share = (np.asarray(Image.fromarray(part).resize((columns, rows), Image.Resampling.BOX)) for part in parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share > 1e-6, total.astype(np.float64) / share + middle, np.nan)


def _cells(valid: np.ndarray) -> np.ndarray:
    """Which squares between vertices (h, w) have their four corners: (h - 1, w - 1)."""
    return valid[:-1, :-1] & valid[:-1, 1:] & valid[1:, :-1] & valid[1:, 1:]


def _block(heights: np.ndarray, shape: tuple[int, int], gsd: tuple[float, float], exaggeration: float) -> dict:
    """The block of terrain in units of its own radius: half its extent to east and north, its rise, its base."""
    north, east = (size * step / 2 for size, step in zip(shape, gsd))
    rise = exaggeration * float(np.nanmax(heights) - np.nanmin(heights))
    base = 0.06 * max(north, east)
    radius = math.hypot(north, east, rise / 2 + base)
    sizes = {"east": east, "north": north, "rise": rise, "base": base}
    return {name: round(size / radius, 6) for name, size in sizes.items()}


def _codes(heights: np.ndarray) -> np.ndarray:
    """Heights (h, w) as 16-bit numbers: 1 for the lowest to 65535 for the highest, 0 for NaN."""
    low, high = np.nanmin(heights), np.nanmax(heights)
    scaled = 1 + np.rint((heights - low) / max(high - low, 1e-9) * 65534)
    return np.where(np.isnan(heights), 0, scaled).astype("<u2")


def _turned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates to the east and north as seen by the viewer: across the frame, and away from the viewer."""
    cos, sin = math.cos(AZIMUTH), math.sin(AZIMUTH)
    return x * cos - y * sin, x * sin + y * cos


def _camera(points: np.ndarray, block: dict) -> tuple[np.ndarray, np.ndarray]:
    """Where points (..., 3) lie in the frame (..., 2), from -1 to 1, and how far behind the block's middle (...)."""
    cos, sin, reach = math.cos(TILT), math.sin(TILT), math.hypot(block["east"], block["north"])
    up = reach * sin + (block["rise"] / 2 + block["base"]) * cos
    front, back = up / (DISTANCE - reach * cos), up / (DISTANCE + reach * cos)  # half heights of the block's edges
    focus = 0.98 * min(math.sqrt(DISTANCE**2 - reach**2) / reach, 2 / ASPECT / (front + back))
    x, y, z = np.moveaxis(points, -1, 0)
    across, behind = _turned(x, y)
    away = DISTANCE + behind * cos - z * sin
    upward = focus * ASPECT * ((behind * sin + z * cos) / away + (front - back) / 2)
    return np.stack([focus * across / away, upward], -1), behind


def _light(normals: np.ndarray) -> np.ndarray:
    """Factor (..., 1) on the color of surfaces with normals (..., 3): mild, because the image has its own shading."""
    x, y, z = np.moveaxis(normals / np.linalg.norm(normals, axis=-1, keepdims=True), -1, 0)
    across, behind = _turned(x, y)
    return (0.72 + 0.4 * np.maximum(0, -0.5 * across - 0.3 * behind + 0.81 * z))[..., None]


# The four corners of all squares between vertices, clockwise from the north-west: slices of (h, w).
_BEFORE, _AFTER = slice(None, -1), slice(1, None)
_CORNERS = (_BEFORE, _BEFORE), (_BEFORE, _AFTER), (_AFTER, _AFTER), (_AFTER, _BEFORE)


def _draw(heights: np.ndarray, texture: Image.Image, block: dict, width: int) -> Image.Image:
    """The first view, RGBA: squares and walls in painter's order, because matplotlib's own 3D leaves seams."""
    top = _surface(heights, block)
    cells = _cells(np.isfinite(heights))
    pieces = [_squares(top, cells, texture), *_walls(top, cells, block)]
    polygons, colors = (np.concatenate(parts) for parts in zip(*pieces))  # (N, 4, 3), (N, 3)
    corners, behind = _camera(polygons, block)
    order = np.argsort(-behind.mean(1), kind="stable")
    return _paint(corners[order], colors.clip(0, 1)[order], width)


def _surface(heights: np.ndarray, block: dict) -> np.ndarray:
    """The vertices of the terrain (h, w, 3), in radii of the block."""
    rows, columns = heights.shape
    x = (2 * (np.arange(columns) + 0.5) / columns - 1) * block["east"]
    y = (1 - 2 * (np.arange(rows) + 0.5) / rows) * block["north"]
    z = (_codes(heights) / 65534 - 0.5) * block["rise"]
    return np.stack(np.broadcast_arrays(x, y[:, None], z), -1)


def _squares(top: np.ndarray, cells: np.ndarray, texture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The squares of the terrain (N, 4, 3) and their colors (N, 3)."""
    rows, columns = top.shape[:2]
    corners = [top[corner] for corner in _CORNERS]
    normals = np.cross(corners[1] - corners[3], corners[0] - corners[2])
    # A square reaches from the middle of one block of the texture to the middle of the next.
    half = texture.width / columns / 2, texture.height / rows / 2
    inner = *half, texture.width - half[0], texture.height - half[1]
    means = np.asarray(texture.resize((columns - 1, rows - 1), Image.Resampling.BOX, inner))
    return np.stack(corners, 2)[cells], (means / 255 * _light(normals))[cells]


def _walls(top: np.ndarray, cells: np.ndarray, block: dict) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For north, east, south and west, the walls (N, 4, 3) of squares that have no neighbor there, and their colors."""
    rows, columns = top.shape[:2]
    foot = np.concatenate([top[..., :2], np.full_like(top[..., :1], -block["rise"] / 2 - block["base"])], -1)
    framed = np.pad(cells, 1)
    for side, (down, right) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
        edge = cells & ~framed[1 + down : rows + down, 1 + right : columns + right]
        first, second = _CORNERS[side], _CORNERS[(side + 1) % 4]
        walls = np.stack([top[first], top[second], foot[second], foot[first]], 2)[edge]
        shade = np.array(EARTH) * _light(np.array([right, -down, 0.0]))
        yield walls, np.broadcast_to(shade, (len(walls), 3))


def _paint(polygons: np.ndarray, colors: np.ndarray, width: int) -> Image.Image:
    """Polygons (N, 4, 2) in the frame, from -1 to 1, painted one over another: an RGBA image ``width`` px wide."""
    size = 2 * width, 2 * round(width / ASPECT)  # drawn twice as large: smooth outlines without seams
    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, facecolor="none")
    axis = figure.add_axes((0, 0, 1, 1), xlim=(-1, 1), ylim=(-1, 1))
    axis.set_axis_off()
    axis.add_collection(PolyCollection(list(polygons), facecolors=colors, edgecolors="none", antialiaseds=False))
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
        return Image.open(file).convert("RGBA").reduce(2)


def _html(
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
