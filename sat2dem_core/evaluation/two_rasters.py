"""Any DEM measured against another, two rasters on disk, window by window."""

import os
from collections.abc import Iterator

import numpy as np
import rioxarray
import torch
import xarray as xr
from rasterio.errors import RasterioError
from torch import Tensor
from tqdm import tqdm

from sat2dem_core import terrain
from sat2dem_core.errors import UnreadableRaster, WrongShape
from sat2dem_core.evaluation.measures import Measures
from sat2dem_core.rasters.grids import ground_sampling_distance


def score(
    prediction: str | os.PathLike, truth: str | os.PathLike, *, mask_water: bool = False, window: int = 512
) -> Measures:
    """Measure one DEM against another: two rasters of one band, in meters, on one grid.

    Slope and roughness need neighbors, so the outer pixels of each window have none.

    Args:
        mask_water: leave out areas that are perfectly level in the truth (:func:`sat2dem_core.terrain.level`).
        window: side of the square windows that are in memory at a time, px.

    Raises:
        UnreadableRaster: a file is missing, is no raster, or has several bands.
        WrongShape: the two lie on different grids, or the prediction has nodata where the truth is known.
        NoTiles: the truth is all nodata (when ``result()`` is called).
    """
    dems = [_open_dem(path) for path in (prediction, truth)]
    grids = [(dem.rio.crs, dem.shape, tuple(np.round(dem.rio.transform(), 9))) for dem in dems]
    if grids[0] != grids[1]:
        raise WrongShape(
            f"{prediction} and {truth} lie on different grids: resample one onto the other first, "
            "with gdalwarp -t_srs, -te and -ts"
        )
    measures = Measures(ground_sampling_distance(dems[1]))
    for predicted, known in _windows(dems, window):
        measures.update(predicted, known, terrain.level(known) if mask_water else None)
    return measures


def _windows(dems: list[xr.DataArray], side: int) -> Iterator[list[Tensor]]:
    """Each window of all rasters, (1, side, side); beyond the rasters' edges it is nodata."""
    height, width = dems[0].shape
    corners = [(row, column) for row in range(0, height, side) for column in range(0, width, side)]
    for row, column in tqdm(corners, unit="window", desc="scoring", delay=5):
        part = dict(y=slice(row, row + side), x=slice(column, column + side))
        windows = [torch.from_numpy(np.asarray(dem.isel(part), np.float32)) for dem in dems]
        missing = (0, side - windows[0].shape[1], 0, side - windows[0].shape[0])
        yield [torch.nn.functional.pad(dem, missing, value=torch.nan)[None] for dem in windows]


def _open_dem(path: str | os.PathLike) -> xr.DataArray:
    try:
        raster = rioxarray.open_rasterio(path, masked=True)
    except (RasterioError, OSError) as error:
        raise UnreadableRaster(f"{path} cannot be read ({error}): check the path, or download it again") from error
    if raster.sizes["band"] != 1:
        raise UnreadableRaster(f"{path} has {raster.sizes['band']} bands: give a DEM of one band, elevation in meters")
    return raster.squeeze("band", drop=True)
