import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from pyproj import Transformer
from rio_cogeo.cogeo import cog_validate

from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.errors import CannotWrite, InvalidConfig, NoTiles, OutputExists, RunBusy, UnsupportedImagery
from sat2dem_core.paths import data_folder
from sat2dem_core.prediction import pieces, pipeline, work
from sat2dem_core.prediction.mosaic import starts
from sat2dem_core.prediction.pipeline import predict
from sat2dem_core.prediction.weights import DEFAULT, pack
from sat2dem_core.rasters.atomic import claimed
from sat2dem_core.training.trainer import train


def parts(path):
    """The folder of intermediate results of a prediction that is written to ``path``."""
    return path.with_name(f".{path.name}.parts")


def test_the_dem_lies_on_the_images_grid_and_describes_itself(made, bands, hills_image):
    result = made()
    with rasterio.open(result.path) as dem, rasterio.open(hills_image) as image:
        assert (dem.crs, dem.transform, dem.shape) == (image.crs, image.transform, image.shape)
        assert dem.dtypes == ("float32",) and dem.descriptions == ("elevation",)
        assert dem.units == ("m",) and dem.nodata == -9999
        tags = dem.tags()
    assert tags["HEIGHTS"] == "relative" and tags["MIRRORED_FOR_SUN"] == "no" and tags["DATE"].startswith("20")
    assert len(tags["WEIGHTS_SHA256"]) == 64 and "scene hills" in tags["TRAINING_DATA"]
    for path, name, unit in ((result.interval, "interval", "m"), (result.domain, "distance", "1")):
        with rasterio.open(path) as file:
            assert file.descriptions == (name,) and file.units == (unit,) and file.tags()["HEIGHTS"] == "relative"
    values = bands(result.path)
    assert values[0].min() == pytest.approx(0, abs=1e-3) and np.isfinite(values).all() and (values[1] > 0).all()
    assert result.groups == 1 and result.anchors is None and not parts(result.path).exists()


def test_gdals_own_tools_accept_the_file(made, require_system):
    gdalinfo, path = require_system("gdalinfo"), made().path
    done = subprocess.run([gdalinfo, "-checksum", path], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0 and not done.stderr and "LAYOUT=COG" in done.stdout and "STATISTICS_MEAN" in done.stdout
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])


def test_a_large_dem_has_overviews(make_scene, tmp_path, tiny_weights):
    make_scene(560, 560).rgb.rio.to_raster(tmp_path / "large.tif")
    with pytest.warns(UserWarning, match="tiles without overlap divide .* into 289 areas"):
        made = predict(
            tmp_path / "large.tif", tmp_path / "dem.tif", tiny_weights, overlap=0, progress=False, caution=False
        )
    with rasterio.open(made.path) as file:
        assert file.overviews(1) and file.profile["blockxsize"] == 512


def test_batch_blocks_and_order_change_nothing(made, bands, whole, monkeypatch):
    assert np.abs(bands(made("b.tif", batch=1).path) - whole).max() < 1e-3
    monkeypatch.setattr(pieces, "ROWS", 32)
    monkeypatch.setattr(pipeline, "ROWS", 32)
    monkeypatch.setattr(work, "ROWS", 32)
    assert np.abs(bands(made("c.tif").path) - whole).max() < 1e-3
    stage = pipeline.run_stage

    def backwards(name, work, plan, numbers, *more, after=None):
        return stage(name, work, plan, list(numbers)[::-1], *more)[::-1]

    monkeypatch.setattr(pipeline, "run_stage", backwards)
    assert np.abs(bands(made("d.tif").path) - whole).max() < 1e-3


def relief_error(error: np.ndarray) -> float:
    """Mean absolute error (meters) about the mean of each square of 128 px that is known to more than a half."""
    corners = [(row, column) for row in starts(430, 128, 128) for column in starts(428, 128, 128)]
    squares = [error[row : row + 128, column : column + 128] for row, column in corners]
    known = [square for square in squares if np.isfinite(square).mean() > 0.5]
    return np.mean([np.nanmean(np.abs(square - np.nanmean(square))) for square in known])


