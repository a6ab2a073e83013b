import subprocess
import sys
from dataclasses import replace
from os import environ
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from dask.distributed import Client

from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.errors import CannotWrite, InvalidConfig, NoTiles, OutputExists, RunBusy, UnsupportedImagery
from sat2dem_core.paths import data_folder
from sat2dem_core.prediction import pieces, pipeline
from sat2dem_core.prediction.mosaic import starts
from sat2dem_core.prediction.pipeline import predict
from sat2dem_core.prediction.weights import DEFAULT, pack
from sat2dem_core.rasters.atomic import claimed
from sat2dem_core.training.trainer import train


def bands(path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(masked=True).filled(np.nan)


def parts(path):
    return path.with_name(f".{path.name}.parts")


@pytest.fixture
def made(tmp_path, hills_image, tiny_weights):
    """``made(name, **settings)``: predict the hills; gives what predict gives."""
    return lambda name="dem.tif", **settings: predict(
        hills_image, tmp_path / name, tiny_weights, **{"progress": False, "caution": False} | settings
    )


def test_the_dem_lies_on_the_images_grid_and_says_what_it_is(made, hills_image):
    result = made()
    with rasterio.open(result.path) as dem, rasterio.open(hills_image) as image:
        assert (dem.crs, dem.transform, dem.shape) == (image.crs, image.transform, image.shape)
        assert dem.dtypes == ("float32",) * 3 and dem.descriptions == ("elevation", "interval", "distance")
        assert dem.units == ("m", "m", "1") and dem.nodata == -9999
        tags = dem.tags()
    assert tags["HEIGHTS"] == "relative" and tags["MIRRORED_FOR_SUN"] == "no" and tags["DATE"].startswith("20")
    assert len(tags["WEIGHTS_SHA256"]) == 64 and "rocky-mountain" in tags["TRAINING_DATA"]
    values = bands(result.path)
    assert values[0].min() == pytest.approx(0, abs=1e-3) and np.isfinite(values).all() and (values[1] > 0).all()
    assert result.groups == 1 and result.anchors is None and not parts(result.path).exists()


def test_gdals_own_tools_find_nothing_to_complain_about(made, require_system):
    gdalinfo, path = require_system("gdalinfo"), made().path
    done = subprocess.run([gdalinfo, "-checksum", path], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr and "LAYOUT=COG" in done.stdout and "STATISTICS_MEAN" in done.stdout
    cog = subprocess.run(["rio", "cogeo", "validate", "--strict", path], capture_output=True, text=True, env=_path())
    assert "is a valid cloud optimized GeoTIFF" in cog.stdout and "warning" not in cog.stdout.lower(), cog.stdout + cog.stderr


def _path():
    return environ | {"PATH": f"{Path(sys.executable).parent}:{environ['PATH']}"}


def test_a_large_dem_has_overviews(make_scene, tmp_path, tiny_weights):
    make_scene(560, 560).rgb.rio.to_raster(tmp_path / "large.tif")
    made = predict(tmp_path / "large.tif", tmp_path / "dem.tif", tiny_weights, overlap=0, progress=False, caution=False)
    with rasterio.open(made.path) as file:
        assert file.overviews(1) and file.profile["blockxsize"] == 512


def test_batch_blocks_and_order_change_nothing(made, monkeypatch):
    whole = bands(made("a.tif", batch=64).path)
    assert np.abs(bands(made("b.tif", batch=1).path) - whole).max() < 1e-3
    monkeypatch.setattr(pieces, "ROWS", 32)
    monkeypatch.setattr(pipeline, "ROWS", 32)
    assert np.abs(bands(made("c.tif").path) - whole).max() < 1e-3
    stage = pipeline._stage
    monkeypatch.setattr(
        pipeline, "_stage", lambda name, work, plan, numbers, *more: stage(name, work, plan, list(numbers)[::-1], *more)[::-1]
    )
    assert np.abs(bands(made("d.tif").path) - whole).max() < 1e-3


def test_a_mosaic_is_no_worse_than_its_tiles_and_shows_no_seams(tmp_path):
    """With the weights that ship, on the embedded scene's whole image."""
    scene, folder = open_scene(), data_folder("rocky-mountain")
    made = {
        overlap: predict(folder / "rmnp-rgb.tif", tmp_path / f"{overlap}.tif", overlap=overlap, caution=False, progress=False).path
        for overlap in (0, 0.5)
    }
    truth = scene.dem.rio.write_nodata(np.nan).rio.reproject_match(rioxarray.open_rasterio(made[0]), nodata=np.nan).values
    tiles, mosaic = (bands(path)[0] for path in made.values())

    def relief(dem):
        error = dem - truth
        squares = [error[row : row + 128, column : column + 128] for row in starts(430, 128, 128) for column in starts(428, 128, 128)]
        return np.mean([np.nanmean(np.abs(square - np.nanmean(square))) for square in squares if np.isfinite(square).mean() > 0.5])

    def seams(dem, stride):
        """Steps across the edges of tiles, over those of the twelve pixels on either side."""
        found = []
        for way in (dem, dem.T):
            steps = np.nanmean(np.abs(np.diff(way, axis=1)), 0)
            edges = [at for start in starts(way.shape[1], 128, stride) for at in (start - 1, start + 127) if 12 < at < len(steps) - 12]
            found += [steps[at] / steps[[*range(at - 12, at), *range(at + 1, at + 13)]].mean() for at in edges]
        return np.mean(found)

    assert relief(mosaic) <= relief(tiles)
    assert seams(mosaic, 64) <= 1.05 < 1.3 < seams(tiles, 128)


def test_an_interrupted_prediction_goes_on_where_it_stopped(made, monkeypatch):
    whole, done, strip = bands(made("whole.tif").path), [], pipeline.predict_strip

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


def test_two_processes_do_not_make_one_file(made, tmp_path, monkeypatch):
    monkeypatch.setattr("sat2dem_core.rasters.atomic.PATIENCE", 0.1)
    with claimed(parts(tmp_path / "dem.tif")), pytest.raises(RunBusy, match="another process is at work"):
        made("dem.tif")


def test_parts_of_another_prediction_are_not_used(made, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    whole = bands(made("whole.tif").path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "find_levels", stop)
        made("dem.tif", sun=315)
    assert parts(tmp_path / "dem.tif").exists()
    assert np.array_equal(bands(made("dem.tif").path), whole)


def test_a_full_disk_leaves_no_dem_and_the_same_command_goes_on(made, tmp_path, full_disk):
    whole = bands(made("whole.tif").path)
    for limit in (2_000, 60_000, 150_000):
        with full_disk(limit), pytest.raises(CannotWrite, match="cannot write"):
            made("dem.tif")
        assert not (tmp_path / "dem.tif").exists()
    assert parts(tmp_path / "dem.tif").exists()
    assert np.array_equal(bands(made("dem.tif").path), whole)


def test_what_stands_there_is_not_overwritten_unless_told(made, tmp_path):
    (tmp_path / "dem.tif").write_text("precious")
    with pytest.raises(OutputExists, match="--overwrite"):
        made()
    assert (tmp_path / "dem.tif").read_text() == "precious"
    assert bands(made(overwrite=True).path).shape == (3, 128, 160)


def test_the_sun_decides_how_a_tile_is_mirrored(made, hills, tmp_path, tiny_weights):
    straight = bands(made("a.tif").path)
    for name, axes, azimuth in (("n", (-2,), 45), ("w", (-1,), 225), ("nw", (-2, -1), 315)):
        mirrored = hills.copy()
        mirrored["rgb"] = (hills.rgb.dims, np.flip(hills.rgb.values, axes))
        mirrored.rgb.rio.write_crs(hills.rio.crs).rio.to_raster(tmp_path / f"{name}.tif")
        made_of = predict(tmp_path / f"{name}.tif", tmp_path / f"{name}-dem.tif", tiny_weights, sun=azimuth, progress=False, caution=False)
        assert np.abs(np.flip(bands(made_of.path), axes) - straight).max() < 0.05


def test_zarr_and_a_cluster_give_what_a_file_gives(made):
    whole = bands(made("a.tif").path)
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        stores = made("local.zarr").path, made("cluster.zarr", client=client).path
        assert np.abs(bands(made("b.tif", client=client).path) - whole).max() < 1e-3
    for store in stores:
        dem = xr.open_zarr(store, consolidated=True)
        assert dem.rio.crs.to_epsg() == 32613 and dem.attrs["heights"] == "relative" and dem.elevation.dims == ("y", "x")
        assert np.abs(np.stack([dem[name].values for name in ("elevation", "interval", "distance")]) - whole).max() < 1e-3
        assert dem.rio.bounds() == pytest.approx((450_000, 4_476_160, 454_800, 4_480_000))


def test_where_there_is_no_image_there_is_no_elevation(hills, tmp_path, tiny_weights):
    image = hills.rgb.copy()
    image[:, 40:60, 50:90] = 0
    image.rio.write_nodata(0).rio.to_raster(tmp_path / "holes.tif")
    values = bands(predict(tmp_path / "holes.tif", tmp_path / "dem.tif", tiny_weights, progress=False, caution=False).path)
    assert np.isnan(values[:, 40:60, 50:90]).all() and np.isfinite(values).sum() == 3 * (128 * 160 - 800)


def test_nodata_that_parts_an_image_is_told(hills, tmp_path, tiny_weights):
    image = hills.rgb.copy()
    image[:, :, 60:120] = 0
    image.rio.write_nodata(0).rio.to_raster(tmp_path / "parted.tif")
    with pytest.warns(UserWarning, match="into 2 areas"):
        assert predict(tmp_path / "parted.tif", tmp_path / "dem.tif", tiny_weights, progress=False, caution=False).groups == 2


def test_relief_is_lowered_where_the_image_is_foreign(made, hills, tmp_path, tiny_weights):
    image = hills.rgb.copy(data=np.random.default_rng(0).integers(0, 60, hills.rgb.shape, dtype=np.uint8))
    image.rio.to_raster(tmp_path / "foreign.tif")
    dems = []
    for caution in (True, False):
        out = tmp_path / f"{caution}.tif"
        if caution:
            with pytest.warns(UserWarning, match="unlike what the model was trained on"):
                result = predict(tmp_path / "foreign.tif", out, tiny_weights, progress=False)
            assert result.outside > 0.9 and int(result.tags["RELIEF_LOWERED_TO"][:-1]) < 90
        else:
            predict(tmp_path / "foreign.tif", out, tiny_weights, progress=False, caution=False)
        dems.append(bands(out)[0])
    assert np.ptp(dems[0]) < 0.95 * np.ptp(dems[1])
    assert np.corrcoef(dems[0].ravel(), dems[1].ravel())[0, 1] > 0.9999


def test_an_ensemble_is_the_mean_of_its_members(made, tiny_weights):
    one, two = bands(made("a.tif").path), bands(made("b.tif").path)
    assert np.array_equal(one, two)
    both = predict(made("c.tif").path.parent / "hills.tif", made("c.tif", overwrite=True).path.with_name("e.tif"), [tiny_weights] * 2, progress=False, caution=False)
    assert np.abs(bands(both.path) - one).max() < 1e-3 and both.tags["MODEL"].count(",") == 1


def test_weights_that_know_heights_need_no_levels(hills, hills_image, small, tmp_path):
    run = train(replace(small, normalization="global"), scene=hills, run=tmp_path / "run", progress=False)
    made = predict(hills_image, tmp_path / "dem.tif", pack(run.folder, run.data), progress=False)
    assert made.tags["HEIGHTS"] == "absolute" and made.tags["RELIEF_LOWERED_TO"] == "100%"
    heights, (low, high) = bands(made.path)[0], (float(hills.dem.min()), float(hills.dem.max()))
    assert low <= heights.min() < heights.max() <= high
    with pytest.raises(InvalidConfig, match="differ in tile, ground sampling distance or normalization"):
        predict(hills_image, tmp_path / "o.tif", [pack(run.folder), DEFAULT], progress=False)


def test_images_too_small_or_too_empty_and_bad_settings_are_refused(made, tmp_path, write_raster, picture, tiny_weights):
    with pytest.raises(NoTiles, match=r"20 x 80 px at 30 m, smaller than one tile of 32 x 32 px \(0.96 km\)"):
        predict(write_raster("small.tif", picture[:, :20]), tmp_path / "o.tif", tiny_weights, progress=False)
    picture[:, 1:, 1:] = 0
    with pytest.raises(UnsupportedImagery, match="nothing in a whole tile"):
        predict(write_raster("empty.tif", picture, nodata=0), tmp_path / "o.tif", tiny_weights, progress=False)
    with pytest.raises(InvalidConfig, match=".tif or .zarr"):
        made("dem.png")
    for wrong in ({"overlap": 1.0}, {"batch": 0}):
        with pytest.raises(InvalidConfig, match=next(iter(wrong))):
            made(**wrong)
