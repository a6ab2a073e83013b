import hashlib
import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from file_server import file_server

from sat2dem_core import cli
from sat2dem_core.cli import main
from sat2dem_core.dataset.stac import SENSORS
from sat2dem_core.dataset.store import open_store
from sat2dem_core.paths import data_folder
from sat2dem_core.prediction import anchors
from sat2dem_core.training import trainer
from sat2dem_core.training.checkpoints import load_model

TINY = ["--scene", "rocky-mountain", "--tile", "32", "--features", "4", "--stride", "32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that the shell trained."""
    folder = tmp_path_factory.mktemp("shell") / "run"
    command = [sys.executable, "-m", "sat2dem_core", "train", "--preset", "cpu", "--epochs", "1"]
    done = subprocess.run([*command, *TINY, "--run", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{re.escape(str(folder))}: validation MAE \d+\.\d m at step 2\n", done.stdout)
    return folder


def test_train_fills_the_folder_with_the_settings_that_were_given(run):
    config = json.loads((run / "config.json").read_text())["config"]
    assert (config["scene"], config["tile"], config["features"], config["stride"]) == ("rocky-mountain", 32, 4, 32)
    assert config["epochs"] == 1 and config["batch"] == 16
    assert load_model(run).config.features == 4


def test_the_same_command_again_loads_the_run(run, capsys):
    times = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    assert main(["train", "--epochs", "1", *TINY, "--run", str(run)]) == 0
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == times


def test_evaluate_prints_every_question_beside_the_baselines(run, tmp_path, capsys):
    assert main(["evaluate", str(run), "--table", str(tmp_path / "scores.csv")]) == 0
    errors, form = capsys.readouterr().out.split("\n\n")
    assert all(word in errors for word in ("MAE", "RMSE", "NMAD", "SSIM", "R2", "absolute", "above minimum", "relief"))
    assert errors.count("constant") == errors.count("tile mean") == errors.count("coarse 1 km") == 3
    assert "slope MAE" in form and form.count("unet") == 1 and "NaN" not in errors + form
    assert len(pd.read_csv(tmp_path / "scores.csv")) == 3 * 6 + 1


def test_evaluate_compares_two_rasters(tmp_path, capsys):
    truth = data_folder("rocky-mountain") / "rmnp-dem.tif"
    assert main(["evaluate", str(truth), "--truth", str(truth)]) == 0
    assert " 1.0 " in capsys.readouterr().out
    other = tmp_path / "smaller.tif"
    with rasterio.open(truth) as file:
        profile, dem = file.profile, file.read()[:, :-1]
    with rasterio.open(other, "w", **profile | {"height": dem.shape[1]}) as file:
        file.write(dem)
    assert main(["evaluate", str(other), "--truth", str(truth)]) == 0
    pixels = dem.shape[1] * dem.shape[2]
    assert capsys.readouterr().out.startswith(f"scored on {pixels:,} pixels, 100.0% of the reference's in the area")
    profile["transform"] *= rasterio.Affine.translation(0.4, 0)
    with rasterio.open(other, "w", **profile | {"height": dem.shape[1]}) as file:
        file.write(dem)
    assert main(["evaluate", str(other), "--truth", str(truth)]) == 1
    assert "have pixels that do not coincide: resample one onto the other" in capsys.readouterr().err
    assert main(["evaluate", str(truth)]) == 1
    assert "give the reference to measure it against with --truth" in capsys.readouterr().err


def test_every_file_that_predict_writes_can_be_evaluated_and_anchors_the_next(
    tmp_path, hills_image, tiny_weights, capsys
):
    truth, weights = tmp_path / "dem.tif", ["--weights", str(tiny_weights)]
    for name in ("dem.tif", "dem.zarr"):
        assert main(["predict", str(hills_image), str(tmp_path / name), "--no-caution", *weights]) == 0
        capsys.readouterr()
        assert main(["evaluate", str(tmp_path / name), "--truth", str(truth)]) == 0
        row = capsys.readouterr().out.splitlines()[2].split()
        assert row[1:4] == ["0.0", "0.0", "0.0"]
        again = ["predict", str(hills_image), str(tmp_path / "next.tif"), "--anchors", str(tmp_path / name), *weights]
        assert main([*again, "--no-caution", "--overwrite"]) == 0
        assert "absolute heights" in capsys.readouterr().out
        assert main(["evaluate", str(tmp_path / "next.tif"), "--truth", str(truth)]) == 0
        assert float(capsys.readouterr().out.splitlines()[2].split()[2]) < 0.01


def test_info_describes_what_predict_would_do(hills_image, tiny_weights, write_raster, capsys):
    command = ["info", str(hills_image), "--weights", str(tiny_weights)]
    assert main(command) == 0
    text = capsys.readouterr().out
    for line in (
        r"size +128 x 160 px, uint8", r"red, green, blue +bands 1, 2, 3",
        r"grid +128 x 160 px, EPSG:32613 \(the image's own\)",
        r"sun +135°, assumed", r"tiles +63", r"time +about \d+ s", r"distance from training +median \d",
    ):
        assert re.search(line, text), line
    assert main([*command, "--json", "--gsd", "60", "--sun", "200"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["grid"] == {"crs": "EPSG:32613", "height": 64, "width": 80, "resampled": True}
    assert facts["sun"] == 200 and facts["sun_source"] == "given" and facts["gsd"] == pytest.approx(60, rel=0.01)
    assert all("relief is lowered" in text for text in facts["warnings"]) and facts["nodata_share"] == 0
    noise = np.random.default_rng(0).integers(0, 4000, (3, 128, 160), dtype=np.uint16)
    path = write_raster("noise.tif", noise)
    assert main(["info", str(path), "--weights", str(tiny_weights), "--json"]) == 0
    stretched, lowered = json.loads(capsys.readouterr().out)["warnings"]
    assert "2nd and 98th percentile" in stretched and "relief is lowered to" in lowered


def test_study_writes_its_table_and_report(tmp_path, capsys):
    grid = "seed = [0, 1]\ntile = 32\nstride = 96\nfeatures = 4\nsteps = 2\nbatch = 2\n"
    (tmp_path / "s.toml").write_text(f"[[grid]]\n{grid}", encoding="utf-8")
    command = ["study", str(tmp_path / "s.toml"), str(tmp_path / "s.csv"), "--report", str(tmp_path / "report")]
    assert main(command) == 0
    assert "s.csv: 2 runs" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"s.md", "s.tex", "s.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--scene", "atlantis"], "unknown scene 'atlantis': choose one of rocky-mountain"),
        (["train", "--preset", "fast"], "unknown preset 'fast': choose one of cpu"),
        (["train", "--method", "pix2pixx"], "unknown method 'pix2pixx': choose one of unet"),
        (["train", "--epochs", "many"], "epochs is 'many': give a number (int)"),
        (["train", "--crops", "maybe"], "crops is 'maybe': give true or false"),
        (["train", "--batch", "0"], "batch is 0: give a positive number"),
        (["evaluate", "nowhere"], "nowhere cannot be read"),
    ],
)
def test_mistakes_end_in_one_sentence_and_status_1(arguments, message, capsys):
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ") and message in output.err
    assert output.err.count("\n") == 1


def test_train_starts_from_the_weights_of_another_run(run, tmp_path, capsys):
    command = ["train", "--epochs", "1", *TINY, "--run", str(tmp_path / "run"), "--initial-weights"]
    assert main([*command, str(run)]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["initial_weights"]["source"] == str(run)
    assert main([*command, "relief"]) == 1
    error = capsys.readouterr().err
    assert "the initial weights relief do not fit this run (initial_down.0.weight has shape (16, 3, 4, 4)" in error
    assert error.endswith("): set features=16, tile=128\n")


def test_run_folder_of_other_settings_is_refused(run, capsys):
    assert main(["train", "--epochs", "1", *TINY, "--seed", "4", "--run", str(run)]) == 1
    assert "holds a run with other config (seed=0): choose another folder" in capsys.readouterr().err


def test_module_shows_no_traceback(tmp_path):
    command = [sys.executable, "-m", "sat2dem_core", "evaluate", tmp_path / "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_interruption_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", interrupted)
    assert main(["train"]) == 130
    assert "the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--help"], ["train", "evaluate"]), (["train", "--help"], ["--run DIR", "--learning-rate FLOAT", "paper"])],
)
def test_help_tells_verbs_and_settings(arguments, words, capsys):
    with pytest.raises(SystemExit) as exit_status:
        main(arguments)
    assert exit_status.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in words)


