"""What needs no network when a coarse DEM is refined by an image: interpolation, shape from shading, and colors.

    SAT2DEM_DATA=... python benchmarks/classical.py [--out benchmarks/results/classical.md]

The coarse DEM is the truth's means over squares of k x k px, and of the scene only whole squares count. A question is
fair where a square is at least three times as wide as the DEM's own pixel. Without the scenes nothing is measured.
"""

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import torch

from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.evaluation.baselines import fit
from sat2dem_core.evaluation.shading import MIN_R, WAVELENGTH, is_visible, relief_from_shading, shape_from_shading
from sat2dem_core.paths import downloads
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.coarse import CellGrid, bicubic, bilinear, local_step, mean_keeping_spline, smooth_on_pixels
from sat2dem_core.rasters.grids import ground_sampling_distance
from sat2dem_core.rasters.sun import estimate_sun, fit_shading

CELLS = (3, 11, 33)  # px
BORDER = 16  # px that are not scored
TILE = 128  # px over which colors are standardized
WAVELENGTHS = (10.0, 20.0, 40.0, 80.0)  # px, of the one setting of shape from shading
CHOSEN_ON = "colorado"  # regions whose names begin so
SCENES = {  # region, and the DEM's own pixel in meters
    "zion": ("utah", 90), "rocky-mountain": ("colorado-north", 233), "colorado-coldsprings-l8": ("colorado-north", 30),
    "colorado-gutzler-l8": ("colorado-north", 30), "colorado-beavercreek-l8": ("colorado-north", 30),
    "colorado-ecklund-l8": ("colorado-west", 30), "colorado-reddirt-l8": ("colorado-west", 30),
    "colorado-junkins-l8": ("colorado-south", 30), "california-madre-l8": ("california", 30),
    "montana-riceridge-l8": ("montana", 30), "athabasca-glacier-L30-2020229": ("alberta", 30),
    "athabasca-glacier-S30-2020253": ("alberta", 30), "everest-nepal-l7": ("himalaya", 90),
    "tellbrak-syria-landsat": ("syria", 84), "wales-aberystwyth-s2": ("wales", 60), "carmel-israel-l8": ("israel", 90),
    "madagascar-mananara-l9": ("madagascar", 120),
}
RATIOS = ["bilinear", "bicubic", "shading", "sun known", "color"]  # over the spline


