"""What a network goes by: held-out tiles altered on purpose, and how well its answers still follow the ground. The table of
chapter 11.

    python benchmarks/cues.py data/results/zion-cues.csv

The U-Net with Shift of studies/zion.toml, three seeds. It is trained without flips, so that its sun stands in one place.
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
FINE = 500.0  # meters: of the Gaussian that is taken from relief to leave what is fine
BLUR = 300.0  # meters: of the one that parts an image into broad color and detail
PATCH = 16  # px
ALTITUDE = 45.0  # of the sun, degrees


def blur(array: np.ndarray, meters: float, gsd: tuple[float, float]) -> np.ndarray:
    """(..., H, W) through a Gaussian of that standard deviation."""
    return gaussian_filter(array, (*[0] * (array.ndim - 2), meters / gsd[0], meters / gsd[1]), mode="nearest")


def fine(array: np.ndarray, gsd: tuple[float, float]) -> np.ndarray:
    return array - blur(array, FINE, gsd)


def to_bytes(image: np.ndarray) -> np.ndarray:
    return image.clip(0, 255).round().astype(np.uint8)


def relief(model: Model, rgb: np.ndarray) -> np.ndarray:
    """The answer minus each tile's mean: (N, 3, H, W) uint8 to (N, H, W) meters."""
    height = model.normalization.height_above_minimum(model.predict(np.ascontiguousarray(rgb))).numpy()
    return height - height.mean((1, 2), keepdims=True)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def shading(tiles: Tiles, azimuth: float) -> np.ndarray:
    """Hillshade of the truth, (N, H, W), under a sun at that azimuth."""
    return np.stack([hillshade(dem, tiles.gsd, sun=(azimuth, ALTITUDE)) for dem in tiles.dem])


def sun_and_sky(tiles: Tiles) -> tuple[float, float]:
    """The azimuth whose hillshade the images' brightness follows best, in degrees, and the light from everywhere beside
    it, on the hillshade's scale: the C of Teillet et al. (1982), doi 10.1080/07038992.1982.10855028."""
    tiles = tiles.take(list(range(0, len(tiles), 8)))  # training tiles overlap: some hold all the ground
    brightness = tiles.rgb.mean(1)
    detail = fine(brightness, tiles.gsd)
    azimuth = max(range(0, 360, 5), key=lambda angle: correlation(detail, fine(shading(tiles, angle), tiles.gsd)))
    shade = shading(tiles, azimuth)
    slope = np.polyfit(fine(shade, tiles.gsd).ravel(), detail.ravel(), 1)[0]
    return float(azimuth), float(brightness.mean() / slope - shade.mean())


def interventions(tiles: Tiles, sun: float, sky: float) -> Iterator[tuple[str, np.ndarray]]:
    """Altered images that lie as the ground does."""
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


def scores(answer: np.ndarray, untouched: np.ndarray, tiles: Tiles) -> dict[str, float]:
    truth = tiles.dem - tiles.dem.mean((1, 2), keepdims=True)
    fine_answer = fine(answer, tiles.gsd)
    return {
        "MAE": np.abs(answer - truth).mean(), "moved": np.abs(answer - untouched).mean(), "r": correlation(answer, truth),
        "fine r": correlation(fine_answer, fine(truth, tiles.gsd)), "fine r untouched": correlation(fine_answer, fine(untouched, tiles.gsd)),
    }


def probe(model: Model, tiles: Tiles, sun: float, sky: float) -> Iterator[dict]:
    """A row for each intervention."""
    untouched = relief(model, tiles.rgb)
    for name, rgb in interventions(tiles, sun, sky):
        yield {"change": name} | scores(relief(model, rgb), untouched, tiles)
    for quarters in (1, 2, 3):
        answer = relief(model, np.rot90(tiles.rgb, quarters, (2, 3)))
        yield {"change": f"rotated by {90 * quarters}°"} | scores(np.rot90(answer, -quarters, (1, 2)), untouched, tiles)
    for axis, name in ((-1, "left-right"), (-2, "up-down")):
        answer = relief(model, np.flip(tiles.rgb, axis))
        yield {"change": f"mirrored {name}"} | scores(np.flip(answer, axis), untouched, tiles)
    yield from occluded(model, tiles, untouched)


def occluded(model: Model, tiles: Tiles, untouched: np.ndarray) -> Iterator[dict]:
    """A row for each kind of place: what changes when a patch there has the tile's mean color.

    Kinds are the fifths of all patches with the most of something, so a patch may be of several.
    """
    truth = tiles.dem - tiles.dem.mean((1, 2), keepdims=True)
    mean = tiles.rgb.mean((2, 3), keepdims=True).round().astype(np.uint8)
    image = tiles.rgb.astype(float)
    green = blur((image[:, 1] - image[:, 0]) / (image[:, 1] + image[:, 0] + 1), 60, tiles.gsd)  # smoothed over two pixels
    edges = np.hypot(*np.gradient(green, axis=(1, 2)))
    form, detail = fine(truth, tiles.gsd), fine(image.mean(1), tiles.gsd)
    water = np.stack([channels(dem, tiles.gsd) for dem in tiles.dem])
    moved, worse = [], []
    kinds = {"ridges": [], "channels": [], "edges of vegetation": [], "strong contrast": [], "little contrast": []}
    before = np.abs(untouched - truth).mean((1, 2))
    for row in range(0, tiles.size, PATCH):
        for column in range(0, tiles.size, PATCH):
            place = (slice(None), slice(row, row + PATCH), slice(column, column + PATCH))
            rgb = tiles.rgb.copy()
            rgb[:, :, *place[1:]] = mean
            answer = relief(model, rgb)
            moved.append(np.abs(answer - untouched).mean((1, 2)))
            worse.append(np.abs(answer - truth).mean((1, 2)) - before)
            contrast = detail[place].std((1, 2))
            values = (form[place].mean((1, 2)), water[place].mean((1, 2)), edges[place].mean((1, 2)), contrast, -contrast)
            for kind, value in zip(kinds, values):
                kinds[kind].append(value)
    moved, worse = np.concatenate(moved), np.concatenate(worse)
    yield {"change": "patch occluded: anywhere", "MAE": before.mean() + worse.mean(), "moved": moved.mean()}
    for kind, values in kinds.items():
        values = np.concatenate(values)
        most = values >= np.quantile(values, 0.8)
        yield {"change": f"patch occluded: {kind}", "MAE": before.mean() + worse[most].mean(), "moved": moved[most].mean()}


if __name__ == "__main__":
    settings = dict(steps=500, validate_every=2, normalization="shift", method="unet", attention="none", gradient="none")
    rows = []
    for seed in SEEDS:
        run = train(preset("zion", seed=seed, **settings))
        sun, sky = sun_and_sky(run.data.train)
        rows += [{"seed": seed, "sun": sun, "sky": round(sky, 3)} | row for row in probe(run.model(), run.data.test, sun, sky)]
    table = pd.DataFrame(rows).astype({"MAE": float, "moved": float}).round(4).assign(**provenance())
    print(table.groupby("change", sort=False)[["MAE", "moved", "r", "fine r", "fine r untouched"]].mean().round(2).to_string())
    with replacing(Path(sys.argv[1])) as beside:
        table.to_csv(beside, index=False)
