import json
import sys
import warnings

import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
from pyproj import CRS, Transformer
from rasterio.transform import from_origin

from sat2dem_core.errors import InvalidAnchors, InvalidConfig, MissingCRS, MissingExtra, UnknownName
from sat2dem_core.prediction import pipeline
from sat2dem_core.prediction.anchors import SURFACES, Anchors, Fit, fit_anchors
from sat2dem_core.prediction.pipeline import predict
from sat2dem_core.rasters import cog
from sat2dem_core.rasters.grids import Grid


@pytest.fixture
def relief(whole) -> np.ndarray:
    """What the weights predict of the hills, without a vertical reference."""
    return whole[0]


@pytest.fixture
def anchored(made, bands):
    """``anchored(anchors, surface)``: the prediction of the hills and its elevation, (128, 160)."""

    def run(anchors, surface=None):
        result = made("anchored.tif", anchors=anchors, surface=surface, overwrite=True)
        return result, bands(result.path)[0]

    return run


def place(row: int, column: int) -> tuple[float, float]:
    """Longitude and latitude of a pixel of the hills."""
    to_degrees = Transformer.from_crs("EPSG:32613", "EPSG:4326", always_xy=True)
    return to_degrees.transform(450_000 + 30 * (column + 0.5), 4_480_000 - 30 * (row + 0.5))


def tilted(relief: np.ndarray) -> np.ndarray:
    """The true elevation if the prediction were wrong by a plane alone."""
    rows, columns = np.mgrid[: relief.shape[0], : relief.shape[1]]
    return relief + 700 + 1.5 * rows - 0.8 * columns


# The fit itself, on little mosaics


@pytest.fixture
def mosaic(tmp_path):
    """``mosaic(elevation, groups)``: a store of a mosaic, (H, W) meters, with the group of each pixel if given."""

    def make(elevation: np.ndarray, groups: np.ndarray | None = None):
        store = cog.scratch(tmp_path / "mosaic.zarr", Grid(None, (30, 0, 0, 0, -30, 0), *elevation.shape), 256)
        store["elevation"][:] = elevation
        if groups is not None:
            store.create_array("group", data=groups.astype(np.uint32))
        return tmp_path / "mosaic.zarr"

    return make


def of_points(shape, kind, *rows) -> Anchors:
    points = pd.DataFrame(rows, columns=["row", "column", "height"]).astype({"row": int, "column": int})
    return Anchors("points", kind, shape, None, 1, points, "")


def of_cells(heights: np.ndarray, cell: int, shape, kind="cells") -> Anchors:
    return Anchors("a DEM", kind, shape, np.asarray(heights, float), cell, None, "")


def test_a_cell_counts_if_half_of_it_is_predicted_and_has_the_mean_of_that(mosaic):
    relief = np.arange(64.0).reshape(8, 8)
    relief[:2, :4] = np.nan  # half of the first cell
    relief[:3, 4:] = np.nan  # three quarters of the second
    fit = fit_anchors(of_cells([[110, 120], [130, 140]], 4, (8, 8), "offset"), mosaic(relief), 2.0)
    first, *others = fit.table.to_dict("records")
    assert [(row["row"], row["column"]) for row in (first, *others)] == [(2, 2), (6, 2), (6, 6)]
    assert first["predicted"] == pytest.approx(2 * np.mean([16, 17, 18, 19, 24, 25, 26, 27]))


def test_without_an_amplitude_the_mosaic_is_taken_as_it_is(mosaic):
    fit = fit_anchors(of_points((4, 5), "offset", (1, 2, 107.0)), mosaic(np.full((4, 5), 7.0)))
    assert fit.table.predicted.item() == 7 and fit.surface(0, 4) == pytest.approx(100)


@pytest.mark.parametrize("kind", ["plane", "quadratic"])
def test_a_polynomial_is_found_again_and_leaves_other_areas_alone(mosaic, kind):
    rows, columns = np.mgrid[:20, :30]
    form = 3.0 * rows - 2 * columns + (0.05 * rows * columns + 0.1 * rows**2 if kind == "quadratic" else 0)
    groups = np.where(columns < 20, 0, 1)
    places = [(r, c, form[r, c] + 500) for r in (0, 9, 19) for c in (0, 7, 19)]
    fit = fit_anchors(of_points((20, 30), kind, *places), mosaic(np.zeros((20, 30)), groups), lows=np.array([0, -40.0]))
    added = fit.surface(0, 20, groups)
    assert np.abs(added - form - 500)[:, :20].max() < 1e-3 and np.all(added[:, 20:] == 40)
    assert fit.anchored.tolist() == [True, False] and np.abs(fit.table.residual).max() < 1e-3


