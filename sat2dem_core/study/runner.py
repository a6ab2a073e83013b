"""A grid of settings trained and scored, one row for each run, in a table that chapters draw from.

A study is a TOML file: a ``preset``, and ``[[grid]]`` tables in which every setting that is a list is an axis. A study
that searches for good settings has ``part = "validation"``, so that it never sees the held-out tiles;
``drainage = true`` compares channels, too (:mod:`sat2dem_core.evaluation.drainage`).

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
from sat2dem_core.digest import digest
from sat2dem_core.errors import InvalidConfig, choose
from sat2dem_core.evaluation.scoring import evaluate
from sat2dem_core.models.device import processor
from sat2dem_core.paths import repository
from sat2dem_core.rasters.atomic import locked, replacing
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


def settings(run: dict[str, Any]) -> Config:
    """The config of one of a study's runs."""
    return preset(run["preset"], **{key: value for key, value in run.items() if key != "preset"})


def run_study(path: str | os.PathLike, table: str | os.PathLike) -> pd.DataFrame:
    """Make every run of a study, or this process's share of them, and write its tables after each run.

    Args:
        path: the study's TOML file.
        table: CSV to write. It has a row for each run: its settings, its scores on the held-out tiles (or the study's
            ``part``) by question and measure, the baselines' MAE, the seconds of training, commit, code and machine.
            ``<table>-tiles.csv`` in the same folder has the errors of each tile; see :func:`tile_errors`.

    Returns:
        The table; with several processes, the rows that are finished so far.

    Raises:
        InvalidConfig, UnknownName: see :func:`read_study`.
        InvalidConfig: the table has runs of another study.
    """
    table, content = Path(table), _read(path)
    runs = {_name(run, content["part"]): run for run in _runs(content)}
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    current, outdated = _rows_by_code(table, runs)
    if outdated and not rank:
        rows = f"{outdated} row" + "s" * (outdated > 1)
        warnings.warn(f"{table}: {rows} of other code will be made again", stacklevel=2)
    for name, run in tqdm(list(runs.items())[rank::processes], unit="run"):
        if name not in current:
            row, tiles = make_row(run, content["part"], content["drainage"])
            with locked(table):  # other processes write their rows, too
                _write(table, runs, pd.DataFrame([{"run": name} | row]))
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


def make_row(run: dict[str, Any], part: str, drainage: bool) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train and score a run: its row, and the rows of its tiles.

    Args:
        run: one of :func:`read_study`.
        part: the tiles to score, ``validation`` or ``test``.
        drainage: compare channels, too.
    """
    with _alone():
        trained = train(settings(run), progress=False)
    model, tiles = trained.model(), getattr(trained.data, part)
    evaluation = evaluate(model, tiles, trained.data.train, drainage=drainage)
    scores = score_columns(evaluation, model.config.method)
    counts = {f"{part} tiles": len(tiles), "seconds": round(trained.seconds, 1)}
    return run | scores | counts | provenance(trained), tile_rows(evaluation, tiles, trained.data.train)


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
