"""A coarse DEM refined by an image: broad relief from the DEM, fine relief from the image.

1. The DEM is read onto square cells of the image about as large as its own pixels. Cells that disagree with all their
   neighbors are left out, and voids are filled from their surroundings.
2. The network answers the same question three times coarser, where the answer is known, which tells how much of its
   relief to trust (:mod:`sat2dem_core.prediction.gain`).
3. Bands: the network adds relief within the cells, some rows at a time (:mod:`sat2dem_core.models.refiner`).
4. The mean of that relief over each cell is taken away again, and the mean-keeping spline through the cells is added:
   the result has the DEM's heights as its means over the cells. All files are written together.

As in :mod:`sat2dem_core.prediction.pipeline`, intermediate results lie in a hidden folder next to the output until the
end, so that the same command resumes; memory holds a band, never the whole image.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from rasterio.enums import Resampling

from sat2dem_core.digest import digest
from sat2dem_core.errors import InvalidAnchors, InvalidConfig
from sat2dem_core.models.refiner import CORE, windows
from sat2dem_core.prediction.anchor_sources import CoarseDEM, read_dem
from sat2dem_core.prediction.anchors import sums_over_cells
from sat2dem_core.prediction.dem_items import describe
from sat2dem_core.prediction.gain import measure_gain
from sat2dem_core.prediction.items import files_of, name_of
from sat2dem_core.prediction.outliers import wrong_cells
from sat2dem_core.prediction.refiner_weights import REFINING, RefinerWeights, load_refiner
from sat2dem_core.prediction.work import (
    ROWS, check_outputs, find_outputs, parts_folder, run_stage, working_folder, write_files, write_item,
)
from sat2dem_core.rasters import cog
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.coarse import CellSpline, fill_smoothly, fill_voids
from sat2dem_core.rasters.imagery import Image, open_image
from sat2dem_core.rasters.reader import version_of
from sat2dem_core.rasters.solar import Sun, find_sun
from sat2dem_core.rasters.sun import Moments, fit_moments

BEYOND = 4  # cells of the DEM around the image, so that the surface does not end level at its border
ROUNDS = 8  # of the splines, which then miss the cells' means by centimeters
# The modules that decide what a refinement is: one that was interrupted goes on only with the same.
MEANING = ("refine", "refiner", "gain", "coarse", "confidence", "refiner_weights", "imagery", "reader", "fill", "grids")
UNITS = {"elevation": "m", "interval": "m", "difference": "m"}  # bands of the result
LOOKS = 9  # windows at most from which the sun is estimated
VISIBLE = 0.2  # correlation of brightness and terrain below which an estimated sun counts as a guess


@dataclass(frozen=True)
class Refinement:
    """The result of :func:`refine`.

    Attributes:
        path: of the DEM.
        interval: of the half width of its prediction interval; None if it was not asked for, or lies in the same store.
        difference: of what changed, likewise.
        item: of the STAC item; None if it was not asked for.
        tags: of the files.
        sun: of the image, and where it is known from.
        filled: share of the result that lies in voids of the DEM.
        left_out: number of cells that disagreed with their neighbors.
    """

    path: Path
    interval: Path | None
    difference: Path | None
    item: Path | None
    tags: dict[str, str]
    sun: Sun
    filled: float
    left_out: int


@dataclass(frozen=True)
class Plan:
    """All that a worker needs to refine a band.

    Attributes:
        image: with its grid.
        weights: where they are loaded from, and their SHA-256.
        azimuth: of the sun, degrees clockwise from the top of the grid.
        cell: side of a cell, px.
        cells: SHA-256 of the cells that lie in the folder.
        folder: of the intermediate results.
    """

    image: Image
    weights: tuple[str, str]
    azimuth: float
    cell: int
    cells: str
    folder: str

    @property
    def bands(self) -> int:
        """Number of bands of ``CORE`` rows."""
        return -(-self.image.grid.height // CORE)

    @property
    def scratch_bytes(self) -> int:
        """Disk space that intermediate results take at most."""
        return 20 * self.image.grid.height * self.image.grid.width


def refine(
    image: str | os.PathLike, dem: str | os.PathLike, out: str | os.PathLike, weights: str | os.PathLike = REFINING, *,
    bands: Sequence[int | str] | None = None, stretch: tuple[float, float] | None = None,
    nodata: float | str | None = "declared", gsd: float | None = None, sun: float | None = None,
    date: str | None = None, band: int | str | None = None, vertical_datum: str | None = None,
    interval: str | os.PathLike | None = None, difference: str | os.PathLike | None = None, style: bool = False,
    stac: bool = False, overwrite: bool = False, client: Any = None, progress: bool = True,
) -> Refinement:
    """Refine a coarse DEM by an image, and write the result as a Cloud-Optimized GeoTIFF or a Zarr store.

    The result has the image's pixels, one band, elevation in meters (float32), and the coarse DEM's heights as its
    means over the DEM's cells. Where shading is invisible, or the image has no data, it is the smooth surface through
    the DEM's cells. Voids of the DEM are filled from their surroundings and the image; beyond the DEM is nodata.

    Args:
        image: any raster that GDAL reads. For it and for ``bands``, ``stretch``, ``nodata`` and ``gsd`` see
            :func:`sat2dem_core.rasters.imagery.open_image`.
        dem: a DEM on any grid, with pixels as large as the image's or larger, in meters or another unit that it states.
        out: the file to write: ``….tif``, or ``….zarr``.
        weights: a name, a file or an address of refining weights, see
            :func:`sat2dem_core.prediction.weights.load_weights`.
        sun: the sun's azimuth when the image was taken, degrees clockwise from north. By default that of ``date``, or
            that in the image's metadata, or the one that explains the image's brightness on the DEM's terrain best.
        date: when the image was taken, ``2023-07-01`` or ``2023-07-01T10:30`` in UTC.
        band: number or name of the DEM's band; by default its only one, or the one named ``elevation``.
        vertical_datum: its name; by default as the DEM says.
        interval: GeoTIFF for half the width of a prediction interval in meters, which covered the truth in 90 % of the
            pixels of regions that the weights were not trained on, for each class of slope; NaN in filled voids.
        difference: GeoTIFF for what the image changed: the result minus the smooth surface through the DEM's cells.
        style, stac, overwrite, client, progress: see :func:`sat2dem_core.prediction.pipeline.predict`.

    Raises:
        InvalidAnchors: the DEM cannot be read, or does not cover any of the image.
        OutputExists, InvalidConfig, CannotWrite, RunBusy, UnreadableRaster, MissingCRS, UnsupportedImagery,
        UnknownName: see :func:`sat2dem_core.prediction.pipeline.predict`.
    """
    out = Path(out)
    outputs = find_outputs(out, {"interval": interval, "difference": difference}, style, stac)
    check_outputs(outputs, [*files_of(image), dem, weights], overwrite)
    loaded = load_refiner(weights)
    picture = open_image(image, *loaded.gsd, bands=bands, stretch=stretch, nodata=nodata, gsd=gsd, as_bytes=False)
    if picture.grid.crs is None:
        raise InvalidAnchors(
            f"{picture.path} has no CRS, so a DEM cannot be located in it: assign a CRS and a geotransform to it"
        )
    description = describe(image, picture, date, [dem]) if stac else None
    coarse = read_dem(dem, picture, band, BEYOND, Resampling.cubic)  # bilinear would lower its relief
    wrong = wrong_cells(coarse.heights, coarse.cell * picture.gsd, dem)
    cells = np.where(wrong, np.nan, coarse.heights)
    filled = fill_smoothly(cells)
    if np.isnan(filled[BEYOND:-BEYOND, BEYOND:-BEYOND]).all():
        raise InvalidAnchors(f"{dem} has no height in the area of {picture.path}: give a DEM that covers it")
    spline = CellSpline(filled, coarse.cell, picture.grid.shape, ROUNDS, BEYOND)
    light = find_light(picture, spline, sun, date)
    plan = Plan(
        picture, (str(weights), loaded.sha256), (light.azimuth - picture.north) % 360, coarse.cell,
        hashlib.sha256(np.stack([cells, filled]).tobytes()).hexdigest(), str(parts_folder(out)),
    )
    folder, identity = Path(plan.folder), asdict(plan) | {"version": version_of(picture.path), "code": digest(MEANING)}
    with working_folder(folder, identity, outputs, overwrite, plan.scratch_bytes, progress):
        np.save(folder / "cells.npy", np.stack([cells, filled]))
        if not (folder / "gain.npy").exists():
            inner_cells = fill_voids(filled)[BEYOND:-BEYOND, BEYOND:-BEYOND]
            gain = measure_gain(
                loaded.network, picture.read_brightness, inner_cells, plan.cell, picture.grid.shape, picture.gsd,
                plan.azimuth,
            )
            with replacing(folder / "gain.npy") as temporary, temporary.open("wb") as stream:
                np.save(stream, gain)
        store = folder / "relief.zarr"
        cog.scratch(store, picture.grid, ROWS, UNITS)
        run_stage("band", refine_band, plan, range(plan.bands), client, progress)
        means = CellSpline(_means(store, plan, filled), plan.cell, picture.grid.shape, ROUNDS, BEYOND)
        finish = Finish(str(store), spline, means, np.isnan(filled), np.isnan(cells))
        inner = (slice(BEYOND, -BEYOND),) * 2
        share = float(np.isnan(cells)[inner][~np.isnan(filled)[inner]].mean())
        tags = _tags(plan, loaded, coarse, light, share, int(wrong.sum()), vertical_datum)
        tags["IMAGE"] = name_of(image)
        if out.suffix == ".zarr":
            cog.write_zarr(out, picture.grid, finish, tags, ROWS, client, progress, UNITS)
            if description:
                write_item(outputs, picture.grid, tags, description, UNITS)
        else:
            write_files(outputs, folder, picture.grid, finish, tags, progress, UNITS, description)
    return Refinement(
        out, outputs.get("interval"), outputs.get("difference"), outputs.get("item"), tags, light, share,
        int(wrong.sum()),
    )


def find_light(image: Image, spline: CellSpline, azimuth: float | None, date: str | None) -> Sun:
    """The sun as given, from the date or the metadata, or else the one that explains brightness on the terrain best."""
    light = find_sun(image.path, image.place, azimuth, date)
    if not light.source.startswith("assumed"):
        return light
    height, width = image.grid.shape
    side = min(CORE, height, width)
    count = max(1, min(round(LOOKS**0.5), -(-height // side)), min(round(LOOKS**0.5), -(-width // side)))
    moments = Moments()
    for top in np.linspace(0, height - side, count).astype(int):
        for left in np.linspace(0, width - side, count).astype(int):
            pixels, valid = image.read_brightness(int(top), int(left), side, side)
            surface = np.where(valid, spline.surface(top, top + side, left, left + side), np.nan)
            moments = moments + fit_moments(pixels, surface, (image.gsd, image.gsd), spline.cell)
    shading = moments.shading()
    if shading.r < VISIBLE:
        return light
    return Sun((shading.azimuth + image.north) % 360, f"estimated from image and DEM, r = {shading.r:.2f}")


# Bands


@lru_cache(maxsize=2)
def _network(source: str, sha256: str) -> RefinerWeights:
    loaded = load_refiner(source)
    if loaded.sha256 != sha256:
        raise InvalidConfig(f"{source} changed during the refinement, or differs on a worker: start again")
    return loaded


@lru_cache(maxsize=2)
def _spline(folder: str, cell: int, shape: tuple[int, int], sha256: str) -> CellSpline:
    return CellSpline(np.load(Path(folder) / "cells.npy")[1], cell, shape, ROUNDS, BEYOND)


@lru_cache(maxsize=2)
def _gain(folder: str, cell: int, shape: tuple[int, int], sha256: str) -> CellSpline:
    return CellSpline(np.load(Path(folder) / "gain.npy"), cell, shape, rounds=0)


def refine_band(plan: Plan, number: int) -> dict[str, Any]:
    """Predict the relief of ``CORE`` rows and its interval; returns how many pixels of the image are valid there."""
    weights = _network(*plan.weights)
    spline = _spline(plan.folder, plan.cell, plan.image.grid.shape, plan.cells)
    store = zarr.open_group(Path(plan.folder) / "relief.zarr", mode="r+")
    gain = _gain(plan.folder, plan.cell, plan.image.grid.shape, plan.cells)
    known = 0
    for inner, (rows, columns), place in windows(*plan.image.grid.shape):
        if inner[0].start != number * CORE:
            continue
        pixels, valid = plan.image.read_brightness(
            rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start
        )
        surface = spline.surface(rows.start, rows.stop, columns.start, columns.stop)
        relief, unit = weights.network.window(pixels, surface, plan.cell, plan.image.gsd, plan.azimuth)
        trust = gain.surface(rows.start, rows.stop, columns.start, columns.stop).clip(0)
        store["elevation"][inner] = np.where(valid, trust * relief, 0.0)[place]
        store["interval"][inner] = weights.interval.half_width(unit, plan.cell, plan.image.gsd)[place]
        known += int(valid[place].sum())
    return {"known": known}


def _means(store: Path, plan: Plan, cells: np.ndarray) -> np.ndarray:
    """The mean of the relief over each cell, (h, w) meters."""
    array, means = zarr.open_group(store, mode="r")["elevation"], np.zeros(cells.shape)
    inner = means[BEYOND:-BEYOND, BEYOND:-BEYOND]
    step = max(1, ROWS // plan.cell)  # cells
    for first in range(0, len(inner), step):
        rows = array[first * plan.cell : (first + step) * plan.cell]
        both = rows.astype(np.float64), np.ones_like(rows, bool)
        sums, counts = (sums_over_cells(part, plan.cell) for part in both)
        inner[first : first + step] = sums / counts
    return means


@dataclass(frozen=True)
class Finish:
    """The last step: rows of elevation, interval and difference, (3, rows, width) float32.

    Attributes:
        store: of the relief.
        dem: the surface through the DEM's cells.
        means: that through the means of the relief over the cells.
        beyond: (h, w) the cells that have no height.
        void: (h, w) the cells that the DEM gives no height: there the interval is unknown.
    """

    store: str
    dem: CellSpline
    means: CellSpline
    beyond: np.ndarray
    void: np.ndarray

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        store = zarr.open_group(self.store, mode="r")
        surface = self.dem.surface(top, bottom)
        difference = store["elevation"][top:bottom] - self.means.surface(top, bottom)
        rows = np.stack([surface + difference, store["interval"][top:bottom], difference]).astype(np.float32)
        spans = (np.arange(top, bottom), np.arange(rows.shape[2]))
        at = np.ix_(*(pixels // self.dem.cell + BEYOND for pixels in spans))
        rows[:, self.beyond[at]] = np.nan
        rows[1, self.void[at]] = np.nan
        return rows


def _tags(
    plan: Plan, weights: RefinerWeights, coarse: CoarseDEM, sun: Sun, filled: float, left_out: int,
    vertical: str | None,
) -> dict[str, str]:
    """Tags of the files: how they were made, and how to read them."""
    return {
        "MODEL": str(weights.card.get("name")), "WEIGHTS_SHA256": weights.sha256,
        "TRAINING_DATA": str(weights.card.get("data")), "DATE": pd.Timestamp.now("UTC").strftime("%Y-%m-%d"),
        "HEIGHTS": "absolute",
        "BANDS_USED": ", ".join(map(str, plan.image.bands)),
        "GROUND_SAMPLING_DISTANCE": f"{plan.image.gsd:.6g} m",
        "DEM_CELL": f"{plan.cell} px", "DEM_CELLS_LEFT_OUT": str(left_out), "DEM_VOIDS_FILLED": f"{filled:.1%}",
        "VERTICAL_DATUM": vertical or coarse.vertical or "not stated",
        "INTERVAL": f"{weights.interval.share:.0%}", "SUN": f"{sun.azimuth:.0f} degrees, {sun.source}",
        "AREA_OR_POINT": "Area",
    }
