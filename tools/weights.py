"""Train the shipped weights, calibrate their prediction interval, score them on held-out areas, and write their card.

    python tools/weights.py                      data/weights/relief.safetensors and data/results/weights.csv
    python tools/weights.py --leave-one-out      the same recipe on each scene alone, scored on the other
    python tools/weights.py --card               only data/weights/README.md, from the stored table

Each scene is split into three parts (see sat2dem_core.dataset.splits.divide): the north-west for training, the
south-west for choosing the checkpoint and, on Zion, for calibrating the interval, and the east for the scores. This
takes about a quarter of an hour on two cores.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

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

Save = Callable[[Path, Interval, dict[str, Any]], None]  # writes weights with an interval and more entries of the card
ROOT = Path(__file__).resolve().parents[1]
# For each scene: the range of ground sampling distances (m) of its training tiles, their number, and the ground
# sampling distances of its validation tiles.
SCENES = {"zion": ((30, 115), 4000, (30, 45, 60)), "rocky-mountain": ((90, 180), 2000, (100, 146))}
TILE, GSD = 128, (30.0, 150.0)
RECIPE = Config(
    tile=TILE, stride=TILE, learning_rate=2e-3, flips="none", gradient="first", gradient_weight=100.0,
    precision="mixed", ema=0.99, steps=4000,
)
DATA = {
    "zion": (
        "Landsat 8 LC80380342015230LGN00, 30 m (USGS, public domain), and CGIAR-CSI SRTM v4.1, 90 m "
        "(not redistributable; not in this file)"
    ),
    "rocky-mountain": (
        "Landsat true color, coarsened to 150 m (NASA Visible Earth 88405, no restrictions), and terrain tiles on AWS "
        "(mapzen.com/terms)"
    ),
}
SLOPES = {  # columns of the table, with the edges of their classes in percent
    f"coverage, slope {low:g} to {high:g} %": (low, high) for low, high in zip(CLASSES["slope"], CLASSES["slope"][1:])
}
ERRORS = {  # columns of the table, with their headings in the card
    "scene": "scene", "part": "part", "tiles": "tiles", "side": "px", "MAE": "MAE, m", "tile mean": "tile mean",
    "plane": "best plane", "1 km": "1 km DEM", "ratio": "MAE / tile mean",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--leave-one-out", action="store_true")
    arguments.add_argument("--card", action="store_true", help="only rewrite the card from the table")
    arguments.add_argument("--weights", type=Path, default=ROOT / "data/weights/relief.safetensors")
    arguments.add_argument("--table", type=Path, default=ROOT / "data/results/weights.csv")
    args = arguments.parse_args()
    if args.card:
        return write_card(args.weights, pd.read_csv(args.table))
    with tempfile.TemporaryDirectory() as folder:
        rows = leave_one_out(Path(folder)) if args.leave_one_out else make_shipped(args.weights, Path(folder))
    table = pd.DataFrame(rows).assign(seed=RECIPE.seed, **provenance())
    if args.table.exists():
        stored = pd.read_csv(args.table)
        table = pd.concat([stored[~stored.trained.isin(table.trained)], table], ignore_index=True)
    with replacing(args.table) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", encoding="utf-8")
    write_card(args.weights, table)
    print(table.drop(columns=list(provenance())).round(3).to_string())


# The card


def write_card(path: Path, table: pd.DataFrame) -> None:
    """Write the card of the weights as README.md next to them."""
    card = load_weights(path).card
    own, left_out = table[table.trained == path.stem], table[table.trained != path.stem]
    held_out, size = own[own.part == "held out"], path.stat().st_size / 1e6
    covered = table[table.coverage.notna() & table.caution & (table.part == "held out")]
    windows = int(held_out.tiles[held_out.scene == "rocky-mountain"].iloc[0])
    single = ", ".join(f"{row['MAE of single tiles']:.1f} m ({row.scene})" for _, row in held_out.iterrows())
    seams = ", ".join(f"{row.seams:.2f} ({row.scene})" for _, row in held_out.iterrows())
    reached, better = (left_out.ratio <= 0.75).sum(), (left_out.ratio < 1).sum()
    coverage = {"trained": "trained", "scene": "scene", "coverage": "all"}
    coverage |= {column: f"{low:g} to {high:g} %" for column, (low, high) in SLOPES.items()}
    text = f"""# {path.name}

