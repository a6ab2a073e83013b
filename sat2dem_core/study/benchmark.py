"""The benchmark over regions: how well elevation follows from one image where no region of the training is scored.

Two tables. ``methods.csv`` has the three questions about an image alone: a study whose runs leave regions out
(:mod:`sat2dem_core.study.regions`). ``refinement.csv`` has the fourth, an image and a coarse DEM
(:mod:`sat2dem_core.evaluation.refinement`), for classical methods and for the weights that ship. Scenes that everybody
can fetch and scenes for development are told apart everywhere.
"""

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
import xarray as xr
from tqdm import tqdm

from sat2dem_core.dataset.registry import Site, read_registry
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.dataset.store import read_parts
from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.digest import digest
from sat2dem_core.errors import NoElevation, NoTiles, WrongShape
from sat2dem_core.evaluation.bootstrap import Estimate, bootstrap_mean
from sat2dem_core.evaluation.refinement import (
    CELLS, CLASSICAL, Question, Refiner, Scores, ask, ask_tile, color_regression, is_fair, score,
)
from sat2dem_core.paths import data_file
from sat2dem_core.prediction.pipeline import predict
from sat2dem_core.rasters.atomic import PATIENCE, locked, replacing
from sat2dem_core.rasters.elevation import open_elevation
from sat2dem_core.study.runner import provenance, read_table

# The modules that decide the scores of the fourth question, besides those of SCORING.
REFINEMENT = ("refinement", "coarse", "shading", "sun", "measures", "baselines", "terrain")
VISIBLE = 0.4  # correlation of brightness with the terrain's gradient from which the relief is visible
FITTED = 200  # tiles of a store that the regression on colors is fitted to
KEY = ["site", "k", "method"]


def refinement_table(
    path: str | os.PathLike, sites: Iterable[Site] | None = None, cells: Iterable[int] = CELLS, progress: bool = True
) -> pd.DataFrame:
    """Score every method on every fair question, and write the table after each scene; finished scenes are kept.

    Args:
        path: CSV to write. A row for each scene, ``k`` and ``method``: what the registry says of the scene, the
            measures of :func:`sat2dem_core.evaluation.refinement.score`, ``ratio`` of its MAE to the spline's, ``saw``
            (whether the method was trained on the scene's region), commit, code and machine.
        sites: scenes to score; by default all but development scenes that are not here.
        cells: sides of cells, px.

    Raises:
        WrongShape, NoElevation: a scene is too small for every size of cell, or has no elevation there.
        RunBusy: another process is writing the table.
    """
    path = Path(path)
    chosen = [site for site in sites or read_registry().values() if site.kind != "development" or site.here]
    code = digest(REFINEMENT)
    by_color = cache(lambda fold, k: color_regression(_others(fold, k)))  # the scenes of a fold share it
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, PATIENCE):
        done = read_table(path)
        if len(done):
            done = done[done.code == code]
        for site in tqdm(chosen, unit="scene", desc=path.name, disable=not progress):
            wanted = {k for k in cells if is_fair(k, site.pixel, site.dem_pixel)}
            missing = wanted - set(done[done.site == site.name].k) if len(done) else wanted
            if missing:
                rows = pd.DataFrame(list(_rows(site, sorted(missing), code, by_color)))
                done = pd.concat([done, rows], ignore_index=True)
                with replacing(path) as temporary:
                    done.sort_values(KEY, kind="stable").to_csv(temporary, index=False)
    return read_table(path)


