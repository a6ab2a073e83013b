import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sat2dem_core.cli import main
from sat2dem_core.dataset.building import assemble
from sat2dem_core.dataset.grid import PIXELS, Cell
from sat2dem_core.dataset.store import open_store
from sat2dem_core.errors import InvalidConfig, UnknownName
from sat2dem_core.study import runner

SMALL = "tile = 32\nstride = 96\nfeatures = 4\nsteps = 2\nbatch = 2\n"


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(f'preset = "cpu"\n[[grid]]\nseed = [0, 1]\n{SMALL}\n[[grid]]\nnormalization = "global"\n{SMALL}')
    return path


def test_lists_are_axes_and_everything_else_is_fixed(small):
    runs = runner.read_study(small)
    assert [(run.get("seed"), run.get("normalization")) for run in runs] == [(0, None), (1, None), (None, "global")]


def test_study_makes_a_row_a_run_that_says_where_it_comes_from(small, tmp_path):
    table = runner.run_study(small, tmp_path / "table.csv")
    assert len(table) == 3 and (table["above minimum MAE"] > 0).all()
    assert (table["relief MAE"] != table["tile mean: relief MAE"]).all()
    assert table.code.nunique() == 1 and table.machine.str.contains("torch").all()
    assert "relief SSIM" not in table and (table["above minimum SSIM"] < 1).all()  # not defined on relief
    assert table.run.is_unique and (table["relief NMAD"] > 0).all() and (table["coarse 1 km: relief MAE"] > 0).all()


def test_errors_of_each_tile_stand_beside_the_table(small, tmp_path):
    table = runner.run_study(small, tmp_path / "table.csv")
    tiles = runner.tile_errors(tmp_path / "table.csv")
    assert tiles.groupby("run").size().to_dict() == dict(zip(table.run, table["test tiles"]))
    pooled = tiles.groupby("run")[["relief", "above minimum", "constant: absolute"]].mean().loc[table.run]
    np.testing.assert_allclose(pooled, table[["relief MAE", "above minimum MAE", "constant: absolute MAE"]], atol=0.01)
    assert (tiles.distance > 8 * 127).all()  # beyond the gap


def test_drainage_is_measured_on_request(small, tmp_path):
    pytest.importorskip("pyflwdir", reason="pyflwdir is not installed: pip install 'sat2dem-core[drainage]'")
    small.write_text("drainage = true\n" + small.read_text())
    assert runner.run_study(small, tmp_path / "table.csv")["relief channels found"].between(0, 1).all()


def test_search_scores_on_validation_tiles_and_never_sees_the_held_out_ones(small, tmp_path, monkeypatch):
    small.write_text('part = "validation"\n' + small.read_text())
    seen, evaluate = [], runner.evaluate
    noting = lambda model, tiles, train, **options: seen.append(tiles.ids) or evaluate(model, tiles, train, **options)
    monkeypatch.setattr(runner, "evaluate", noting)
    table = runner.run_study(small, tmp_path / "table.csv")
    data = runner.train(runner.settings(runner.read_study(small)[0]), progress=False).data
    assert seen == [data.validation.ids] * 3 and not set(seen[0]) & set(data.test.ids)
    assert (table["validation tiles"] == len(data.validation)).all() and "test tiles" not in table


