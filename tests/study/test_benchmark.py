"""Models that saw none of a scene's region: what they are trained on, what they are scored on, and the two tables."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sat2dem_core.cli import main
from sat2dem_core.dataset import registry, scenes
from sat2dem_core.dataset.building import assemble
from sat2dem_core.dataset.grid import PIXELS, Cell
from sat2dem_core.dataset.registry import Site, read_registry
from sat2dem_core.errors import InvalidConfig, NoTiles, RunBusy
from sat2dem_core.rasters.atomic import locked
from sat2dem_core.study import benchmark, regions, runner
from sat2dem_core.study.benchmark import (
    geometric_mean, refinement_table, store_table, summarize_methods, summarize_refinement,
)

STUDY = """
preset = "cpu"
[[grid]]
fold = [1, 2]
tile = 32
stride = 64
features = 4
steps = 2
batch = 4
"""


def site(name: str, fold: int, kind: str = "open") -> Site:
    return Site(
        name, kind, name.title(), name, fold, "Landsat", 30.0, 30.0, 192, 160, (0.0, 1.0), "A", "made up", "made up",
        sun_azimuth=150.0, shading_r=0.5 if fold == 1 else 0.1, stretch=None,
    )


def square(number: int) -> Cell:
    return Cell(32630, 60 + number % 8, 570 + number // 8)


def made_up_tile(number: int) -> xr.Dataset:
    values = np.random.default_rng(number)
    rgb = values.integers(0, 255, (3, PIXELS, PIXELS), dtype=np.uint8)
    dem = np.add.outer(np.arange(PIXELS), np.arange(PIXELS)).astype(np.float32) + 10 * number
    scene = xr.Dataset({"rgb": (("band", "y", "x"), rgb), "dem": (("y", "x"), dem + rgb[0] / 50)})
    cell = square(number)
    scene.attrs = {"crs": "EPSG:32630", "left": cell.left, "top": cell.top, "nodata_share": 0.0}
    return scene


@pytest.fixture
def made_up(tmp_path, monkeypatch, make_scene):
    """Six regions in as many folds, and one scene for development that is not here."""
    names = ["alps", "andes", "atlas", "altai", "urals", "tatra"]
    made = {name: site(name, number + 1) for number, name in enumerate(names)} | {"far": site("far", 2, "development")}
    for module in (registry, scenes, regions, benchmark):
        monkeypatch.setattr(module, "read_registry", lambda: made)
    monkeypatch.setenv("SAT2DEM_DATA", str(tmp_path / "data"))
    hills = make_scene(160, 192)
    for number, name in enumerate(names):
        folder = tmp_path / "data/scenes" / name
        folder.mkdir(parents=True)
        hills.rgb.rio.to_raster(folder / "rgb.tif")
        (hills.dem + 100 * number).rio.to_raster(folder / "dem.tif")
    monkeypatch.setattr(scenes, "fetch_scene", lambda site: tmp_path / "data/scenes" / site.name)
    regions.leave_out.cache_clear()
    yield made
    regions.leave_out.cache_clear()


# ---- the real registry

def test_no_region_is_in_two_folds_and_every_fold_has_an_open_scene_to_score():
    folds = {}
    for entry in read_registry().values():
        folds.setdefault(entry.region, set()).add(entry.fold)
    assert len(folds) == 12 and all(len(numbers) == 1 for numbers in folds.values())
    assert regions.folds() == [1, 2, 3, 4, 5, 6]
    for fold in regions.folds():
        assert {entry.fold for entry in regions.trained_on(fold)}.isdisjoint({fold, regions._validation(fold)})
        assert len({entry.region for entry in regions.trained_on(fold)}) >= 4
        assert all(entry.kind != "development" for entry in regions.trained_on(fold))
        assert any(entry.kind != "development" and entry.pixel == 30 for entry in regions.scored(fold))


# ---- folds

def test_a_run_trains_on_other_folds_and_knows_nothing_of_its_own(made_up):
    data = regions.leave_out(1, 32, 32, "global")
    places = [{name.split("_")[0] for name in part.ids} for part in (data.train, data.validation, data.test)]
    assert places == [{"andes", "atlas", "altai", "tatra"}, {"urals"}, {"alps"}]
    assert data.normalization.low == data.train.dem.min() and data.normalization.high == data.train.dem.max()
    assert data.normalization.low > data.test.dem.min()
    assert regions.leave_out(5, 32, 32, "global").validation.ids[0].startswith("atlas")


def test_an_unknown_fold_lists_the_folds_with_their_regions(made_up, tmp_path):
    study = tmp_path / "study.toml"
    study.write_text(STUDY.replace("[1, 2]", "7"), encoding="utf-8")
    with pytest.raises(InvalidConfig, match=r"there is no fold 7: give one of 1 .alps.; 2 .andes, far."):
        runner.read_study(study)


def test_a_fold_without_training_tiles_says_so(made_up):
    with pytest.raises(NoTiles, match="fold 1 has no training tile: no open scene of another fold holds one of 256 px"):
        regions.leave_out(1, 256, 256, "shift")


def test_a_study_over_folds_has_a_row_for_each_scene(made_up, tmp_path, capsys):
    study = tmp_path / "study.toml"
    study.write_text(STUDY, encoding="utf-8")
    command = ["benchmark", str(tmp_path / "out"), "--only", "methods", "--study", str(study)]
    assert main(command) == 0
    table = pd.read_csv(tmp_path / "out/methods.csv")
    assert table.site.tolist() == ["alps", "andes"] and table.kind.tolist() == ["open", "open"]
    assert set(runner.tile_errors(tmp_path / "out/methods.csv").site) == {"alps", "andes"}
    capsys.readouterr()
    assert main(command) == 0  # nothing is made again
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out/methods.csv"), table)
    assert "absolute ratio" in capsys.readouterr().out
    [summary] = summarize_methods(table.assign(method="unet")).to_dict("records")
    ratios = table["relief MAE"] / table["tile mean: relief MAE"]
    assert summary["relief ratio"] == pytest.approx(np.exp(np.log(ratios).mean())) and summary["number"] == 2


# ---- the fourth question

def test_every_method_answers_every_fair_question_and_finished_scenes_are_kept(made_up, tmp_path, monkeypatch):
    chosen = [made_up["alps"], made_up["far"]]
    table = refinement_table(tmp_path / "refinement.csv", chosen, (3, 11), progress=False)
    assert set(table.site) == {"alps"} and set(table.k) == {3, 11}  # what is not here is left out
    assert set(table.method) == {
        "bilinear", "bicubic", "spline", "shape from shading", "color regression", "relief, anchored"
    }
    assert (table.ratio[table.method == "spline"] == 1).all() and (table.ratio > 0).all()
    monkeypatch.setattr(benchmark, "score", None)  # nothing is scored again
    again = refinement_table(tmp_path / "refinement.csv", chosen, (3, 11), progress=False)
    pd.testing.assert_frame_equal(again, table)


def test_a_second_writer_of_the_table_says_so(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "PATIENCE", 0.1)
    with locked(tmp_path / "refinement.csv"), pytest.raises(RunBusy):
        refinement_table(tmp_path / "refinement.csv", [made_up["alps"]], (11,), progress=False)


def test_a_scene_too_small_for_every_cell_ends_in_a_sentence(made_up, tmp_path, capsys):
    command = ["benchmark", str(tmp_path), "--only", "refinement", "--scenes", "nowhere"]
    assert main(command) == 1 and "unknown scene 'nowhere'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four blocks of made-up tiles."""
    jobs = {square(number).id: number for number in range(64)}
    return assemble(tmp_path_factory.mktemp("store") / "made.zarr", jobs, made_up_tile, {}, {}, progress=False)