def test_areas_have_levels_of_their_own_also_where_cells_meet_both(mosaic):
    rows, columns = np.mgrid[:16, :16]
    groups = np.where(columns < 7, 0, 1)  # the second column of cells holds three pixels of the first group
    truth = 1000 + 2.0 * rows
    relief = truth - np.where(groups == 0, 300, 900)
    cells = truth.reshape(4, 4, 4, 4).mean((1, 3))
    fit = fit_anchors(of_cells(cells, 4, (16, 16)), mosaic(relief, groups), lows=np.zeros(2))
    assert fit.table.group.tolist() == [0, 1, 1] * 4 and fit.table.column.tolist() == [2, 10, 14] * 4
    np.testing.assert_allclose(relief + fit.surface(0, 16, groups), truth, atol=1e-3)
    assert np.abs(fit.table.residual).max() < 1e-3


def test_of_cells_only_predicted_pixels_decide_the_area(mosaic):
    """Pixels that are not predicted have the label 0 in the store, whatever their cell's area."""
    relief, groups = np.full((8, 8), 10.0), np.zeros((8, 8), int)
    relief[:2, :4] = np.nan
    groups[2:4, :4], groups[6, 6] = 2, 1
    heights, lows = [[510, np.nan], [np.nan, np.nan]], np.array([3.0, 3.0, 4.0])
    fit = fit_anchors(of_cells(heights, 4, (8, 8)), mosaic(relief, groups), lows=lows)
    assert fit.table.group.tolist() == [2] and fit.anchored.tolist() == [False, False, True]
    added = fit.surface(0, 8, groups)
    assert np.allclose(added[groups == 2], 500, atol=1e-3) and np.allclose(added[groups < 2], -3)


def test_a_tall_mosaic_is_read_in_parts_and_each_cell_once(mosaic):
    fit = fit_anchors(of_cells(np.arange(2000.0, 2010)[:, None], 30, (300, 30), "offset"), mosaic(np.zeros((300, 30))))
    assert fit.table.row.tolist() == [*range(15, 300, 30)] and fit.table.height.tolist() == [*range(2000, 2010)]


def test_means_of_cells_are_met_also_where_they_jump(mosaic):
    heights = np.random.default_rng(0).normal(2000, 100, (6, 7))
    fit = fit_anchors(of_cells(heights, 5, (30, 35)), mosaic(np.zeros((30, 35))))
    met = fit.surface(0, 30).reshape(6, 5, 7, 5).mean((1, 3))
    np.testing.assert_allclose(fit.table.residual.to_numpy().reshape(6, 7), heights - met, atol=0.01)
    assert np.abs(fit.table.residual).max() < 12  # about 100 without the rounds that correct the means


def test_relative_heights_begin_at_zero_in_every_area():
    fit = Fit.relative(np.array([-5.0, 12.0]), (2, 3))
    groups = np.array([[0, 0, 1], [1, 1, 0]])
    np.testing.assert_allclose(fit.surface(0, 2, groups), np.where(groups == 0, 5, -12))
    assert not fit.anchored.any() and fit.table is None



PLACES = [(5, 8), (20, 150), (60, 70), (110, 20), (120, 140), (90, 95), (33, 44), (70, 12)]


def test_one_known_height_sets_the_level(anchored, relief):
    lon, lat = place(60, 70)
    result, dem = anchored(f"{lon:.7f},{lat:.7f},1834.5")
    assert dem[60, 70] == pytest.approx(1834.5, abs=0.01) and np.ptp(dem - relief) < 0.01
    assert result.tags["HEIGHTS"] == "absolute over 15 %" and result.tags["ANCHORS"] == "1"
    assert result.anchors.residual[0] == pytest.approx(0, abs=1e-6)