def _rows(
    site: Site, cells: list[int], code: str, by_color: Callable[[int, int], Refiner]
) -> Iterator[dict[str, Any]]:
    """The rows of one scene; ``by_color`` gives the regression on colors of a fold and ``k``."""
    scene = open_scene(site.name)
    facts = {
        "site": site.name, "region": site.region, "fold": site.fold, "kind": site.kind,
        "visible": (site.shading_r or 0.0) >= VISIBLE,
    }
    faults = []
    origin = provenance() | {"code": code}
    for k in cells:
        try:
            question = ask(scene, k)
        except (WrongShape, NoElevation) as error:
            faults.append(error)
            continue
        methods: dict[str, Refiner] = CLASSICAL | {
            "color regression": by_color(site.fold, k),
            "relief, anchored": partial(anchored_relief, scene=scene),
        }
        free = score(question, question.spline)["MAE"]
        for name, refine in methods.items():
            started = time.perf_counter()
            try:
                measures = score(question, refine(question))
            except NoTiles:  # the scene is smaller than a tile of the weights
                continue
            told = {
                "k": k, "method": name, "saw": name == "relief, anchored" and site.name in ("rocky-mountain", "zion"),
                "ratio": measures["MAE"] / free, "seconds": round(time.perf_counter() - started, 2),
            }
            yield facts | told | measures | origin
    if len(faults) == len(cells):
        raise faults[0]


