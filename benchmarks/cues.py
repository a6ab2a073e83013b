"""Which cues in an image a network uses: held-out tiles are altered on purpose, and its predictions compared with the
truth and with those for the unaltered tiles. The table of chapter 11.

    python benchmarks/cues.py data/results/zion-cues.csv

The network is the U-Net with Shift of studies/zion.toml, with three seeds. It is trained without flips, so that its sun
always stands in one direction.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from sat2dem_core.config import preset
from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.evaluation.drainage import channels
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.study.runner import provenance
from sat2dem_core.terrain import hillshade
from sat2dem_core.training.checkpoints import Model
from sat2dem_core.training.trainer import train

SEEDS = (0, 1, 2)
FINE = 500.0  # meters: Gaussian that is subtracted from relief to leave fine form
BLUR = 300.0  # meters: Gaussian that separates broad color from detail in an image
PATCH = 16  # px
ALTITUDE = 45.0  # of the sun, degrees
SETTINGS = dict(steps=500, validate_every=2, normalization="shift", method="unet", attention="none", gradient="none")


def blur(array: np.ndarray, meters: float, gsd: tuple[float, float]) -> np.ndarray:
    """(..., H, W) filtered by a Gaussian of that standard deviation."""
    return gaussian_filter(array, (*[0] * (array.ndim - 2), meters / gsd[0], meters / gsd[1]), mode="nearest")


def fine(array: np.ndarray, gsd: tuple[float, float]) -> np.ndarray:
    return array - blur(array, FINE, gsd)


def to_bytes(image: np.ndarray) -> np.ndarray:
    return image.clip(0, 255).round().astype(np.uint8)


def relief(model: Model, rgb: np.ndarray) -> np.ndarray:
    """The prediction minus each tile's mean: (N, 3, H, W) uint8 to (N, H, W) meters."""
    height = model.normalization.height_above_minimum(model.predict(np.ascontiguousarray(rgb))).numpy()
    return height - height.mean((1, 2), keepdims=True)


def true_relief(tiles: Tiles) -> np.ndarray:
    """(N, H, W) meters."""
    return tiles.dem - tiles.dem.mean((1, 2), keepdims=True)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def shading(tiles: Tiles, azimuth: float) -> np.ndarray:
    """Hillshade of the true elevation, (N, H, W), under a sun at that azimuth."""
    return np.stack([hillshade(dem, tiles.gsd, sun=(azimuth, ALTITUDE)) for dem in tiles.dem])


def sun_and_sky(tiles: Tiles) -> tuple[float, float]:
    """The azimuth whose hillshade fits the images' brightness best, in degrees, and the diffuse light, on the scale of
    the hillshade: the C of Teillet et al. (1982), doi 10.1080/07038992.1982.10855028."""
    tiles = tiles.take(list(range(0, len(tiles), 8)))  # training tiles overlap: some of them cover the whole area
    brightness = tiles.rgb.mean(1)
    detail = fine(brightness, tiles.gsd)
    azimuth = max(range(0, 360, 5), key=lambda angle: correlation(detail, fine(shading(tiles, angle), tiles.gsd)))
    shade = shading(tiles, azimuth)
    slope = np.polyfit(fine(shade, tiles.gsd).ravel(), detail.ravel(), 1)[0]
    return float(azimuth), float(brightness.mean() / slope - shade.mean())


def interventions(tiles: Tiles, sun: float, sky: float) -> Iterator[tuple[str, np.ndarray]]:
    """Altered images, with their names; places keep their position."""
    image = tiles.rgb.astype(float)
    yield "untouched", tiles.rgb
    shade = shading(tiles, sun)[:, None] + sky
    for turn in range(30, 360, 30):
        yield f"sun turned by {turn}°", to_bytes(image * (shading(tiles, (sun + turn) % 360)[:, None] + sky) / shade)
    yield "shading divided out", to_bytes(image * shade.mean() / shade)
    gray = image.mean(1, keepdims=True)
    yield "gray", to_bytes(gray * image.mean((0, 2, 3), keepdims=True) / gray.mean())
    yield "red and blue exchanged", tiles.rgb[:, ::-1]
    broad = blur(image, BLUR, tiles.gsd)
    yield "broad color alone", to_bytes(broad)
    yield "detail alone", to_bytes(image - broad + image.mean((0, 2, 3), keepdims=True))


def scores(prediction: np.ndarray, untouched: np.ndarray, tiles: Tiles) -> dict[str, float]:
    """A prediction of relief compared with the truth and with the prediction for untouched images."""
    truth, fine_prediction = true_relief(tiles), fine(prediction, tiles.gsd)
    return {
        "MAE": np.abs(prediction - truth).mean(), "moved": np.abs(prediction - untouched).mean(),
        "r": correlation(prediction, truth), "fine r": correlation(fine_prediction, fine(truth, tiles.gsd)),
        "fine r untouched": correlation(fine_prediction, fine(untouched, tiles.gsd)),
    }


