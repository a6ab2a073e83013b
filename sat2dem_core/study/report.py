"""A study's table as people print it: mean ± standard deviation, beside a baseline, as Markdown, LaTeX and a figure."""

import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from sat2dem_core.config import Config, preset
from sat2dem_core.errors import InvalidConfig
from sat2dem_core.evaluation.bootstrap import paired_difference
from sat2dem_core.evaluation.scoring import trained_question
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.study.runner import read_table, tile_errors

METRICS = ("MAE", "RMSE", "SSIM", "R2")
REPEATS = ("seed", "version")  # what a run is repeated over: trainings, and splits
BLOCK_SIDE = 2  # of the blocks of ground that are drawn anew, tiles


def summarize(table: pd.DataFrame, question: str = "trained") -> pd.DataFrame:
    """Mean and spread of every setting that a study compares.

    Args:
        table: see :func:`sat2dem_core.study.runner.run_study`.
        question: ``absolute``, ``above minimum``, ``relief``; or ``trained``, the one that the run's normalization trains
            for, as in the paper.

    Returns:
        Indexed by the settings that differ, a row each: how many ``runs``; for each of ``METRICS`` the mean, and beside
        it ``± seeds`` and ``± splits``, the standard deviation over seeds within a split and over the splits' means
        (NaN where there is one only); and ``constant``, the MAE of that baseline.
    """
    rows = _complete(table)
    asked = [trained_question(kind) if question == "trained" else question for kind in rows.normalization]
    flat = rows[[*_axes(rows), *REPEATS]].assign(
        constant=[row.get(f"constant: {name} MAE") for name, (_, row) in zip(asked, rows.iterrows())],
        **{metric: [row.get(f"{name} {metric}") for name, (_, row) in zip(asked, rows.iterrows())] for metric in METRICS},
    )
    summary = {}
    for point, group in flat.groupby(_axes(rows), sort=False):
        splits = group.groupby("version")
        row = {"runs": len(group)}
        for metric in METRICS:
            row |= {
                metric: group[metric].mean(), f"{metric} ± seeds": splits[metric].std().mean(),
                f"{metric} ± splits": splits[metric].mean().std(),
            }
        summary[point] = row | {"constant": group.constant.mean()}
    return _indexed(summary, _axes(rows)).astype({"runs": int})


def _indexed(rows: dict[tuple, dict], names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows.values(), index=pd.MultiIndex.from_tuples(rows, names=names))


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every setting, also those that it leaves to the preset."""
    rows = []
    for row in table.to_dict("records"):
        given = {field.name: row[field.name] for field in fields(Config) if pd.notna(row.get(field.name))}
        config = preset(row["preset"])
        rows.append(row | {field.name: given.get(field.name, getattr(config, field.name)) for field in fields(Config)})
    return pd.DataFrame(rows)


def _axes(rows: pd.DataFrame) -> list[str]:
    """The settings in which a study's runs differ, the repeats apart."""
    names = [field.name for field in fields(Config) if field.name not in REPEATS and rows[field.name].nunique() > 1]
    return names or ["method"]