The default weights of `predict`: a U-Net ({RECIPE.features} features, tiles of {TILE} px, {size:.1f} MB in half
precision) that predicts relief from red, green and blue at a ground sampling distance of {GSD[0]:g} to {GSD[1]:g} m.
Written by `{card["command"]}`, seed {card["seed"]}; its settings are `RECIPE` in that file, and travel in the weights
together with this card.

## Data

- Zion National Park: {DATA["zion"]}.
- Rocky Mountain National Park: {DATA["rocky-mountain"]}.

The network was trained on the north-western part of each scene. The south-western part served to choose the checkpoint
and, on Zion, to calibrate the prediction interval. The eastern 38 % was held out. Training tiles are drawn at random
places and ground sampling distances, rotated by up to 25 degrees, mirrored about the diagonal that leaves the sun in
the south-east, and relit. The file holds no image and no elevation. It is offered under the project's license. CIAT's
terms for SRTM v4.1, on which the network was partly trained, ask for acknowledgment and restrict redistribution of the
elevation itself: read them before you build a business on these weights.

## Held-out scores

Mean absolute errors (MAE) in meters of relief about the mean of each tile, measured on the mosaic, on tiles that do
not overlap. The tile mean predicts no relief. The best plane and the 1 km DEM are computed from the truth: they show
what that knowledge alone would achieve.

{_markdown(own, ERRORS, 2)}

The Rocky Mountains have only {windows} windows, all in one strip: their score is an example, not evidence. The
validation part is gentler terrain, and the checkpoint was chosen on it; it is listed because a mean over one kind of
terrain hides the others. Without the mosaic, single tiles have an MAE of {single}.
At the edges of tiles, the error of the gradient is {seams} times that elsewhere.

The same recipe, trained on one scene and scored on the whole of the other, with and without caution (relief is lowered
where the image lies outside the training distribution):

{_markdown(left_out, {"trained": "trained", "caution": "caution"} | ERRORS, 2)}

The target was a ratio of 0.75: {reached} of these {len(left_out)} rows reach it, and {better} are below 1, which is
better than predicting no relief.

## Interval

Share of held-out pixels within the 90 % prediction interval, by slope:

{_markdown(covered, coverage, 3)}

The interval is that of heights about their surroundings, one tile wide. It was calibrated on Zion alone, and is too
narrow on a scene outside the training distribution.

## Limits

- The training data are two scenes of the western United States in summer, with almost no cloud, snow or city.
  Everything else is out of domain.
