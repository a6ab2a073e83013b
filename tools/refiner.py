"""Train the weights that refine a DEM, score their recipe on regions left out, and write their card.

    python tools/refiner.py folds      six networks, each without the regions of a fold; data/results/refine.csv
    python tools/refiner.py weights    one network on all scenes; data/weights/refine.safetensors

Runs lie in the cache, and the same command goes on where it was interrupted. Scenes for development count where
SAT2DEM_DATA says that they are.

The interval is calibrated on the errors of the six networks, so on regions that they were not trained on; its coverage
of a region, in the table, is that of an interval calibrated on the other folds.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from sat2dem_core.dataset.registry import Site, read_registry
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.errors import NoElevation, WrongShape
from sat2dem_core.evaluation.refinement import CELLS, Question, ask, is_fair, score
from sat2dem_core.prediction.confidence import SlopeInterval
from sat2dem_core.prediction.refiner_weights import save_refiner
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.study.benchmark import VISIBLE
from sat2dem_core.study.refiners import RECIPE, errors_by_slope, network_on_all, network_without, refined, trained_on
from sat2dem_core.study.regions import folds
from sat2dem_core.study.runner import provenance

ROOT = Path(__file__).resolve().parents[1]
TABLE, WEIGHTS = ROOT / "data/results/refine.csv", ROOT / "data/weights/refine.safetensors"
INTERVAL = ROOT / "data/results/refine-interval.csv"
EDGES = (0.05, 0.1, 0.2, 0.4)  # of the classes of slope, rise over run
GSD = (10.0, 120.0)  # meters: images of other pixel sizes are resampled
SAMPLE = 20_000  # pixels of a question that count for the interval
Errors = dict[float, tuple[np.ndarray, np.ndarray]]  # by the side of cells, px: errors in units, and slopes


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=("folds", "weights"))
    {"folds": score_folds, "weights": make_weights}[arguments.parse_args().what]()


def score_folds() -> None:
    """Train and score the network of each fold; write the table and the shares of the interval."""
    rows: list[dict] = []
    errors: list[tuple[Site, int, np.ndarray, np.ndarray]] = []
    for fold in folds():
        network = network_without(fold)
        sites = [site for site in read_registry().values() if site.fold == fold]
        for site in tqdm([site for site in sites if site.kind != "development" or site.here], f"fold {fold}"):
            for question in questions(site):
                result, unit = refined(question, network)
                measures, free = score(question, result), score(question, question.spline)
                rows.append({
                    "site": site.name, "region": site.region, "fold": fold, "kind": site.kind, "k": question.k,
                    "visible": (site.shading_r or 0.0) >= VISIBLE, "ratio": measures["MAE"] / free["MAE"],
                    "slope ratio": measures["slope MAE"] / free["slope MAE"],
                } | measures)
                found = errors_by_slope(question, result, unit)
                chosen = np.random.default_rng(0).permutation(len(found[0]))[:SAMPLE]
                errors.append((site, question.k, *(part[chosen] for part in found)))
    for row in rows:
        others = gathered(errors, lambda site, row=row: site.fold != row["fold"])
        interval = SlopeInterval.calibrate(others, EDGES)
        for site, k, error, slope in errors:
            if (site.name, k) == (row["site"], row["k"]):
                half = interval.half_width(slope * k, k, 1.0) / (slope * k)
                row["coverage"] = float((error <= half).mean())
    shares = SlopeInterval.calibrate(gathered(errors, lambda site: True), EDGES)
    pd.DataFrame(shares.shares, columns=[f"from {edge:g}" for edge in (0.0, *EDGES)], index=shares.cells).to_csv(
        INTERVAL, float_format="%.5g"
    )
    with replacing(TABLE) as temporary:
        pd.DataFrame(rows).assign(**provenance()).to_csv(temporary, index=False, float_format="%.5g")


def gathered(errors: list[tuple[Site, int, np.ndarray, np.ndarray]], counts: object) -> Errors:
    """The errors of the scenes that count, by the side of cells."""
    found: Errors = {}
    for k in sorted({k for _, k, _, _ in errors}):
        parts = [(error, slope) for site, side, error, slope in errors if side == k and counts(site)]  # type: ignore
        found[k] = tuple(map(np.concatenate, zip(*parts)))  # type: ignore[assignment]
    return found


def questions(site: Site) -> list[Question]:
    """Those about a scene that are fair."""
    scene, found = open_scene(site.name), []
    for k in CELLS:
        if is_fair(k, site.pixel, site.dem_pixel):
            try:
                found.append(ask(scene, k))
            except (WrongShape, NoElevation):
                continue
    return found


def make_weights() -> None:
    """Train on everything, and write the weights with the interval and the card."""
    table, shares = pd.read_csv(TABLE), pd.read_csv(INTERVAL, index_col=0)
    interval = SlopeInterval(tuple(map(float, shares.index)), EDGES, tuple(map(tuple, shares.values.tolist())))
    card = {
        "name": WEIGHTS.stem, "seed": RECIPE.seed, "command": "python tools/refiner.py weights",
        "data": ", ".join(site.name for site in trained_on(0)),
        "scores": {f"{row.site}, {row.k} px": row.ratio for row in table.itertuples()},
        "limits": "measured at 30 m and coarser; 10 m itself was not measured",
    }
    save_refiner(WEIGHTS, network_on_all(), gsd=GSD, interval=interval, card=card)


if __name__ == "__main__":
    main()