class _Errors:
    """The errors of a study's runs on the tiles that all were scored on."""

    def __init__(self, path: str | os.PathLike, question: str):
        self.rows = _complete(read_table(path))
        tiles = tile_errors(path)
        self.values = tiles.pivot(index="run", columns="tile", values=question).loc[self.rows.run]  # (runs, tiles)
        ground = tiles.drop_duplicates("tile").set_index("tile").loc[self.values.columns]
        if self.values.isna().to_numpy()[:, ground.pixels > 0].any():
            raise InvalidConfig(f"the runs of {path} were scored on different tiles: compare those of one split")
        side = BLOCK_SIDE * int(self.rows.tile.iloc[0])
        self.pixels, self.blocks = ground.pixels.values, list(zip(ground.row // side, ground.column // side))

    def by_seed(self, chosen: np.ndarray) -> np.ndarray:
        """Mean of the chosen runs of each seed, (S, tiles)."""
        values = self.values.values[chosen]
        return pd.DataFrame(values).groupby(self.rows.seed.values[chosen]).mean().values


def against_best(path: str | os.PathLike, question: str = "relief") -> pd.DataFrame:
    """Every setting of a study against the one of the lowest MAE, over blocks of ground and seeds.

    The best is chosen by the very scores that it is compared with, so it is flattered, and the others look worse.

    Args:
        path: of the study's table, which has its tiles beside it.
        question: ``absolute``, ``above minimum`` or ``relief``.

    Returns:
        Indexed as :func:`summarize`, the best first: its ``MAE``, the ``difference`` to the best in meters, between what
        it lies (``low``, ``high``; 90 %), ``p``, and whether that is ``noise``.

    Raises:
        InvalidConfig: the runs were not scored on the same tiles.
    """
    found = _Errors(path, question)
    points = {point: group.index.values for point, group in found.rows.groupby(_axes(found.rows), sort=False)}
    means = {point: np.average(found.values.values[of].mean(0), weights=found.pixels) for point, of in points.items()}
    best = min(means, key=lambda point: means[point])
    rows = {}
    for point in sorted(means, key=lambda point: means[point]):
        rows[point] = {"MAE": means[point]} | _compared(found, points[point], points[best])
    return _indexed(rows, _axes(found.rows))


def effects(path: str | os.PathLike, question: str = "relief") -> pd.DataFrame:
    """What each setting of a study changes, all others being equal, on the mean over the others.

    Arguments and errors as for :func:`against_best`.

    Returns:
        Indexed by ``setting``, its ``value`` and what it is compared ``with``, the study's first value: the difference of
        MAE in meters, between what it lies, ``p``, and whether that is ``noise``.
    """
    found = _Errors(path, question)
    rows = {}
    for name in _axes(found.rows):
        first, *others = found.rows[name].unique()
        for value in others:
            of, reference = (np.flatnonzero(found.rows[name] == kind) for kind in (value, first))
            rows[name, value, first] = _compared(found, of, reference)
    return _indexed(rows, ["setting", "value", "with"])


def _compared(found: _Errors, of: np.ndarray, reference: np.ndarray) -> dict:
    apart = paired_difference(found.by_seed(of), found.by_seed(reference), found.pixels, found.blocks)
    return {"difference": apart.value, "low": apart.low, "high": apart.high, "p": apart.p, "noise": apart.noise}


def write_report(path: str | os.PathLike, folder: str | os.PathLike) -> list[Path]:
    """Write a study's table as ``<name>.md``, ``<name>.tex`` and ``<name>.png``.

    Scores are those of the question that each normalization trains for, as in the paper, with the spread over splits
    where there are several, else over seeds; beside them stands the error of relief, the one that all can be compared on.
    An asterisk there marks what cannot be told from the best; runs on different tiles have none.
    """
    from sat2dem_core.pictures.plots import study_figure  # pyplot takes half a second to import

    table = read_table(path)
    trained, relief = summarize(table), summarize(table, "relief")
    printed = pd.DataFrame({"runs": trained.runs})
    for metric, digits in zip(METRICS, (1, 1, 3, 3)):
        printed[metric if digits == 3 else f"{metric}, m"] = _plus_minus(trained, metric, digits)
    printed["constant, m"] = trained.constant.map("{:.1f}".format)
    printed["relief MAE, m"] = _plus_minus(relief, "MAE", 1)
    if not _complete(table)[["version", "split", "tile", "scene"]].nunique().gt(1).any():
        noise = against_best(path).noise.loc[printed.index]
        printed["relief MAE, m"] += np.where(noise, "*", "")
    printed = printed.reset_index()
    texts = {"md": printed.to_markdown(index=False, disable_numparse=True), "tex": printed.to_latex(index=False, escape=True)}
    made = [Path(folder) / f"{Path(path).stem}.{ending}" for ending in (*texts, "png")]
    for file, text in zip(made, texts.values()):
        with replacing(file) as beside:
            beside.write_text(text + "\n")
    with replacing(made[-1]) as beside:
        study_figure(relief).savefig(beside, format="png", dpi=150)
    return made


def _plus_minus(summary: pd.DataFrame, metric: str, digits: int) -> list[str]:
    """Mean ± deviation; a dash where the metric is not defined."""
    spread = summary[f"{metric} ± splits"].fillna(summary[f"{metric} ± seeds"])
    pairs = zip(summary[metric], spread)
    return ["–" if pd.isna(mean) else f"{mean:.{digits}f}" + ("" if pd.isna(sd) else f" ± {sd:.{digits}f}") for mean, sd in pairs]
