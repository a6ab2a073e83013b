"""A study's table as it is printed: mean ± standard deviation and a baseline, in Markdown, LaTeX and a figure.

Two settings differ significantly at 90 % where the 90 % interval of their difference, over blocks of tiles and seeds,
excludes zero; see :mod:`sat2dem_core.evaluation.bootstrap`.
"""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sat2dem_core.config import Config, preset
from sat2dem_core.errors import InvalidConfig
from sat2dem_core.evaluation.bootstrap import paired_difference
from sat2dem_core.evaluation.scoring import trained_question
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.study.runner import read_table, tile_errors

METRICS = {"MAE": 1, "RMSE": 1, "SSIM": 3, "R2": 3}  # and how many decimals are printed
REPEATS = ("seed", "version")  # what a run is repeated over: trainings and splits
BLOCK_SIDE = 2  # of the blocks that are resampled, tiles


def summarize(table: pd.DataFrame, question: str = "trained") -> pd.DataFrame:
    """Mean and spread of every setting that a study compares.

    Args:
        table: see :func:`sat2dem_core.study.runner.run_study`.
        question: ``absolute``, ``above minimum``, ``relief``; or ``trained``, the one that the run's normalization
            trains for, as in the paper.

    Returns:
        A row for each setting, indexed by those that differ: the number of ``runs``; for each of ``METRICS`` the mean,
        and, followed by ``± seeds`` and ``± splits``, the standard deviation over the seeds of a split and over the
        splits' means (NaN where there is only one); and ``constant``, the MAE of that baseline.
    """
    rows = _complete(table)
    axes = _axes(rows)
    scores = pd.DataFrame([_scores(row, question) for row in rows.to_dict("records")], rows.index)
    groups = rows[[*axes, *REPEATS]].join(scores).groupby(axes, sort=False)
    return _indexed({point: _mean_and_spread(group) for point, group in groups}, axes).astype({"runs": int})


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column for every setting, also for those that runs take from their preset."""
    rows = []
    for row in table.to_dict("records"):
        given = {field.name: row[field.name] for field in fields(Config) if pd.notna(row.get(field.name))}
        config = preset(row["preset"])
        rows.append(row | {field.name: given.get(field.name, getattr(config, field.name)) for field in fields(Config)})
    return pd.DataFrame(rows)


def _axes(rows: pd.DataFrame) -> list[str]:
    """The settings in which a study's runs differ, other than repeats."""
    names = [field.name for field in fields(Config) if field.name not in REPEATS and rows[field.name].nunique() > 1]
    return names or ["method"]


def _scores(row: dict[str, Any], question: str) -> dict[str, Any]:
    """A run's metrics for one question, None where they are not defined, and the MAE of ``constant``."""
    name = trained_question(row["normalization"]) if question == "trained" else question
    metrics = {metric: row.get(f"{name} {metric}") for metric in METRICS}
    return {"constant": row.get(f"constant: {name} MAE")} | metrics


def _mean_and_spread(group: pd.DataFrame) -> dict[str, float]:
    """One row of :func:`summarize`, from the runs of one setting."""
    splits = group.groupby("version")
    row: dict[str, float] = {"runs": len(group)}
    for metric in METRICS:
        row |= {
            metric: group[metric].mean(), f"{metric} ± seeds": splits[metric].std().mean(),
            f"{metric} ± splits": splits[metric].mean().std(),
        }
    return row | {"constant": group.constant.mean()}


def _indexed(rows: dict[Any, dict[str, Any]], names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows.values(), index=pd.MultiIndex.from_tuples(rows, names=names))


