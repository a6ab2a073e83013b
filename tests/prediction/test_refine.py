"""A coarse DEM refined by an image: lit terrain, whose truth is known."""

import json

import numpy as np
import pytest
import rasterio
import rioxarray
import torch
import xarray as xr
from affine import Affine
from rasterio.enums import Resampling
from scipy.ndimage import gaussian_filter

from sat2dem_core.cli import main
from sat2dem_core.errors import InvalidAnchors, InvalidConfig, OutputExists, UnknownName
from sat2dem_core.models import refiner
from sat2dem_core.models.refiner import Refiner
from sat2dem_core.prediction import refine as module
from sat2dem_core.prediction.confidence import SlopeInterval
from sat2dem_core.prediction.refine import refine
from sat2dem_core.prediction.refiner_weights import load_refiner, save_refiner
from sat2dem_core.prediction.weights import load_weights
from sat2dem_core.rasters.coarse import CellGrid, cell_means, mean_keeping_spline
from sat2dem_core.terrain import hillshade

K, SIDE, SUN = 8, 240, 140.0
CORNER = Affine(30, 0, 400_000, 0, -30, 4_000_000)
CELLS = CORNER * Affine.scale(K)
INTERVAL = SlopeInterval((3.0, 33.0), (0.2,), ((0.1, 0.2), (0.3, 0.4)))


@pytest.fixture(scope="module")
def terrain() -> np.ndarray:
    rng = np.random.default_rng(3)
    return 1000 + sum(12 * s**1.5 * gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) for s in (1.5, 3, 6, 12))


@pytest.fixture(scope="module")
def coarse(terrain) -> np.ndarray:
    return cell_means(terrain, K)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Untrained weights, which add half of the linear shape from shading."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    card = {"name": "small", "data": "none"}
    return save_refiner(path, Refiner((8, 8)), gsd=(10.0, 300.0), interval=INTERVAL, card=card)


def write(path, values, transform, crs="EPSG:32630", **more):
    values = np.atleast_3d(values) if values.ndim == 2 else values
    values = np.moveaxis(values, -1, 0) if values.shape[-1] == 1 else values
    profile = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2]}
    unit = more.pop("unit", None)
    with rasterio.open(path, "w", dtype=values.dtype, crs=crs, transform=transform, **profile, **more) as file:
        file.write(values)
        if unit:
            file.set_band_unit(1, unit)
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory, terrain):
    shade = hillshade(terrain, (30.0, 30.0), sun=(SUN, 45.0))
    pixels = np.stack([250 * shade, 200 * shade, 150 * shade]).clip(1, 255).astype(np.uint8)
    return write(tmp_path_factory.mktemp("image") / "image.tif", pixels, CORNER)


@pytest.fixture
def dem(tmp_path, coarse):
    """``dem(cells, **profile)``: a file of cells, by default of the terrain's."""

    def make(cells=coarse, name="coarse.tif", transform=CELLS, **more):
        return write(tmp_path / name, cells.astype(np.float32), transform, **{"nodata": -9999.0} | more)

    return make


def read(path) -> np.ndarray:
    with rasterio.open(path) as file:
        assert file.count == 1
        return file.read(1, masked=True).filled(np.nan)


@pytest.fixture
def made(tmp_path, image, dem, weights):
    def make(source=None, out="out.tif", **settings):
        given = {"progress": False, "sun": SUN} | settings
        files = given.pop("image", image), source or dem(), tmp_path / out, given.pop("weights", weights)
        return refine(*files, **given)

    return make


def test_the_result_is_closer_to_the_truth_and_keeps_the_cells(made, terrain, coarse, tmp_path):
    result = made(interval=tmp_path / "interval.tif", difference=tmp_path / "difference.tif")
    refined, difference = read(result.path), read(result.difference)
    spline = mean_keeping_spline(coarse, CellGrid.squares(terrain.shape, K))
    inner = (slice(16, -16), slice(16, -16))
    assert np.abs(refined - terrain)[inner].mean() < 0.9 * np.abs(spline - terrain)[inner].mean()
    assert np.abs(cell_means(refined.astype(float), K) - coarse).max() < 0.5
    assert np.abs((refined - difference) - spline)[inner].max() < 1
    assert np.abs(cell_means(difference.astype(float), K)).max() < 0.5
    assert result.tags["SUN"] == "140 degrees, given" and result.tags["HEIGHTS"] == "absolute"
    assert (read(result.interval) > 0).all()


