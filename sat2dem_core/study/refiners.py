"""Refiners that have seen none of a fold's regions: how the benchmark's fourth question is put to a network."""

from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256

import numpy as np

from sat2dem_core.dataset.registry import Site, read_registry
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.evaluation.refinement import BORDER, FAIR, Question
from sat2dem_core.evaluation.shading import is_visible
from sat2dem_core.models.refiner import Refiner
from sat2dem_core.paths import cache_folder
from sat2dem_core.prediction.gain import measure_gain
from sat2dem_core.rasters.coarse import CellSpline, detail, fill_voids
from sat2dem_core.rasters.grids import ground_sampling_distance
from sat2dem_core.rasters.sun import fit_shading
from sat2dem_core.training.lessons import MORNING, Lessons, Source
from sat2dem_core.training.refining import Recipe, train_refiner

RECIPE = Recipe()
FACTORS = (1, 2, 3)  # times the pixels of a scene: a network that saw them all does not depend on the pixel's size


def sources(sites: Iterable[Site], size: int, factors: Iterable[int] = FACTORS) -> list[Source]:
    """Scenes to train on, and their means over squares of pixels, as far as they hold a window of ``size`` px."""
    found = []
    for site in sites:
        scene = open_scene(site.name)
        image, truth = scene.rgb.values, scene.dem.values.astype(np.float32)
        gsd, sun = ground_sampling_distance(scene), scene.attrs.get("sun_azimuth")
        for factor in factors:
            if min(truth.shape) // factor >= size:
                found.append(Source(
                    _averaged(image, factor), _averaged(truth[None], factor)[0], (gsd[0] * factor, gsd[1] * factor),
                    None if sun is None else float(sun), FAIR * site.dem_pixel / (site.pixel * factor),
                    f"{site.name} x {factor}",
                ))
    return found


def _averaged(bands: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of pixels (B, H, W), 0 in all bands (of an image) and NaN where one of them is nodata."""
    if factor == 1:
        return bands
    height, width = (side // factor * factor for side in bands.shape[1:])
    squares = bands[:, :height, :width].reshape(len(bands), height // factor, factor, width // factor, factor)
    means = squares.mean((2, 4), dtype=np.float32)
    if bands.dtype.kind == "f":
        return means
    known = (squares.max(0) > 0).all((1, 3))
    return np.where(known, np.maximum(means, 1e-3), 0)


def trained_on(fold: int) -> list[Site]:
    """All scenes at hand of other folds' regions."""
    sites = read_registry().values()
    return [site for site in sites if site.fold != fold and (site.kind != "development" or site.here)]


@lru_cache(maxsize=8)
def network_without(fold: int, recipe: Recipe = RECIPE, progress: bool = True) -> Refiner:
    """A refiner trained on the regions of all other folds, in a run in the cache: trained once, resumed if need be."""
    lessons = Lessons(sources(trained_on(fold), recipe.size), recipe.size, recipe.seed)
    names = [source.name for source in lessons.sources]
    key = sha256(repr((asdict(recipe), names)).encode()).hexdigest()[:12]
    return train_refiner(lessons, recipe, cache_folder() / "runs" / f"refiner-{fold}-{key}", progress=progress)


def refined(question: Question, network: Refiner) -> tuple[np.ndarray, np.ndarray]:
    """What a refiner makes of a question, and its unit of height, (H, W) meters each.

    Where the sun is unknown, it is estimated, or a morning's.
    """
    azimuth = question.azimuth
    if azimuth is None:
        shading = fit_shading(question.image, question.spline, question.gsd, question.k)
        count = int((~np.isnan(question.cells)).sum())
        azimuth = shading.azimuth if is_visible(shading, count) else MORNING
    gsd = float(np.mean(question.gsd))
    added, unit = network.relief(question.image, question.spline, question.k, gsd, azimuth)

    def read(row: int, column: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = question.image[:, row : row + height, column : column + width]
        return pixels.astype(np.float32), pixels.max(0) > 0

    cells = fill_voids(question.cells)
    gain = measure_gain(network, read, cells, question.k, question.truth.shape, gsd, azimuth)
    trust = CellSpline(gain, question.k, question.truth.shape, rounds=0).surface(0, question.truth.shape[0]).clip(0)
    return question.spline + detail(trust * added.astype(np.float64), question.grid), unit


def network_on_all(recipe: Recipe = RECIPE, progress: bool = True) -> Refiner:
    """A refiner trained on all scenes at hand: what ships."""
    return network_without(0, recipe, progress)  # there is no fold 0


def errors_by_slope(question: Question, refined: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Absolute errors in units of height, and the coarse DEM's slope there (rise over run), of known pixels, (N,) each.

    Args:
        refined: (H, W) meters.
        unit: of height, (H, W) meters; see :func:`sat2dem_core.models.refiner.look`.
    """
    inner = (slice(BORDER, -BORDER),) * 2
    error = (np.abs(refined - question.truth) / unit)[inner]
    slope = (unit / (question.k * float(np.mean(question.gsd))))[inner]
    known = np.isfinite(error)
    return error[known].astype(np.float32), slope[known].astype(np.float32)
