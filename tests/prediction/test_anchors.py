import json
import sys

import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
from pyproj import Transformer
from rasterio.transform import from_origin

from sat2dem_core.errors import InvalidAnchors, MissingCRS, UnknownName
from sat2dem_core.prediction.anchors import SURFACES
from sat2dem_core.prediction.pipeline import predict


@pytest.fixture
def relief(tmp_path, hills_image, tiny_weights) -> np.ndarray:
    """What the weights predict of the hills, without a level."""
    return elevation(predict(hills_image, tmp_path / "relief.tif", tiny_weights, progress=False, caution=False).path)


@pytest.fixture
def anchored(tmp_path, hills_image, tiny_weights):
    def run(anchors, surface=None):
        out = tmp_path / "anchored.tif"
        made = predict(
            hills_image, out, tiny_weights, anchors=anchors, surface=surface, progress=False, caution=False, overwrite=True
        )
        return made, elevation(out)

    return run


def elevation(path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1, masked=True).filled(np.nan)


def place(row: int, column: int) -> tuple[float, float]:
    """Longitude and latitude of a pixel of the hills."""
    to_degrees = Transformer.from_crs("EPSG:32613", "EPSG:4326", always_xy=True)
    return to_degrees.transform(450_000 + 30 * (column + 0.5), 4_480_000 - 30 * (row + 0.5))


def tilted(relief: np.ndarray) -> np.ndarray:
    """The ground as it would be if the prediction were right but for a plane."""
    rows, columns = np.mgrid[: relief.shape[0], : relief.shape[1]]
    return relief + 700 + 1.5 * rows - 0.8 * columns


PLACES = [(5, 8), (20, 150), (60, 70), (110, 20), (120, 140), (90, 95), (33, 44), (70, 12)]


def test_one_known_height_sets_the_level(anchored, relief):
    lon, lat = place(60, 70)
    made, dem = anchored(f"{lon:.7f},{lat:.7f},1834.5")
    assert dem[60, 70] == pytest.approx(1834.5, abs=0.01) and np.ptp(dem - relief) < 0.01
    assert made.tags["HEIGHTS"] == "absolute" and made.tags["ANCHORS"] == "1" and made.anchors.residual[0] == pytest.approx(0, abs=1e-6)


def test_surveyed_points_carry_a_plane_and_one_blunder_does_not(anchored, relief, tmp_path):
    truth = tilted(relief)
    rows = [(*place(*at), truth[at]) for at in PLACES]
    rows[3] = (*rows[3][:2], rows[3][2] + 400)
    pd.DataFrame(rows, columns=["Lon", "Lat", "Height"]).to_csv(tmp_path / "points.csv", index=False)
    made, dem = anchored(tmp_path / "points.csv", "plane")
    assert np.abs(dem - truth).max() < 25 and np.median(np.abs(made.anchors.residual)) < 10
    assert made.anchors.residual[3] == pytest.approx(400, abs=30)


def test_points_of_a_vector_file_in_another_crs_say_the_same(anchored, relief, tmp_path):
    truth, there = tilted(relief), Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True)
    points = [shapely.Point(*there.transform(*place(*at)), truth[at]) for at in PLACES]
    heights = [np.array([truth[at] for at in PLACES])]
    for name, fields in (("z.gpkg", []), ("field.gpkg", ["height"])):
        pyogrio.raw.write(
            tmp_path / name, np.array(shapely.to_wkb(points, output_dimension=3)), heights[: len(fields)], fields, geometry_type="Point Z", crs="EPSG:3857"
        )
        assert np.abs(anchored(tmp_path / name, "plane")[1] - truth).max() < 0.1