- The network expects the sun in the south-east; `predict` mirrors tiles to bring it there (see `sun=`).
- The network suits rugged terrain; for gentle terrain, see the validation row above before you use it.
- It predicts relief, not elevation, unless there are anchors; over many tiles relief drifts.
- Zion's elevation has a ground sampling distance of 90 m, so the network learned nothing finer.
- Do not use the result for flood, avalanche or any other safety assessment.
"""
    with replacing(path.with_name("README.md")) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _markdown(rows: pd.DataFrame, columns: dict[str, str], digits: int) -> str:
    return rows[list(columns)].rename(columns=columns).round(digits).to_markdown(index=False)


# Training


def make_shipped(path: Path, folder: Path) -> list[dict]:
    """Train on both scenes, write the weights with their scores, and return these."""
    parts = {name: divide(open_scene(name), test=0.38) for name in SCENES}
    save = _trained(path.stem, parts, "python tools/weights.py")
    interval = _calibrate(path, save, parts["zion"][1], folder)
    rows = [row for name in parts for row in scores(path, name, parts[name][2], folder, path.stem)]
    rows += scores(path, "zion", parts["zion"][1], folder, path.stem, part="validation")
    limits = (
        "two scenes of the western United States, both with the sun in the south-east and little cloud; relief about "
        "the mean of its surroundings, not height; see data/weights/README.md"
    )
    save(path, interval, {"held-out scores": [_rounded(row) for row in rows], "limits": limits})
    return rows


def leave_one_out(folder: Path) -> list[dict]:
    """Train on each scene alone, and return the scores on the whole of the other, with and without caution."""
    rows = []
    for left_out in SCENES:
        path = folder / f"without-{left_out}.safetensors"
        parts = {name: divide(open_scene(name), test=0.02) for name in SCENES if name != left_out}
        save = _trained(path.stem, parts, "python tools/weights.py --leave-one-out")
        if "zion" in parts:
            _calibrate(path, save, parts["zion"][1], folder)
        else:  # the Rocky Mountains' validation part is narrower than a tile
            save(path, Interval(0.0, 1.0), {})
        for caution in (True, False):
            rows += scores(path, left_out, open_scene(left_out), folder, f"without {left_out}", caution)
    return rows


def _trained(name: str, parts: dict[str, tuple[xr.Dataset, ...]], command: str) -> Save:
    """Train on the first part of each scene, choose the checkpoint on the second.

    Returns:
        A function that writes the weights.
    """
    training = _join([views(parts[scene][0], SCENES[scene][1], TILE, *SCENES[scene][0], seed=1) for scene in parts])
    validation = _join([
        views(parts[scene][1], 40, TILE, gsd, gsd, seed=2, plain=True) for scene in parts for gsd in SCENES[scene][2]
    ])
    plain = _join([views(parts[scene][0], 300, TILE, *SCENES[scene][0], seed=3, plain=True) for scene in parts])
    highest = float(training.dem.max())
    run = train(RECIPE, data=Data(training, validation, validation, Normalization("shift", 0.0, highest, highest)))
    domain = Domain.fit(plain.rgb)
    card = {
        "name": name, "data": "; ".join(DATA[scene] for scene in parts), "seed": RECIPE.seed, "command": command,
        "code": digest(), "best validation MAE, units": round(float(run.log.validation_mae.min()), 2),
    }

    def save(path: Path, interval: Interval, more: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(path, run.model(), gsd=GSD, hurst=HURST, domain=domain, interval=interval, card=card | more)

    return save


def _calibrate(path: Path, save: Save, region: xr.Dataset, folder: Path) -> Interval:
    """Calibrate the interval on a region of Zion, and write the weights with it."""
    save(path, Interval(0.0, 1.0), {})  # with which the interval band is the spread itself
    error, spread, _ = compare(path, "zion", region, folder)
    interval = Interval.calibrate(about_surroundings(error).ravel(), spread.ravel())
    save(path, interval, {})
    return interval


def _join(parts: list[Tiles]) -> Tiles:
    return replace(
        parts[0], rgb=np.concatenate([part.rgb for part in parts]), dem=np.concatenate([part.dem for part in parts]),
        ids=sum((part.ids for part in parts), ()), corners=np.concatenate([part.corners for part in parts]),
    )


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}


# Scores


def compare(
    weights: Path, name: str, region: xr.Dataset, folder: Path, caution: bool = True, overlap: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predict a region and compare: prediction minus truth, half the interval, and the truth, NaN where unknown.

    All three are on the grid of the prediction. The Rocky Mountains' eastern part is narrower than a tile, so their
    whole image is predicted and the part compared: the network sees the images of the other parts, but was not trained
    on any elevation of this part.
    """
    scene = open_scene(name) if name == "rocky-mountain" else region
    image, out = folder / "image.tif", folder / "dem.tif"
    scene.rgb.rio.to_raster(image)
    made = predict(
        image, out, weights, interval=folder / "interval.tif", overwrite=True, caution=caution, overlap=overlap,
        progress=False, nodata=None,
    )
    dem, interval = (rioxarray.open_rasterio(path, masked=True).squeeze() for path in (made.path, made.interval))
    truth = region.dem.rio.write_nodata(np.nan).rio.reproject_match(dem, resampling=1, nodata=np.nan).values
    error = dem.values - truth
    return error, interval.values, np.where(np.isfinite(error), truth, np.nan)


def about_surroundings(error: np.ndarray) -> np.ndarray:
    """Errors minus their mean over a window as wide as a tile: the errors of relief, whatever the level."""
    known = np.isfinite(error)
    share = uniform_filter(known.astype(np.float64), TILE, mode="constant")
    mean = uniform_filter(np.where(known, error, 0.0), TILE, mode="constant") / np.where(known, share, 1.0)
    return np.where(known, error - mean, np.nan)


