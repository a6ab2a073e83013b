"""One DEM measured against another, both rasters on disk, window by window."""

import os

import numpy as np
import rioxarray
import torch
import xarray as xr
from rasterio.errors import RasterioError
from tqdm import tqdm

from sat2dem_core import terrain
from sat2dem_core.errors import UnreadableRaster, WrongShape
from sat2dem_core.evaluation.measures import Measures
from sat2dem_core.rasters.grids import ground_sampling_distance


def score(prediction: str | os.PathLike, truth: str | os.PathLike, *, mask_water: bool = False, window: int = 512) -> Measures:
    """Measure one DEM against another, two single-band rasters in meters on one grid, window by window.

    A slope needs its neighbors, so the rim of a window has none.

    Raises:
        UnreadableRaster: a file is missing or no raster.
        WrongShape: they lie on different grids, or the prediction has nodata where the truth is known.
        NoTiles: the truth is all nodata.
    """
    ours, theirs = (_open_dem(path) for path in (prediction, truth))
    grids = [(dem.rio.crs, dem.shape, tuple(np.round(dem.rio.transform(), 9))) for dem in (ours, theirs)]
    if grids[0] != grids[1]:
        raise WrongShape(
            f"{prediction} and {truth} lie on different grids: resample one onto the other first, with gdalwarp -t_srs, -te and -ts"
        )
    found = Measures(ground_sampling_distance(theirs))
    corners = [(row, column) for row in range(0, theirs.rio.height, window) for column in range(0, theirs.rio.width, window)]
    for row, column in tqdm(corners, unit="window", desc="scoring", delay=5):
        part = dict(y=slice(row, row + window), x=slice(column, column + window))
        dems = [torch.from_numpy(np.asarray(dem.isel(part), np.float32)) for dem in (ours, theirs)]
        rest = (0, window - dems[0].shape[1], 0, window - dems[0].shape[0])  # windows at the edge are filled up with nodata
        a, b = (torch.nn.functional.pad(dem, rest, value=torch.nan)[None] for dem in dems)
        found.update(a, b, terrain.level(b) if mask_water else None)
    return found


def _open_dem(path: str | os.PathLike) -> xr.DataArray:
    try:
        raster = rioxarray.open_rasterio(path, masked=True)
    except (RasterioError, OSError) as error:
        raise UnreadableRaster(f"{path} cannot be read ({error}): check the path, or fetch it again") from error
    if raster.sizes["band"] != 1:
        raise UnreadableRaster(f"{path} has {raster.sizes['band']} bands: give a DEM of one band, elevation in meters")
    return raster.squeeze("band", drop=True)
