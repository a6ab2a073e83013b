"""How far true cells of coarse DEMs lie from their neighbors, and how far voids among them do.

    python benchmarks/outliers.py ../shared/data/scenes --out benchmarks/results/outliers.md

Each scene's DEM is averaged over cells of 11 and 33 px, and compared with what the shipped weights predict of its
image.
Then single cells become 0 m, ten times. Both are in units of the usual deviation, as
sat2dem_core.prediction.outliers measures it; FAR and FAR_OF_FEW there must lie between.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import rioxarray  # noqa: F401  arrays have ``rio`` once this is imported
import xarray as xr

from sat2dem_core.prediction import anchors as fitting
from sat2dem_core.prediction.outliers import FAR, FAR_OF_FEW, FEW, LEAST, deviations_on_grid
from sat2dem_core.prediction.pipeline import predict
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.elevation import open_elevation

CELLS = 11, 33  # px
DRAWS = 10
INLAND = 1000.0  # meters: in lower cells a void of 0 m does little harm, and may be true


def measure(scene: Path, cells: int) -> dict[str, float]:
    """One row."""
    elevation = open_elevation(scene / "dem.tif", looks_for_fill=False)
    grid = elevation.grid
    height, width = (side // cells for side in grid.shape)
    coarse = elevation.on(grid.scaled(cells, height, width))
    rows = {}

    def spy(table: pd.DataFrame, known: fitting.Anchors) -> np.ndarray:
        index = (table.row // known.cell).to_numpy(), (table.column // known.cell).to_numpy()
        difference = np.full(known.cells.shape, np.nan)
        difference[index] = (table.height - table.predicted).to_numpy()
        deviation, scaled = deviations_on_grid(difference)
        true = np.abs(scaled[index])[np.abs(deviation[index]) > LEAST]
        voids = []
        high = np.flatnonzero(table.height.to_numpy() > INLAND)
        for chosen in np.random.default_rng(0).choice(high, DRAWS) if len(high) else []:
            spoiled = difference.copy()
            at = index[0][chosen], index[1][chosen]
            spoiled[at] -= table.height.iloc[chosen]
            voids.append(abs(deviations_on_grid(spoiled)[1][at]))
        rows.update(cells=len(table), true=true.max(initial=0.0), voids=min(voids, default=np.nan))
        return np.ones(len(table), bool)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coarse.tif"
        raster = xr.DataArray(coarse, dims=("y", "x")).rio.write_crs(grid.crs)
        raster.rio.write_transform(grid.scaled(cells, height, width).affine).rio.to_raster(path)
        before, fitting._on_grid = fitting._on_grid, spy
        try:
            predict(scene / "rgb.tif", Path(folder) / "dem.tif", anchors=path, progress=False)
        finally:
            fitting._on_grid = before
    return {"scene": scene.name, "cell, px": cells, **rows}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("scenes", type=Path)
    arguments.add_argument("--out", type=Path)
    args = arguments.parse_args()
    scenes = sorted(path.parent for path in args.scenes.glob("*/rgb.tif"))
    table = pd.DataFrame([measure(scene, cells) for scene in scenes for cells in CELLS])
    few = table.cells < FEW
    parts = (f"{FEW} cells or more", table[~few], FAR), (f"fewer than {FEW}", table[few], FAR_OF_FEW)
    lines = [
        f"- {name}: true cells reach {part.true.max():.1f}, voids {part.voids.min():.1f} or more; the limit is {far:g}."
        for name, part, far in parts
    ]
    text = "\n".join([
        "# Blunders among anchors", "",
        "Deviations from the neighbors, in units of the usual one: the largest of all true cells, and the smallest of",
        f"{DRAWS} single voids (0 m) among cells above {INLAND:g} m.", "", *lines, "",
        table.round(1).to_markdown(index=False), "", "Made by `python benchmarks/outliers.py SCENES`.", "",
    ])
    print(text)
    if args.out:
        with replacing(args.out) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