def seam_ratio(dem: np.ndarray, stride: int) -> float:
    """Steps in elevation across the edges of tiles, over those across the twelve pixels on either side."""
    ratios = []
    for image in (dem, dem.T):
        steps = np.nanmean(np.abs(np.diff(image, axis=1)), 0)
        edges = [edge for start in starts(image.shape[1], 128, stride) for edge in (start - 1, start + 127)]
        for edge in edges:
            if 12 < edge < len(steps) - 12:
                around = [*range(edge - 12, edge), *range(edge + 1, edge + 13)]
                ratios.append(steps[edge] / steps[around].mean())
    return np.mean(ratios)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")  # columns of nodata at the image's border
@pytest.mark.filterwarnings("ignore:tiles without overlap divide")
def test_a_mosaic_is_no_worse_than_its_tiles_and_shows_no_seams(tmp_path, bands, all_files):
    """With the shipped weights, on the embedded scene's whole image."""
    scene, image = open_scene(), data_folder("rocky-mountain") / "rmnp-rgb.tif"
    paths = {
        overlap: all_files(image, tmp_path / f"{overlap}.tif", overlap=overlap).path
        for overlap in (0, 0.5)
    }
    grid = rioxarray.open_rasterio(paths[0])
    truth = scene.dem.rio.write_nodata(np.nan).rio.reproject_match(grid, nodata=np.nan).values
    tiles, mosaic = (bands(path)[0] for path in paths.values())
    assert relief_error(mosaic - truth) <= relief_error(tiles - truth)
    assert seam_ratio(mosaic, 64) <= 1.05 < 1.3 < seam_ratio(tiles, 128)


def test_an_interrupted_prediction_resumes_where_it_stopped(made, bands, whole, monkeypatch):
    done, strip = [], pipeline.predict_strip

    def interrupted(plan, number):
        done.append(number)
        if done == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return strip(plan, number)

    monkeypatch.setattr(pipeline, "predict_strip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made("dem.tif")
    result = made("dem.tif")
    assert done == [0, 1, 2, 3, 3, 4, 5, 6] and np.array_equal(bands(result.path), whole)


def test_an_interruption_names_the_folder_and_other_code_does_not_resume(made, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=r"kept in .*\.dem\.tif\.parts"):
        patch.setattr(pipeline, "find_levels", stop)
        made("dem.tif")
    done, strip = [], pipeline.predict_strip
    monkeypatch.setattr(pipeline, "predict_strip", lambda plan, number: done.append(number) or strip(plan, number))
    monkeypatch.setattr(pipeline, "digest", lambda modules: "other code")
    made("dem.tif")
    assert done == [*range(7)]


def test_intermediate_results_take_less_than_announced(make_scene, tmp_path, tiny_weights, monkeypatch, capsys):
    """Measured after each strip and block, on an image of many tiles."""
    make_scene(600, 500).rgb.rio.to_raster(tmp_path / "large.tif")
    folder, sizes, replacing = parts(tmp_path / "dem.tif"), [], work.replacing

    @contextmanager
    def measured(path):
        with replacing(path) as temporary:
            yield temporary
        sizes.append(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))

    monkeypatch.setattr(work, "replacing", measured)
    predict(tmp_path / "large.tif", tmp_path / "dem.tif", tiny_weights, caution=False)
    announced = re.search(r"take up to ([\d,]+) MB in .*\.dem\.tif\.parts", capsys.readouterr().err)
    assert 0.3 < max(sizes) / (28 * 600 * 500) <= 1 and float(announced[1]) == round(28 * 600 * 500 / 1e6)


def test_what_lies_in_the_working_folder_is_not_taken_for_shipped_weights(hills_image, tmp_path, monkeypatch):
    (tmp_path / "relief").mkdir()
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(1, 255, (3, 128, 130), dtype=np.uint8)
    rgb = xr.DataArray(image, dims=("band", "y", "x")).rio.write_crs(32613)
    rgb.rio.write_transform(rasterio.Affine(30, 0, 0, 0, -30, 0)).rio.to_raster("image.tif")
    made = predict("image.tif", "dem.tif", "relief", progress=False, caution=False)
    assert made.tags["MODEL"] == "relief"