def test_windows_leave_no_seams_and_order_changes_nothing(made, monkeypatch):
    whole = read(made().path)
    for each in (module, refiner):
        monkeypatch.setattr(each, "CORE", 64)
    parts = read(made(out="parts.tif").path)
    assert np.abs(parts - whole).max() < 0.05 * np.abs(np.diff(whole)).mean() * K


def test_crops_agree_on_their_common_area(made, image, dem, terrain, coarse, tmp_path):
    with rasterio.open(image) as file:
        pixels = file.read()
    whole = read(made().path)
    corner = 2 * K
    crop = write(tmp_path / "crop.tif", pixels[:, corner:, corner:], CORNER * Affine.translation(corner, corner))
    part = read(made(image=crop, out="part.tif").path)
    inner = (slice(32, -8), slice(32, -8))
    relief = np.abs(whole - gaussian_filter(whole, 2 * K))[corner:, corner:]
    assert np.abs(part - whole[corner:, corner:])[inner].mean() < 0.05 * relief[inner].mean()


def test_voids_are_filled_and_beyond_the_dem_is_nodata(made, dem, coarse, terrain, tmp_path):
    holes = coarse.copy()
    holes[10:13, 10:14] = np.nan
    holes[:, 20:] = np.nan
    result = made(dem(np.where(np.isnan(holes), -9999, holes)), interval=tmp_path / "interval.tif")
    refined, interval = read(result.path), read(result.interval)
    hole = (slice(10 * K, 13 * K), slice(10 * K, 14 * K))
    assert np.abs(refined - terrain)[hole].max() < np.ptp(terrain) / 3
    assert np.isnan(interval[hole]).all() and not np.isnan(interval[:, : 10 * K]).any()
    assert np.isnan(refined[:, 26 * K :]).all() and not np.isnan(refined[:, : 24 * K]).any()
    assert 0.1 < result.filled < 0.4


def test_a_wrong_cell_is_left_out_and_named(made, dem, coarse, terrain):
    wrong = coarse.copy()
    wrong[12, 12] += 900
    with pytest.warns(UserWarning, match="1 of 1,444 cells disagree"):
        result = made(dem(wrong))
    place = (slice(12 * K, 13 * K), slice(12 * K, 13 * K))
    assert result.left_out == 1
    assert np.abs(read(result.path) - terrain)[place].max() < 100


def test_feet_become_meters(made, dem, coarse):
    meters, feet = read(made().path), read(made(dem(coarse / 0.3048, unit="ft"), "feet.tif").path)
    assert np.abs(meters - feet).max() < 0.01


def test_where_the_image_has_no_data_the_dem_stands(made, image, coarse, terrain, tmp_path):
    with rasterio.open(image) as file:
        pixels = file.read()
    pixels[:, 80:, :] = 0
    partly = write(tmp_path / "partly.tif", pixels, CORNER, nodata=0)
    refined = read(made(image=partly).path)
    spline = mean_keeping_spline(coarse, CellGrid.squares(terrain.shape, K))
    assert np.abs(refined - spline)[120:-16, 16:-16].max() < 1


def test_without_shading_the_dem_stands(made, coarse, terrain, tmp_path):
    noise = np.random.default_rng(0).integers(60, 180, (3, SIDE, SIDE)).astype(np.uint8)
    flat = write(tmp_path / "flat.tif", noise, CORNER)
    refined = read(made(image=flat).path)
    spline = mean_keeping_spline(coarse, CellGrid.squares(terrain.shape, K))
    error = (np.abs(surface - terrain)[16:-16, 16:-16].mean() for surface in (refined, spline))
    assert np.divide(*error) < 1.03


def test_the_sun_is_estimated_where_nobody_tells_it(made):
    result = made(sun=None)
    assert result.sun.source.startswith("estimated from image and DEM") and abs(result.sun.azimuth - SUN) < 10


def test_a_dem_of_the_images_own_pixels_stays_as_it_is(made, dem, terrain):
    refined = read(made(dem(terrain, transform=CORNER)).path)
    assert np.abs(refined - terrain).max() < 0.1


def test_a_finer_dem_is_averaged(made, dem, terrain):
    fine = np.kron(terrain, np.ones((2, 2)))
    refined = read(made(dem(fine, transform=CORNER * Affine.scale(0.5))).path)
    assert np.abs(refined - terrain).max() < 0.1


