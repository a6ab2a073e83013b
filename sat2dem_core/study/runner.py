"""A grid of settings trained and scored, one row for each run, in a table that chapters draw from.

A study is a TOML file: a ``preset``, and ``[[grid]]`` tables in which every setting that is a list is an axis. A study
that searches for good settings has ``part = "validation"``, so that it never sees the held-out tiles;
``drainage = true`` compares channels, too (:mod:`sat2dem_core.evaluation.drainage`). With ``fold`` among the settings a
run trains on many scenes and is scored on those of the regions that it left out (:mod:`sat2dem_core.study.regions`).

A study that was interrupted goes on where it stopped: runs whose rows are in the table are not made again, unless other
code made them. Several processes of a launcher (``torchrun``, or ``srun`` with RANK and WORLD_SIZE) on one file system
each make a share of the runs.
"""

import hashlib
import itertools
import json
import os
import subprocess
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from sat2dem_core.config import Config, preset
from sat2dem_core.dataset.grid import PIXELS
from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.digest import digest
from sat2dem_core.errors import InvalidConfig, NoTiles, choose
from sat2dem_core.evaluation.scoring import Fitted, evaluate, fit_baselines
from sat2dem_core.models.device import processor
from sat2dem_core.paths import repository
from sat2dem_core.rasters.atomic import locked, replacing
from sat2dem_core.study.regions import check_fold, leave_out, scored_tiles
from sat2dem_core.study.rows import score_columns, tile_rows
from sat2dem_core.training.checkpoints import Run
from sat2dem_core.training.trainer import train

# The modules that decide the scores of a trained run: how it predicts tiles, how they are measured, and what is kept.
SCORING = ("checkpoints", "scoring", "measures", "baselines", "terrain", "drainage", "rows")


