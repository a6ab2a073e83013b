"""The paper's folders: out of a store and into one, paired by number; and the paper's data set from its record."""

import hashlib
import json
import shutil
import zipfile

import numpy as np
import pytest
import rasterio
import xarray as xr

from sat2dem_core.dataset.building import assemble
from sat2dem_core.dataset.grid import PIXELS, Cell
from sat2dem_core.dataset.paper_folders import export_folders, fetch_iberia, import_folders, listing
from sat2dem_core.dataset.store import TOGETHER, open_store
from sat2dem_core.errors import CannotWrite, DamagedStore, UnknownName, Unreachable
from sat2dem_core.rasters import download

SIZE = (PIXELS, PIXELS)


def make(number: int) -> xr.Dataset:
    """A tile of one elevation and one gray, both given by its number; number 1 has a hole."""
    dem = np.full(SIZE, 100.0 * number, np.float32)
    if number == 1:
        dem[:9] = np.nan
    cell = Cell(32630, 60 + number, 570)
    rgb = np.full((3, *SIZE), number, np.uint8)
    scene = xr.Dataset({"rgb": (("band", "y", "x"), rgb), "dem": (("y", "x"), dem)})
    scene.attrs = {"crs": "EPSG:32630", "left": cell.left, "top": cell.top, "nodata_share": float(np.isnan(dem).mean())}
    return scene


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "made.zarr"
    jobs = {Cell(32630, 60 + number, 570).id: number for number in range(12)}
    return assemble(path, jobs, make, {}, {"sensor": "landsat"}, progress=False)


