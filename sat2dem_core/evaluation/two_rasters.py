"""Any DEM measured against another, two rasters on disk, window by window."""

import os
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sat2dem_core import terrain
from sat2dem_core.errors import NoOverlap, WrongShape
from sat2dem_core.evaluation.measures import Measures
from sat2dem_core.rasters.elevation import Elevation, open_elevation
from sat2dem_core.rasters.grids import Grid, pixel_sizes_by_row, same_crs


class Comparison(NamedTuple):
    """One DEM measured against another.

    Attributes:
        measures: of the errors, prediction minus truth, on the pixels that both have.
        share: of the truth's pixels, in the area that both rasters cover, that the prediction has.
    """

    measures: Measures
    share: float


def score(
    prediction: str | os.PathLike, truth: str | os.PathLike, *, band: int | str | None = None,
    truth_band: int | str | None = None, mask_water: bool = False, window: int = 512,
) -> Comparison:
    """Measure one DEM against another on the pixels that both have.

    Their pixels must coincide, to a hundredth of a pixel; their extents may differ. Slope and roughness need neighbors,
    so the outer pixels of each window have none.

    Args:
        band, truth_band: number or name of the band that is elevation; by default the only one, or the one named
            ``elevation``.
        mask_water: leave out areas that are perfectly level in the truth (:func:`sat2dem_core.terrain.level`).
        window: side of the square windows that are in memory at a time, px.

    Raises:
        UnreadableRaster, NoElevation, MissingCRS: see :func:`sat2dem_core.rasters.elevation.open_elevation`.
        WrongShape: the two lie on different grids.
        NoOverlap: they have no pixel in common.
    """
    predicted, known = open_elevation(prediction, band), open_elevation(truth, truth_band)
    common = _common(predicted, known)
    if predicted.vertical and known.vertical and predicted.vertical != known.vertical:
        warnings.warn(
            f"{prediction} counts from {predicted.vertical} and {truth} from {known.vertical}: their difference adds "
            "to the errors; convert one of them first, with gdalwarp -s_srs and -t_srs", stacklevel=2,
        )
    sizes = pixel_sizes_by_row(common)
    measures = Measures((float(np.median(sizes[0])), float(np.median(sizes[1]))))
    both = total = 0
    for row, (guess, actual) in _windows((predicted, known), common, window):
        total += int((~actual.isnan()).sum())
        shared = ~(guess.isnan() | actual.isnan())
        both += int(shared.sum())
        down, along = (torch.from_numpy(np.resize(size[row:], (window, 1))).float() for size in sizes)
        # Water is found before the prediction's voids are cut out of the truth.
        water = terrain.level(actual) if mask_water else None
        measures.update(guess, actual.masked_fill(~shared, torch.nan), water, gsd=(down, along))
    predicted.check()
    known.check()
    if not both:
        raise NoOverlap(f"{prediction} and {truth} have no pixel of elevation in common: give DEMs of the same place")
    return Comparison(measures, both / total)


def _common(predicted: Elevation, known: Elevation) -> Grid:
    """The part of the truth's grid that the prediction covers, too."""
    a, b = known.grid, predicted.grid
    offset = a.offset(b)
    if offset is None:
        if not same_crs(a.crs, b.crs):
            kind = "have different coordinate reference systems"
        else:
            kind = "have pixels that do not coincide"
        raise WrongShape(
            f"{predicted.raster.path} and {known.raster.path} {kind}: resample one onto the other first, with gdalwarp "
            "-t_srs, -te and -ts"
        )
    (row, column), (height, width) = offset, b.shape
    top, left, bottom, right = max(row, 0), max(column, 0), min(row + height, a.height), min(column + width, a.width)
    if top >= bottom or left >= right:
        raise NoOverlap(
            f"{predicted.raster.path} and {known.raster.path} do not overlap: give DEMs of the same place"
        )
    return a.window(top, left, bottom - top, right - left)


def _windows(dems: tuple[Elevation, Elevation], grid: Grid, side: int) -> Iterator[tuple[int, list[Tensor]]]:
    """The first row of each window, and both DEMs in it, (1, side, side); beyond the grid's edges they are nodata."""
    corners = [(row, column) for row in range(0, grid.height, side) for column in range(0, grid.width, side)]
    for row, column in tqdm(corners, unit="window", desc="scoring", delay=5):
        part = grid.window(row, column, min(side, grid.height - row), min(side, grid.width - column))
        windows = [torch.from_numpy(dem.on(part)) for dem in dems]
        missing = (0, side - part.width, 0, side - part.height)
        yield row, [torch.nn.functional.pad(dem, missing, value=torch.nan)[None] for dem in windows]
