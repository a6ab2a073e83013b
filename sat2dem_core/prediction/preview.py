"""What a prediction would do with an image, found out in seconds: ``sat2dem info``."""

import os
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS

from sat2dem_core.prediction.pieces import MIN_VALID_SHARE, Plan, predict_tiles, scratch_bytes
from sat2dem_core.prediction.pipeline import check_settings, load_members, lowering, make_plan
from sat2dem_core.prediction.weights import DEFAULT
from sat2dem_core.rasters.imagery import Image, open_image
from sat2dem_core.rasters.reader import band_names, opened
from sat2dem_core.rasters.solar import find_sun

TILES = 16  # looked at, spread over the image


@dataclass(frozen=True)
class Preview:
    """What :func:`sat2dem_core.predict` would do with an image.

    Attributes:
        image: the file.
        size: height and width of the file, px.
        dtype: of its values.
        bands: numbers of red, green and blue.
        band_names: their names; empty where they have none.
        nodata: what marks nodata: a value, or None; masks and alpha count as well.
        fill: undeclared value that counts as nodata.
        nodata_share: share of the pixels that hold no data.
        gsd: ground sampling distance to predict at, meters.
        grid: coordinate reference system, height and width of the DEM, and whether the image is resampled to it.
        north: direction in which the DEM's columns point upwards, degrees clockwise from true north.
        sun: azimuth of the sun that is assumed, degrees clockwise from true north.
        sun_source: where it is known from, in words.
        stretch: values that become black and white; None for uint8 as it is.
        distance: median distance of the image's tiles from the training distribution; above 1, it lies outside.
        outside: share of these tiles outside.
        tiles: number of tiles to predict.
        seconds: to expect on this computer.
        scratch_mb, result_mb: disk space to expect: at most, while it runs; and for the DEM.
        warnings: what ``predict`` would warn of.
    """

    image: str
    size: tuple[int, int]
    dtype: str
    bands: tuple[int, ...]
    band_names: tuple[str, ...]
    nodata: float | None
    fill: float | None
    nodata_share: float
    gsd: float
    grid: dict[str, Any]
    north: float
    sun: float
    sun_source: str
    stretch: tuple[float, float] | None
    distance: float | None
    outside: float | None
    tiles: int
    seconds: float
    scratch_mb: float
    result_mb: float
    warnings: tuple[str, ...]

    def text(self) -> str:
        """A line for each fact."""
        names = f" ({', '.join(self.band_names)})" if any(self.band_names) else ""
        blank = "none declared" if self.nodata is None else f"{self.nodata:g} in all bands"
        blank += "" if self.fill is None else f", undeclared {self.fill:g} in all bands"
        resampled = "the image is resampled" if self.grid["resampled"] else "the image's own"
        stretch = "none, uint8 as it is" if self.stretch is None else "{:g} to {:g}".format(*self.stretch)
        domain = "no tile has enough valid pixels"
        if self.distance is not None:
            domain = f"median {self.distance:.2g}; {self.outside:.0%} of the tiles lie outside (above 1)"
        lines = {
            "image": re.split(r"[/\\]", self.image)[-1], "size": f"{self.size[0]} x {self.size[1]} px, {self.dtype}",
            "red, green, blue": f"bands {', '.join(map(str, self.bands))}{names}",
            "nodata": f"{blank}; {self.nodata_share:.1%} of the pixels hold no data",
            "ground sampling distance": f"{self.gsd:.4g} m",
            "grid": f"{self.grid['height']} x {self.grid['width']} px, {self.grid['crs']} ({resampled})",
            "up is": f"{self.north:.1f}° from true north",
            "sun": f"{self.sun:.0f}°, {self.sun_source}", "stretch": stretch,
            "distance from training": domain, "tiles": str(self.tiles), "time": _duration(self.seconds),
            "disk": f"{self.scratch_mb:.0f} MB at most while it runs, {self.result_mb:.1f} MB at most for the DEM",
        }
        width = max(map(len, lines))
        return "\n".join([f"{name:{width}}  {value}" for name, value in lines.items()]
                         + [f"{'warning':{width}}  {text}" for text in self.warnings])


