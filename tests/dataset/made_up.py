"""Tiles of the grid with random images and elevation, for stores that need no catalog."""

import numpy as np
import xarray as xr

from sat2dem_core.dataset.grid import PIXELS, Cell


def square(number: int) -> Cell:
    """A cell near the middle of a zone, in rows of eight."""
    return Cell(32630, 60 + number % 8, 570 + number // 8)


def made_up(number: int) -> xr.Dataset:
    """The tile of a square; its elevation tells its number."""
    values = np.random.default_rng(number)
    rgb = values.integers(0, 255, (3, PIXELS, PIXELS), dtype=np.uint8)
    dem = (1000 + 10 * number + values.normal(0, 1, (PIXELS, PIXELS))).astype(np.float32)
    scene = xr.Dataset({"rgb": (("band", "y", "x"), rgb), "dem": (("y", "x"), dem)})
    cell = square(number)
    scene.attrs = {"crs": "EPSG:32630", "left": cell.left, "top": cell.top, "nodata_share": 0.0}
    return scene