def store_table(
    path: str | os.PathLike, store: str | os.PathLike, cells: Iterable[int] = CELLS, most: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Score classical methods on the test tiles of a store, which are split by blocks, and write the table.

    Args:
        path: CSV to write: a row for each ``k`` and ``method``, as in :func:`refinement_table`, with ``tiles``.
        cells: sides of cells, px.
        most: tiles to score, evenly chosen; 0 for all.

    Raises:
        DamagedStore, NoTiles: see :func:`sat2dem_core.dataset.store.read_parts`.
    """
    train, _, test = read_parts(store, "blocks")
    chosen = np.linspace(0, len(test) - 1, most).round().astype(int) if 0 < most < len(test) else range(len(test))
    fitted_to = np.linspace(0, len(train) - 1, min(FITTED, len(train))).round().astype(int)
    methods = {k: CLASSICAL | {"color regression": color_regression(list(_tiles(train, fitted_to, k)))} for k in cells}
    scores = {(k, name): Scores(test.gsd) for k in cells for name in methods[k]}
    seconds = dict.fromkeys(scores, 0.0)
    for number in tqdm(chosen, unit="tile", desc=Path(path).name, disable=not progress):
        for k in cells:
            for question in _tiles(test, [number], k):
                for name, refine in methods[k].items():
                    started = time.perf_counter()
                    scores[k, name].add(question, refine(question))
                    seconds[k, name] += time.perf_counter() - started
    origin, rows = provenance() | {"code": digest(REFINEMENT)}, []
    for (k, name), found in scores.items():
        measures = found.result()
        told = {
            "site": Path(store).name, "kind": "store", "tiles": len(chosen), "k": k, "method": name,
            "ratio": measures["MAE"] / scores[k, "spline"].result()["MAE"], "seconds": round(seconds[k, name], 2),
        }
        rows.append(told | measures | origin)
    with replacing(Path(path)) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    return read_table(path)


def _tiles(tiles: Tiles, numbers: Iterable[int], k: int) -> Iterator[Question]:
    """The question about each tile that has a known cell."""
    for number in numbers:
        rgb, dem = (np.asarray(array[number]) for array in (tiles.rgb, tiles.dem))
        with suppress(NoElevation):
            yield ask_tile(rgb, dem, tiles.gsd, k, name=tiles.ids[number])


def _others(fold: int, k: int) -> list[Question]:
    """The same question about the open scenes of other folds."""
    questions = []
    for site in read_registry().values():
        if site.kind != "development" and site.fold != fold and is_fair(k, site.pixel, site.dem_pixel):
            try:
                questions.append(ask(open_scene(site.name), k))
            except (WrongShape, NoElevation):
                continue
    return questions


def anchored_relief(question: Question, scene: xr.Dataset) -> np.ndarray:
    """What ``predict --anchors`` makes of the image and the coarse DEM with the relief weights, (H, W) meters."""
    height, width = question.truth.shape
    transform = scene.rio.transform()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the domain and of cells left out: what it says to users
        folder = Path(name)
        place = {"driver": "GTiff", "crs": scene.rio.crs}
        with rasterio.open(
            folder / "image.tif", "w", **place, count=3, height=height, width=width, dtype="uint8", transform=transform,
            photometric="RGB",
        ) as file:
            file.write(question.image)
        cells = question.cells.astype(np.float32)
        with rasterio.open(
            folder / "coarse.tif", "w", **place, count=1, height=cells.shape[0], width=cells.shape[1], dtype="float32",
            nodata=np.nan, transform=transform @ transform.scale(question.k),
        ) as file:
            file.write(cells, 1)
        predict(
            folder / "image.tif", folder / "out.tif", "relief", nodata=None, sun=scene.attrs.get("sun_azimuth"),
            anchors=folder / "coarse.tif", progress=False,
        )
        heights = open_elevation(folder / "out.tif").read(0, 0, height, width).astype(np.float64)
    return np.where(np.isnan(heights), question.spline, heights)


def geometric_mean(ratios: pd.Series, regions: pd.Series) -> Estimate:
    """The geometric mean of scenes' ratios, with its 90 % interval over regions; NaN where there is one region."""
    logarithms = np.log(ratios.to_numpy(float))
    if regions.nunique() < 2:
        return Estimate(float(np.exp(logarithms.mean())), np.nan, np.nan)
    return Estimate(*np.exp(bootstrap_mean(logarithms, np.ones(len(logarithms)), list(regions))))


def default_study() -> Path:
    """The study that comes with the package, ``data/benchmark.toml``."""
    return data_file("benchmark.toml")


def summarize_refinement(table: pd.DataFrame) -> pd.DataFrame:
    """Geometric means of ratios to the spline, with intervals over regions, by method.

    Returns:
        A row for each ``kind`` (open or development), ``k``, group of scenes (all, or those with visible shading) and
        method: ``scenes``, ``regions``, ``ratio``, ``low``, ``high``, and ``worst``, the largest ratio.
    """
    rows = []
    kinds = np.where(table.kind == "development", "development", "open")
    for (kind, k), part in table.groupby([kinds, table.k]):
        for group, chosen in (("all", part), ("visible", part[part.visible])):
            for method, scores in chosen.groupby("method", sort=False):
                mean = geometric_mean(scores.ratio, scores.region)
                rows.append({
                    "kind": kind, "k": k, "scenes": group, "method": method, "number": len(scores),
                    "regions": scores.region.nunique(), "ratio": mean.value, "low": mean.low, "high": mean.high,
                    "worst": scores.ratio.max(),
                })
    return pd.DataFrame(rows)


AXES = ("normalization", "method", "attention", "gradient")  # settings that tell rows of the summary apart
QUESTIONS = {"absolute": "constant", "above minimum": "constant", "relief": "tile mean"}  # each with its free baseline


def summarize_methods(table: pd.DataFrame) -> pd.DataFrame:
    """Geometric means over scenes of each question's MAE over its free baseline's, with intervals over regions.

    Args:
        table: of a study whose runs have a fold; a scene's seeds are averaged.

    Returns:
        A row for each setting and kind of scenes, with ``number`` of scenes, and for each question ``ratio``, ``low``,
        ``high`` (and ``MAE``, the mean in meters).
    """
    if "site" not in table:  # of a store, whose splits stand for folds
        table = table.assign(site=table.scene, region=table.version, kind="open")
    axes = [axis for axis in AXES if axis in table]
    kinds = np.where(table.kind == "development", "development", "open")
    rows = []
    for point, part in table.groupby([kinds, *axes], sort=False):
        row: dict[str, Any] = dict(zip(["kind", *axes], point)) | {"number": part.site.nunique()}
        for question, baseline in QUESTIONS.items():
            columns = [f"{question} MAE", f"{baseline}: {question} MAE"]
            scores = part.groupby(["site", "region"])[columns].mean().reset_index()
            mean = geometric_mean(scores[columns[0]] / scores[columns[1]], scores.region)
            row |= {
                f"{question} MAE": scores[columns[0]].mean(), f"{question} ratio": mean.value,
                f"{question} low": mean.low, f"{question} high": mean.high,
            }
        rows.append(row)
    return pd.DataFrame(rows)