def test_usage_lists_the_surfaces_and_sensors_that_there_are():
    assert cli.SURFACES == anchors.SURFACES
    assert set(cli.SENSORS) == set(SENSORS)


# ---- data

PERIOD = ["--start", "2023-07-01", "--end", "2023-07-31"]


def test_build_check_export_and_import_from_the_shell(api, tmp_path, capsys):
    store, table, figure = (tmp_path / name for name in ("border.zarr", "tiles.csv", "tiles.png"))
    region = ["--region", "-6.04", "40.85", "-5.96", "40.91"]
    assert main(["data", "build", str(store), *region, *PERIOD, "--url", api]) == 0
    assert capsys.readouterr().out == f"{store}\n"
    assert main(["data", "check", str(store), "--table", str(table), "--figure", str(figure)]) == 0
    assert re.search(rf"{re.escape(str(store))}: 4 tiles, \d flagged\n$", capsys.readouterr().out)
    assert len(table.read_text().splitlines()) == 5 and figure.read_bytes()[:4] == b"\x89PNG"
    assert main(["data", "export", str(store), str(tmp_path / "folders")]) == 0
    assert main(["data", "import", str(tmp_path / "folders"), str(tmp_path / "again.zarr")]) == 0
    again = open_store(tmp_path / "again.zarr")
    assert list(again.tile.values) == list(open_store(store).tile.values)
    np.testing.assert_array_equal(again.dem, open_store(store).dem)


