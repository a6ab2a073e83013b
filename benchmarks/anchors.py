"""What known heights are worth: the shipped weights on a held-out area, tied to a coarse DEM or to a few points.

    python benchmarks/anchors.py data/results/anchors.csv

The area is the eastern part of Zion, 30 m. A coarse DEM is its truth averaged over cells; for comparison, the same DEM
is interpolated without an image. Points are drawn from the truth, ten times.
"""

import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import xarray as xr

from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.dataset.splits import divide
from sat2dem_core.prediction.anchors import fit_anchors, read_anchors
from sat2dem_core.prediction.pipeline import predict
from sat2dem_core.rasters import cog
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.imagery import Image, open_image
from sat2dem_core.study.runner import provenance

CELLS = 11, 33, 100  # px of 30 m
POINTS = (1, "offset"), (5, "offset"), (5, "plane"), (20, "plane"), (20, "quadratic")
DRAWS = 10


def main() -> None:
    region = divide(open_scene("zion"))[2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        area = _prepare(region, folder)
        table = pd.DataFrame([*_with_dems(area, region.dem, folder), *_with_points(area, region, folder)])
    print(table.groupby(["anchors", "surface"])[["MAE", "MAE without image", "coverage"]].mean().round(2).to_string())
    with replacing(Path(sys.argv[1])) as temporary:
        table.assign(**provenance()).to_csv(temporary, index=False, float_format="%.5g", encoding="utf-8")


@dataclass(frozen=True)
class _Area:
    """A region's image as a file with its grid, its truth (H, W) in meters, and a mosaic without relief."""

    image: Path
    grid: Image
    truth: np.ndarray
    flat: Path

    def scores(self, anchors: Path, surface: str) -> dict[str, float]:
        """Errors in meters of the prediction tied to anchors, and of the anchors' surface without an image."""
        out, half = (self.image.with_name(name) for name in ("dem.tif", "interval.tif"))
        made = predict(
            self.image, out, anchors=anchors, surface=surface, interval=half, overwrite=True, progress=False
        )
        with rasterio.open(out) as file:
            elevation = file.read(1, masked=True).filled(np.nan)
        with rasterio.open(half) as file:
            interval = file.read(1, masked=True).filled(np.nan)
        known = read_anchors(anchors, self.grid, surface)
        alone = fit_anchors(known, self.flat).surface(0, self.grid.grid.height)
        error = np.abs(elevation - self.truth)
        known = np.isfinite(error)
        return {
            "MAE": error[known].mean(), "MAE without image": np.abs(alone - self.truth)[known].mean(),
            "coverage": (error <= interval)[known].mean(), "anchors used": len(made.anchors),
        }


def _prepare(region: xr.Dataset, folder: Path) -> _Area:
    image, flat = folder / "image.tif", folder / "flat.zarr"
    region.rgb.rio.to_raster(image)
    grid = open_image(image, 30, 30)
    cog.scratch(flat, grid.grid, 256)["elevation"][:] = 0
    return _Area(image, grid, region.dem.values, flat)


def _with_dems(area: _Area, dem: xr.DataArray, folder: Path) -> list[dict]:
    """One row for each size of cells."""
    rows = []
    for cells in CELLS:
        _coarsen(dem, cells).rio.to_raster(folder / "coarse.tif")
        label = {"anchors": f"DEM of {cells * 30} m", "surface": "cells"}
        rows.append(label | area.scores(folder / "coarse.tif", "cells"))
    return rows


def _with_points(area: _Area, region: xr.Dataset, folder: Path) -> list[dict]:
    """One row for each number of points, surface and draw."""
    rows, rng, known = [], np.random.default_rng(0), np.argwhere(np.isfinite(area.truth))
    for count, surface in POINTS:
        label = {"anchors": f"{count} point" + "s" * (count > 1), "surface": surface}
        for draw in range(DRAWS):
            row, column = known[rng.choice(len(known), count, replace=False)].T
            points = {"x": region.x.values[column], "y": region.y.values[row], "height": area.truth[row, column]}
            pd.DataFrame(points).to_csv(folder / "points.csv", index=False, encoding="utf-8")
            rows.append(label | {"draw": draw} | area.scores(folder / "points.csv", surface))
    return rows


def _coarsen(dem: xr.DataArray, cells: int) -> xr.DataArray:
    height, width = (side // cells * cells for side in dem.shape)
    coarse = dem[:height, :width].coarsen(y=cells, x=cells).mean()
    return coarse.rio.write_crs(dem.rio.crs).rio.write_nodata(np.nan)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        main()