def read_study(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The runs of a study file: for each, the settings that it changes, and its ``preset``.

    Raises:
        InvalidConfig: the file cannot be read, or has a key other than ``preset``, ``part``, ``drainage`` and ``grid``.
        UnknownName: no such preset, setting or part.
    """
    return _runs(_read(path))


def _read(path: str | os.PathLike) -> dict[str, Any]:
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # of the file, its text or its syntax
        raise InvalidConfig(f"{path} cannot be read as a study ({error}): give a TOML file") from error
    unknown = content.keys() - {"preset", "part", "drainage", "grid"}
    if unknown or "grid" not in content:
        fault = ", ".join(sorted(unknown)) or "no grid"
        raise InvalidConfig(f"{path} has {fault}: give preset, part, drainage and [[grid]] tables")
    choose("part", content.setdefault("part", "test"), ("validation", "test"))
    if not isinstance(content.setdefault("drainage", False), bool):
        raise InvalidConfig(f"{path}: drainage is {content['drainage']!r}: give true or false")
    return content


def _runs(content: dict[str, Any]) -> list[dict[str, Any]]:
    runs = []
    for grid in content["grid"]:
        axes = [value if isinstance(value, list) else [value] for value in grid.values()]
        points = itertools.product(*axes)
        runs += [{"preset": content.get("preset", "cpu")} | dict(zip(grid, point)) for point in points]
    for run in runs:
        settings(run)  # raises before any run starts
    return runs


def _on_store(run: dict[str, Any], store: str | os.PathLike) -> dict[str, Any]:
    """A run of a fold as a run on a store."""
    kept = {key: value for key, value in run.items() if key not in ("fold", "tile", "stride")}
    return kept | {
        "scene": os.fspath(store), "split": "blocks", "version": run.get("fold", 1), "tile": PIXELS, "stride": PIXELS
    }


def settings(run: dict[str, Any]) -> Config:
    """The config of one of a study's runs."""
    given = {key: value for key, value in run.items() if key not in ("preset", "fold")}
    if "fold" not in run:
        return preset(run["preset"], **given)
    check_fold(run["fold"])
    return preset(run["preset"], **given, scene=f"all open scenes but those of fold {run['fold']}")


def run_study(
    path: str | os.PathLike, table: str | os.PathLike, store: str | os.PathLike | None = None
) -> pd.DataFrame:
    """Make every run of a study, or this process's share of them, and write its tables after each run.

    Args:
        path: the study's TOML file.
        table: CSV to write. It has a row for each run: its settings, its scores on the held-out tiles (or the study's
            ``part``) by question and measure, the baselines' MAE, the seconds of training, commit, code and machine. A
            run of a fold has a row for each scene, with ``site``, ``region`` and ``kind``.
            ``<table>-tiles.csv`` in the same folder has the errors of each tile; see :func:`tile_errors`.
        store: a store of tiles to train and score on, in place of scenes; the number of a fold is then that of a random
            split by blocks.

    Returns:
        The table; with several processes, the rows that are finished so far.

    Raises:
        InvalidConfig, UnknownName: see :func:`read_study`.
        InvalidConfig: the table has runs of another study.
    """
    table, content = Path(table), _read(path)
    wanted = [run if store is None else _on_store(run, store) for run in _runs(content)]
    runs = {_name(run, content["part"]): run for run in wanted}
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    current, outdated = _rows_by_code(table, runs)
    if outdated and not rank:
        rows = f"{outdated} row" + "s" * (outdated > 1)
        warnings.warn(f"{table}: {rows} of other code will be made again", stacklevel=2)
    for name, run in tqdm(list(runs.items())[rank::processes], unit="run"):
        if name not in current:
            made, tiles = make_rows(run, content["part"], content["drainage"])
            with locked(table):  # other processes write their rows, too
                _write(table, runs, pd.DataFrame([{"run": name} | row for row in made]))
                _write(_tiles_path(table), runs, tiles.assign(run=name)[["run", *tiles]])
    return read_table(table)


def _rows_by_code(table: Path, runs: dict[str, Any]) -> tuple[set[str], int]:
    """The names of the runs whose rows this code made, and how many rows other code made."""
    known = read_table(table)
    _check_owner(table, known, runs)
    if not len(known):
        return set(), 0
    origin = provenance()
    current = known.run[(known.code == origin["code"]) & (known.scoring == origin["scoring"])]
    return set(current), len(known) - len(current)


def _check_owner(path: Path, rows: pd.DataFrame, runs: dict[str, Any]) -> None:
    if len(rows) and ("run" not in rows or set(rows.run) - runs.keys()):
        raise InvalidConfig(f"{path} has runs of another study: choose another table, or remove it")


def make_rows(run: dict[str, Any], part: str, drainage: bool) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Train and score a run: its row, or its rows if it has a fold, and the rows of its tiles.

    Args:
        run: one of :func:`read_study`.
        part: the tiles to score, ``validation`` or ``test``.
        drainage: compare channels, too.

    Raises:
        NoTiles: no scene of the fold is here, or holds a tile.
    """
    config = settings(run)
    if "fold" in run:
        return _rows_of_fold(run, config, part, drainage)
    with _alone():
        trained = train(config, progress=False)
    row, tiles = _scored(trained, getattr(trained.data, part), fit_baselines(trained.data.train), part, drainage)
    return [run | row], tiles


def _rows_of_fold(
    run: dict[str, Any], config: Config, part: str, drainage: bool
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """As :func:`make_rows`, for a run that leaves regions out."""
    data = leave_out(run["fold"], config.tile, config.stride, config.normalization)
    with _alone():
        trained = train(config, data=data, progress=False)
    rows, tables, fitted = [], [], fit_baselines(data.train)  # once for all scenes
    for site, tiles in scored_tiles(run["fold"], config.tile, part):
        row, table = _scored(trained, tiles, fitted, part, drainage)
        rows.append(run | {"site": site.name, "region": site.region, "kind": site.kind} | row)
        tables.append(table.drop(columns="distance").assign(site=site.name))  # no training tile is near
    if not rows:
        raise NoTiles(
            f"fold {run['fold']} has nothing to score: no scene of it that is here holds a tile of {config.tile} px"
        )
    return rows, pd.concat(tables)


def _scored(
    trained: Run, tiles: Tiles, fitted: Fitted, part: str, drainage: bool
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Scores, counts and origin, and the rows of the tiles."""
    model = trained.model()
    evaluation = evaluate(model, tiles, fitted, drainage=drainage, full=False)
    scores = score_columns(evaluation, model.config.method)
    counts = {f"{part} tiles": len(tiles), "seconds": round(trained.seconds, 1)}
    return scores | counts | provenance(trained), tile_rows(evaluation, tiles, trained.data.train)


@contextmanager
def _alone() -> Iterator[None]:
    """A launcher's processes share the study, not each run."""
    processes = os.environ.pop("WORLD_SIZE", None)
    try:
        yield
    finally:
        if processes is not None:
            os.environ["WORLD_SIZE"] = processes


def tile_errors(table: str | os.PathLike) -> pd.DataFrame:
    """A study's errors by tile: ``run`` and the columns of :func:`sat2dem_core.study.rows.tile_rows`."""
    return pd.read_csv(_tiles_path(Path(table)), dtype={"run": str})


def _tiles_path(table: Path) -> Path:
    return table.with_name(f"{table.stem}-tiles{table.suffix}")


def _name(run: dict[str, Any], part: str) -> str:
    return hashlib.sha256(json.dumps([run, part], sort_keys=True).encode()).hexdigest()[:10]


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """A study's table with the rows that are finished; empty where there is none."""
    path = Path(path)
    return pd.read_csv(path, dtype={"run": str}) if path.exists() else pd.DataFrame()


def _write(path: Path, runs: dict[str, Any], new: pd.DataFrame) -> None:
    """Replace the rows of one run, in the study's order."""
    old = read_table(path)
    _check_owner(path, old, runs)
    kept = old[old.run != new.run.iloc[0]] if len(old) else old
    order = {name: number for number, name in enumerate(runs)}
    rows = pd.concat([kept, new], ignore_index=True)
    with replacing(path) as temporary:
        rows.sort_values("run", key=lambda run: run.map(order), kind="stable").to_csv(temporary, index=False)


def provenance(run: Run | None = None) -> dict[str, str]:
    """Where a number comes from: commit, digests of the code that trains and of the code that scores, and machine.

    The commit is that of the clone that holds the package, and empty for an installed package.

    Args:
        run: the run whose machine it is; by default, this machine.
    """
    environment = {"device": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if run:
        environment = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    machine = f"{environment['device']}, {environment['threads']} threads, torch {environment['torch']}"
    return {"commit": _commit(), "code": digest(), "scoring": digest(SCORING), "machine": machine}


def _commit() -> str:
    root = repository()
    if root is None:
        return ""
    try:  # the clone's own .git alone: git would also find a repository around it, or one that a hook's GIT_DIR names
        command = ["git", "--git-dir", str(root / ".git"), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