def test_surveyed_points_determine_a_plane_in_spite_of_a_blunder(anchored, relief, tmp_path):
    truth = tilted(relief)
    rows = [(*place(*at), truth[at]) for at in PLACES]
    rows[3] = (*rows[3][:2], rows[3][2] + 400)
    pd.DataFrame(rows, columns=["Lon", "Lat", "Height"]).to_csv(tmp_path / "points.csv", index=False)
    result, dem = anchored(tmp_path / "points.csv", "plane")
    assert np.abs(dem - truth).max() < 25 and np.median(np.abs(result.anchors.residual)) < 10
    assert result.anchors.residual[3] == pytest.approx(400, abs=30)


def test_points_of_a_vector_file_in_another_crs_give_the_same_plane(anchored, relief, tmp_path):
    truth, to_mercator = tilted(relief), Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True)
    points = [shapely.Point(*to_mercator.transform(*place(*at)), truth[at]) for at in PLACES]
    heights = [np.array([truth[at] for at in PLACES])]
    geometry = np.array(shapely.to_wkb(points, output_dimension=3))
    for name, fields in (("z.gpkg", []), ("field.gpkg", ["height"])):
        pyogrio.raw.write(
            tmp_path / name, geometry, heights[: len(fields)], fields, geometry_type="Point Z", crs="EPSG:3857"
        )
        assert np.abs(anchored(tmp_path / name, "plane")[1] - truth).max() < 0.1


def test_a_coarse_dem_gives_the_level_and_keeps_what_is_finer(anchored, relief, write_raster):
    rng = np.random.default_rng(0)
    drift = np.kron(rng.normal(0, 60, (4, 5)), np.ones((32, 32)))
    shifts = [(i, j) for i in range(-16, 17, 4) for j in range(-16, 17, 4)]
    truth = relief + 900 + sum(np.roll(drift, shift, (0, 1)) for shift in shifts) / 81
    coarse = truth.reshape(16, 8, 20, 8).mean((1, 3)).astype(np.float32)
    path = write_raster("coarse.tif", coarse, transform=from_origin(450_000, 4_480_000, 240, 240))
    result, dem = anchored(path)
    assert result.tags["ANCHOR_SURFACE"] == "cells" and int(result.tags["ANCHORS"]) == 320
    error = {surface: np.abs(anchored(path, surface)[1] - truth).mean() for surface in SURFACES}
    assert error["cells"] < 0.3 * error["offset"] and error["quadratic"] <= error["offset"]
    fine = lambda z: z - z.reshape(16, 8, 20, 8).mean((1, 3)).repeat(8, 0).repeat(8, 1)
    assert np.corrcoef(fine(dem).ravel(), fine(relief).ravel())[0, 1] > 0.95


def test_a_dem_in_degrees_over_part_of_the_image_is_enough(anchored, relief, write_raster):
    lon, lat = place(0, 0)
    coarse = np.full((8, 10), 1500, np.int16)
    coarse[0] = -32768
    grid = from_origin(lon, lat, 0.004, 0.003)
    path = write_raster("degrees.tif", coarse, crs="EPSG:4326", transform=grid, nodata=-32768)
    result, dem = anchored(path, "offset")
    assert 10 < len(result.anchors) < 80 and np.ptp(dem - relief) < 0.01
    assert np.allclose(result.anchors.height, 1500) and abs(np.median(result.anchors.residual)) < 0.1 * np.ptp(relief)


