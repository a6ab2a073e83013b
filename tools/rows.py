"""Make one row of stored tables again with today's code, and print how far it agrees; needed when a digest changes.

    SAT2DEM_DATA=... python tools/rows.py [TABLE ...]        print, for all tables or for those named, such as zion
    python tools/rows.py --accept TABLE ...                  write today's digests into tables that were found to agree

How near is near enough stands in data/results/README.md, where the printed lines belong. Rows that are trained take
minutes each; another process beside them multiplies that.
"""

import argparse
import importlib.util
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd

from sat2dem_core.config import preset
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.dataset.splits import divide
from sat2dem_core.errors import choose
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.study.leakage import cross_validate
from sat2dem_core.study.runner import make_rows, provenance, read_study

ROOT = Path(__file__).resolve().parents[1]
RESULTS, STUDIES = ROOT / "data/results", ROOT / "studies"
WITH_PART = {"validation tiles": "validation", "test tiles": "test"}  # columns that tell which tiles were scored
Pair = tuple[str, float, float]  # what, as stored, as made again


def study(name: str) -> Iterator[Pair]:
    """The first run of a study's table."""
    stored = pd.read_csv(RESULTS / f"{name}.csv")
    content = tomllib.loads((STUDIES / f"{name}.toml").read_text(encoding="utf-8"))
    run = read_study(STUDIES / f"{name}.toml")[0]
    old = stored
    for setting, value in run.items():
        old = old[old[setting] == value]
    [row], _ = make_rows(run, content.get("part", "test"), content.get("drainage", False))
    for column in ("relief MAE", "absolute MAE", "constant: absolute MAE", "tile mean: relief MAE"):
        yield column, old[column].iloc[0], row[column]


def leakage() -> Iterator[Pair]:
    """Blocks of 8 tiles with Shift, which is one of eight tables of five trainings each."""
    stored = pd.read_csv(RESULTS / "zion-folds.csv").query("normalization == 'shift' and block == 8")
    config = preset(
        "zion", tile=64, stride=64, normalization="shift", steps=int(stored.steps.iloc[0]), validate_every=4
    )
    made = cross_validate(config, blocks=(8,))
    for column in ("relief", "absolute", "constant: absolute", "tile mean: relief"):
        yield f"mean of {column}", stored[column].mean(), made[column].mean()


def cues() -> Iterator[Pair]:
    """The first seed."""
    stored = pd.read_csv(RESULTS / "zion-cues.csv").query("seed == 0").set_index("change")
    made = pd.DataFrame(_script("benchmarks/cues.py").rows_of(0)).set_index("change")
    for change in ("untouched", "gray", "rotated by 180°", "patch occluded: ridges"):
        yield f"{change}: MAE", stored.MAE[change], made.MAE[change]
    yield "azimuth of the sun", stored.sun.iloc[0], made.sun.iloc[0]


def weights() -> Iterator[Pair]:
    """The shipped weights, scored again on Zion and not trained again."""
    stored = pd.read_csv(RESULTS / "weights.csv")
    stored = stored.query("trained == 'relief' and scene == 'zion' and part == 'held out'")
    with tempfile.TemporaryDirectory() as folder:
        region = divide(open_scene("zion"), test=0.38)[2]
        path = ROOT / "data/weights/relief.safetensors"
        made = _script("tools/weights.py").scores(path, "zion", region, Path(folder), "relief")[0]
    for column in ("MAE", "tile mean", "coverage", "seams"):
        yield column, stored[column].iloc[0], made[column]


def anchors() -> Iterator[Pair]:
    """The three coarse DEMs."""
    script = _script("benchmarks/anchors.py")
    stored = pd.read_csv(RESULTS / "anchors.csv").set_index("anchors")
    with tempfile.TemporaryDirectory() as folder:
        region = divide(open_scene("zion"))[2]
        area = script._prepare(region, Path(folder))
        for row in script._with_dems(area, region.dem, Path(folder)):
            for column in ("MAE", "MAE without image"):
                yield f"{row['anchors']}: {column}", stored[column][row["anchors"]], row[column]


def _script(path: str) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


STUDIED = sorted(path.stem for path in STUDIES.glob("*.toml") if (RESULTS / f"{path.stem}.csv").exists())
TABLES: dict[str, Callable[[], Iterator[Pair]]] = {name: lambda name=name: study(name) for name in STUDIED} | {
    "zion-folds": leakage, "zion-cues": cues, "weights": weights, "anchors": anchors,
}


def accept(name: str) -> None:
    """Write today's digests into a table; nothing else in it changes."""
    path = RESULTS / f"{name}.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    today = provenance()
    for column in {"code", "scoring"} & set(table):
        table[column] = today[column]
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    arguments.add_argument("--accept", action="store_true")
    args = arguments.parse_args()
    for name in args.tables or TABLES:
        choose("table", name, TABLES)
        if args.accept:
            accept(name)
            continue
        for what, before, now in TABLES[name]():
            print(f"| `{name}.csv` | {what} | {before:.6g} | {now:.6g} | {now / before - 1:+.2%} |", flush=True)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