class _Runs:
    """A study's runs, and their errors on the tiles that all were scored on.

    Raises:
        InvalidConfig: the runs were not scored on the same tiles.
    """

    def __init__(self, path: str | os.PathLike, question: str):
        self.rows = _complete(read_table(path))
        self.axes = _axes(self.rows)
        errors = tile_errors(path)
        by_run = errors.pivot(index="run", columns="tile", values=question).loc[self.rows.run]
        tiles = errors.drop_duplicates("tile").set_index("tile").loc[by_run.columns]
        if by_run.isna().to_numpy()[:, tiles.pixels > 0].any():
            raise InvalidConfig(f"the runs of {path} were scored on different tiles: compare those of one split")
        side = BLOCK_SIDE * int(self.rows.tile.iloc[0])
        self.errors, self.pixels = by_run.values, tiles.pixels.values  # (runs, tiles) meters; (tiles,)
        self.blocks = list(zip(tiles.row // side, tiles.column // side))

    def mean_error(self, numbers: np.ndarray) -> float:
        """Mean of the runs with these numbers over all pixels, meters."""
        return float(np.average(self.errors[numbers].mean(0), weights=self.pixels))

    def compare(self, numbers: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
        """The difference of two sets of runs, its interval and p-value, and whether it is ``significant`` at 90 %."""
        difference = paired_difference(self._by_seed(numbers), self._by_seed(reference), self.pixels, self.blocks)
        return {
            "difference": difference.value, "low": difference.low, "high": difference.high, "p": difference.p,
            "significant": difference.significant,
        }

    def _by_seed(self, numbers: np.ndarray) -> np.ndarray:
        """Mean of the chosen runs of each seed, (S, tiles)."""
        seeds = self.rows.seed.values[numbers]
        return pd.DataFrame(self.errors[numbers]).groupby(seeds).mean().values


def against_best(path: str | os.PathLike, question: str = "relief") -> pd.DataFrame:
    """Every setting of a study compared with the one of the lowest MAE, over blocks of tiles and seeds.

    The best is chosen by the scores that it is then compared with, so the comparison flatters it.

    Args:
        path: the study's table, with its table of tiles in the same folder.
        question: ``absolute``, ``above minimum`` or ``relief``.

    Returns:
        Indexed as :func:`summarize`, the best first: its ``MAE``, its ``difference`` to the best in meters, the 90 %
        interval of that difference (``low``, ``high``), ``p`` (p-value of a block-wise sign-flip permutation test), and
        ``significant``: whether the difference is, at 90 %.

    Raises:
        InvalidConfig: the runs were not scored on the same tiles.
    """
    runs = _Runs(path, question)
    points = {point: group.index.values for point, group in runs.rows.groupby(runs.axes, sort=False)}
    means = {point: runs.mean_error(numbers) for point, numbers in points.items()}
    best, *_ = ranked = sorted(means, key=lambda point: means[point])
    rows = {point: {"MAE": means[point]} | runs.compare(points[point], points[best]) for point in ranked}
    return _indexed(rows, runs.axes)


def effects(path: str | os.PathLike, question: str = "relief") -> pd.DataFrame:
    """What each setting of a study changes when all others are equal, averaged over the others.

    Arguments and errors as for :func:`against_best`.

    Returns:
        Indexed by ``setting``, its ``value`` and the value that it is compared ``with``, the study's first:
        ``difference`` of MAE in meters, ``low``, ``high``, ``p`` and ``significant`` as for :func:`against_best`.
    """
    runs = _Runs(path, question)
    rows = {}
    for name in runs.axes:
        first, *others = runs.rows[name].unique()
        for value in others:
            numbers, reference = (np.flatnonzero(runs.rows[name] == kind) for kind in (value, first))
            rows[name, value, first] = runs.compare(numbers, reference)
    return _indexed(rows, ["setting", "value", "with"])


def write_report(path: str | os.PathLike, folder: str | os.PathLike) -> list[Path]:
    """Write a study's table as ``<name>.md``, ``<name>.tex`` and ``<name>.png``.

    Scores are those of the question that each normalization trains for, as in the paper, with their standard deviation
    over splits where there are several, otherwise over seeds. The last column is the error of relief, on which all
    normalizations can be compared. An asterisk there marks settings whose difference from the best is not significant
    at 90 %; there is none where the runs were scored on different tiles.
    """
    from sat2dem_core.pictures.plots import study_figure  # only here: pyplot takes half a second to import

    table = read_table(path)
    relief, printed = summarize(table, "relief"), _printed(table, path)
    texts = {
        "md": printed.to_markdown(index=False, disable_numparse=True),
        "tex": printed.to_latex(index=False, escape=True),
    }
    files = {ending: Path(folder) / f"{Path(path).stem}.{ending}" for ending in (*texts, "png")}
    for ending, text in texts.items():
        with replacing(files[ending]) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    with replacing(files["png"]) as temporary:
        study_figure(relief).savefig(temporary, format="png", dpi=150)
    return list(files.values())


def _printed(table: pd.DataFrame, path: str | os.PathLike) -> pd.DataFrame:
    """The report's table, of texts."""
    trained, relief = summarize(table), summarize(table, "relief")
    printed = pd.DataFrame({"runs": trained.runs})
    for metric, digits in METRICS.items():
        printed[f"{metric}, m" if metric in ("MAE", "RMSE") else metric] = _plus_minus(trained, metric, digits)
    printed["constant, m"] = trained.constant.map("{:.1f}".format)
    printed["relief MAE, m"] = _plus_minus(relief, "MAE", 1)
    if not _complete(table)[["version", "split", "tile", "scene"]].nunique().gt(1).any():  # all share their tiles
        printed["relief MAE, m"] += np.where(against_best(path).significant.loc[printed.index], "", "*")
    return printed.reset_index()


def _plus_minus(summary: pd.DataFrame, metric: str, digits: int) -> list[str]:
    """Mean ± deviation; a dash where the metric is not defined."""
    spread = summary[f"{metric} ± splits"].fillna(summary[f"{metric} ± seeds"])
    return [_number(mean, deviation, digits) for mean, deviation in zip(summary[metric], spread)]


def _number(mean: float, deviation: float, digits: int) -> str:
    if pd.isna(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if pd.isna(deviation) else f" ± {deviation:.{digits}f}")