def test_a_region_from_a_file(api, tmp_path):
    (tmp_path / "region.geojson").write_text(shapely.to_geojson(shapely.box(-6.04, 40.85, -6.02, 40.86)))
    region = ["--region", str(tmp_path / "region.geojson")]
    command = ["data", "build", str(tmp_path / "a.zarr"), *region, *PERIOD, "--url", api]
    assert main(command) == 0 and open_store(tmp_path / "a.zarr").sizes["tile"] == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (["build", "a.zarr", "--region", "1", "2", "3", *PERIOD], "the region 1 2 3 is no box"),
    (["build", "a.zarr", "--region", "0", "40", "1", "41", "--start", "2023-08-01", "--end", "2023-07-01"], "reversed"),
    (["build", "a.zarr", "--region", "0", "40", "1", "41", *PERIOD, "--sensor", "modis"], "unknown product 'modis'"),
    (["build", "a.zarr", "--region", "0", "40", "1", "41", *PERIOD, "--crs", "EPSG:4326"], "no projection in meters"),
    (["check", "none.zarr"], "none.zarr does not exist"),
    (["import", "none", "a.zarr"], "none holds 0 original_DEM_cell_<i>.tif"),
    (["iberia", "--record", "http://127.0.0.1:9/record"], "does not answer"),
])
def test_mistakes_with_data_end_in_one_sentence_too(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert main(["data", *arguments]) == 1
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_papers_data_set_in_one_line(store_like_the_papers, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAT2DEM_DATA", str(tmp_path))
    assert main(["data", "iberia", "--record", store_like_the_papers]) == 0
    store = tmp_path / "iberia/sentinel-2.zarr"
    assert capsys.readouterr().out == f"{store}\n"
    with open_store(store) as dataset:
        assert dataset.sizes["tile"] == 6 and dataset.attrs["license"] == "cc-by-4.0"
        assert [bool(np.isnan(dem).any()) for dem in dataset.dem.values] == [False, False, False, True, False, False]


@pytest.fixture
def store_like_the_papers(tmp_path_factory):
    """The address of a record whose archive holds six tiles in the paper's folders, one of them with NaN."""
    folder = tmp_path_factory.mktemp("zenodo")
    with zipfile.ZipFile(folder / "Iberian_tiles.zip", "w") as archive:
        for number in range(6):
            dem = np.full((256, 256), 100.0 * number, np.float32)
            dem[:5] = np.nan if number == 3 else dem[:5]
            image = np.full((3, 256, 256), number, np.uint8)
            for name, values in (("original_dem/original_DEM", dem[None]), ("sentinel_images/sentinel", image)):
                with rasterio.MemoryFile() as memory:
                    place = rasterio.transform.from_origin(460_800 + 7680 * number, 4_423_680, 30, 30)
                    with memory.open(
                        driver="GTiff", count=len(values), height=256, width=256, dtype=values.dtype, crs="EPSG:32630",
                        transform=place,
                    ) as file:
                        file.write(values)
                    archive.writestr(f"{name}_cell_{number}.tif", memory.read())
    content = (folder / "Iberian_tiles.zip").read_bytes()
    with file_server(folder) as server:
        checksum, links = f"md5:{hashlib.md5(content).hexdigest()}", {"self": f"{server.url}/Iberian_tiles.zip"}
        files = [{"key": "Iberian_tiles.zip", "size": len(content), "checksum": checksum, "links": links}]
        (folder / "14647632").write_text(json.dumps({"metadata": {"license": {"id": "cc-by-4.0"}}, "files": files}))
        yield f"{server.url}/14647632"


def test_predict_needs_nothing_but_an_image(tmp_path, capsys):
    """The embedded image with the weights that ship, and then with known heights."""
    image, out = data_folder("rocky-mountain") / "rmnp-rgb.tif", tmp_path / "dem.tif"
    assert main(["predict", str(image), str(out)]) == 0
    told = capsys.readouterr()
    assert re.search(r"dem\.tif: relative heights at 145\.\d+ m, \d+% out of domain", told.out)
    with rasterio.open(out) as file:
        heights = file.read(1, masked=True)
        assert file.count == 1 and file.tags()["MODEL"] == "relief"
        assert abs(heights.min()) < 1e-3 and 500 < heights.max() < 3000
    assert main(["predict", str(image), str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    anchored = ["--anchors", str(data_folder("rocky-mountain") / "rmnp-dem.tif"), "--overwrite"]
    assert main(["predict", str(image), str(out), *anchored]) == 0
    assert re.search(r"absolute heights.*\n\d+ anchors, surface cells: RMSE \d+\.\d\d m", capsys.readouterr().out)


def test_predict_takes_a_run_and_says_what_is_wrong(run, tmp_path, write_raster, picture, capsys):
    bands, coarse = np.concatenate([picture, picture[:1]]), rasterio.transform.from_origin(450_000, 4_480_000, 146, 146)
    image, out = write_raster("image.tif", bands, transform=coarse, photometric="MINISBLACK"), tmp_path / "dem.zarr"
    command = ["predict", str(image), str(out), "--weights", str(run)]
    for more, word in (
        ([], "--bands"), (["--bands", "1,2,9"], "no band 9"),
        (["--bands", "1,2,3", "--nodata", "x"], "give a number, or none"),
        (["--bands", "1,2,3", "--anchors", "1,2,3"], "no anchor lies in the area"),
        (["--bands", "1,2,3", "--weights", "x"], "unknown weights"),
    ):
        assert main([*command, *more]) == 1
        assert word in capsys.readouterr().err and not out.exists()
    settings = ["--bands", "1,2,3", "--gsd", "150", "--no-caution", "--stretch", "0", "255", "--sun", "200"]
    assert main([*command, *settings]) == 0
    assert "relative heights at 150" in capsys.readouterr().out and (out / ".zmetadata").exists()


# ---- a run scored elsewhere


def test_a_run_on_a_scene_of_ones_own_is_scored_on_no_other_without_a_word(trained, capsys):
    assert main(["evaluate", str(trained.folder)]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err == (
        f"error: {trained.folder} was trained on scene hills, given in Python: say what to score it on with --scene, "
        "--store, or --image and --truth\n"
    )


def test_a_run_is_scored_on_an_image_and_its_elevation(trained, hills, hills_image, tmp_path, capsys):
    hills.dem.rio.to_raster(tmp_path / "dem.tif")
    (hills.rgb.astype(np.uint16) * 100).rio.to_raster(tmp_path / "numbers.tif")
    command = ["evaluate", str(trained.folder), "--truth", str(tmp_path / "dem.tif")]
    assert main([*command, "--image", str(hills_image)]) == 0
    assert capsys.readouterr().out.startswith("scored on the 4 held-out tiles of scene hills\n")
    numbers = [*command, "--image", str(tmp_path / "numbers.tif"), "--bands", "3,2,1"]
    assert main(numbers) == 1
    assert "not uint8" in capsys.readouterr().err
    assert main([*numbers, "--stretch", "0", "25500", "--table", str(tmp_path / "scores.csv")]) == 0
    said = f"scored on all 20 tiles of scene numbers; {trained.folder} was trained on scene hills, given in Python, and"
    assert capsys.readouterr().out.startswith(said)
    assert (pd.read_csv(tmp_path / "scores.csv").tiles == 20).all()


def test_a_run_is_scored_on_another_scene_by_name(trained, run, capsys):
    assert main(["evaluate", str(trained.folder), "--scene", "rocky-mountain"]) == 0
    assert "scored on all 64 tiles of scene rocky-mountain; " in capsys.readouterr().out
    assert main(["evaluate", str(run), "--scene", "rocky-mountain"]) == 0
    held_out = capsys.readouterr().out
    assert main(["evaluate", str(run)]) == 0
    assert capsys.readouterr().out == held_out and "held-out tiles of scene rocky-mountain\n" in held_out


@pytest.mark.parametrize(("options", "message"), [
    (["--image", "a.tif"], "a.tif needs elevation to be scored: give a DEM of the same place with --truth"),
    (["--truth", "a.tif"], "is a run: give the image to score it on with --image, next to --truth"),
    (["--store", "tiles"], "tiles is no store (.zarr): give the path of one, or a scene's name with --scene"),
    (["--store", "none.zarr/"], "none.zarr does not exist: build or import it, or check the path"),
    (["--scene", "atlantis"], "unknown scene 'atlantis': choose one of rocky-mountain"),
    (["--stretch", "0", "1"], "--bands and --stretch say how to read an image: give it with --image"),
])
def test_mistakes_in_naming_another_scene_end_in_one_sentence(run, options, message, capsys):
    assert main(["evaluate", str(run), *options]) == 1
    output = capsys.readouterr()
    assert output.out == "" and message in output.err and output.err.count("\n") == 1
