"""Grids of small runs: their tables, what is kept of them, and the paper's protocol."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sat2dem_core import paths
from sat2dem_core.cli import main
from sat2dem_core.dataset.building import assemble
from sat2dem_core.dataset.grid import PIXELS, Cell
from sat2dem_core.dataset.parts import prepare
from sat2dem_core.dataset.store import open_store
from sat2dem_core.errors import InvalidConfig, UnknownName
from sat2dem_core.evaluation.baselines import fit
from sat2dem_core.evaluation.drainage import Drainage
from sat2dem_core.evaluation.measures import Measures
from sat2dem_core.evaluation.scoring import evaluate
from sat2dem_core.study import runner
from sat2dem_core.study.rows import score_columns, tile_rows
from sat2dem_core.terrain import slope
from sat2dem_core.training.checkpoints import Model

SMALL = "tile = 32\nstride = 96\nfeatures = 4\nsteps = 2\nbatch = 2\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def shared_cache(isolated, cache, monkeypatch):
    """The tests of this module train the same three runs, so they share them."""
    monkeypatch.setenv("SAT2DEM_CACHE", str(cache))


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    grids = f"[[grid]]\nseed = [0, 1]\n{SMALL}\n[[grid]]\nnormalization = \"global\"\n{SMALL}"
    path.write_text(f'preset = "cpu"\n{grids}', encoding="utf-8")
    return path


@pytest.fixture
def finished(small, tmp_path, cache):
    """The table of ``small``, with its tiles; every test has its own copy."""
    original = cache / "table.csv"
    if not original.exists():
        runner.run_study(small, original)
    for path in (original, cache / "table-tiles.csv"):
        shutil.copy(path, tmp_path)
    return tmp_path / "table.csv"


def test_lists_are_axes_and_all_other_settings_are_fixed(small):
    runs = runner.read_study(small)
    assert [(run.get("seed"), run.get("normalization")) for run in runs] == [(0, None), (1, None), (None, "global")]


def test_study_makes_a_row_for_each_run_with_its_provenance(finished):
    table = runner.read_table(finished)
    assert len(table) == 3 and (table["above minimum MAE"] > 0).all()
    assert (table["relief MAE"] != table["tile mean: relief MAE"]).all()
    assert table.code.nunique() == 1 and table.machine.str.contains("torch").all()
    assert "relief SSIM" not in table and (table["above minimum SSIM"] < 1).all()  # not defined on relief
    assert table.run.is_unique and (table["relief NMAD"] > 0).all() and (table["coarse 1 km: relief MAE"] > 0).all()


def test_errors_of_each_tile_agree_with_the_table(finished):
    table, tiles = runner.read_table(finished), runner.tile_errors(finished)
    assert tiles.groupby("run").size().to_dict() == dict(zip(table.run, table["test tiles"]))
    pooled = tiles.groupby("run")[["relief", "above minimum", "constant: absolute"]].mean().loc[table.run]
    np.testing.assert_allclose(pooled, table[["relief MAE", "above minimum MAE", "constant: absolute MAE"]], atol=0.01)
    assert (tiles.distance > 8 * 127).all()  # beyond the gap


def test_drainage_is_measured_on_request(small, tmp_path):
    pytest.importorskip("pyflwdir", reason="pyflwdir is not installed: pip install 'sat2dem-core[drainage]'")
    small.write_text(f'preset = "cpu"\ndrainage = true\n[[grid]]\nseed = 0\n{SMALL}', encoding="utf-8")
    assert runner.run_study(small, tmp_path / "table.csv")["relief channels found"].between(0, 1).all()


def test_search_scores_on_validation_tiles_and_never_sees_the_held_out_ones(small, tmp_path, monkeypatch):
    small.write_text(f'preset = "cpu"\npart = "validation"\n[[grid]]\nseed = 0\n{SMALL}', encoding="utf-8")
    seen, evaluate = [], runner.evaluate
    record = lambda model, tiles, train, **options: seen.append(tiles.ids) or evaluate(model, tiles, train, **options)
    monkeypatch.setattr(runner, "evaluate", record)
    table = runner.run_study(small, tmp_path / "table.csv")
    data = prepare(runner.settings(runner.read_study(small)[0]))
    assert seen == [data.validation.ids] and not set(seen[0]) & set(data.test.ids)
    assert (table["validation tiles"] == len(data.validation)).all() and "test tiles" not in table


def test_interrupted_study_keeps_its_finished_rows(small, finished, monkeypatch, recwarn):
    whole = runner.read_table(finished)
    whole.iloc[:2].assign(seconds=123.0).to_csv(finished, index=False)
    trained, train = [], runner.train
    monkeypatch.setattr(runner, "train", lambda config, **options: trained.append(config) or train(config, **options))
    again = runner.run_study(small, finished)
    assert [config.normalization for config in trained] == ["global"]
    assert list(again.seconds[:2]) == [123.0, 123.0]
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), whole.drop(columns="seconds"))
    assert len(runner.tile_errors(finished)) == whole["test tiles"].sum()
    assert not [warning for warning in recwarn if "other code" in str(warning.message)]


@pytest.mark.parametrize(("column", "count", "rows"), [("code", 1, "1 row"), ("scoring", 3, "3 rows")])
def test_rows_of_other_code_are_made_again_and_counted(small, finished, column, count, rows):
    table = runner.read_table(finished)
    table.loc[: count - 1, [column, "seconds"]] = "another", -1.0
    table.to_csv(finished, index=False)
    with pytest.warns(UserWarning, match=f"table.csv: {rows} of other code will be made again"):
        again = runner.run_study(small, finished)
    assert (again.seconds >= 0).all() and again[column].nunique() == 1


def test_scoring_modules_are_those_that_predict_measure_and_write_rows():
    for part in (Model, evaluate, fit, Measures, slope, Drainage, score_columns, tile_rows):
        assert part.__module__.split(".")[-1] in runner.SCORING, part
    assert "runner" not in runner.SCORING  # another progress bar makes no row outdated


def test_table_of_another_study_is_not_overwritten_and_no_run_is_made(small, finished, monkeypatch):
    before = finished.read_bytes()
    monkeypatch.setattr(runner, "train", None)
    small.write_text(f"[[grid]]\nseed = 7\n{SMALL}", encoding="utf-8")
    with pytest.raises(InvalidConfig, match="has runs of another study: choose another table"):
        runner.run_study(small, finished)
    assert finished.read_bytes() == before
    pd.DataFrame({"preset": ["cpu"]}).to_csv(finished, index=False)  # a table of a version without names of runs
    with pytest.raises(InvalidConfig, match="has runs of another study: choose another table"):
        runner.run_study(small, finished)


def test_processes_of_a_launcher_share_the_runs_and_one_table(small, tmp_path):
    path = tmp_path / "table.csv"
    command = [sys.executable, "-m", "sat2dem_core", "study", str(small), str(path)]
    environment = os.environ | {"WORLD_SIZE": "2", "SAT2DEM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    table = runner.read_table(path)
    assert list(table.seed[:2]) == [0, 1] and table.normalization[2] == "global"
    runs = list((tmp_path / "cache" / "runs").iterdir())
    assert len(runs) == 3 and runner.tile_errors(path).run.nunique() == 3  # each was made once


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("studies/*.toml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_can_be_run(path):
    assert runner.read_study(path)


def test_paper_study_is_the_papers_protocol():
    runs = [runner.settings(run) for run in runner.read_study(Path(__file__).parents[2] / "studies" / "paper.toml")]
    assert len(runs) == len(set(runs)) == 2 * 2 * 3 * 4 * 2 * 4
    assert {run.split for run in runs} == {"paper"} and {run.version for run in runs} == {1, 2, 3, 4}
    settings = {(run.epochs, run.batch, run.tile, run.features, run.drpan) for run in runs}
    assert settings == {(500, 32, 256, 64, "detached")}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Stores of two sensors, each with the same twelve tiles of a tilted plain with waves."""

    def make(cell: Cell) -> xr.Dataset:
        rows, columns = np.mgrid[:PIXELS, :PIXELS]
        dem = (500 + 100 * (cell.row % 3) + columns + 40 * np.sin((rows + 20 * cell.column) / 25)).astype(np.float32)
        rgb = np.broadcast_to((dem / 5).astype(np.uint8), (3, PIXELS, PIXELS))
        scene = xr.Dataset({"rgb": (("band", "y", "x"), rgb), "dem": (("y", "x"), dem)})
        scene.attrs = {"crs": "EPSG:32630", "left": cell.left, "top": cell.top, "nodata_share": 0.0}
        return scene

    cells = [Cell(32630, 60 + number % 4, 570 + number // 4) for number in range(12)]
    folder, by_id = tmp_path_factory.mktemp("stores"), {cell.id: cell for cell in cells}
    return [
        assemble(folder / f"{sensor}.zarr", by_id, make, {}, {"sensor": sensor}, progress=False)
        for sensor in ("sentinel-2", "landsat")
    ]


def test_the_papers_table_is_one_command(stores, tmp_path):
    """Its sensors and splits, mean and deviation over splits; all settings but the network's size are the paper's."""
    content = (
        f'preset = "paper"\n[[grid]]\nscene = ["{stores[0]}", "{stores[1]}"]\nnormalization = "global"\n'
        "version = [1, 2]\nfeatures = 1\nepochs = 1\nbatch = 4\n"
    )
    (tmp_path / "paper.toml").write_text(content, encoding="utf-8")
    assert main(["study", str(tmp_path / "paper.toml"), str(tmp_path / "paper.csv"), "--report", str(tmp_path)]) == 0
    lines = (tmp_path / "paper.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + 2 and all(line.count("±") == 5 and "| 2 " in line for line in lines[2:])
    tiles, table = runner.tile_errors(tmp_path / "paper.csv"), runner.read_table(tmp_path / "paper.csv")
    assert (table["test tiles"] == 3).all() and tiles.distance.between(7600, 3 * 7700).all()
    for _, row in table.iterrows():
        own = {key: row[key] for key in ("scene", "normalization", "version")}
        data = prepare(runner.settings({"preset": "paper", "features": 1, "epochs": 1, "batch": 4} | own))
        order = list(range(12))
        random.Random(row.version).shuffle(order)
        names = [str(name) for name in open_store(row.scene).tile.values]
        assert set(data.test.ids) == {names[number] for number in order[9:]} == set(tiles.tile[tiles.run == row.run])


# --- where a number comes from ----------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, require_system):
    """``repository(folder)``: make a git repository with one commit there, and return the commit."""
    git = require_system("git")

    def make(folder: Path) -> str:
        run = lambda *words: subprocess.run([git, "-C", folder, *words], check=True, capture_output=True, text=True)
        folder.mkdir(parents=True, exist_ok=True)
        run("init")
        run("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--allow-empty", "-m", str(folder))
        return run("rev-parse", "--short", "HEAD").stdout.strip()

    return make


def test_the_commit_is_that_of_the_clone_that_holds_the_package(repository, tmp_path, monkeypatch):
    around, clone = tmp_path / "project", tmp_path / "project/clone"
    (clone / "notebooks").mkdir(parents=True)
    repository(around)
    monkeypatch.setattr(paths, "PACKAGE", clone / "sat2dem_core")
    assert runner.provenance()["commit"] == ""  # a copy without history, in somebody's repository
    commit = repository(clone)
    assert runner.provenance()["commit"] == commit
    monkeypatch.setenv("GIT_DIR", str(around / ".git"))  # as git sets it for a hook
    assert runner.provenance()["commit"] == commit
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert runner.provenance()["commit"] == ""


def test_an_installed_package_has_no_commit_wherever_its_environment_lies(repository, tmp_path):
    """Neither somebody's repository around the environment nor the one that the command runs in is its own."""
    repository(tmp_path)
    site = tmp_path / ".venv/lib/site-packages"
    shutil.copytree(paths.PACKAGE, site / "sat2dem_core", ignore=shutil.ignore_patterns("__pycache__"))
    program = "from sat2dem_core.study import runner; print(runner.__file__, runner.provenance()['commit'], sep='|')"
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(site)}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", program], **options)
    assert done.stdout == f"{site / 'sat2dem_core/study/runner.py'}|\n", done.stderr


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("preset = ", InvalidConfig, "cannot be read as a study"),
        ('presets = "cpu"\n[[grid]]', InvalidConfig, "has presets"),
        ('preset = "cpu"', InvalidConfig, "has no grid"),
        ('drainage = "yes"\n[[grid]]', InvalidConfig, "drainage is 'yes': give true or false"),
        ("[[grid]]\nseeds = [1]", UnknownName, "unknown setting 'seeds': choose one of scene"),
        ('part = "train"\n[[grid]]\nseed = 1', UnknownName, "unknown part 'train': choose one of validation, test"),
        ('preset = "fast"\n[[grid]]\nseed = 1', UnknownName, "choose one of cpu, gpu, zion, paper"),
    ],
)
def test_invalid_study_is_refused_before_any_run(tmp_path, text, error, message):
    (tmp_path / "bad.toml").write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message):
        runner.run_study(tmp_path / "bad.toml", tmp_path / "table.csv")
    assert not (tmp_path / "table.csv").exists()
