"""The one setting of shape from shading, and what it gains where the sun is known.

    SAT2DEM_DATA=... python benchmarks/shading.py [--out benchmarks/results/shading.md]

Coarse DEMs are means of the truth over k x k px, where the question is fair (sat2dem_core.evaluation.refinement). The
setting was chosen on the Colorado scenes. `sat2dem benchmark` has the method beside others. Needs the scenes.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from sat2dem_core.dataset.registry import read_registry
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.errors import WrongShape
from sat2dem_core.evaluation.refinement import CELLS, ask, is_fair, score
from sat2dem_core.evaluation.shading import MIN_R, WAVELENGTH, is_visible, shape_from_shading
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.sun import estimate_sun, fit_shading

WAVELENGTHS = (10.0, 20.0, 40.0, 80.0)  # px
CHOSEN_ON = "colorado"  # regions whose names begin so


def rows() -> Iterator[dict]:
    """For each scene and fair k the ratios to the spline's error, and the sun by the coarse DEM and by the truth."""
    for site in read_registry().values():
        if not site.here:
            continue
        scene = open_scene(site.name)
        for k in CELLS:
            if not is_fair(k, site.pixel, site.dem_pixel):
                continue
            try:
                question = ask(scene, k)
            except WrongShape:
                continue
            azimuth, r = estimate_sun(question.image, question.truth, question.gsd)
            known = np.append(~np.isnan(question.cells), False)[question.grid.index]
            shading = fit_shading(question.image, np.where(known, question.spline, np.nan), question.gsd, k)
            given = (question.image, question.cells, question.grid, question.gsd)
            free = score(question, question.spline)["MAE"]
            told = azimuth if r >= MIN_R else None
            ratios = {"sun known": score(question, shape_from_shading(*given, told))["MAE"] / free}
            for wavelength in WAVELENGTHS:
                refined = shape_from_shading(*given, wavelength=wavelength)
                ratios[f"{wavelength:g} px"] = score(question, refined)["MAE"] / free
            yield {
                "scene": site.name, "region": site.region, "k": k, "sun by the truth, °": azimuth,
                "r by the truth": r, "sun, °": shading.azimuth, "r": shading.r,
                "visible": is_visible(shading, int((~np.isnan(question.cells)).sum())), **ratios,
            }
            print(site.name, k, {name: round(ratio, 2) for name, ratio in ratios.items()}, flush=True)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Geometric means for each k, of Colorado and of all other scenes."""
    columns = [f"{wavelength:g} px" for wavelength in WAVELENGTHS] + ["sun known"]
    colorado = table.region.str.startswith(CHOSEN_ON)
    groups = np.where(colorado, "Colorado", "all but Colorado")
    means = np.exp(np.log(table[columns]).groupby([table.k, groups]).mean())
    return means.rename_axis(["k", "scenes"]).reset_index()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path)
    args = arguments.parse_args()
    warnings.simplefilter("ignore")  # margins of scenes without elevation
    table = pd.DataFrame(rows())
    formats = ["", "", "", ".0f", ".2f", ".0f", ".2f", "", *[".2f"] * (len(WAVELENGTHS) + 1)]
    text = f"""# The setting of shape from shading

Ratios to the error of the mean-keeping spline, for the wavelength at which albedo disturbs shading as much as the fit
at the scale of cells says; the package uses {WAVELENGTH:g} px, chosen on the Colorado scenes. *Sun known:* the same at
{WAVELENGTH:g} px with the azimuth that the truth's own relief tells, where r ≥ {MIN_R}; it stands for metadata.

{summary(table).to_markdown(index=False, floatfmt=".3f")}

## Scenes

The sun and r are those of the coarse DEM, next to those of the truth.

{table.to_markdown(index=False, floatfmt=formats)}

Made by `python benchmarks/shading.py`.
"""
    print(text)
    if args.out:
        with replacing(args.out) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