def test_on_a_store_a_fold_is_a_split_by_blocks(store, tmp_path, capsys):
    study = tmp_path / "study.toml"
    study.write_text(STUDY.replace("[1, 2]", "2").replace("features = 4", "features = 1"), encoding="utf-8")
    command = ["benchmark", str(tmp_path), "--only", "methods", "--store", str(store), "--study", str(study)]
    assert main(command) == 0 and "above minimum ratio" in capsys.readouterr().out
    [row] = pd.read_csv(tmp_path / "methods.csv").to_dict("records")
    assert (row["scene"], row["split"], row["version"], row["tile"]) == (str(store), "blocks", 2, 256)


def test_on_a_store_coarse_dems_are_refined_tile_by_tile(store, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "FITTED", 3)
    table = store_table(tmp_path / "refinement.csv", store, (33,), most=3, progress=False).set_index("method")
    assert set(table.kind) == {"store"} and (table.tiles == 3).all() and (table.k == 33).all()
    assert table.ratio["spline"] == 1 and table.pixels.nunique() == 1 and (table.seconds >= 0).all()
    assert table.MAE["bilinear"] > 0 and set(table.index) == {*benchmark.CLASSICAL, "color regression"}


def test_ratios_are_averaged_geometrically_over_scenes_with_an_interval_over_regions():
    ratios, places = pd.Series([0.5, 2.0, 1.0, 1.0]), pd.Series(["a", "a", "b", "c"])
    mean = geometric_mean(ratios, places)
    assert mean.value == pytest.approx(1) and mean.low == pytest.approx(1) == pytest.approx(mean.high)
    spread = geometric_mean(pd.Series([0.5, 2.0]), pd.Series(["a", "b"]))
    assert spread.value == pytest.approx(1) and spread.low == pytest.approx(0.5) and spread.high == pytest.approx(2)
    alone = geometric_mean(pd.Series([0.5]), pd.Series(["a"]))
    assert alone.value == pytest.approx(0.5) and np.isnan(alone.low)


def test_the_summary_tells_open_scenes_from_those_for_development():
    rows = [
        {"site": name, "region": name, "kind": kind, "k": 11, "visible": visible, "method": "spline", "ratio": ratio}
        for name, kind, visible, ratio in (
            ("a", "open", True, 0.5), ("b", "embedded", False, 1.0), ("c", "development", True, 0.8),
        )
    ]
    summary = summarize_refinement(pd.DataFrame(rows)).set_index(["kind", "scenes"])
    assert summary.ratio["open", "all"] == pytest.approx(0.5**0.5) and summary.ratio["open", "visible"] == 0.5
    assert summary.number["development", "all"] == 1 and summary.worst["open", "all"] == 1.0