def test_of_predictions_to_one_file_one_is_made_and_the_others_say_why_not(hills_image, tmp_path, tiny_weights):
    command = [sys.executable, "-m", "sat2dem_core", "predict", hills_image, tmp_path / "dem.tif", "--weights"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([*command, tiny_weights], stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    errors = [process.communicate()[1] for process in running]
    assert sorted(process.returncode for process in running) == [0, 1, 1], errors
    for process, error in zip(running, errors):
        if process.returncode:
            assert re.search("error: (another process is at work|.*dem.tif exists: give another name)", error), error
    with rasterio.open(tmp_path / "dem.tif") as file:
        assert np.isfinite(file.read()).all()


def test_two_processes_do_not_write_one_file(made, tmp_path, monkeypatch):
    monkeypatch.setattr("sat2dem_core.rasters.atomic.PATIENCE", 0.1)
    with claimed(parts(tmp_path / "dem.tif")), pytest.raises(RunBusy, match="another process is at work"):
        made("dem.tif")


def test_parts_of_another_prediction_are_not_used(made, bands, whole, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "find_levels", stop)
        made("dem.tif", sun=315)
    assert parts(tmp_path / "dem.tif").exists()
    assert np.array_equal(bands(made("dem.tif").path), whole)


def test_a_full_disk_leaves_no_dem_and_the_same_command_resumes(made, bands, whole, tmp_path, full_disk):
    for limit in (2_000, 30_000, 60_000):
        with full_disk(limit), pytest.raises(CannotWrite, match="cannot write"):
            made("dem.tif")
        assert not (tmp_path / "dem.tif").exists()
    assert parts(tmp_path / "dem.tif").exists()
    assert np.array_equal(bands(made("dem.tif").path), whole)


def test_an_existing_file_is_overwritten_only_on_request(made, bands, tmp_path):
    (tmp_path / "dem.tif").write_text("precious", encoding="utf-8")
    with pytest.raises(OutputExists, match="--overwrite"):
        made()
    assert (tmp_path / "dem.tif").read_text(encoding="utf-8") == "precious"
    assert bands(made(overwrite=True).path).shape == (3, 128, 160)


@pytest.mark.parametrize("axes, azimuth", [((-2,), 45), ((-1,), 225), ((-2, -1), 315)])
def test_the_sun_determines_how_tiles_are_mirrored(
    axes, azimuth, bands, whole, hills, tmp_path, tiny_weights, all_files
):
    image = hills.rgb.copy(data=np.flip(hills.rgb.values, axes))
    image.rio.to_raster(tmp_path / "flipped.tif")
    result = all_files(tmp_path / "flipped.tif", tmp_path / "dem.tif", tiny_weights, sun=azimuth)
    assert np.abs(np.flip(bands(result.path), axes) - whole).max() < 0.05


def test_the_sun_is_known_from_metadata_or_a_date_and_the_file_says_which(hills_image, tmp_path, tiny_weights, made):
    assert made().tags["SUN"] == "135 degrees, assumed, a morning's"
    evening = made("evening.tif", date="2023-07-01T23:00")
    assert evening.tags["SUN"].endswith("the date and time") and evening.tags["MIRRORED_FOR_SUN"] != "no"
    with rasterio.open(hills_image, "r+") as file:
        file.update_tags(SUN_AZIMUTH="225")
    stated = made("stated.tif")
    assert stated.tags["SUN"] == "225 degrees, the image's metadata" and stated.tags["MIRRORED_FOR_SUN"] == "left-right"
    assert made("given.tif", sun=135).tags["SUN"] == "135 degrees, given"
    with pytest.raises(InvalidConfig, match="'soon' is no date: write 2023-07-01"):
        made("wrong.tif", date="soon")


def test_the_suns_azimuth_counts_from_true_north_on_any_grid(hills, tmp_path, tiny_weights):
    """A polar grid whose columns point west of north by 90 degrees gives the relief that a UTM grid gives."""
    to_utm = Transformer.from_crs("EPSG:4326", "EPSG:32608", always_xy=True).transform(-135, 70)
    to_polar = Transformer.from_crs("EPSG:4326", "EPSG:3413", always_xy=True).transform(-135, 70)
    utm, polar = (rasterio.Affine(30, 0, x - 1920, 0, -30, y + 1920) for x, y in (to_utm, to_polar))
    image = xr.DataArray(hills.rgb.values[:, :128, :128], dims=("band", "y", "x"))
    image = image.rio.write_crs("EPSG:32608").rio.write_transform(utm)
    image.rio.to_raster(tmp_path / "utm.tif")
    turned = image.rio.reproject("EPSG:3413", transform=polar, shape=(128, 128), resampling=2, nodata=0)
    turned.rio.to_raster(tmp_path / "polar.tif")

    def relief(name, **settings):
        made = predict(
            tmp_path / name, tmp_path / "dem.tif", tiny_weights, progress=False, caution=False, overwrite=True,
            **settings,
        )
        dem = rioxarray.open_rasterio(made.path, masked=True).squeeze()
        return dem.rio.reproject("EPSG:32608", transform=utm, shape=(128, 128), nodata=np.nan).values[16:-16, 16:-16]

    def agreement(a, b):
        known = np.isfinite(a) & np.isfinite(b)
        return np.corrcoef(a[known], b[known])[0, 1]

    for settings in ({}, {"sun": 135}, {"sun": 300}):
        assert agreement(relief("utm.tif", **settings), relief("polar.tif", **settings)) > 0.9, settings
    assert agreement(relief("utm.tif", sun=135), relief("polar.tif", sun=225)) < 0.9


def test_all_files_are_written_together_or_none(made, tmp_path, full_disk, listing):
    (tmp_path / "dem-interval.tif").write_text("precious", encoding="utf-8")
    with pytest.raises(OutputExists, match="dem-interval.tif exists: .* --overwrite"):
        made(style=True)
    assert not (tmp_path / "dem.tif").exists() and not parts(tmp_path / "dem.tif").exists()
    with full_disk(60_000), pytest.raises(CannotWrite):
        made(style=True, overwrite=True)
    assert (tmp_path / "dem-interval.tif").read_text(encoding="utf-8") == "precious"
    result = made(style=True, overwrite=True)
    assert set(listing(tmp_path)) >= {"dem.tif", "dem.qml", "dem-interval.tif", "dem-domain.tif"}
    assert (result.interval, result.domain) == (tmp_path / "dem-interval.tif", tmp_path / "dem-domain.tif")
    alone = made("alone.tif", interval=None, domain=None)
    assert alone.interval is None and alone.domain is None and not list(tmp_path.glob("alone-*"))


def test_a_prediction_killed_between_its_files_is_completed_by_the_same_command(
    made, bands, whole, tmp_path, monkeypatch
):
    replace_file = Path.replace

    def killed(self, target):
        if Path(target).name == "dem.tif":  # the last of its files
            raise KeyboardInterrupt
        return replace_file(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        made()
    assert (tmp_path / "dem-interval.tif").exists() and not (tmp_path / "dem.tif").exists()
    assert np.array_equal(bands(made().path), whole) and not parts(tmp_path / "dem.tif").exists()


def test_no_file_that_is_read_is_written_over(made, hills_image, tmp_path, tiny_weights, write_raster, slope):
    before = hills_image.read_bytes()
    anchors = write_raster("anchors.tif", slope)
    for settings in (
        {"name": hills_image.name}, {"interval": hills_image}, {"domain": anchors, "anchors": anchors},
    ):
        with pytest.raises(OutputExists, match="is a file that the prediction reads"):
            made(**{"overwrite": True} | settings)
    (tmp_path / "link.tif").symlink_to(hills_image)
    with pytest.raises(OutputExists, match="link.tif is a file that the prediction reads"):
        made("link.tif", overwrite=True)
    assert hills_image.read_bytes() == before


def test_names_of_files_that_make_no_sense_are_refused(made, tmp_path):
    for name, settings, words in (
        ("a.zarr", {"interval": tmp_path / "i.tif"}, "holds interval and distance"),
        ("a.zarr", {"style": True}, "store"),
        ("a.tif", {"interval": tmp_path / "i.zarr"}, "i.zarr is no GeoTIFF"),
        ("a.tif", {"interval": tmp_path / "a.tif"}, "name of its own"),
    ):
        with pytest.raises(InvalidConfig, match=words):
            made(name, **settings)


def test_zarr_and_a_cluster_give_what_a_file_gives(made, bands, whole, cluster):
    stores = made("local.zarr").path, made("cluster.zarr", client=cluster).path
    assert np.abs(bands(made("b.tif", client=cluster).path) - whole).max() < 1e-3
    for store in stores:
        dem = xr.open_zarr(store, consolidated=True)
        assert dem.rio.crs.to_epsg() == 32613 and dem.elevation.dims == ("y", "x")
        assert dem.attrs["heights"] == "relative"
        values = np.stack([dem[name].values for name in ("elevation", "interval", "distance")])
        assert np.abs(values - whole).max() < 1e-3
        assert dem.rio.bounds() == pytest.approx((450_000, 4_476_160, 454_800, 4_480_000))


def test_where_there_is_no_image_there_is_no_elevation(bands, hills, tmp_path, tiny_weights, all_files):
    image = hills.rgb.copy()
    image[:, 40:60, 50:90] = 0
    image.rio.write_nodata(0).rio.to_raster(tmp_path / "holes.tif")
    made = all_files(tmp_path / "holes.tif", tmp_path / "dem.tif", tiny_weights)
    values = bands(made.path)
    assert np.isnan(values[:, 40:60, 50:90]).all() and np.isfinite(values).sum() == 3 * (128 * 160 - 800)


def test_nodata_that_divides_an_image_gives_a_warning(hills, tmp_path, tiny_weights):
    image = hills.rgb.copy()
    image[:, :, 60:120] = 0
    image.rio.write_nodata(0).rio.to_raster(tmp_path / "divided.tif")
    with pytest.warns(UserWarning, match="nodata divides .* into 2 areas") as record:
        made = predict(tmp_path / "divided.tif", tmp_path / "dem.tif", tiny_weights, progress=False, caution=False)
    assert made.groups == 2
    assert [warning.filename for warning in record if "areas" in str(warning.message)] == [__file__]


def test_relief_is_lowered_where_the_image_is_out_of_domain(bands, hills, tmp_path, tiny_weights, all_files):
    image = hills.rgb.copy(data=np.random.default_rng(0).integers(0, 60, hills.rgb.shape, dtype=np.uint8))
    image.rio.to_raster(tmp_path / "foreign.tif")
    dems = []
    for caution in (True, False):
        out = tmp_path / f"{caution}.tif"
        if caution:
            with pytest.warns(UserWarning, match="lies outside the training distribution"):
                result = all_files(tmp_path / "foreign.tif", out, tiny_weights, caution=True)
            assert result.outside > 0.9 and int(result.tags["RELIEF_LOWERED_TO"][:-1]) < 90
        else:
            all_files(tmp_path / "foreign.tif", out, tiny_weights)
        dems.append(bands(out)[0])
    assert np.ptp(dems[0]) < 0.95 * np.ptp(dems[1])
    assert np.corrcoef(dems[0].ravel(), dems[1].ravel())[0, 1] > 0.9999


def test_an_ensemble_is_the_mean_of_its_members(made, bands, whole, hills_image, tmp_path, tiny_weights, all_files):
    assert np.array_equal(bands(made("a.tif").path), whole)
    both = all_files(hills_image, tmp_path / "e.tif", [tiny_weights] * 2)
    assert np.abs(bands(both.path) - whole).max() < 1e-3 and both.tags["MODEL"].count(",") == 1


def test_weights_that_predict_elevation_need_no_levels(bands, hills, hills_image, small, tmp_path, all_files):
    run = train(replace(small, normalization="global"), scene=hills, run=tmp_path / "run", progress=False)
    made = all_files(hills_image, tmp_path / "dem.tif", pack(run.folder, run.data), caution=True)
    assert made.tags["HEIGHTS"] == "absolute" and made.tags["RELIEF_LOWERED_TO"] == "100%"
    heights, (low, high) = bands(made.path)[0], (float(hills.dem.min()), float(hills.dem.max()))
    assert low <= heights.min() < heights.max() <= high
    with pytest.raises(InvalidConfig, match="differ in tile, ground sampling distance or normalization"):
        predict(hills_image, tmp_path / "o.tif", [pack(run.folder), DEFAULT], progress=False)


def test_images_too_small_or_too_empty_and_bad_settings_are_refused(
    made, tmp_path, write_raster, picture, tiny_weights
):
    with pytest.raises(NoTiles, match=r"20 x 80 px at 30 m, smaller than one tile of 32 x 32 px \(0.96 km\)"):
        predict(write_raster("small.tif", picture[:, :20]), tmp_path / "o.tif", tiny_weights, progress=False)
    picture[:, 1:, 1:] = 0
    with pytest.raises(UnsupportedImagery, match="no tile of .* has enough valid pixels"):
        predict(write_raster("empty.tif", picture, nodata=0), tmp_path / "o.tif", tiny_weights, progress=False)
    with pytest.raises(InvalidConfig, match=".tif or .zarr"):
        made("dem.png")
    nan = float("nan")
    for wrong in ({"overlap": 1.0}, {"batch": 0}, {"gsd": nan}, {"gsd": 0}, {"gsd": -30}, {"sun": nan}):
        with pytest.raises(InvalidConfig, match=next(iter(wrong))):
            made(**wrong)
