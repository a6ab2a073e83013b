"""The registry of scenes is consistent, says of files what they are, and stands in data/README.md as it is."""

import csv
import hashlib
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import rasterio

from sat2dem_core import paths
from sat2dem_core.cli import main
from sat2dem_core.dataset.registry import find_site, markdown_table, read_registry, sites
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.errors import UnknownName, UnreadableRaster
from sat2dem_core.rasters.grids import center, pixel_size

ROOT = Path(__file__).resolve().parents[2]
SITES = list(read_registry().values())
OPEN = [site for site in SITES if site.kind == "open"]
IN_SHARED = [site for site in SITES if site.image == ("rgb.tif",)]


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_every_scene_says_what_it_is(site):
    assert all((site.title, site.region, site.sensor, site.terms, site.origin))
    assert site.worth in "ABC" and (site.worth == "A" or site.caveat)
    assert 0 < site.pixel < 300 and 0 < site.dem_pixel < 300 and site.elevation[0] < site.elevation[1]
    assert (site.sun_azimuth is None) == (not site.sun_source)
    assert site.sun_source in ("", "metadata", "regression", "time of day")
    if site.sun_source == "regression":
        assert site.sun_azimuth == site.shading_azimuth and site.shading_r >= 0.2
    if site.sun_source == "time of day" and site.name != "rocky-mountain":  # whose day is unknown
        assert site.place and site.date
    if site.place:
        assert -180 <= site.place[0] <= 180 and -90 <= site.place[1] <= 90


@pytest.mark.parametrize("site", OPEN, ids=lambda site: site.name)
def test_every_open_scene_has_its_files_with_checksums_and_a_recipe(site):
    roles = {file.role for file in site.originals}
    assert roles >= {"dem", "image"} or roles >= {"dem", "red", "green", "blue"}
    for file in site.originals:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256) and re.fullmatch("[0-9a-f]{40}", file.commit)
        assert file.bytes > 10_000 and file.url() == (
            f"https://raw.githubusercontent.com/{file.repository}/{file.commit}/{file.path}"
        )
    if site.recipe:
        assert re.fullmatch("[0-9a-f]{64}", site.pixels)
    else:
        assert {*site.image, site.dem} <= {file.name for file in site.originals}


def test_there_are_seventeen_scenes_of_three_kinds_in_twelve_regions():
    table = sites()
    assert len(table) == 17 and table.kind.value_counts().to_dict() == {"open": 11, "development": 5, "embedded": 1}
    assert table.region.nunique() == 12 and table.here["rocky-mountain"]
    assert table.index[table.longitude.isna()].to_list() == ["california-madre-l8"]
    assert table.loc["zion", ["lowest", "highest", "shading_r"]].to_list() == [1048.5, 2892.9, 0.55]


def test_the_readme_of_the_data_has_the_table_of_today():
    text = (ROOT / "data/README.md").read_text(encoding="utf-8")
    assert markdown_table() in text, (
        "put this into data/README.md: python -c 'from sat2dem_core.dataset.registry import markdown_table as table; "
        "print(table())'"
    )


def test_the_registry_travels_in_the_wheel(tmp_path, monkeypatch):
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    inside = Path(wheel["wheel"]["force-include"]["data/scenes.toml"])
    package = tmp_path / inside.parts[0]
    (package / "data/rocky-mountain").mkdir(parents=True)
    shutil.copy(ROOT / "data/scenes.toml", tmp_path / inside)
    monkeypatch.setattr(paths, "PACKAGE", package)
    read_registry.cache_clear()
    assert list(read_registry()) == [site.name for site in SITES]
    read_registry.cache_clear()


def test_an_unknown_scene_lists_all_that_there_are():
    with pytest.raises(UnknownName, match="'atlantis': choose one of rocky-mountain, zion, .*madagascar-mananara-l9"):
        find_site("atlantis")


def test_a_development_scene_that_is_absent_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("SAT2DEM_DATA", str(tmp_path))
    with pytest.raises(UnreadableRaster, match="carmel-israel-l8 is a development scene, .* set SAT2DEM_DATA to"):
        open_scene("carmel-israel-l8")
    assert not find_site("carmel-israel-l8").here and not any(tmp_path.iterdir())


def test_a_scene_keeps_its_region_place_date_and_sun(monkeypatch, write_raster, picture, slope, tmp_path):
    monkeypatch.setenv("SAT2DEM_DATA", str(tmp_path))
    for name in ("wales-aberystwyth-s2", "california-madre-l8"):
        (tmp_path / "scenes" / name).mkdir(parents=True)
        write_raster(f"scenes/{name}/rgb.tif", picture.astype(np.uint16))
        write_raster(f"scenes/{name}/dem.tif", slope)
    assert open_scene("wales-aberystwyth-s2").attrs | {
        "name": "wales-aberystwyth-s2", "region": "wales", "place": [-4.034, 52.41], "date": "2021-05-27",
        "sun_azimuth": 160, "sun_source": "time of day", "stretch": "25 to 115 onto 0 to 255",
    } == open_scene("wales-aberystwyth-s2").attrs
    assert not {"place", "date"} & set(open_scene("california-madre-l8").attrs)


