"""Open scenes are fetched, verified and laid on one grid, from made-up originals of the real ones' forms."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import rasterio
from file_server import FileServer, file_server
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform

from sat2dem_core.cli import main
from sat2dem_core.dataset import originals, registry, scenes
from sat2dem_core.dataset.originals import fetch_scene, make_pair
from sat2dem_core.dataset.registry import Original, Recipe, Site, read_registry
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.errors import DamagedDownload, Unreachable, UnsupportedImagery
from sat2dem_core.rasters import download

WEST, NORTH = 450_000.0, 4_480_000.0
COLORS = ("red", "green", "blue")
MADE = [site for site in read_registry().values() if site.recipe]


def write(path: Path, values: np.ndarray, crs="EPSG:32613", place=None, **profile) -> None:
    values = values if values.ndim == 3 else values[None]
    count, height, width = values.shape
    scales = profile.pop("scales", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, crs=crs,
        transform=place or from_origin(WEST, NORTH, 30, 30), **profile,
    ) as file:
        file.write(values)
        if scales:
            file.scales = scales


@dataclass
class Github:
    """A made-up repository on localhost, and sites of its files."""

    server: FileServer
    files: list[Original] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def folder(self) -> Path:
        return self.server.folder / "owner/maps" / ("c" * 40) / "data"

    def add(self, role: str, name: str, values: np.ndarray, **how) -> None:
        path = self.folder / name
        write(path, values, **how)
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self.files.append(Original(role, f"data/{name}", len(content), digest, "owner/maps", "c" * 40))

    def site(self, recipe: Recipe, image: np.ndarray, elevation=(1000.0, 1270.0)) -> Site:
        return Site(
            "made-up", "open", "Nowhere", "nowhere", 1, "none", 30, 30, image.shape[2], image.shape[1], elevation, "A",
            "free", "made up", place=(-105.0, 40.0), sun_azimuth=150.0, sun_source="metadata", stretch=(0, 25500),
            originals=tuple(self.files), recipe=recipe, pixels=hashlib.sha256(image.tobytes()).hexdigest(),
        )

    def pull(self, site: Site) -> Path:
        return fetch_scene(site, progress=False, address=self.url)


@pytest.fixture
def github(tmp_path, monkeypatch):
    monkeypatch.setenv("SAT2DEM_DATA", str(tmp_path / "here"))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    (tmp_path / "github").mkdir()
    with file_server(tmp_path / "github") as server:
        yield Github(server)


@pytest.fixture
def landsat(github, picture, slope):
    """A scene of the form of those in Colorado: float bands and a DEM on one grid, in steps of 16 and 0.1 m."""
    numbers = picture.astype(np.float32) * 100
    numbers[:, :7, :9] = -9999
    for color, number, values in zip(COLORS, (4, 3, 2), numbers):
        github.add(color, f"band_{number}.tif", values, nodata=-9999)
    github.add("dem", "dem.tif", slope + np.float32(0.04))
    image = np.where(numbers > 0, np.round(numbers / 16) * 16, 0).astype(np.uint16)
    return github.site(Recipe(round=16, dem_decimals=1), image, (1000.0, 1284.0))


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def test_bands_and_a_dem_of_one_grid_are_rounded(landsat, github, picture, slope, recwarn):
    folder = github.pull(landsat)
    image = read(folder / "rgb.tif")
    assert image.dtype == np.uint16 and (image % 16 == 0).all() and not image[:, :7, :9].any()
    known = image > 0
    assert np.abs(image[known] - picture[known] * 100.0).max() <= 8 and known.mean() > 0.98
    np.testing.assert_array_equal(read(folder / "dem.tif")[0], slope)
    assert not [warning for warning in recwarn if warning.category is UserWarning]


def test_open_scene_fetches_once_and_keeps_what_is_known(landsat, github, monkeypatch, slope):
    for module in (registry, scenes):
        monkeypatch.setattr(module, "read_registry", lambda: {"made-up": landsat})
    monkeypatch.setattr(originals, "RAW", github.url)
    scene = open_scene("made-up")
    assert scene.attrs["region"] == "nowhere" and scene.attrs["sun_azimuth"] == 150 and scene.attrs["name"] == "made-up"
    assert scene.dem.isnull()[:7, :9].all() and scene.dem.isnull().sum() == 63
    np.testing.assert_array_equal(scene.dem[7:], slope[7:])
    asked = len(github.server.requests)
    assert open_scene("made-up").identical(scene) and len(github.server.requests) == asked == 4


def test_the_shell_lists_and_fetches_scenes(landsat, github, monkeypatch, capsys):
    monkeypatch.setattr(registry, "read_registry", lambda: {"made-up": landsat})
    monkeypatch.setattr(originals, "RAW", github.url)
    assert main(["data", "scenes"]) == 0
    assert capsys.readouterr().out.split() == [
        *("region", "sensor", "pixel", "px", "kind", "here"),
        *("made-up", "nowhere", "none", "30", "80", "x", "64", "open", "no"),
    ]
    assert main(["data", "scenes", "made-up"]) == 0
    assert capsys.readouterr().out == f'{landsat.home}: train on it with scene="made-up"\n'
    assert main(["data", "scenes"]) == 0 and capsys.readouterr().out.endswith("yes\n")


@pytest.mark.parametrize("stored", ["reflectance", "numbers with a scale"])
def test_reflectance_is_scaled_and_what_is_not_positive_counts_as_nodata(github, slope, stored):
    numbers = np.random.default_rng(0).integers(-60, 9000, (3, 64, 80)).astype(np.int16)
    numbers[0, 0, :8] = -1, 0, 1, 4, 5, 15, 25, 26
    for color, values in zip(COLORS, numbers):
        how = {} if stored == "reflectance" else {"scales": (0.0001,)}
        values = (values / np.float32(10000)).astype(np.float32) if stored == "reflectance" else values
        github.add(color, f"{color}.tif", values, **how)
    github.add("dem", "dem.tif", slope.astype(np.int16))
    expected = np.where(numbers > 0, np.maximum(np.round(numbers / 10) * 10, 1), 0).astype(np.uint16)
    assert expected[0, 0, :8].tolist() == [0, 0, 1, 1, 1, 20, 20, 30]
    folder = github.pull(github.site(Recipe(scale=10000, round=10, dem_decimals=1), expected, (1000.0, 1284.0)))
    np.testing.assert_array_equal(read(folder / "rgb.tif"), expected)
    np.testing.assert_array_equal(read(folder / "dem.tif")[0], slope)


def test_a_part_of_a_large_image_gets_a_coarser_dem(github):
    numbers = np.random.default_rng(0).integers(1, 60000, (3, 90, 100)).astype(np.uint16)
    for color, values in zip(COLORS, numbers):
        github.add(color, f"{color}.tif", values)
    rows, columns = np.mgrid[:60, :60]
    place = from_origin(WEST - 240, NORTH + 240, 84, 84)
    github.add("dem", "dem.tif", (500 + 8.4 * columns + 16.8 * rows).astype(np.float32), place=place)
    recipe = Recipe(window=(20, 10, 64, 32), dem_resampling="bilinear", dem_decimals=1)
    image, heights, grid = make_pair(tuple(github.files), recipe, github.folder)
    np.testing.assert_array_equal(image, numbers[:, 10:42, 20:84])
    assert grid.affine == Affine(30, 0, WEST + 600, 0, -30, NORTH - 300) and grid.shape == (32, 64)
    rows, columns = np.mgrid[:32, :64]
    x, y = WEST + 615 + 30 * columns, NORTH - 315 - 30 * rows
    plane = 500 + 8.4 * ((x - WEST + 240) / 84 - 0.5) + 16.8 * ((NORTH + 240 - y) / 84 - 0.5)
    assert np.abs(heights - plane).max() < 0.1


def test_a_dem_with_the_wrong_crs_is_read_in_the_right_one(github, picture):
    """Bands in the order of the file, and a finer DEM in Laborde's grid that says it is in another."""
    bands = np.concatenate([picture[::-1], picture[:1] // 2 + 1])
    place = from_origin(344_055, -1_801_425, 180, 180)
    github.add("image", "image.tif", bands, crs="EPSG:32639", place=place, nodata=255)
    (left,), (top,) = transform("EPSG:32639", "EPSG:8441", [344_055], [-1_801_425])
    rows, columns = np.mgrid[:200, :220]
    x, y = left - 2000 + 120 * (columns + 0.5), top + 4000 - 120 * (rows + 0.5)
    heights = (100 + 0.01 * (x - left) + 0.02 * (top - y)).astype(np.float32)
    github.add("dem", "dem.tif", heights, crs="EPSG:29738", place=from_origin(left - 2000, top + 4000, 120, 120))
    recipe = Recipe(bands=(3, 2, 1), dem_crs="EPSG:8441", dem_resampling="bilinear")
    image, laid, _ = make_pair(tuple(github.files), recipe, github.folder)
    np.testing.assert_array_equal(image, picture)
    assert image.dtype == np.uint8
    rows, columns = np.mgrid[:64, :80]
    east, north = 344_055 + 180 * (columns + 0.5), -1_801_425 - 180 * (rows + 0.5)
    x, y = np.reshape(transform("EPSG:32639", "EPSG:8441", east.ravel(), north.ravel()), (2, 64, 80))
    assert np.abs(laid - (100 + 0.01 * (x - left) + 0.02 * (top - y))).max() < 0.5  # a pixel to the side: 1.8 m


def test_a_changed_file_at_its_address_is_refused_and_leaves_nothing(landsat, github):
    path = github.server.folder / landsat.originals[2].url("").lstrip("/")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedDownload, match=r"band_2\.tif does not have the checksum sha256:.*start again"):
        github.pull(landsat)
    assert not landsat.here and not (landsat.home / "originals/band_2.tif").exists()
    path.write_bytes(content)
    assert github.pull(landsat) == landsat.home and landsat.here


def test_an_original_that_is_missing_is_named(landsat, github):
    (github.server.folder / landsat.originals[3].url("").lstrip("/")).unlink()
    with pytest.raises(Unreachable, match=r"owner/maps/c{40}/data/dem\.tif answers 404"):
        github.pull(landsat)
    assert not landsat.here


def test_without_a_network_a_sentence_names_the_address(landsat):
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9/owner/maps/c{40}/data/band_4\.tif failed 5 times"):
        fetch_scene(landsat, progress=False, address="http://127.0.0.1:9")
    assert not landsat.here


def test_an_interrupted_fetch_continues_where_it_stopped(github, monkeypatch, picture, slope):
    numbers, heights = np.tile(picture.astype(np.float32), (1, 5, 5)), np.tile(slope, (5, 5))  # more than one block
    for color, number, values in zip(COLORS, (4, 3, 2), numbers):
        github.add(color, f"band_{number}.tif", values)
    github.add("dem", "dem.tif", heights)
    landsat = github.site(Recipe(), numbers.astype(np.uint16), (1000.0, 1284.0))
    github.server.set(faults={"band_3.tif": ["cut"] * 5})
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(Unreachable, match="the same command continues from there"):
        github.pull(landsat)
    part = landsat.home / "originals/band_3.tif.part"
    kept = part.stat().st_size
    assert kept > 0 and not landsat.here
    github.server.set(faults={}, requests=[])
    github.pull(landsat)
    asked = [(name.rsplit("/", 1)[-1], wanted) for name, wanted in github.server.requests]
    assert asked == [("band_3.tif", f"bytes={kept}-"), ("band_2.tif", None), ("dem.tif", None)] and landsat.here


def test_a_pair_of_which_one_file_is_missing_is_made_again(landsat, github):
    folder = github.pull(landsat)
    before = (folder / "rgb.tif").read_bytes()
    (folder / "dem.tif").unlink()
    github.pull(landsat)
    assert (folder / "rgb.tif").read_bytes() == before and landsat.here
    assert {path.name for path in folder.iterdir()} == {"originals", "rgb.tif", "dem.tif"}


def test_a_pair_unlike_the_registrys_is_told(landsat, github):
    with pytest.warns(UserWarning, match=r"made-up differs .*\(its image has other values\): use it with care"):
        github.pull(Site(**vars(landsat) | {"pixels": "0" * 64}))
    (landsat.home / "dem.tif").unlink()
    with pytest.warns(UserWarning, match=r"80 × 64 px instead of 79 × 64; its elevation is 1000\.0 to 1284\.0 m"):
        github.pull(Site(**vars(landsat) | {"width": 79, "elevation": (900.0, 1284.0)}))


@pytest.mark.parametrize("fault", ["a band beside the others", "a DEM beside the image", "too large numbers"])
def test_files_that_the_recipe_does_not_fit_are_refused(github, slope, fault):
    aside = from_origin(WEST + 15, NORTH, 30, 30)
    for color in COLORS:
        place = aside if color == "green" and "band" in fault else None
        github.add(color, f"{color}.tif", np.full((64, 80), 7, np.float32), place=place)
    github.add("dem", "dem.tif", slope, place=aside if "DEM" in fault else None)
    scale = 10_000.0 if "numbers" in fault else 1.0
    with pytest.raises(UnsupportedImagery, match=r"\.tif .*: the registry's recipe does not fit it, please report"):
        make_pair(tuple(github.files), Recipe(scale=scale), github.folder)


@pytest.mark.parametrize("site", [site for site in MADE if not site.recipe.dem_crs], ids=lambda site: site.name)
def test_originals_with_the_values_of_the_real_pairs_make_these_pairs(site, shared, tmp_path):
    """The real originals are elsewhere; these hold the pair's own values, in the originals' types and places."""
    folder = shared / "data/scenes" / site.name
    image, heights = read(folder / "rgb.tif"), read(folder / "dem.tif")[0]
    with rasterio.open(folder / "rgb.tif") as file:
        crs, place = file.crs, file.transform
    column, row, *_ = site.recipe.window or (0, 0)
    around = ((0, 0), (row, row), (column, column))
    numbers = np.pad(image, around, mode="edge") if column else image / np.float32(site.recipe.scale)
    for color, values in zip(COLORS, numbers):
        name = next(file.name for file in site.originals if file.role == color)
        dtype = np.uint16 if column else np.float32
        write(tmp_path / name, values.astype(dtype), crs, place @ Affine.translation(-column, -row), nodata=0)
    dem = next(file.name for file in site.originals if file.role == "dem")
    write(tmp_path / dem, heights, crs, place, nodata=np.nan)
    made, laid, grid = make_pair(site.originals, site.recipe, tmp_path)
    np.testing.assert_array_equal(made, image)
    np.testing.assert_array_equal(laid, heights)
    assert grid.affine.almost_equals(place)