def test_a_coarse_dem_gives_the_level_and_keeps_what_is_finer(anchored, relief, write_raster):
    rng = np.random.default_rng(0)
    drift = np.kron(rng.normal(0, 60, (4, 5)), np.ones((32, 32)))
    truth = relief + 900 + sum(np.roll(drift, (i, j), (0, 1)) for i in range(-16, 17, 4) for j in range(-16, 17, 4)) / 81
    coarse = truth.reshape(16, 8, 20, 8).mean((1, 3)).astype(np.float32)
    path = write_raster("coarse.tif", coarse, transform=from_origin(450_000, 4_480_000, 240, 240))
    made, dem = anchored(path)
    assert made.tags["ANCHOR_SURFACE"] == "cells" and int(made.tags["ANCHORS"]) == 320
    error = {surface: np.abs(anchored(path, surface)[1] - truth).mean() for surface in SURFACES}
    assert error["cells"] < 0.3 * error["offset"] and error["quadratic"] <= error["offset"]
    fine = lambda z: z - z.reshape(16, 8, 20, 8).mean((1, 3)).repeat(8, 0).repeat(8, 1)
    assert np.corrcoef(fine(dem).ravel(), fine(relief).ravel())[0, 1] > 0.95


def test_a_dem_in_degrees_over_part_of_the_image_will_do(anchored, relief, write_raster):
    lon, lat = place(0, 0)
    coarse = np.full((8, 10), 1500, np.int16)
    coarse[0] = -32768
    path = write_raster("degrees.tif", coarse, crs="EPSG:4326", transform=from_origin(lon, lat, 0.004, 0.003), nodata=-32768)
    made, dem = anchored(path, "offset")
    assert 10 < len(made.anchors) < 80 and np.ptp(dem - relief) < 0.01
    assert np.median(made.anchors.predicted + made.anchors.residual * 0) < 1500


@pytest.mark.parametrize("text, word", [
    ("lon,lat,height\n-105,40,\n", "line 2"), ("lon,lat\n1,2\n", "needs height"), ("lon,lat,height\n10,10,5\n", "no anchor lies on"),
    ("lon,lat,height\n-105.585,40.46,99999\n", "none in meters"),
])
def test_points_that_do_not_serve_are_named(anchored, tmp_path, text, word):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(InvalidAnchors, match=word):
        anchored(tmp_path / "points.csv")


def test_too_few_points_and_unknown_surfaces_are_refused(anchored, tmp_path):
    lon, lat = place(10, 10)
    for surface, error, word in (("plane", InvalidAnchors, "too few"), ("cells", InvalidAnchors, "needs a DEM"), ("spline", UnknownName, "offset, plane")):
        with pytest.raises(error, match=word):
            anchored(f"{lon},{lat},100", surface)
    with pytest.raises(InvalidAnchors, match="cannot be read"):
        anchored(tmp_path / "none.tif")


def test_vectors_that_do_not_serve_are_named(anchored, tmp_path):
    line = {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}, "geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}}]}
    (tmp_path / "line.geojson").write_text(json.dumps(line))
    line["features"][0]["geometry"] = {"type": "Point", "coordinates": [0, 0]}
    (tmp_path / "flat.geojson").write_text(json.dumps(line))
    for name, word in (("line.geojson", "something else than points"), ("flat.geojson", "has no height"), ("none.gpkg", "cannot be read")):
        with pytest.raises(InvalidAnchors, match=word):
            anchored(tmp_path / name)


def test_vectors_say_what_they_need_where_it_is_missing(anchored, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(InvalidAnchors, match=r"needs pyogrio: pip install"):
        anchored(tmp_path / "points.gpkg")


def test_an_image_that_lies_nowhere_cannot_be_anchored(tmp_path, picture, tiny_weights):
    with rasterio.open(tmp_path / "nowhere.tif", "w", driver="GTiff", width=80, height=64, count=3, dtype="uint8") as file:
        file.write(picture)
    with pytest.raises(MissingCRS):
        predict(tmp_path / "nowhere.tif", tmp_path / "a.tif", tiny_weights, progress=False)
    with pytest.warns(UserWarning, match="has no coordinates"):
        made = predict(tmp_path / "nowhere.tif", tmp_path / "a.tif", tiny_weights, gsd=30, progress=False, caution=False)
    assert made.tags["HEIGHTS"] == "relative"
    with pytest.raises(InvalidAnchors, match="lies nowhere"), pytest.warns(UserWarning):
        predict(tmp_path / "nowhere.tif", tmp_path / "b.tif", tiny_weights, gsd=30, anchors="1,2,3", progress=False)
