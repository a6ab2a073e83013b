"""A grid of settings run, one row a run, in a table that chapters draw from.

A study is a TOML file: a ``preset``, and ``[[grid]]`` tables in which every setting that is a list is an axis. One
that looks for good settings has ``part = "validation"``, so that it never sees the held-out tiles; ``drainage = true``
compares channels, too (:mod:`sat2dem_core.evaluation.drainage`). Runs that the table
already has are not made again, so a study that was interrupted goes on where it stopped, and a launcher (``torchrun``,
``srun`` with RANK and WORLD_SIZE) lets many processes on one file system make a share of the runs each.
"""

import hashlib
import itertools
import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from scipy.spatial import KDTree
from tqdm import tqdm

from sat2dem_core.config import Config, preset
from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.digest import digest
from sat2dem_core.errors import InvalidConfig, choose
from sat2dem_core.evaluation.scoring import Evaluation, evaluate
from sat2dem_core.models.device import processor
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.training.checkpoints import Run
from sat2dem_core.training.trainer import train

SCORING = ("scoring", "measures", "baselines", "terrain", "drainage", "runner")  # the modules that decide how a run is scored


def read_study(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The runs of a study file: for each the settings that it changes, ``preset`` among them.

    Raises:
        InvalidConfig: the file cannot be read, or holds a key that is none of ``preset``, ``part``, ``drainage`` and
            ``grid``.
        UnknownName: no such preset, setting or part.
    """
    return _runs(_read(path))


def _runs(content: dict[str, Any]) -> list[dict[str, Any]]:
    runs = []
    for grid in content["grid"]:
        axes = [value if isinstance(value, list) else [value] for value in grid.values()]
        runs += [{"preset": content.get("preset", "cpu")} | dict(zip(grid, point)) for point in itertools.product(*axes)]
    for run in runs:
        settings(run)
    return runs


def _read(path: str | os.PathLike) -> dict[str, Any]:
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InvalidConfig(f"{path} cannot be read as a study ({error}): give a TOML file") from error
    unknown = content.keys() - {"preset", "part", "drainage", "grid"}
    if unknown or "grid" not in content:
        held = ", ".join(sorted(unknown)) or "no grid"
        raise InvalidConfig(f"{path} holds {held}: give preset, part, drainage and [[grid]] tables")
    choose("part", content.setdefault("part", "test"), ("validation", "test"))
    if not isinstance(content.setdefault("drainage", False), bool):
        raise InvalidConfig(f"{path}: drainage is {content['drainage']!r}: give true or false")
    return content


def settings(run: dict[str, Any]) -> Config:
    """The config of one of a study's runs."""
    return preset(run["preset"], **{key: value for key, value in run.items() if key != "preset"})


def run_study(path: str | os.PathLike, table: str | os.PathLike) -> pd.DataFrame:
    """Make every run of a study, or this process's share of them, and write its tables, anew after each run.

    Args:
        path: the study's TOML file.
        table: CSV to write: a row a run with its settings, its scores on the held-out tiles (or the study's ``part``) by
            question and measure, the baselines' MAE, the seconds it trained, and commit, code and machine. Beside it,
            ``<table>-tiles.csv`` has the errors of each tile, for :mod:`sat2dem_core.evaluation.bootstrap`.

    Returns:
        The table; of several processes, as far as it has come.
    """
    table, content = Path(table), _read(path)
    runs, part = _runs(content), content["part"]
    names = {_name(run, part): run for run in runs}
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    known, origin = read_table(table), provenance()
    done = set(known.run[(known.code == origin["code"]) & (known.scoring == origin["scoring"])]) if len(known) else set()
    for name, run in tqdm(list(names.items())[rank::processes], unit="run"):
        if name in done:
            continue
        with _alone():
            made = train(settings(run), progress=False)
        tiles = getattr(made.data, part)
        found = evaluate(made.model(), tiles, made.data.train, drainage=content["drainage"])
        scores = _scores(found, made.model().config.method) | {f"{part} tiles": len(tiles), "seconds": round(made.seconds, 1)}
        row = {"run": name} | run | scores | provenance(made)
        with FileLock(f"{table}.lock"):  # others write their rows, too
            _write(table, names, pd.DataFrame([row]))
            _write(_beside(table), names, _tile_rows(name, found, tiles, made.data.train))
    return read_table(table)


@contextmanager
def _alone() -> Iterator[None]:
    """A launcher's processes share the study, not each run."""
    world = os.environ.pop("WORLD_SIZE", "1")
    try:
        yield
    finally:
        os.environ["WORLD_SIZE"] = world


def tile_errors(table: str | os.PathLike) -> pd.DataFrame:
    """What a study's table has by tile: ``run``, ``tile``, its ``row`` and ``column``, its ``pixels``, ``distance`` to the
    center of the closest training tile (meters), and the MAE of model and baselines for each question."""
    return pd.read_csv(_beside(Path(table)), dtype={"run": str})


def _beside(table: Path) -> Path:
    return table.with_name(f"{table.stem}-tiles{table.suffix}")


def _name(run: dict[str, Any], part: str) -> str:
    return hashlib.sha256(json.dumps([run, part], sort_keys=True).encode()).hexdigest()[:10]


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """A study's table as far as it has come; empty where there is none."""
    path = Path(path)
    return pd.read_csv(path, dtype={"run": str}) if path.exists() else pd.DataFrame()


def _write(path: Path, names: dict[str, Any], new: pd.DataFrame) -> None:
    """Put rows in place of those of the same run, in the study's order."""
    old = read_table(path)
    if len(old) and ("run" not in old or set(old.run) - names.keys()):
        raise InvalidConfig(f"{path} holds runs that are none of this study: choose another table, or remove it")
    kept = old[old.run != new.run.iloc[0]] if len(old) else old
    order = {name: number for number, name in enumerate(names)}
    rows = pd.concat([kept, new], ignore_index=True).sort_values("run", key=lambda run: run.map(order), kind="stable")
    with replacing(path) as beside:
        rows.to_csv(beside, index=False)


def _scores(found: Evaluation, method: str) -> dict[str, float | None]:
    """The model's measures by question, the baselines' MAE, and the model's error of relief by slope of the ground."""
    scores: dict[str, float | None] = {}
    for (question, predictor), row in found.table.rename(index=lambda name: name.removeprefix(f"{method}, ")).iterrows():
        known = row.dropna() if predictor == method else row[["MAE"]]
        scores |= {f"{question} {measure}" if predictor == method else f"{predictor}: {question} {measure}": round(float(value), 4)
                   for measure, value in known.items()}
    by_slope = found.classes.query("question == 'relief' and predictor == @method and by == 'slope'").MAE
    return scores | {f"relief MAE, slope {key[-1]} %": round(float(value), 2) for key, value in by_slope.items()}


def _tile_rows(name: str, found: Evaluation, tiles: Tiles, train: Tiles) -> pd.DataFrame:
    method = found.table.index[0][1]
    distance = KDTree(train.corners * np.array(tiles.gsd)).query(tiles.corners * np.array(tiles.gsd))[0]
    columns = {
        f"{predictor}: {question}".removeprefix(f"{method}: "): found.tiles[f"{question}: {predictor}"].round(2).values
        for question, predictor in found.table.index if predictor in (method, "constant")
    }
    columns |= {f"{predictor}: relief": found.tiles[f"relief: {predictor}"].round(2).values for predictor in ("tile mean", "coarse 1 km")}
    return pd.DataFrame({
        "run": name, "tile": found.tiles.index, "row": tiles.corners[:, 0], "column": tiles.corners[:, 1],
        "pixels": found.tiles.pixels.values, "distance": distance.round(), **columns,
    })


def provenance(run: Run | None = None) -> dict[str, str]:
    """What a number must carry to be trusted: commit, checksums of the code that trained and that scored, and machine.

    Args:
        run: whose machine; this one's when not given.
    """
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    environment = {"device": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if run:
        environment = json.loads((run.folder / "environment.json").read_text())
    machine = f"{environment['device']}, {environment['threads']} threads, torch {environment['torch']}"
    return {"commit": commit, "code": digest(), "scoring": digest(SCORING), "machine": machine}
