"""What known heights are worth: the weights that ship on ground they have not seen, tied to a coarse DEM or to few points.

    python benchmarks/anchors.py data/results/anchors.csv

The ground is the eastern part of Zion, 30 m. A coarse DEM is its truth averaged over cells; beside it stands the same DEM
interpolated without an image. Points are drawn from the truth, ten times.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import xarray as xr

from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.dataset.splits import divide
from sat2dem_core.prediction.anchors import fit_anchors
from sat2dem_core.prediction.pipeline import predict
from sat2dem_core.rasters import cog
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.reader import open_image
from sat2dem_core.study.runner import provenance

CELLS = 11, 33, 100  # px of 30 m
POINTS = (1, "offset"), (5, "offset"), (5, "plane"), (20, "plane"), (20, "quadratic")
DRAWS = 10


def main() -> None:
    region = divide(open_scene("zion"))[2]
    truth = region.dem.values
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, out = folder / "image.tif", folder / "dem.tif"
        region.rgb.rio.to_raster(image)
        grid = open_image(image, 30, 30)
        flat = cog.scratch(folder / "flat.zarr", grid, 256)  # a prediction of no relief
        flat["elevation"][:] = 0

        def scores(anchors: Path, surface: str) -> dict[str, float]:
            made = predict(image, out, anchors=anchors, surface=surface, overwrite=True, progress=False)
            with rasterio.open(out) as file:
                elevation, interval, _ = file.read(masked=True).filled(np.nan)
            alone = fit_anchors(anchors, surface, folder / "flat.zarr", grid).surface(0, grid.height, grid.width)
            error = np.abs(elevation - truth)
            known = np.isfinite(error)
            return {
                "MAE": error[known].mean(), "MAE without image": np.abs(alone - truth)[known].mean(),
                "coverage": (error <= interval)[known].mean(), "anchors used": len(made.anchors),
            }

        for cells in CELLS:
            _coarse(region.dem, cells).rio.to_raster(folder / "coarse.tif")
            rows.append({"anchors": f"DEM of {cells * 30} m", "surface": "cells"} | scores(folder / "coarse.tif", "cells"))
        rng, known = np.random.default_rng(0), np.argwhere(np.isfinite(truth))
        for count, surface in POINTS:
            for draw in range(DRAWS):
                at = known[rng.choice(len(known), count, replace=False)]
                table = {"x": region.x.values[at[:, 1]], "y": region.y.values[at[:, 0]], "height": truth[tuple(at.T)]}
                pd.DataFrame(table).to_csv(folder / "points.csv", index=False)
                rows.append({"anchors": f"{count} point" + "s" * (count > 1), "surface": surface, "draw": draw} | scores(folder / "points.csv", surface))
    table = pd.DataFrame(rows)
    print(table.groupby(["anchors", "surface"])[["MAE", "MAE without image", "coverage"]].mean().round(2).to_string())
    with replacing(Path(sys.argv[1])) as beside:
        table.assign(**provenance()).to_csv(beside, index=False, float_format="%.5g")


def _coarse(dem: xr.DataArray, cells: int) -> xr.DataArray:
    height, width = (side // cells * cells for side in dem.shape)
    return dem[:height, :width].coarsen(y=cells, x=cells).mean().rio.write_crs(dem.rio.crs).rio.write_nodata(np.nan)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        main()
