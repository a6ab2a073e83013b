"""A grid of settings run, one row a run, in a table that chapters draw from.

A study is a TOML file: a ``preset``, and ``[[grid]]`` tables in which every setting that is a list is an axis. One
that looks for good settings has ``part = "validation"``, so that it never sees the held-out tiles. Rows that the table
already has are not made again, so a study that was interrupted goes on where it stopped.
"""

import itertools
import os
import subprocess
import time
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from sat2dem_core.config import Config, preset
from sat2dem_core.errors import InvalidConfig, choose
from sat2dem_core.evaluation import evaluate
from sat2dem_core.files import replacing
from sat2dem_core.training import code_version, processor, train


def read_study(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The runs of a study file: for each the settings that it changes, ``preset`` among them.

    Raises:
        InvalidConfig: the file cannot be read, or holds a key that is none of ``preset``, ``part`` and ``grid``.
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
        content = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InvalidConfig(f"{path} cannot be read as a study ({error}): give a TOML file") from error
    unknown = content.keys() - {"preset", "part", "grid"}
    if unknown or "grid" not in content:
        raise InvalidConfig(f"{path} holds {', '.join(sorted(unknown)) or 'no grid'}: give preset, part and [[grid]] tables")
    choose("part", content.setdefault("part", "test"), ("validation", "test"))
    return content


def settings(run: dict[str, Any]) -> Config:
    """The config of one of a study's runs."""
    return preset(run["preset"], **{key: value for key, value in run.items() if key != "preset"})


def run_study(path: str | os.PathLike, table: str | os.PathLike) -> pd.DataFrame:
    """Make every run of a study and write its table, anew after each run; rows of this very code are kept.

    Args:
        path: the study's TOML file.
        table: CSV to write: a row a run with its settings, its scores on the held-out tiles (or the study's ``part``)
            by question and metric (meters), those of the baselines, the seconds it took, and commit, code and machine.
    """
    content, origin, rows = _read(path), provenance(), []
    runs, part = _runs(content), content["part"]
    known = pd.read_csv(table).to_dict("records") if Path(table).exists() else []
    for run in tqdm(runs, unit="run"):
        found = next((row for row in known if row["code"] == origin["code"] and _settings_of(row) == run), None)
        if found:
            rows.append({name: None if pd.isna(value) else value for name, value in found.items()})
            continue
        config = settings(run)
        started = time.perf_counter()
        made = train(config, progress=False)
        seconds, data = time.perf_counter() - started, made.data
        tiles = getattr(data, part)
        scores = evaluate(made.model(), tiles, data.train)
        named = {
            f"{question} {metric}" if predictor == config.method else f"{predictor}: {question} {metric}": value
            for (question, predictor), row in scores.iterrows() for metric, value in row.items()
            if predictor == config.method or metric == "MAE"
        }
        rows.append(run | {name: None if pd.isna(v) else round(v, 4) for name, v in named.items()}
                    | {f"{part} tiles": len(tiles), "seconds": round(seconds, 1)} | origin)
        with replacing(Path(table)) as beside:
            pd.DataFrame(rows).to_csv(beside, index=False)
    return pd.DataFrame(rows)


def _settings_of(row: dict[str, Any]) -> dict[str, Any]:
    """Which run a table's row is of."""
    names = ["preset", *(field.name for field in fields(Config))]
    return {name: row[name] for name in names if name in row and not pd.isna(row[name])}


def provenance() -> dict[str, str]:
    """What a number must carry to be trusted: commit, digest of the code, machine."""
    try:
        commit = subprocess.run(
            ["git", "-C", Path(__file__).parent, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    return {
        "commit": commit, "code": code_version(),
        "machine": f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
