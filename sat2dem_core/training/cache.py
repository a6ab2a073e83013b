"""The runs in the cache, which trainings without a folder of their own fill: what is there, and how to remove it."""

import json
import math
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from sat2dem_core.config import PRESETS
from sat2dem_core.dataset.parts import GIVEN
from sat2dem_core.errors import CannotWrite, InvalidConfig, RunBusy
from sat2dem_core.paths import cache_folder
from sat2dem_core.rasters.atomic import locked


class CachedRun(NamedTuple):
    """A run's folder in the cache.

    Attributes:
        folder: its path.
        size: of its files, bytes.
        changed: when its newest file was written, seconds since 1970.
        settings: the nearest preset and what differs from it, in words.
    """

    folder: Path
    size: int
    changed: float
    settings: str


def runs_folder() -> Path:
    """The folder of the cached runs."""
    return cache_folder() / "runs"


def cached_runs() -> list[CachedRun]:
    """The runs in the cache, the one that changed last at the end."""
    folders = [path for path in runs_folder().glob("[!.]*") if path.is_dir()]
    return sorted(map(_describe, folders), key=lambda run: (run.changed, run.folder))


def prune(days: float = 0.0) -> tuple[list[CachedRun], list[CachedRun]]:
    """Remove cached runs that have not changed for some days, except those that a process is training.

    A run that is only read, by ``evaluate`` for example, does not count as changed.

    Args:
        days: age of the youngest run to remove; 0 for all.

    Returns:
        The runs that were removed, and those that are old enough but in use.

    Raises:
        InvalidConfig: days is negative or no number.
        CannotWrite: a folder cannot be removed.
    """
    if not 0 <= days < math.inf:
        raise InvalidConfig(f"the age of runs to remove is {days} days: give 0 or a positive number")
    latest = time.time() - 86_400 * days if days else math.inf
    removed, busy = [], []
    for run in cached_runs():
        if run.changed > latest:
            continue
        try:
            with locked(run.folder, patience=0):
                if _describe(run.folder) == run:  # else somebody has trained it since, or removed it
                    _remove(run.folder)
                    removed.append(run)
        except RunBusy:
            busy.append(run)
    for leftover in runs_folder().glob(".*.removed"):  # of a removal that was interrupted
        shutil.rmtree(leftover, ignore_errors=True)
    return removed, busy


def _describe(folder: Path) -> CachedRun:
    stats = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # a training has replaced it meanwhile
            stats.append(path.stat())
    changed = max((stat.st_mtime for stat in stats), default=0.0)
    return CachedRun(folder, sum(stat.st_size for stat in stats), changed, _settings(folder))


def _settings(folder: Path) -> str:
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        source, initial = stored.get("source", ""), stored.get("initial_weights")
        parts = [_nearest_preset(stored["config"])]
        parts += [source] if source.endswith(GIVEN) else []
        return ", ".join([*parts, f"from {initial['source']}"] if initial else parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "settings unknown"


def _nearest_preset(config: dict[str, Any]) -> str:
    differences = {
        name: [f"{key}={value}" for key, value in config.items() if asdict(preset).get(key) != value]
        for name, preset in PRESETS.items()
    }
    name = min(differences, key=lambda name: len(differences[name]))
    return ", ".join([f"preset {name}", *differences[name]])


def _remove(folder: Path) -> None:
    """Remove a folder at once for all who look for a run there."""
    away = folder.with_name(f".{folder.name}.{os.getpid()}.removed")
    try:
        folder.rename(away)
        shutil.rmtree(away)
    except OSError as error:
        raise CannotWrite(f"cannot remove {folder} ({error.strerror or error}): remove it by hand") from error