def test_a_dem_in_degrees_is_read_onto_cells_of_the_image(made, dem, coarse, terrain, tmp_path):
    wide = np.pad(coarse, 4, mode="edge")
    placed = xr.DataArray(wide.astype(np.float32), dims=("y", "x")).rio.write_crs("EPSG:32630")
    placed = placed.rio.write_transform(CELLS * Affine.translation(-4, -4)).rio.write_nodata(np.nan)
    placed.rio.reproject("EPSG:4326", resampling=Resampling.cubic).rio.to_raster(tmp_path / "degrees.tif")
    refined = read(made(tmp_path / "degrees.tif").path)
    spline = mean_keeping_spline(coarse, CellGrid.squares(terrain.shape, K))
    error = (np.abs(surface - terrain)[16:-16, 16:-16].mean() for surface in (refined, spline))
    assert np.divide(*error) < 1.1 and not np.isnan(refined).any()


def test_a_store_holds_all_three(made, terrain):
    result = made(out="out.zarr")
    store = xr.open_zarr(result.path)
    assert set(store.data_vars) == {"elevation", "interval", "difference"}
    assert np.abs(store.elevation.values - terrain).mean() < 20


def test_an_interrupted_refinement_goes_on(made, monkeypatch, tmp_path):
    whole = read(made().path)
    for each in (module, refiner):
        monkeypatch.setattr(each, "CORE", 128)
    done, band = [], module.refine_band

    def interrupted(plan, number):
        if done:
            raise KeyboardInterrupt
        done.append(number)
        return band(plan, number)

    monkeypatch.setattr(module, "refine_band", interrupted)
    with pytest.raises(KeyboardInterrupt, match="are kept in"):
        made(out="again.tif")
    assert not (tmp_path / "again.tif").exists()
    calls: list[int] = []
    monkeypatch.setattr(module, "refine_band", lambda plan, number: calls.append(number) or band(plan, number))
    again = read(made(out="again.tif").path)
    assert calls == [1] and np.abs(again - whole).max() < 1


@pytest.mark.parametrize(
    ("settings", "fault", "words"),
    [
        ({"weights": "relief"}, UnknownName, "does not refine a DEM: choose refining weights, such as 'refine'"),
        ({"weights": "nothing"}, UnknownName, "unknown weights"),
        ({"out": "out.png"}, InvalidConfig, "neither a GeoTIFF nor a Zarr store"),
        ({"sun": np.inf}, InvalidConfig, "azimuth in degrees"),
        ({"date": "yesterday", "sun": None}, InvalidConfig, "is no date"),
    ],
)
def test_bad_settings_get_one_sentence(made, settings, fault, words):
    with pytest.raises(fault, match=words):
        made(**settings)


def test_a_dem_of_elsewhere_an_image_without_place_and_an_existing_file_get_one_sentence(made, dem, image, tmp_path):
    far = dem(name="far.tif", transform=CORNER * Affine.translation(90_000, 0) * Affine.scale(K))
    with pytest.raises(InvalidAnchors, match=r"far\.tif .*"):
        made(far)
    with rasterio.open(image) as file:
        bare = write(tmp_path / "bare.tif", file.read(), None, None)
    with pytest.raises(InvalidAnchors, match="has no CRS, so a DEM cannot be located in it"):
        made(image=bare, gsd=30.0)
    made()
    with pytest.raises(OutputExists, match="--overwrite"):
        made()
    with pytest.raises(OutputExists, match="a file that the prediction reads"):
        made(tmp_path / "out.tif", overwrite=True)


def test_weights_travel_with_their_interval_and_their_card(weights):
    loaded = load_refiner(weights)
    assert loaded.interval == INTERVAL and loaded.card["name"] == "small" and loaded.network.widths == (8, 8)
    with pytest.raises(UnknownName, match="refines a DEM, and there is none"):
        load_weights(weights)


def test_the_command_refines_one_image_and_lists(image, dem, weights, tmp_path, capsys):
    given = ["--weights", str(weights), "--sun", "140", "--date", "2023-07-01", "--stac", "--difference"]
    assert main(["refine", str(image), str(dem()), str(tmp_path / "one.tif"), *given, str(tmp_path / "d.tif")]) == 0
    assert "cells of 8 px, sun 140 degrees, given" in capsys.readouterr().out
    item = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))
    assert set(item["assets"]) >= {"elevation", "difference"}
    (tmp_path / "list.txt").write_text(f"{image}\nmissing.tif\n", encoding="utf-8")
    lists = ["--images", str(tmp_path / "list.txt"), "--weights", str(weights)]
    assert main(["refine", str(dem()), str(tmp_path / "all"), *lists]) == 2
    assert np.abs(read(tmp_path / "all" / "image.tif") - read(tmp_path / "one.tif")).mean() < 5
    assert "missing.tif" in capsys.readouterr().err