def preview(
    image: str | os.PathLike, weights: str | os.PathLike | Sequence[str | os.PathLike] = DEFAULT, *,
    bands: Sequence[int | str] | None = None, stretch: tuple[float, float] | None = None,
    nodata: float | str | None = "declared", gsd: float | None = None, sun: float | None = None,
    date: str | None = None,
) -> Preview:
    """Describe what :func:`sat2dem_core.prediction.pipeline.predict` would do with an image; arguments are the same.

    A few tiles are read and predicted, to tell how unlike the training images they are, and how long all will take.

    Raises:
        the same as ``predict``.
    """
    check_settings(0.5, 32, gsd)
    sources = [weights] if isinstance(weights, str | os.PathLike) else list(weights)
    members = load_members(sources)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picture = open_image(image, *members[0].gsd, bands=bands, stretch=stretch, nodata=nodata, gsd=gsd)
    light = find_sun(image, picture.place, sun, date)
    plan = make_plan(picture, members, sources, light.azimuth, 0.5, 32, Path("dem.tif"))
    distances, seconds = _try_tiles(plan)
    said = [str(warning.message) for warning in caught if warning.category is UserWarning]
    if members[0].relative and len(distances) and np.median(distances) > 1:
        said.append(lowering(image, float(np.median(distances))))
    count = len(plan.rows) * len(plan.columns)
    with opened(image) as file:
        size, names = file.shape, band_names(file)
    valid, grid = picture.raster.reduced()[1], picture.grid
    pixels = grid.height * grid.width
    return Preview(
        image=str(image), size=size, dtype=picture.raster.dtype, bands=picture.bands,
        band_names=tuple(names[band - 1] for band in picture.bands), nodata=picture.raster.nodata[0],
        fill=picture.raster.fill, nodata_share=float(1 - valid.mean()), gsd=picture.gsd, grid=_grid(picture),
        north=round(picture.north, 2), sun=light.azimuth, sun_source=light.source,
        stretch=picture.stretch, distance=float(np.median(distances)) if len(distances) else None,
        outside=float((distances > 1).mean()) if len(distances) else None, tiles=count, seconds=seconds * count,
        scratch_mb=scratch_bytes(plan) / 1e6, result_mb=pixels * 4 / 1e6,
        warnings=tuple(said),
    )


def _grid(image: Image) -> dict[str, Any]:
    name = "without coordinates" if image.grid.crs is None else CRS.from_wkt(image.grid.crs).to_string()
    if len(name) > 40:
        name = CRS.from_wkt(image.grid.crs or "").name
    return {"crs": name, "height": image.grid.height, "width": image.grid.width, "resampled": image.warped}


def _try_tiles(plan: Plan) -> tuple[np.ndarray, float]:
    """The distances of some tiles from the training distribution, and seconds a tile to read and predict."""
    corners = [(row, column) for row in plan.rows for column in plan.columns]
    chosen = [corners[index] for index in np.unique(np.linspace(0, len(corners) - 1, TILES).round().astype(int))]
    start = time.perf_counter()
    tiles = [plan.image.read(row, column, plan.tile, plan.tile) for row, column in chosen]
    known = [tile for tile in tiles if tile[1].mean() >= MIN_VALID_SHARE]
    reading = (time.perf_counter() - start) / len(tiles)
    if not known:
        return np.empty(0), reading
    rgb, valid = (np.stack(part) for part in zip(*known))
    predict_tiles(plan, rgb[:1], valid[:1])  # the first time, libraries set themselves up
    start = time.perf_counter()
    distances = predict_tiles(plan, rgb, valid)[2]
    return distances, reading + (time.perf_counter() - start) / len(tiles)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, seconds):.0f} s on this computer"
    return f"about {seconds / 60:.0f} min on this computer" if seconds < 5400 else (
        f"about {seconds / 3600:.1f} h on this computer"
    )