@dataclass(frozen=True, eq=False)
class Pair:
    """An image (3, H, W), its elevation (H, W) in meters, and its pixels' size (down, along) in meters."""

    name: str
    image: np.ndarray
    dem: np.ndarray
    gsd: tuple[float, float]

    @property
    def region(self) -> str:
        return SCENES[self.name][0]

    def is_fair(self, k: int) -> bool:
        return k * min(self.gsd) >= 2.9 * SCENES[self.name][1]  # 84 m and 30 m pixels are nearly 3

    def whole(self, k: int) -> "Pair":
        """The part that whole squares cover."""
        height, width = (side // k * k for side in self.dem.shape)
        return Pair(self.name, self.image[:, :height, :width], self.dem[:height, :width], self.gsd)


def pairs() -> Iterator[Pair]:
    """All scenes."""
    for name in SCENES:
        folder = downloads("scenes") / name
        if not folder.is_dir():
            scene = open_scene(name)
            dem = scene.dem.values.astype(np.float64)
            yield Pair(name, scene.rgb.values, dem, ground_sampling_distance(scene))
            continue
        with rasterio.open(folder / "rgb.tif") as image, rasterio.open(folder / "dem.tif") as dem:
            yield Pair(name, image.read(), dem.read(1).astype(np.float64), (image.res[1], image.res[0]))


def error(prediction: np.ndarray, dem: np.ndarray) -> float:
    """Mean absolute error over valid pixels within the border, meters."""
    inner = slice(BORDER, -BORDER)
    return float(np.nanmean(np.abs(prediction - dem)[inner, inner]))


@dataclass(frozen=True, eq=False)
class Question:
    """A pair with a coarse DEM, and what the regression on colors needs.

    Attributes:
        grid, spline: of the coarse DEM.
        step: local step on pixels, (H, W) meters: the unit of the regression.
        colors: (3, H, W) what standardized colors vary within cells.
    """

    pair: Pair
    grid: CellGrid
    spline: np.ndarray
    step: np.ndarray
    colors: np.ndarray

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The colors and what the spline misses, in local steps: (1, 3, H, W) and (1, H, W)."""
        missed = (self.pair.dem - self.spline) / self.step
        return torch.from_numpy(self.colors)[None], torch.from_numpy(missed)[None]


def detail(part: np.ndarray, grid: CellGrid) -> np.ndarray:
    """What a part (H, W) adds to the mean-keeping spline of its own means."""
    return part - mean_keeping_spline(grid.means(part), grid)


def standardized(image: np.ndarray) -> np.ndarray:
    """Colors (3, H, W) with mean 0 and standard deviation 1 on each tile, clipped at 3."""
    result = np.zeros(image.shape)
    for row in range(0, image.shape[1], TILE):
        for column in range(0, image.shape[2], TILE):
            place = (slice(None), slice(row, row + TILE), slice(column, column + TILE))
            tile = image[place].astype(np.float64)
            deviation = np.maximum(tile.std((1, 2), keepdims=True), 1e-9)
            result[place] = ((tile - tile.mean((1, 2), keepdims=True)) / deviation).clip(-3, 3)
    return result


def measure(pair: Pair, k: int, azimuth: float | None) -> tuple[dict, Question]:
    """A row of errors, but for the colors', and what these need.

    Args:
        azimuth: of the sun, as a file's metadata would say; None where the truth does not tell it either.
    """
    pair = pair.whole(k)
    grid = CellGrid.squares(pair.dem.shape, k)
    cells = grid.means(pair.dem)
    spline = mean_keeping_spline(cells, grid)
    shading = fit_shading(pair.image, np.where(np.isnan(pair.dem), np.nan, spline), pair.gsd, k)
    row = {
        "scene": pair.name, "region": pair.region, "k": k, "sun, °": shading.azimuth, "r": shading.r,
        "strength": shading.strength, "visible": is_visible(shading, int((~np.isnan(cells)).sum())),
        "bilinear": error(bilinear(cells, grid), pair.dem), "bicubic": error(bicubic(cells, grid), pair.dem),
        "spline": error(spline, pair.dem),
        "shading": error(shape_from_shading(pair.image, cells, grid, pair.gsd), pair.dem),
        "sun known": error(shape_from_shading(pair.image, cells, grid, pair.gsd, azimuth), pair.dem),
    }
    for wavelength in WAVELENGTHS:
        relief = relief_from_shading(pair.image, shading, pair.gsd, k, wavelength) if row["visible"] else 0 * spline
        row[f"{wavelength:g} px"] = error(spline + detail(relief, grid), pair.dem)
    colors = np.stack([detail(band, grid) for band in standardized(pair.image)]).astype(np.float32)
    step = smooth_on_pixels(local_step(cells), grid)
    return row, Question(pair, grid, spline, step, colors)


def color_errors(questions: list[Question]) -> list[float]:
    """Of the regression on colors that is fitted to all other regions, meters."""
    results = []
    weights = {}
    for region in {question.pair.region for question in questions}:
        others = (question.tensors() for question in questions if question.pair.region != region)
        weights[region] = fit(others, {"missed": lambda missed: missed})["missed"]["color"]
    for question in questions:
        colors, missed = question.tensors()
        added = question.step * weights[question.pair.region](colors, missed)[0].numpy()
        results.append(error(question.spline + detail(added, question.grid), question.pair.dem))
    return results


def rows() -> pd.DataFrame:
    """A row for each scene and each k that is fair."""
    table, questions = [], []
    for pair in pairs():
        azimuth, r = estimate_sun(pair.image, pair.dem, pair.gsd)
        for k in filter(pair.is_fair, CELLS):
            row, question = measure(pair, k, azimuth if r >= MIN_R else None)
            table.append(row | {"sun by the truth, °": azimuth, "r by the truth": r})
            questions.append(question)
            print(row["scene"], k, round(row["shading"] / row["spline"], 2), flush=True)
    for k in CELLS:
        numbers = [number for number, row in enumerate(table) if row["k"] == k]
        errors = color_errors([questions[number] for number in numbers])
        for number, value in zip(numbers, errors):
            table[number]["color"] = value
    return pd.DataFrame(table)


def geometric(ratios: pd.DataFrame) -> pd.Series:
    return np.exp(np.log(ratios).mean())


def summary(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Geometric means of ratios to the spline's error, for each k and group of scenes."""
    groups = {
        "all": table.r > -1, "visible by the truth (r ≥ 0.4)": table["r by the truth"] >= 0.4,
        "invisible (r < 0.4)": table["r by the truth"] < 0.4, "Colorado": table.region.str.startswith(CHOSEN_ON),
        "all but Colorado": ~table.region.str.startswith(CHOSEN_ON),
    }
    parts = []
    for k in CELLS:
        for name, chosen in groups.items():
            part = table[chosen & (table.k == k)]
            ratios = geometric(part[columns].div(part.spline, axis=0))
            parts.append({"k": k, "scenes": name, "number": len(part), **ratios})
    return pd.DataFrame(parts)


def report(table: pd.DataFrame) -> str:
    first = ["scene", "k", "sun by the truth, °", "r by the truth", "sun, °", "r", "strength", "visible", "spline"]
    formats = ("", "", ".0f", ".2f", ".0f", ".2f", ".2f", "", ".2f", *[".2f"] * len(RATIOS))
    ratios = table[RATIOS].div(table.spline, axis=0)
    gain = 100 * (1 - table.spline / table.bicubic)
    gains = ", ".join(f"{gain[table.k == k].min():.0f} to {gain[table.k == k].max():.0f} % (k = {k})" for k in CELLS)
    worst = ratios.shading.idxmax()
    harm = f"{ratios.shading[worst]:.2f} ({table.scene[worst]}, k = {table.k[worst]})"
    settings = [f"{wavelength:g} px" for wavelength in WAVELENGTHS]
    chosen = summary(table, settings)
    chosen = chosen[chosen.scenes.isin(["Colorado", "all but Colorado"])]
    return f"""# What needs no network when a coarse DEM is refined

Coarse DEMs are means of the truth over k x k px. Scores are mean absolute errors over valid pixels without a border
of {BORDER} px; ratios are over the error of the mean-keeping spline, and means of ratios are geometric. Only fair
questions count: cells at least three times as wide as the DEM's own pixel.

- *Shading:* linear shape from shading (`sat2dem_core.evaluation.shading`). Its sun and its strength come from the
  coarse DEM; its one setting was chosen on the Colorado scenes.
- *Sun known:* the same with the azimuth that the truth's own relief tells, where r ≥ {MIN_R}; it stands for metadata.
- *Color:* regression of what the spline misses, in local steps, on colors standardized over tiles of {TILE} px, fitted
  to all other regions.

## Geometric means

{summary(table, RATIOS).to_markdown(index=False, floatfmt=".3f")}

The mean-keeping spline is better than plain cubic interpolation by {gains}.
Where shape from shading does most harm, its ratio is {harm}.

## The setting of shape from shading

Ratios for the wavelength at which albedo disturbs shading as much as the fit at the scale of cells says; the package
uses {WAVELENGTH:g} px.

{chosen.to_markdown(index=False, floatfmt=".3f")}

## Scenes

The spline's error in meters, and the ratios of the others. The sun and r are those of the coarse DEM, next to those of
the truth; strength is the fall of log brightness for each unit of slope.

{table[first].join(ratios).to_markdown(index=False, floatfmt=formats)}

Made by `python benchmarks/classical.py`.
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path)
    args = arguments.parse_args()
    if not downloads("scenes").is_dir():
        raise SystemExit(f"skipped: {downloads('scenes')} is missing; set SAT2DEM_DATA to the folder that holds it")
    warnings.simplefilter("ignore")  # margins of scenes without elevation
    text = report(rows())
    print(text)
    if args.out:
        with replacing(args.out) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