@pytest.fixture(scope="module")
def exported(store):
    return export_folders(store, store.parent / "folders")


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the exported folder to spoil."""
    return shutil.copytree(exported, tmp_path / "folders")


def take(folder, **options):
    return import_folders(folder, folder.parent / "taken.zarr", "landsat", progress=False, **options)


def test_a_store_that_is_exported_and_imported_is_the_same(store, folder):
    before, after = open_store(store), open_store(take(folder, license="cc-by-4.0"))
    assert list(before.tile.values) == list(after.tile.values) and after.attrs["license"] == "cc-by-4.0"
    for name in ("rgb", "dem", "crs", "left", "top", "nodata_share"):
        np.testing.assert_array_equal(before[name], after[name])


def test_the_layout_is_the_papers(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["landsat_images", "normalized_dem", "original_dem", "tiles.csv"]
    with rasterio.open(folder / "original_dem/original_DEM_cell_3.tif") as file:
        assert (file.dtypes[0], file.shape, file.crs, file.res) == ("float32", SIZE, "EPSG:32630", (30, 30))
    with rasterio.open(folder / "normalized_dem/normalized_DEM_cell_11.tif") as file:
        assert (file.read(1) == 1).all()  # the highest of all
    with rasterio.open(folder / "landsat_images/landsat_cell_3.tif") as file:
        assert (file.read() == 3).all() and file.count == 3


def test_pairs_are_made_by_number_never_by_position(folder):
    images = folder / "landsat_images"
    for number in range(12):  # in the order of names, 10 comes before 2 and x7 after b7
        (images / f"landsat_cell_{number}.tif").rename(images / f"{'xb'[number % 2]}_landsat_{number}.tif")
    (folder / "tiles.csv").unlink()
    taken = open_store(take(folder))
    assert list(taken.tile.values) == [f"cell_{number:05d}" for number in range(12)]
    assert [int(value) for value in taken.rgb[:, 0, 0, 0]] == list(range(12))
    assert [float(value) for value in taken.dem[:, 100, 100]] == [100.0 * number for number in range(12)]


def test_nan_stays_nan(folder):
    nodata = np.isnan(open_store(take(folder)).dem)
    assert nodata[1, :9].all() and not nodata[1, 9:].any() and not nodata[2].any()


def test_a_declared_nodata_value_becomes_nan(folder):
    path = folder / "original_dem/original_DEM_cell_2.tif"
    with rasterio.open(path) as file:
        dem, profile = file.read(1), file.profile
    dem[0, 0] = -9999
    with rasterio.open(path, "w", **(profile | {"nodata": -9999})) as file:
        file.write(dem, 1)
    assert np.isnan(open_store(take(folder)).dem[2, 0, 0])


@pytest.mark.parametrize(("missing", "message"), [
    ("original_dem/original_DEM_cell_4.tif", r"1 files have no DEM of their number \(landsat_cell_4.tif"),
    ("landsat_images/landsat_cell_4.tif", r"1 files have no image of their number \(original_DEM_cell_4.tif"),
])
def test_a_file_without_a_partner_is_named(folder, missing, message):
    (folder / missing).unlink()
    with pytest.raises(DamagedStore, match=message):
        take(folder)
    assert not (folder.parent / "taken.zarr").exists()


def test_a_number_that_occurs_twice_is_named(folder):
    (folder / "more").mkdir()
    name = "original_DEM_cell_4.tif"
    shutil.copy(folder / "original_dem" / name, folder / "more")
    with pytest.raises(DamagedStore, match=f"{name} and .*{name} have the same number"):
        take(folder)


def test_two_tiles_of_one_name_are_refused(folder):
    table = folder / "tiles.csv"
    text = table.read_text(encoding="utf-8").replace("32630_c0064_r0570", "32630_c0065_r0570")
    table.write_text(text, encoding="utf-8")
    with pytest.raises(DamagedStore, match="tiles.csv names a tile twice"):
        take(folder)


def test_a_file_without_a_number_is_named(folder):
    (folder / "landsat_images/landsat_cell_4.tif").rename(folder / "landsat_images/overview.tif")
    with pytest.raises(DamagedStore, match="overview.tif has no number after its last underscore"):
        take(folder)


def rewrite(path, values):
    with rasterio.open(path) as file:
        profile = file.profile
    count, height, width = values.shape
    profile |= {"count": count, "height": height, "width": width, "dtype": values.dtype, "nodata": None}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)


@pytest.mark.parametrize(("name", "shape", "dtype", "message"), [
    ("original_dem/original_DEM_cell_4.tif", (1, 128, 128), "float32", r"shape \(1, 128, 128\), not \(1, 256, 256\)"),
    ("landsat_images/landsat_cell_4.tif", (4, 256, 256), "uint8", r"shape \(4, 256, 256\), not \(3, 256, 256\)"),
    ("landsat_images/landsat_cell_4.tif", (3, 256, 256), "uint16", "uint16, not uint8"),
])
def test_a_file_that_is_no_tile_of_this_layout_is_refused(folder, name, shape, dtype, message):
    rewrite(folder / name, np.zeros(shape, dtype))
    with pytest.raises(DamagedStore, match=f"cell_4.tif (has|holds) {message}"):
        take(folder)


def test_a_damaged_file_is_named_and_the_rest_is_kept_for_the_next_try(folder):
    path = folder / "original_dem/original_DEM_cell_4.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(DamagedStore, match="original_DEM_cell_4.tif cannot be read"):
        take(folder)
    path.write_bytes(whole)
    assert open_store(take(folder)).sizes["tile"] == 12


def test_an_empty_folder_and_a_wrong_sensor(tmp_path, folder):
    message = "holds 12 original_DEM_cell_<i>.tif and 0 images in a folder named sentinel_images"
    with pytest.raises(DamagedStore, match=message):
        import_folders(folder, tmp_path / "a.zarr", "sentinel-2")
    with pytest.raises(UnknownName, match="sentinel-2, landsat"):
        import_folders(folder, tmp_path / "a.zarr", "modis")


def test_hidden_files_as_macos_adds_them_are_ignored(folder):
    (folder / "__MACOSX/landsat_images").mkdir(parents=True)
    (folder / "__MACOSX/landsat_images/._landsat_cell_4.tif").write_bytes(b"of the Finder")
    assert open_store(take(folder)).sizes["tile"] == 12


@pytest.mark.parametrize("line", ["3", "3,a,b", ""])
def test_a_damaged_list_of_names_is_refused(folder, line):
    (folder / "tiles.csv").write_text(f"number,tile\n{line}\n", encoding="utf-8")
    with pytest.raises(DamagedStore, match="tiles.csv does not list a number and a name in each line"):
        take(folder)


def test_tiles_without_elevation_do_not_spoil_the_normalization_of_others(tmp_path):
    """As over open sea, where a whole chunk of the store has none."""
    names = {Cell(32630, number, 570).id: number for number in range(TOGETHER + 2)}

    def sea(number: int) -> xr.Dataset:
        scene = make(number)
        return scene.assign(dem=scene.dem.where(number >= TOGETHER))

    store = assemble(tmp_path / "sea.zarr", names, sea, {}, {"sensor": "landsat"}, progress=False)
    folder = export_folders(store, tmp_path / "sea")
    for number, value in ((0, np.nan), (TOGETHER, -1), (TOGETHER + 1, 1)):
        with rasterio.open(folder / f"normalized_dem/normalized_DEM_cell_{number}.tif") as file:
            np.testing.assert_array_equal(file.read(1), value)


@pytest.mark.parametrize(("name", "fault"), [
    ("../up", "leads to a parent folder"), ("in/two", "names a folder"), ("/two", "is an absolute path"),
    ("C:two", "names a drive"), (r"in\two", "contains a backslash"), ("a\0b", "contains a NUL byte"),
    ("", "names no file"),
])
def test_a_name_in_a_list_cannot_lead_outside(folder, name, fault):
    (folder / "tiles.csv").write_text(f"number,tile\n3,{name}\n", encoding="utf-8")
    with pytest.raises(DamagedStore) as refused:
        take(folder)
    assert f"tiles.csv gives tile 3 the name {name!r}, which {fault}" in str(refused.value)
    assert not (folder.parent / "taken.zarr").exists()


@pytest.mark.parametrize("size", [0, 300])
def test_a_full_disk_while_exporting_is_one_sentence_and_leaves_nothing(store, tmp_path, size, full_disk):
    """The GeoTIFF library alone writes part of a file and raises nothing."""
    with full_disk(size) as reason, pytest.raises(CannotWrite, match=rf"write .*folders \({reason}\).*make room"):
        export_folders(store, tmp_path / "folders")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_starts_over(store, tmp_path):
    left = tmp_path / "folders.part/landsat_images/landsat_cell_99.tif"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    folder = export_folders(store, tmp_path / "folders")
    assert len(list(folder.rglob("*.tif"))) == 36 and not left.parent.exists()


def test_an_export_overwrites_nothing(store, folder):
    with pytest.raises(CannotWrite, match="exists: remove it or choose another"):
        export_folders(store, folder)


# ---- from Zenodo

CONTENT = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def no_waits(monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)


def record(server, names: list[str], **changes) -> str:
    """A Zenodo-like record of files on the server; its address."""
    files = []
    for name in names:
        content = (server.folder / name).read_bytes()
        checksum, links = f"md5:{hashlib.md5(content).hexdigest()}", {"self": f"{server.url}/{name}"}
        files.append({"key": name, "size": len(content), "checksum": checksum, "links": links} | changes)
    content = {"id": 14647632, "metadata": {"license": {"id": "cc-by-4.0"}}, "files": files}
    (server.folder / "record").write_text(json.dumps(content), encoding="utf-8")
    return f"{server.url}/record"


def test_a_record_lists_its_files_and_its_license(server):
    files, license = listing(record(server, ["big.bin"]))
    assert license == "cc-by-4.0"
    checksum = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
    assert files == [{"name": "big.bin", "size": len(CONTENT), "checksum": checksum, "url": f"{server.url}/big.bin"}]


@pytest.mark.parametrize(("name", "fault"), [
    ("../../big.bin", "leads to a parent folder"), ("/big.bin", "is an absolute path"), ("..", "leads to a parent"),
    ("C:big.bin", "names a drive"), (r"..\big.bin", "contains a backslash"), ("", "names no file"),
    ("big\0.bin", "contains a NUL byte"), (".zip", "begins with a dot"), ("a/.zip", "begins with a dot"),
])
def test_a_name_in_a_record_cannot_lead_outside(server, name, fault):
    with pytest.raises(Unreachable) as refused:
        listing(record(server, ["big.bin"], key=name))
    assert f"lists a file {name!r}, whose name {fault}" in str(refused.value)


@pytest.mark.parametrize(("changes", "message"), [
    ({"size": "many"}, "'many' is no size"), ({"size": -1}, "-1 is no size"), ({"size": True}, "True is no size"),
    ({"checksum": "crc32:0"}, "'crc32:0' is no checksum"), ({"checksum": "0"}, "'0' is no checksum"),
])
def test_a_size_or_a_checksum_that_is_none_is_refused(server, changes, message):
    with pytest.raises(Unreachable, match=f"does not list files as a Zenodo record does .*{message}"):
        listing(record(server, ["big.bin"], **changes))


@pytest.mark.parametrize(("content", "message"), [
    ("no json", "does not list files"), ('{"files": [{}]}', "does not list files"), ("[]", "does not list files"),
    ('{"files": []}', "lists no files"),
])
def test_an_answer_that_is_no_record_is_refused(server, content, message):
    (server.folder / "record").write_text(content, encoding="utf-8")
    with pytest.raises(Unreachable, match=message):
        listing(f"{server.url}/record")


def test_a_record_that_does_not_answer(server, no_waits):
    with pytest.raises(Unreachable, match="does not answer.*404"):
        listing(f"{server.url}/none")
    server.set(faults={"none": [500] * 9})
    with pytest.raises(Unreachable, match="does not answer.*500"):
        listing(f"{server.url}/none")


def test_the_papers_files_are_fetched_verified_and_unpacked(server, monkeypatch, tmp_path, no_waits):
    monkeypatch.setenv("SAT2DEM_DATA", str(tmp_path))
    with zipfile.ZipFile(server.folder / "tiles.zip", "w") as archive:
        archive.writestr("original_dem/original_DEM_cell_0.tif", b"tif")
    server.set(faults={"tiles.zip": [503, "cut"]})
    folder, license = fetch_iberia(record(server, ["tiles.zip", "big.bin"]), progress=False)
    assert license == "cc-by-4.0" and (folder / "tiles/original_dem/original_DEM_cell_0.tif").read_bytes() == b"tif"
    asked = len(server.requests)
    fetch_iberia(f"{server.url}/record", progress=False)
    assert [name for name, _ in server.requests[asked:]] == ["record"]  # nothing is downloaded twice