@pytest.mark.parametrize("name", ["rocky-mountain", "zion"])
def test_scenes_that_stored_tables_are_made_of_keep_their_pixels(name, shared, monkeypatch):
    monkeypatch.setenv("SAT2DEM_DATA", str(shared / "data"))
    site, scene = find_site(name), open_scene(name)
    image, heights = (hashlib.sha256(scene[part].values.tobytes()).hexdigest()[:16] for part in ("rgb", "dem"))
    before = {
        "rocky-mountain": ("13eef94f08c9f686", "b781d09aafefef9f"), "zion": ("f3d2be84e3d858cd", "ccff8087d3518fbc"),
    }
    assert (image, heights) == before[name]
    assert list(scene.coords) == ["x", "y", "band", "spatial_ref"] and scene.dem.shape == (site.height, site.width)
    extremes = float(scene.dem.min()), float(scene.dem.max())
    assert extremes == pytest.approx(site.elevation, abs=0.1)
    assert site.place == pytest.approx(center(scene.rio.crs, scene.rio.transform(), site.width, site.height), abs=1e-3)


@pytest.mark.parametrize("site", IN_SHARED, ids=lambda site: site.name)
def test_the_registry_says_of_files_what_they_are(site, shared):
    folder = shared / "data/scenes" / site.name
    with rasterio.open(folder / "rgb.tif") as image, rasterio.open(folder / "dem.tif") as dem:
        assert image.shape == dem.shape == (site.height, site.width)
        heights, values = dem.read(1), image.read()
        place = image.crs, image.transform, image.width, image.height
    assert (np.nanmin(heights), np.nanmax(heights)) == pytest.approx(site.elevation, abs=0.05)
    if site.place:
        assert center(*place) == pytest.approx(site.place, abs=1e-3)
    assert pixel_size(*place) == pytest.approx((site.pixel, site.pixel), rel=0.01)
    assert (values.dtype == np.uint8) == (site.stretch is None)
    if site.stretch:
        shares = [np.mean(values[:, (values > 0).all(0)] < value) for value in site.stretch]
        assert 0.005 < shares[0] < 0.04 and 0.96 < shares[1] < 0.995
    if site.pixels:
        assert hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest() == site.pixels


def test_scenes_that_are_there_are_named_by_the_shell(shared, monkeypatch, capsys):
    monkeypatch.setenv("SAT2DEM_DATA", str(shared / "data"))
    assert main(["data", "zion"]) == main(["data", "scenes", "carmel-israel-l8", "rocky-mountain"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f'{folder}: train on it with scene="{folder.name}"' for folder in
        (shared / "data/zion", shared / "data/scenes/carmel-israel-l8", ROOT / "data/rocky-mountain")
    ]
    assert main(["data", "scenes", "atlantis"]) == 1 and "choose one of rocky-mountain" in capsys.readouterr().err


def test_every_development_scene_that_is_there_opens(shared, monkeypatch):
    monkeypatch.setenv("SAT2DEM_DATA", str(shared / "data"))
    for site in SITES:
        if site.kind == "development":
            scene = open_scene(site.name)
            assert scene.attrs["region"] == site.region and scene.dem.notnull().mean() > 0.5


def test_the_registry_agrees_with_the_notes_of_those_who_found_the_scenes(shared):
    folder = shared / "data/scenes"
    with (folder / "ORIGINS.csv").open(encoding="utf-8") as file:
        noted = {
            (row["scene"], row["role"].replace("red green blue", "image"), row["repository"], row["commit"],
             row["path"], int(row["bytes"]), row["sha256"]) for row in csv.DictReader(file)
        }
    own = {
        (site.name, file.role, file.repository, file.commit, file.path, file.bytes, file.sha256)
        for site in OPEN if site.recipe for file in site.originals
    }
    assert own == noted
    rows = re.findall(r"^\| ([a-zA-Z][\w-]+) .*\| ([\w-]+) \|.*\| (\d+°|–), (\d\.\d+|–) \|.*\| ([ABC])\b",
                      (folder / "README.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) == 17
    for name, region, sun, r, worth in rows:
        site = find_site(name)
        azimuth = site.sun_azimuth if name == "rocky-mountain" else site.shading_azimuth
        assert (site.region, site.worth) == (region, worth)
        assert sun == ("–" if azimuth is None else f"{azimuth}°")
        assert r == ("–" if site.shading_r is None else f"{site.shading_r:.2f}")
