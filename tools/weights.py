"""Train the weights that ship, calibrate their interval, score them on ground they have not seen, and write their card.

    python tools/weights.py                      data/weights/relief.safetensors and data/results/weights.csv
    python tools/weights.py --leave-one-out      the same recipe on each scene alone, scored on the other

Each scene gives its north-western part for training, its south-western for choosing the checkpoint and, Zion's, for the
interval, and its eastern for the scores; see sat2dem_core.dataset.tiles.divide. About a quarter of an hour on two cores.
"""

import argparse
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import rioxarray
import torch
import xarray as xr
from scipy.ndimage import uniform_filter

from sat2dem_core import terrain
from sat2dem_core.config import Config
from sat2dem_core.dataset.augment import HURST, views
from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.parts import Data
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.dataset.splits import divide
from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.digest import digest
from sat2dem_core.evaluation import baselines
from sat2dem_core.evaluation.measures import CLASSES
from sat2dem_core.prediction.confidence import Domain, Interval
from sat2dem_core.prediction.mosaic import starts
from sat2dem_core.prediction.pipeline import predict
from sat2dem_core.prediction.weights import load_weights, save_weights
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.grids import ground_sampling_distance
from sat2dem_core.study.runner import provenance
from sat2dem_core.training.trainer import train

ROOT = Path(__file__).resolve().parents[1]
# Ground sampling distances (m) that each scene's training tiles are drawn at, how many, and those to validate at.
SCENES = {"zion": ((30, 115), 4000, (30, 45, 60)), "rocky-mountain": ((90, 180), 2000, (100, 146))}
TILE, GSD = 128, (30.0, 150.0)
RECIPE = Config(
    tile=TILE, stride=TILE, learning_rate=2e-3, flips="none", gradient="first", gradient_weight=100.0, precision="mixed",
    ema=0.99, steps=4000,
)
DATA = {
    "zion": "Landsat 8 LC80380342015230LGN00, 30 m (USGS, public domain), and CGIAR-CSI SRTM v4.1, 90 m (not redistributable; not in this file)",
    "rocky-mountain": "Landsat true color, coarsened to 150 m (NASA Visible Earth 88405, no restrictions), and terrain tiles on AWS (mapzen.com/terms)",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--leave-one-out", action="store_true")
    arguments.add_argument("--card", action="store_true", help="only write the card anew, from the table")
    arguments.add_argument("--weights", type=Path, default=ROOT / "data/weights/relief.safetensors")
    arguments.add_argument("--table", type=Path, default=ROOT / "data/results/weights.csv")
    args = arguments.parse_args()
    if args.card:
        return _card(args.weights, pd.read_csv(args.table))
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        if args.leave_one_out:
            for left in SCENES:
                weights = Path(folder) / f"without-{left}.safetensors"
                _make(weights, [name for name in SCENES if name != left], Path(folder), whole=True)
                for caution in (True, False):
                    rows += _scores(weights, left, open_scene(left), Path(folder), f"without {left}", caution)
        else:
            rows = _make(args.weights, list(SCENES), Path(folder), whole=False)
    table = pd.DataFrame(rows).assign(seed=RECIPE.seed, **provenance())
    if args.table.exists():
        before = pd.read_csv(args.table)
        table = pd.concat([before[~before.trained.isin(table.trained)], table], ignore_index=True)
    with replacing(args.table) as beside:
        table.to_csv(beside, index=False, float_format="%.6g")
    _card(args.weights, table)
    print(table.drop(columns=list(provenance())).round(3).to_string())


def _card(path: Path, table: pd.DataFrame) -> None:
    """Write what a reader should know, beside the weights."""
    card = load_weights(path).card
    own, left_out = table[table.trained == path.stem], table[table.trained != path.stem]
    held = own[own.part == "held out"]
    errors = {"scene": "scene", "part": "part", "tiles": "tiles", "side": "px", "MAE": "MAE, m", "tile mean": "tile mean", "plane": "best plane", "1 km": "1 km DEM", "ratio": "MAE / tile mean"}
    classes = {f"coverage, slope {low:g} to {high:g} %": f"{low:g} to {high:g} %" for low, high in zip(CLASSES["slope"], CLASSES["slope"][1:])}

    def shown(rows: pd.DataFrame, columns: dict[str, str], digits: int) -> str:
        return rows[list(columns)].rename(columns=columns).round(digits).to_markdown(index=False)

    text = f"""# {path.name}

What `predict` uses unless told otherwise: a U-Net ({RECIPE.features} features, tiles of {TILE} px, {path.stat().st_size / 1e6:.1f} MB in half
precision) that predicts relief from red, green and blue at {GSD[0]:g} to {GSD[1]:g} m. Written by `{card["command"]}`, seed
{card["seed"]}; the settings are `RECIPE` there, and travel in the file with this card.

## Data

- Zion National Park: {DATA["zion"]}.
- Rocky Mountain National Park: {DATA["rocky-mountain"]}.

The north-western part of each scene trained, the south-western chose the checkpoint and (Zion's) calibrated the interval,
the eastern 38 % was held out. Training tiles are drawn at random places and pixel sizes, turned by up to 25 degrees,
mirrored about the diagonal that leaves the sun in the south-east, and relit. The file holds no image and no elevation. It
is offered under the project's license; CIAT's terms for SRTM v4.1, from which it learned in part, ask for acknowledgment
and restrict redistribution of the elevation itself: who builds a business on these weights should read them.

## Held-out scores

Relief about the mean of each tile, on the mosaic; tiles that do not overlap. The tile mean predicts no relief; plane and
1 km DEM look at the truth, and bound what that knowledge is worth.

{shown(own, errors, 2)}

Of the Rocky Mountains these are {int(held.tiles[held.scene == "rocky-mountain"].iloc[0])} windows in one strip: they show, and prove nothing. The validation part,
gentler ground on which the checkpoint was chosen, is shown since a mean over one kind of ground hides the others. Single tiles instead of the mosaic have
{", ".join(f"{row['MAE of single tiles']:.1f} m ({row.scene})" for _, row in held.iterrows())}. The gradient's error at the edges of tiles is {", ".join(f"{row.seams:.2f} ({row.scene})" for _, row in held.iterrows())} times that elsewhere.

The same recipe trained on one scene and scored on the whole of the other, with and without caution (relief lowered where
the image is outside of the training domain):

{shown(left_out, {"trained": "trained", "caution": "caution"} | errors, 2)}

The aim was 0.75: {(left_out.ratio <= 0.75).sum()} of these {len(left_out)} rows reach it, and {(left_out.ratio < 1).sum()} are below 1, better than no relief at all.

## Interval

Share of held-out pixels within the 90 % interval, by slope:

{shown(table[table.coverage.notna() & table.caution & (table.part == "held out")], {"trained": "trained", "scene": "scene", "coverage": "all"} | classes, 3)}

It was calibrated on Zion alone, of heights about their surroundings, one tile wide. On a foreign scene it is too narrow.

## Limits

- Two scenes of the western United States, in summer light, almost without cloud, snow or city. Anything else is foreign.
- The sun is taken to stand in the south-east (mirrored to there from elsewhere, see `sun=`).
- Rugged ground suits them; for gentle ground look at the validation row above before use.
- Relief, not height, unless anchored; over many tiles it drifts.
- Zion's elevation is of 90 m: nothing finer was learned.
- Not for flood, avalanche or any other safety.
"""
    with replacing(path.with_name("README.md")) as beside:
        beside.write_text(text)


def _make(path: Path, names: list[str], folder: Path, whole: bool) -> list[dict]:
    """Train on these scenes, calibrate and write; gives the held-out scores where some ground was held out."""
    parts = {name: divide(open_scene(name), test=0.02 if whole else 0.38) for name in names}
    training = _join([views(parts[name][0], SCENES[name][1], TILE, *SCENES[name][0], seed=1) for name in names])
    validation = _join([
        views(parts[name][1], 40, TILE, gsd, gsd, seed=2, plain=True) for name in names for gsd in SCENES[name][2]
    ])
    highest = float(training.dem.max())
    data = Data(training, validation, validation, Normalization("shift", 0.0, highest, highest))
    run = train(RECIPE, data=data)
    plain = _join([views(parts[name][0], 300, TILE, *SCENES[name][0], seed=3, plain=True) for name in names])
    card = {
        "name": path.stem, "data": "; ".join(DATA[name] for name in names), "seed": RECIPE.seed,
        "command": "python tools/weights.py" + " --leave-one-out" * whole, "code": digest(),
        "best validation MAE, units": round(float(run.log.validation_mae.min()), 2),
    }
    told = {"gsd": GSD, "hurst": HURST, "domain": Domain.fit(plain.rgb)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, run.model(), **told, interval=Interval(0.0, 1.0), card=card)  # so that the band is the spread itself
    if "zion" not in names:  # the Rocky Mountains' validation part is narrower than a tile
        return []
    apart, spreads, _ = _compared(path, "zion", parts["zion"][1], folder)
    interval = Interval.calibrate(_about_surroundings(apart).ravel(), spreads.ravel())
    save_weights(path, run.model(), **told, interval=interval, card=card)
    if whole:
        return []
    rows = [row for name in names for row in _scores(path, name, parts[name][2], folder, path.stem)]
    rows += _scores(path, "zion", parts["zion"][1], folder, path.stem, part="validation")
    card["held-out scores"] = [{key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()} for row in rows]
    card["limits"] = (
        "two scenes of the western United States, both with the sun in the south-east and little cloud; relief about the mean of its "
        "surroundings, not height; see data/weights/README.md"
    )
    save_weights(path, run.model(), **told, interval=interval, card=card)
    return rows


def _join(parts: list[Tiles]) -> Tiles:
    return replace(
        parts[0], rgb=np.concatenate([part.rgb for part in parts]), dem=np.concatenate([part.dem for part in parts]),
        ids=sum((part.ids for part in parts), ()), corners=np.concatenate([part.corners for part in parts]),
    )


def _compared(weights: Path, name: str, region: xr.Dataset, folder: Path, caution: bool = True, overlap: float = 0.5):
    """Prediction minus truth, the interval, and the truth of a region, on the grid of the prediction; NaN where unknown.

    The Rocky Mountains' eastern part is narrower than a tile, so their whole image is predicted, and the part compared:
    the network sees images, and no elevation of that part was trained on.
    """
    scene = open_scene(name) if name == "rocky-mountain" else region
    image, out = folder / "image.tif", folder / "dem.tif"
    scene.rgb.rio.to_raster(image)
    predict(image, out, weights, overwrite=True, caution=caution, overlap=overlap, progress=False, nodata=None)
    made = rioxarray.open_rasterio(out, masked=True)
    truth = region.dem.rio.write_nodata(np.nan).rio.reproject_match(made, resampling=1, nodata=np.nan).values
    apart = made.values[0] - truth
    known = np.isfinite(apart)
    return apart, made.values[1], np.where(known, truth, np.nan)


def _about_surroundings(apart: np.ndarray) -> np.ndarray:
    """Errors less their mean over a window as wide as a tile: those of relief, wherever the level may be."""
    known = np.isfinite(apart)
    share = uniform_filter(known.astype(np.float64), TILE, mode="constant")
    near = uniform_filter(np.where(known, apart, 0.0), TILE, mode="constant") / np.where(known, share, 1.0)
    return np.where(known, apart - near, np.nan)


def _seams(apart: np.ndarray, stride: int) -> float:
    """Error of the gradient across the edges of tiles over that elsewhere, in both directions; 1 is no seam."""
    there, elsewhere = [], []
    for error in (apart, apart.T):
        steps = np.abs(np.diff(error, axis=1))
        edges = np.zeros(steps.shape[1], bool)
        for start in starts(error.shape[1], TILE, stride) if error.shape[1] >= TILE else []:
            edges[[at for at in (start - 1, start + TILE - 1) if 0 <= at < len(edges)]] = True
        for values, chosen in ((there, edges), (elsewhere, ~edges)):
            values.append(steps[:, chosen][np.isfinite(steps[:, chosen])])
    return float(np.concatenate(there).mean() / np.concatenate(elsewhere).mean()) if sum(map(len, there)) else np.nan


def _scores(
    weights: Path, name: str, region: xr.Dataset, folder: Path, trained: str, caution: bool = True, part: str = "held out"
) -> list[dict]:
    """Relief error of the mosaic beside baselines, and the interval's coverage overall and by slope."""
    apart, interval, truth = _compared(weights, name, region, folder, caution)
    rows, columns = (np.flatnonzero(np.isfinite(truth).any(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    whole, apart, interval, truth = apart, apart[box], interval[box], truth[box]
    error = _about_surroundings(apart)
    side = TILE if min(truth.shape) >= TILE else TILE // 2
    gsd = float(np.mean(ground_sampling_distance(region))) if name == "zion" else float(load_weights(weights).gsd[1])
    squares = [
        (slice(top, top + side), slice(left, left + side))
        for top in range(0, truth.shape[0] - side + 1, side) for left in range(0, truth.shape[1] - side + 1, side)
    ]
    squares = [square for square in squares if np.isfinite(apart[square]).mean() > 0.9]
    ground = torch.from_numpy(np.stack([np.where(np.isfinite(apart[square]), truth[square], np.nan) for square in squares])).float()
    made = ground + torch.from_numpy(np.stack([apart[square] for square in squares]))

    def relief(answer: torch.Tensor) -> float:
        off = answer - ground
        return float((off - off.nanmean((1, 2), keepdim=True)).abs().nanmean())

    row = {
        "trained": trained, "scene": name, "part": part, "caution": caution, "tiles": len(squares), "side": side, "MAE": relief(made),
        "tile mean": relief(baselines.mean(None, ground)), "plane": relief(baselines.plane(None, ground)),
        "1 km": relief(baselines.coarse(1000.0, (gsd, gsd))(None, ground)),
    }
    row["ratio"] = row["MAE"] / row["tile mean"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tiles that do not overlap have no common level, which is the point
        alone = _compared(weights, name, region, folder, caution, overlap=0.0)[0]
    row["MAE of single tiles"] = relief(ground + torch.from_numpy(np.stack([alone[box][square] for square in squares])))
    row["seams"], row["seams of single tiles"] = _seams(whole, TILE // 2), _seams(alone, TILE)
    inside = np.abs(error) <= interval
    known = np.isfinite(error)
    if load_weights(weights).interval.base == 0:
        return [row]  # nothing to calibrate on
    row |= {"coverage": float(inside[known].mean()), "half-width": float(np.median(interval[known]))}
    steep = terrain.slope(torch.from_numpy(truth)[None].float(), (gsd, gsd))[0].numpy()
    for low, high in zip(CLASSES["slope"], CLASSES["slope"][1:]):
        part = known & (steep >= low) & (steep < high)
        row[f"coverage, slope {low:g} to {high:g} %"] = float(inside[part].mean()) if part.sum() > 100 else np.nan
    return [row]


if __name__ == "__main__":
    main()