@pytest.mark.parametrize("text, word", [
    ("lon,lat,height\n-105,40,\n", "line 2"), ("lon,lat\n1,2\n", "needs height"),
    ("lon,lat,height\n10,10,5\n", "no anchor lies in the area"),
    ("lon,lat,height\n-105.585,40.46,99999\n", "not in meters"),
])
def test_unusable_points_are_refused_with_the_reason(anchored, tmp_path, text, word):
    (tmp_path / "points.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidAnchors, match=word):
        anchored(tmp_path / "points.csv")


@pytest.mark.parametrize("surface, error, word", [
    ("plane", InvalidAnchors, "too few"), ("cells", InvalidAnchors, "needs a DEM"),
    ("spline", UnknownName, "offset, plane"),
])
def test_too_few_points_and_unknown_surfaces_are_refused(anchored, surface, error, word):
    lon, lat = place(10, 10)
    with pytest.raises(error, match=word):
        anchored(f"{lon},{lat},100", surface)


def test_a_dem_that_does_not_exist_is_refused(anchored, tmp_path):
    with pytest.raises(InvalidAnchors, match="none.tif does not exist"):
        anchored(tmp_path / "none.tif")


def geojson(kind: str, coordinates: list) -> str:
    """A GeoJSON of one geometry without a height."""
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": kind, "coordinates": coordinates}}
    return json.dumps({"type": "FeatureCollection", "features": [feature]})


def test_unusable_vector_files_are_refused_with_the_reason(anchored, tmp_path):
    (tmp_path / "line.geojson").write_text(geojson("LineString", [[0, 0], [1, 1]]), encoding="utf-8")
    (tmp_path / "flat.geojson").write_text(geojson("Point", [0, 0]), encoding="utf-8")
    reasons = {"line.geojson": "holds no points", "flat.geojson": "has no height", "none.gpkg": "cannot be read"}
    for name, word in reasons.items():
        with pytest.raises(InvalidAnchors, match=word):
            anchored(tmp_path / name)


def test_vectors_name_the_extra_that_reads_them(anchored, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(MissingExtra, match=r"pyogrio is not installed: pip install .*\[vectors\]"):
        anchored(tmp_path / "points.gpkg")


def test_an_image_without_crs_cannot_be_anchored(tmp_path, picture, tiny_weights):
    profile = {"driver": "GTiff", "width": 80, "height": 64, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "nowhere.tif", "w", **profile) as file:
        file.write(picture)
    settings = {"weights": tiny_weights, "progress": False, "caution": False}
    with pytest.raises(MissingCRS):
        predict(tmp_path / "nowhere.tif", tmp_path / "a.tif", **settings)
    with pytest.warns(UserWarning, match="has no coordinates"):
        made = predict(tmp_path / "nowhere.tif", tmp_path / "a.tif", gsd=30, **settings)
    assert made.tags["HEIGHTS"] == "relative"
    with pytest.raises(InvalidAnchors, match="has no CRS"), pytest.warns(UserWarning):
        predict(tmp_path / "nowhere.tif", tmp_path / "b.tif", gsd=30, anchors="1,2,3", **settings)


# Blunders


def coarse_dem(relief: np.ndarray) -> np.ndarray:
    """A true DEM of cells of 8 px, (16, 20) meters."""
    return (tilted(relief) + 1000).reshape(16, 8, 20, 8).mean((1, 3)).astype(np.float32)


CELLS = from_origin(450_000, 4_480_000, 240, 240)


@pytest.mark.parametrize("blunder", [0.0, 4500.0])
def test_a_void_in_a_dem_digs_no_pit(anchored, relief, write_raster, blunder):
    coarse = coarse_dem(relief)
    good = anchored(write_raster("good.tif", coarse, transform=CELLS))[1]
    coarse[7, 11] = blunder
    with pytest.warns(UserWarning, match=rf"1 of 320 anchors disagree .* left out \({blunder:.0f} m where \d+ m fit"):
        result, dem = anchored(write_raster("void.tif", coarse, transform=CELLS))
    assert np.abs(dem - good).max() < 30
    assert result.tags["ANCHORS"] == "319" and result.tags["ANCHORS_LEFT_OUT"] == "1"
    wrong = result.anchors[~result.anchors.used]
    assert wrong.row.item() // 8 == 7 and wrong.column.item() // 8 == 11


def test_a_patch_of_voids_larger_than_a_window_is_found_too(anchored, relief, write_raster):
    coarse = coarse_dem(relief)
    coarse[3:7, 4:9] = 0
    with pytest.warns(UserWarning, match=r"2\d of 320 anchors disagree"):
        _, dem = anchored(write_raster("voids.tif", coarse, transform=CELLS))
    assert np.abs(dem - tilted(relief) - 1000).max() < 60


def test_many_blunders_are_refused_with_the_likely_cause(anchored, relief, write_raster, tmp_path):
    coarse, random = coarse_dem(relief), np.random.default_rng(0)
    wrong = random.random(coarse.shape) < 0.25
    for values, cause in (
        (np.where(wrong, coarse / 0.3048, coarse), "probably in feet"), (np.where(wrong, 0, coarse), "probably a void"),
    ):
        with pytest.raises(InvalidAnchors, match=cause):
            anchored(write_raster("wrong.tif", values.astype(np.float32), transform=CELLS))
    truth = tilted(relief) + 1000
    rows, columns = random.integers(0, 128, 60), random.integers(0, 160, 60)
    heights = truth[rows, columns] * np.where(np.arange(60) % 5, 1, 0.3048)
    x, y = 450_000 + 30 * (columns + 0.5), 4_480_000 - 30 * (rows + 0.5)
    pd.DataFrame({"x": x, "y": y, "z": heights}).to_csv(tmp_path / "mixed.csv", index=False)
    with pytest.raises(InvalidAnchors, match=r"1\d of 60 anchors .* probably meters among feet"):
        anchored(tmp_path / "mixed.csv", "plane")


def test_no_true_cell_is_called_a_blunder(anchored, relief, write_raster):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert anchored(write_raster("good.tif", coarse_dem(relief), transform=CELLS))[0].anchors.used.all()


# What is absolute


def test_a_dem_over_a_corner_claims_no_more_than_its_surroundings(anchored, relief, write_raster):
    corner = coarse_dem(relief)[:3, :3]
    with pytest.warns(UserWarning, match=r"absolute over \d+ % of the area: .* within one tile \(0.96 km\)"):
        result = anchored(write_raster("corner.tif", corner, transform=CELLS))[0]
    share = int(result.tags["HEIGHTS"].split()[2])
    near = np.hypot(*np.maximum(np.mgrid[:128, :160] - 23, 0)) <= 32
    assert share == pytest.approx(100 * near.mean(), abs=3)


def test_each_area_needs_an_anchor_or_stays_relative(hills, whole, tmp_path, tiny_weights, bands, all_files):
    """Two land masses, far from each other's tiles, and one known height."""
    image = hills.rgb.copy()
    image[:, :, 60:110] = 0
    image.rio.write_nodata(0).rio.to_raster(tmp_path / "divided.tif")

    def predicted(name, *places):
        points = pd.DataFrame([(*place(*at), 2000.0) for at in places], columns=["lon", "lat", "height"])
        points.to_csv(tmp_path / "points.csv", index=False)
        with pytest.warns(UserWarning, match="divides .* into 2 areas"):
            made = all_files(tmp_path / "divided.tif", tmp_path / name, tiny_weights, anchors=tmp_path / "points.csv")
        return made, bands(made.path)[0]

    made, one = predicted("one.tif", (60, 20))
    assert made.groups == 2 and made.tags["HEIGHTS"].startswith("absolute over")
    assert one[60, 20] == pytest.approx(2000, abs=0.01) and np.nanmin(one[:, 110:]) == pytest.approx(0, abs=0.01)
    _, both = predicted("both.tif", (60, 20), (60, 140))
    assert both[60, 20] == pytest.approx(2000, abs=0.01) and both[60, 140] == pytest.approx(2000, abs=0.01)
    assert np.nanmax(np.abs(both - one)[:, :60]) < 0.01


# Forgiving


def text_of(rows, header, separator=",", decimal="."):
    lines = [separator.join(f"{value:.6f}".replace(".", decimal) for value in row) for row in rows]
    return "\n".join([separator.join(header), *lines]) + "\n"


@pytest.mark.parametrize(("header", "separator", "decimal", "encoding"), [
    (("lon", "lat", "height"), ";", ",", "utf-8"), (("Longitude", "Latitude", "Elevation"), ",", ".", "utf-8-sig"),
    (("LON", "LAT", "Z"), "\t", ",", "utf-16"), (("long", "lat", "alt"), "|", ".", "utf-8"),
])
def test_csv_files_of_other_habits_are_read(anchored, relief, tmp_path, header, separator, decimal, encoding):
    truth = tilted(relief)
    rows = [(*place(*at), truth[at]) for at in PLACES]
    (tmp_path / "points.csv").write_text(text_of(rows, header, separator, decimal), encoding=encoding)
    assert np.abs(anchored(tmp_path / "points.csv", "plane")[1] - truth).max() < 0.1


@pytest.mark.parametrize("how", ["comment", "column", "prj", "image"])
def test_x_and_y_are_in_the_crs_that_their_file_states_or_the_images(anchored, relief, tmp_path, how):
    truth = tilted(relief)
    mercator = Transformer.from_crs("EPSG:4326", "EPSG:3857" if how != "image" else "EPSG:32613", always_xy=True)
    rows = [(*mercator.transform(*place(*at)), truth[at]) for at in PLACES]
    text = text_of(rows, ("x", "y", "height"))
    if how == "comment":
        text = f"# surveyed in EPSG:3857\n{text}"
    if how == "column":
        head, *lines = text.splitlines()
        text = "\n".join([f"{head},epsg", *(f"{line},3857" for line in lines)])
    if how == "prj":
        (tmp_path / "points.prj").write_text(CRS.from_epsg(3857).to_wkt("WKT1_ESRI"), encoding="utf-8")
    (tmp_path / "points.csv").write_text(text, encoding="utf-8")
    assert np.abs(anchored(tmp_path / "points.csv", "plane")[1] - truth).max() < 0.1


def test_anchors_are_checked_before_any_tile_is_predicted(made, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("a tile was predicted")

    monkeypatch.setattr("sat2dem_core.prediction.pipeline.predict_strip", never)
    for settings, error in (
        ({"anchors": tmp_path / "none.csv"}, InvalidAnchors), ({"anchors": "10,10,5"}, InvalidAnchors),
        ({"anchors": "10,10,5", "surface": "spline"}, UnknownName), ({"surface": "plane"}, InvalidConfig),
    ):
        with pytest.raises(error):
            made(**settings)
    lon, lat = place(5, 5)
    with pytest.raises(InvalidAnchors, match="too few"):
        made(anchors=f"{lon},{lat},5", surface="plane")


def test_the_vertical_datum_travels_in_the_tags(made, relief, write_raster):
    lon, lat = place(5, 5)
    point = f"{lon},{lat},5"
    assert made("a.tif", anchors=point).tags["VERTICAL_DATUM"] == "not stated"
    assert made("b.tif", anchors=point, vertical_datum="EGM2008").tags["VERTICAL_DATUM"] == "EGM2008"
    path = write_raster("egm.tif", coarse_dem(relief), transform=CELLS, crs="EPSG:32613+5773")
    assert made("c.tif", anchors=path).tags["VERTICAL_DATUM"] == "EGM96 height"


def test_of_a_continental_dem_only_the_window_is_read(anchored, relief, write_raster, tmp_path, monkeypatch):
    """A virtual mosaic of 160 gigapixels, whose other files do not even exist."""
    path = write_raster("here.tif", coarse_dem(relief), transform=CELLS)
    size, left, top = 400_000, 450_000 - 200_000 * 240, 4_480_000 + 200_000 * 240

    def source(name, x, y):
        return (
            f"<SimpleSource><SourceFilename>{name}</SourceFilename><SourceBand>1</SourceBand>"
            '<SourceProperties RasterXSize="20" RasterYSize="16" DataType="Float32" BlockXSize="20" BlockYSize="16"/>'
            f'<SrcRect xOff="0" yOff="0" xSize="20" ySize="16"/><DstRect xOff="{x}" yOff="{y}" xSize="20" ySize="16"/>'
            "</SimpleSource>"
        )

    wkt = CRS.from_epsg(32613).to_wkt("WKT1_GDAL")
    continent = tmp_path / "continent.vrt"
    continent.write_text(
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS>{wkt}</SRS>'
        f"<GeoTransform>{left}, 240, 0, {top}, 0, -240</GeoTransform>"
        '<VRTRasterBand dataType="Float32" band="1"><NoDataValue>-9999</NoDataValue>'
        f"{source(path, 200_000, 200_000)}{source(tmp_path / 'elsewhere.tif', 10, 10)}</VRTRasterBand></VRTDataset>",
        encoding="utf-8",
    )
    assert np.abs(anchored(continent)[1] - anchored(path)[1]).max() < 0.1


def test_residuals_stay_with_the_process_that_fitted_them(made, relief, write_raster, monkeypatch):
    sent, finish = [], pipeline._Finish.__call__
    monkeypatch.setattr(pipeline._Finish, "__call__", lambda self, *rows: sent.append(self) or finish(self, *rows))
    made(anchors=write_raster("coarse.tif", coarse_dem(relief), transform=CELLS))
    assert sent and all(step.fit.table is None for step in sent)
