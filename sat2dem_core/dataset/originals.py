"""From the original files of an open scene, fetched and verified, to an image and a DEM on one grid."""

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.warp import reproject

from sat2dem_core.dataset.registry import RAW, Original, Recipe, Site
from sat2dem_core.errors import UnreadableRaster, UnsupportedImagery
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.download import fetch
from sat2dem_core.rasters.elevation import Elevation, open_elevation
from sat2dem_core.rasters.grids import Grid, horizontal
from sat2dem_core.rasters.reader import Raster, opened, own_grid

COLORS = ("red", "green", "blue")
MISFIT = "the registry's recipe does not fit it, please report this"
TOLERANCE = 1.0  # m: by how much the lowest and the highest point may differ from the registry's


def fetch_scene(site: Site, progress: bool = True, address: str | None = None) -> Path:
    """Fetch and make the pair of an open scene, unless it is there; returns its folder.

    What was fetched before an interruption is kept, and the next call continues there. Each file of the pair is whole
    or absent. The original files stay beside the pair.

    Args:
        address: a mirror with the same paths as raw.githubusercontent.com, which is the default.

    Raises:
        UnreadableRaster: it is a development scene, and its files are not there.
        Unreachable, DamagedDownload, CannotWrite: see :func:`sat2dem_core.rasters.download.fetch`.
        UnsupportedImagery: the original files do not lie on one grid, as the registry says they do.
    """
    if site.kind == "development" and not site.here:
        raise UnreadableRaster(
            f"{site.name} is a development scene, whose files are not public in this form: set SAT2DEM_DATA to a "
            f"folder that contains scenes/{site.name}/rgb.tif and dem.tif"
        )
    if not site.originals or (site.recipe and site.here):
        return site.home
    folder = site.home / "originals" if site.recipe else site.home
    for file in site.originals:
        url = file.url(address or RAW)
        fetch(url, folder / file.name, f"sha256:{file.sha256}", size=file.bytes, progress=progress)
    if site.recipe:
        _write(site, *make_pair(site.originals, site.recipe, folder))
    return site.home


def make_pair(originals: tuple[Original, ...], recipe: Recipe, folder: Path) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Lay original files on one grid, the image's.

    Args:
        folder: of the files.

    Returns:
        The image, (3, H, W) uint8 or uint16, where 0 means nodata; elevation, (H, W) float32 meters, NaN where unknown;
        and their grid.

    Raises:
        UnreadableRaster, UnsupportedImagery, NoElevation: the files are not as the recipe expects.
    """
    files = {file.role: folder / file.name for file in originals}
    paths = [files["image"]] if "image" in files else [files[color] for color in COLORS]
    with opened(paths[0]) as file:
        whole, dtype = own_grid(file), np.uint8 if file.dtypes[0] == "uint8" else np.uint16
    column, row, width, height = recipe.window or (0, 0, whole.width, whole.height)
    grid = whole.window(row, column, height, width)
    image = _rounded(np.concatenate([_values(path, grid, recipe) for path in paths]), recipe)
    if image.max() > np.iinfo(dtype).max:
        raise UnsupportedImagery(f"{paths[0]} has values up to {image.max():g}: {MISFIT}")
    return image.astype(dtype), _heights(files["dem"], grid, recipe), grid


def _values(path: Path, grid: Grid, recipe: Recipe) -> np.ndarray:
    """The part of an image that a grid covers, (bands, H, W), with its scale applied; 0 where there is no data."""
    with opened(path) as file:
        raster = Raster.of(file, path, recipe.bands or (1,), "declared")
        scales, offsets = ([of[band - 1] for band in raster.bands] for of in (file.scales, file.offsets))
    offset = raster.grid.offset(grid)
    if offset is None:
        raise UnsupportedImagery(f"{path} is not on the grid of the others: {MISFIT}")
    values, valid = raster.read(*offset, *grid.shape)
    values = values * np.array(scales)[:, None, None] + np.array(offsets)[:, None, None]
    return np.where(valid, values, 0)


def _rounded(values: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Values as multiples of the recipe's step; those above 0 stay above 0, others become 0."""
    values = np.round(np.nan_to_num(values) * recipe.scale)
    steps = np.round(values / recipe.round) * recipe.round  # halves to even, as NumPy rounds
    return np.where(values > 0, np.maximum(steps, 1), 0)


def _heights(path: Path, grid: Grid, recipe: Recipe) -> np.ndarray:
    elevation = open_elevation(path)
    if recipe.dem_crs:
        own = replace(elevation.raster.grid, crs=horizontal(recipe.dem_crs).to_wkt())
        elevation = replace(elevation, raster=replace(elevation.raster, grid=own))
    if recipe.dem_resampling:
        heights = _warped(elevation, grid, Resampling[recipe.dem_resampling])
    elif elevation.grid.offset(grid) is None:
        raise UnsupportedImagery(f"{path} is not on the image's grid: {MISFIT}")
    else:
        heights = elevation.on(grid)
    elevation.check()
    return heights if recipe.dem_decimals is None else np.round(heights, recipe.dem_decimals)


def _warped(elevation: Elevation, grid: Grid, resampling: Resampling) -> np.ndarray:
    """Elevation on another grid by the given kind of resampling, where the reader would choose one by pixel sizes."""
    own, heights = elevation.grid, np.full(grid.shape, np.nan, np.float32)
    reproject(
        elevation.read(0, 0, *own.shape), heights, src_transform=own.affine, src_crs=own.crs, src_nodata=np.nan,
        dst_transform=grid.affine, dst_crs=grid.crs, dst_nodata=np.nan, resampling=resampling,
    )
    return heights


def _write(site: Site, image: np.ndarray, heights: np.ndarray, grid: Grid) -> None:
    _compare(site, image, heights)
    colors = {"photometric": "RGB"} if image.dtype == np.uint8 else {}
    for name, values, nodata, more in (
        (site.image[0], image, 0, colors), (site.dem, heights[None], np.nan, {}),
    ):
        with replacing(site.home / name) as temporary, rasterio.open(
            temporary, "w", driver="GTiff", count=len(values), height=grid.height, width=grid.width,
            dtype=values.dtype, nodata=nodata, crs=grid.crs, transform=grid.affine, compress="deflate", **more,
        ) as file:
            file.write(values)
            file.descriptions = COLORS if len(values) == 3 else ("elevation",)


def _compare(site: Site, image: np.ndarray, heights: np.ndarray) -> None:
    """Warn if a pair differs from the one that the registry's figures were measured on."""
    differences = []
    if image.shape[1:] != (site.height, site.width):
        differences.append(f"it has {image.shape[2]} × {image.shape[1]} px instead of {site.width} × {site.height}")
    elif hashlib.sha256(image.astype(image.dtype.newbyteorder("<")).tobytes()).hexdigest() != site.pixels:
        differences.append("its image has other values")
    extremes = np.nanmin(heights), np.nanmax(heights)
    if np.abs(np.subtract(extremes, site.elevation)).max() > TOLERANCE:
        low, high = site.elevation
        differences.append(f"its elevation is {extremes[0]:.1f} to {extremes[1]:.1f} m instead of {low:g} to {high:g}")
    if differences:
        warnings.warn(
            f"{site.name} differs from the pair that the registry describes ({'; '.join(differences)}): use it with "
            "care, and report it", stacklevel=4,
        )