def test_interrupted_study_keeps_the_rows_it_has(small, tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    runner.run_study(small, path)
    whole = runner.read_table(path)
    whole.iloc[:2].assign(seconds=123.0).to_csv(path, index=False)
    trained = []
    original = runner.train
    monkeypatch.setattr(runner, "train", lambda config, **options: trained.append(config) or original(config, **options))
    again = runner.run_study(small, path)
    assert [config.normalization for config in trained] == ["global"]
    assert list(again.seconds[:2]) == [123.0, 123.0]
    pd.testing.assert_frame_equal(runner.read_table(path).drop(columns="seconds"), whole.drop(columns="seconds"))
    assert len(runner.tile_errors(path)) == whole["test tiles"].sum()


def test_rows_of_other_code_are_made_again(small, tmp_path):
    path = tmp_path / "table.csv"
    whole = runner.run_study(small, path)
    whole.assign(scoring="another", seconds=-1.0).to_csv(path, index=False)
    assert (runner.run_study(small, path).seconds >= 0).all()


def test_table_of_another_study_is_not_overwritten(small, tmp_path):
    path = tmp_path / "table.csv"
    runner.run_study(small, path)
    before = path.read_bytes()
    small.write_text(f"[[grid]]\nseed = 7\n{SMALL}")
    with pytest.raises(InvalidConfig, match="holds runs that are none of this study: choose another table"):
        runner.run_study(small, path)
    assert path.read_bytes() == before


def test_processes_of_a_launcher_share_the_runs_and_one_table(small, tmp_path):
    path = tmp_path / "table.csv"
    command = [sys.executable, "-m", "sat2dem_core", "study", str(small), str(path)]
    environment = os.environ | {"WORLD_SIZE": "2", "SAT2DEM_CACHE": str(tmp_path / "cache")}
    running = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    table = runner.read_table(path)
    assert list(table.seed[:2]) == [0, 1] and table.normalization[2] == "global"
    runs = list((tmp_path / "cache" / "runs").iterdir())
    assert len(runs) == 3 and runner.tile_errors(path).run.nunique() == 3  # each was made, and made once


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("studies/*.toml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_can_be_run(path):
    assert runner.read_study(path)


def test_paper_study_is_the_papers_protocol():
    runs = [runner.settings(run) for run in runner.read_study(Path(__file__).parents[2] / "studies" / "paper.toml")]
    assert len(runs) == len(set(runs)) == 2 * 2 * 3 * 4 * 2 * 4
    assert {run.split for run in runs} == {"paper"} and {run.version for run in runs} == {1, 2, 3, 4}
    assert {(run.epochs, run.batch, run.tile, run.features, run.drpan) for run in runs} == {(500, 32, 256, 64, "detached")}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Twelve tiles of a tilted plain with waves, as two sensors see it."""

    def make(cell: Cell) -> xr.Dataset:
        rows, columns = np.mgrid[:PIXELS, :PIXELS]
        dem = (500 + 100 * (cell.row % 3) + columns + 40 * np.sin((rows + 20 * cell.column) / 25)).astype(np.float32)
        rgb = np.broadcast_to((dem / 5).astype(np.uint8), (3, PIXELS, PIXELS))
        scene = xr.Dataset({"rgb": (("band", "y", "x"), rgb), "dem": (("y", "x"), dem)})
        scene.attrs = {"crs": "EPSG:32630", "left": cell.left, "top": cell.top, "nodata_share": 0.0}
        return scene

    cells = [Cell(32630, 60 + number % 4, 570 + number // 4) for number in range(12)]
    folder = tmp_path_factory.mktemp("stores")
    return [
        assemble(folder / f"{sensor}.zarr", {cell.id: cell for cell in cells}, make, {}, {"sensor": sensor}, progress=False)
        for sensor in ("sentinel-2", "landsat")
    ]


def test_the_papers_table_is_one_command(stores, tmp_path):
    """Sensors on its splits, mean and deviation over them; the networks are small, the rest is its own."""
    content = (
        f'preset = "paper"\n[[grid]]\nscene = ["{stores[0]}", "{stores[1]}"]\nnormalization = "global"\n'
        "version = [1, 2]\nfeatures = 1\nepochs = 1\nbatch = 4\n"
    )
    (tmp_path / "paper.toml").write_text(content)
    assert main(["study", str(tmp_path / "paper.toml"), str(tmp_path / "paper.csv"), "--report", str(tmp_path)]) == 0
    lines = (tmp_path / "paper.md").read_text().splitlines()
    assert len(lines) == 2 + 2 and all(line.count("±") == 5 and "| 2 " in line for line in lines[2:])
    tiles, table = runner.tile_errors(tmp_path / "paper.csv"), runner.read_table(tmp_path / "paper.csv")
    assert (table["test tiles"] == 3).all() and tiles.distance.between(7600, 3 * 7700).all()
    for _, row in table.iterrows():
        data = runner.train(runner.settings({"preset": "paper", "features": 1, "epochs": 1, "batch": 4} | {
            key: row[key] for key in ("scene", "normalization", "version")}), progress=False).data
        order = list(range(12))
        random.Random(row.version).shuffle(order)
        names = [str(name) for name in open_store(row.scene).tile.values]
        assert set(data.test.ids) == {names[number] for number in order[9:]} == set(tiles.tile[tiles.run == row.run])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("preset = ", InvalidConfig, "cannot be read as a study"),
        ('presets = "cpu"\n[[grid]]', InvalidConfig, "holds presets"),
        ('preset = "cpu"', InvalidConfig, "no grid"),
        ('drainage = "yes"\n[[grid]]', InvalidConfig, "drainage is 'yes': give true or false"),
        ("[[grid]]\nseeds = [1]", UnknownName, "unknown setting 'seeds': choose one of scene"),
        ('part = "train"\n[[grid]]\nseed = 1', UnknownName, "unknown part 'train': choose one of validation, test"),
        ('preset = "fast"\n[[grid]]\nseed = 1', UnknownName, "choose one of cpu, gpu, zion, paper"),
    ],
)
def test_study_that_cannot_be_run_says_why_before_it_starts(tmp_path, text, error, message):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(error, match=message):
        runner.run_study(tmp_path / "bad.toml", tmp_path / "table.csv")
    assert not (tmp_path / "table.csv").exists()