def seam_ratio(error: np.ndarray, stride: int) -> float:
    """Error of the gradient across the edges of tiles over that elsewhere, in both directions; 1 means no seams."""
    at_edges, elsewhere = [], []
    for image in (error, error.T):
        steps = np.abs(np.diff(image, axis=1))
        is_edge = np.zeros(steps.shape[1], bool)
        for start in starts(image.shape[1], TILE, stride) if image.shape[1] >= TILE else []:
            is_edge[[edge for edge in (start - 1, start + TILE - 1) if 0 <= edge < len(is_edge)]] = True
        for values, chosen in ((at_edges, is_edge), (elsewhere, ~is_edge)):
            values.append(steps[:, chosen][np.isfinite(steps[:, chosen])])
    if not sum(map(len, at_edges)):
        return np.nan
    return float(np.concatenate(at_edges).mean() / np.concatenate(elsewhere).mean())


def scores(
    weights: Path, name: str, region: xr.Dataset, folder: Path, trained: str, caution: bool = True,
    part: str = "held out",
) -> list[dict]:
    """One row: relief errors of the mosaic, of single tiles and of baselines, and the interval's coverage by slope."""
    whole, interval, truth = compare(weights, name, region, folder, caution)
    box = _bounding_box(np.isfinite(truth))
    error, interval, truth = whole[box], interval[box], truth[box]
    side = TILE if min(truth.shape) >= TILE else TILE // 2
    loaded = load_weights(weights)
    gsd = float(np.mean(ground_sampling_distance(region))) if name == "zion" else float(loaded.gsd[1])
    squares = _squares(error, side)
    tiles = _stack([np.where(np.isfinite(error[square]), truth[square], np.nan) for square in squares]).float()
    row = {
        "trained": trained, "scene": name, "part": part, "caution": caution, "tiles": len(squares), "side": side,
        "MAE": relief_error(tiles + _stack([error[square] for square in squares]), tiles),
        "tile mean": relief_error(baselines.mean(None, tiles), tiles),
        "plane": relief_error(baselines.plane(None, tiles), tiles),
        "1 km": relief_error(baselines.coarse(1000.0, (gsd, gsd))(None, tiles), tiles),
    }
    row["ratio"] = row["MAE"] / row["tile mean"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tiles that do not overlap have no common level, as intended
        single = compare(weights, name, region, folder, caution, overlap=0.0)[0]
    row["MAE of single tiles"] = relief_error(tiles + _stack([single[box][square] for square in squares]), tiles)
    row["seams"], row["seams of single tiles"] = seam_ratio(whole, TILE // 2), seam_ratio(single, TILE)
    calibrated = loaded.interval.base != 0
    return [row | (_coverage(about_surroundings(error), interval, truth, gsd) if calibrated else {})]


def relief_error(prediction: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean absolute error of tiles (N, T, T) about the mean error of each tile, meters."""
    error = prediction - truth
    return float((error - error.nanmean((1, 2), keepdim=True)).abs().nanmean())


def _coverage(error: np.ndarray, interval: np.ndarray, truth: np.ndarray, gsd: float) -> dict[str, float]:
    """Share of pixels within the interval, overall and by slope, and the median of its half width in meters."""
    inside, known = np.abs(error) <= interval, np.isfinite(error)
    columns = {"coverage": float(inside[known].mean()), "half-width": float(np.median(interval[known]))}
    slope = terrain.slope(torch.from_numpy(truth)[None].float(), (gsd, gsd))[0].numpy()
    for column, (low, high) in SLOPES.items():
        chosen = known & (slope >= low) & (slope < high)
        columns[column] = float(inside[chosen].mean()) if chosen.sum() > 100 else np.nan
    return columns


def _bounding_box(known: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _squares(error: np.ndarray, side: int) -> list[tuple[slice, slice]]:
    """Squares of ``side`` px that do not overlap and are known to more than 90 %."""
    corners = [
        (top, left) for top in range(0, error.shape[0] - side + 1, side)
        for left in range(0, error.shape[1] - side + 1, side)
    ]
    squares = [(slice(top, top + side), slice(left, left + side)) for top, left in corners]
    return [square for square in squares if np.isfinite(error[square]).mean() > 0.9]


def _stack(arrays: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays))


if __name__ == "__main__":
    main()