def probe(model: Model, tiles: Tiles, sun: float, sky: float) -> Iterator[dict]:
    """A row for each intervention."""
    untouched = relief(model, tiles.rgb)
    for name, rgb in interventions(tiles, sun, sky):
        yield {"change": name} | scores(relief(model, rgb), untouched, tiles)
    for quarters in (1, 2, 3):
        prediction = relief(model, np.rot90(tiles.rgb, quarters, (2, 3)))
        rotated_back = np.rot90(prediction, -quarters, (1, 2))
        yield {"change": f"rotated by {90 * quarters}°"} | scores(rotated_back, untouched, tiles)
    for axis, name in ((-1, "left-right"), (-2, "up-down")):
        prediction = relief(model, np.flip(tiles.rgb, axis))
        yield {"change": f"mirrored {name}"} | scores(np.flip(prediction, axis), untouched, tiles)
    yield from occluded(model, tiles, untouched)


def occluded(model: Model, tiles: Tiles, untouched: np.ndarray) -> Iterator[dict]:
    """A row for each kind of place: how predictions change when a patch there gets the tile's mean color.

    Each kind is the fifth of all patches that has most of a property, so a patch may be of several kinds.
    """
    truth = true_relief(tiles)
    before = np.abs(untouched - truth).mean((1, 2))
    properties = patch_properties(tiles, truth)
    moved, worse = [], []
    values = {kind: [] for kind in properties}
    for place in patches(tiles.size):
        prediction = relief(model, covered(tiles.rgb, place))
        moved.append(np.abs(prediction - untouched).mean((1, 2)))
        worse.append(np.abs(prediction - truth).mean((1, 2)) - before)
        for kind, measure in properties.items():
            values[kind].append(measure(place))
    moved, worse = np.concatenate(moved), np.concatenate(worse)
    yield {"change": "patch occluded: anywhere", "MAE": before.mean() + worse.mean(), "moved": moved.mean()}
    for kind, parts in values.items():
        amount = np.concatenate(parts)
        most = amount >= np.quantile(amount, 0.8)
        change = f"patch occluded: {kind}"
        yield {"change": change, "MAE": before.mean() + worse[most].mean(), "moved": moved[most].mean()}


def patches(size: int) -> Iterator[tuple[slice, slice, slice]]:
    """The places of all patches, as indices into (N, H, W)."""
    for row in range(0, size, PATCH):
        for column in range(0, size, PATCH):
            yield slice(None), slice(row, row + PATCH), slice(column, column + PATCH)


def covered(rgb: np.ndarray, place: tuple[slice, slice, slice]) -> np.ndarray:
    """The images with a patch in each tile's mean color."""
    rgb = rgb.copy()
    rgb[:, :, *place[1:]] = rgb.mean((2, 3), keepdims=True).round().astype(np.uint8)
    return rgb


def patch_properties(tiles: Tiles, truth: np.ndarray) -> dict:
    """For each kind of place, the function that measures it on a patch of every tile, (N,)."""
    image = tiles.rgb.astype(float)
    green = (image[:, 1] - image[:, 0]) / (image[:, 1] + image[:, 0] + 1)
    edges = np.hypot(*np.gradient(blur(green, 60, tiles.gsd), axis=(1, 2)))  # smoothed over two pixels
    form, detail = fine(truth, tiles.gsd), fine(image.mean(1), tiles.gsd)
    water = np.stack([channels(dem, tiles.gsd) for dem in tiles.dem])
    return {
        "ridges": lambda place: form[place].mean((1, 2)),
        "channels": lambda place: water[place].mean((1, 2)),
        "edges of vegetation": lambda place: edges[place].mean((1, 2)),
        "strong contrast": lambda place: detail[place].std((1, 2)),
        "little contrast": lambda place: -detail[place].std((1, 2)),
    }


def rows_of(seed: int) -> list[dict]:
    """All rows of one training."""
    run = train(preset("zion", seed=seed, **SETTINGS))
    sun, sky = sun_and_sky(run.data.train)
    origin = {"seed": seed, "sun": sun, "sky": round(sky, 3)}
    return [origin | row for row in probe(run.model(), run.data.test, sun, sky)]


if __name__ == "__main__":
    rows = [row for seed in SEEDS for row in rows_of(seed)]
    table = pd.DataFrame(rows).astype({"MAE": float, "moved": float}).round(4).assign(**provenance())
    means = table.groupby("change", sort=False)[["MAE", "moved", "r", "fine r", "fine r untouched"]].mean()
    print(means.round(2).to_string())
    with replacing(Path(sys.argv[1])) as temporary:
        table.to_csv(temporary, index=False)
