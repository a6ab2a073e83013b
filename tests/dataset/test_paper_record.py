"""The way from the paper's record to a scored row of its study, on a made-up record of the same form.

The record has three archives and 40 tiles, among them the four that hold NaN in the original; a server on localhost
hands it out, and the command line does the rest.
"""

import hashlib
import json
import shutil
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from file_server import file_server
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from sat2dem_core.cli import main
from sat2dem_core.dataset.grid import PIXELS
from sat2dem_core.dataset.splits import paper_split
from sat2dem_core.dataset.store import open_store
from sat2dem_core.rasters import download

WITH_NAN = (5209, 8734, 8839, 8941)
NUMBERS = sorted({*range(0, 36 * 284, 284), *WITH_NAN})
FEW = (3, 5209, 10)  # for what goes wrong
STUDY = Path(__file__).resolve().parents[2] / "studies/paper.toml"
LOW, HIGH = -168.6189727783203, 3472.300537109375  # of the original, meters


def tif(values: np.ndarray, number: int) -> bytes:
    """A tile as a GeoTIFF of 30 m pixels; ``number`` decides its place."""
    row, column = divmod(number, 130)
    place = from_origin(100_000 + 7680 * column, 4_800_000 - 7680 * row, 30, 30)
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=len(values), height=PIXELS, width=PIXELS, dtype=values.dtype, crs="EPSG:32630",
            transform=place,
        ) as file:
            file.write(values)
        return memory.read()


def tile(number: int) -> dict[str, bytes]:
    """The four files of a tile by name, as in the original."""
    rows, columns = np.mgrid[:PIXELS, :PIXELS]
    wave = np.sin(rows / 40 + number) * np.cos(columns / 60)
    dem = (1000 + number / 20 + 300 * wave).round().astype(np.float32)[None]
    image = np.stack([128 + 100 * wave, 128 - 60 * wave, 90 + 50 * wave]).astype(np.uint8)
    if number in WITH_NAN:
        dem[:, :3, :50] = np.nan
    return {
        f"original_dem/original_DEM_cell_{number}.tif": tif(dem, number),
        f"normalized_dem/normalized_DEM_cell_{number}.tif": tif(2 * (dem - LOW) / (HIGH - LOW) - 1, number),
        f"sentinel_images/sentinel_cell_{number}.tif": tif(image, number),
        f"landsat_images/landsat_cell_{number}.tif": tif(image // 2, number),
    }


def write_archives(folder: Path, numbers: list[int] | tuple[int, ...]) -> None:
    """The three archives of these tiles: elevation, Sentinel-2 and Landsat images."""
    kinds = {"dem": "dem.zip", "sentinel_images": "sentinel_images.zip", "landsat_images": "landsat_images.zip"}
    archives = {kind: zipfile.ZipFile(folder / name, "w") for kind, name in kinds.items()}
    for number in numbers:
        for name, content in tile(number).items():
            kind = name.split("/")[0]
            archives["dem" if kind.endswith("dem") else kind].writestr(name, content)
    for archive in archives.values():
        archive.close()


class Record:
    """A record on a server: its ``url``, and a ``folder`` whose files it lists when ``publish`` is called."""

    def __init__(self, server, folder: Path):
        self.server, self.folder, self.url = server, folder, f"{server.url}/record"
        self.publish()

    def publish(self) -> None:
        files = []
        for path in sorted(self.folder.glob("*.*")):
            content = path.read_bytes()
            checksum, links = f"md5:{hashlib.md5(content).hexdigest()}", {"self": f"{self.server.url}/{path.name}"}
            files.append({"key": path.name, "size": len(content), "checksum": checksum, "links": links})
        content = {"id": 1, "metadata": {"license": {"id": "cc-by-4.0"}}, "files": files}
        (self.folder / "record").write_text(json.dumps(content), encoding="utf-8")

    def asked(self) -> list[tuple[str, str | None]]:
        """What was downloaded, as (name, Range header or None)."""
        return [request for request in self.server.requests if request[0] != "record"]


@pytest.fixture
def record(request, tmp_path, monkeypatch):
    """A record to spoil, of ``FEW`` tiles unless the test says otherwise; the working folder is that of downloads."""
    monkeypatch.setenv("SAT2DEM_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    folder = tmp_path / "server"
    folder.mkdir()
    write_archives(folder, getattr(request, "param", FEW))
    with file_server(folder) as server:
        yield Record(server, folder)


def iberia(record: Record, *options: str) -> int:
    return main(["data", "iberia", *options, "--record", record.url])


def error_of(capsys) -> str:
    """The last line on standard error; progress bars end in a carriage return."""
    return capsys.readouterr().err.strip().replace("\r", "\n").split("\n")[-1]


def one_row(path: Path) -> Path:
    """The first run of the paper's study, with a tiny network and one epoch."""
    study = tomllib.loads(STUDY.read_text(encoding="utf-8"))
    first = {key: value[0] if isinstance(value, list) else value for key, value in study["grid"][0].items()}
    small = first | {"features": 2, "batch": 14, "epochs": 1}
    lines = [f"{key} = {json.dumps(value)}" for key, value in small.items()]
    path.write_text(f'preset = "{study["preset"]}"\n[[grid]]\n' + "\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("record", [NUMBERS], indirect=True, ids=["40"])
def test_from_the_record_to_a_scored_row(record, tmp_path, capsys):
    assert iberia(record, "sentinel-2.zarr") == 0
    output = capsys.readouterr()
    assert output.out == "sentinel-2.zarr\n" and "MB to download, and at least" in output.err
    assert sorted(name for name, _ in record.asked()) == ["dem.zip", "landsat_images.zip", "sentinel_images.zip"]

    store = open_store("sentinel-2.zarr")
    assert list(store.tile.values) == [f"cell_{number:05d}" for number in NUMBERS] and len(NUMBERS) == 40
    holes = [number for number, dem in zip(NUMBERS, store.dem.values) if np.isnan(dem).any()]
    assert tuple(holes) == WITH_NAN and store.attrs["license"] == "cc-by-4.0"

    assert main(["study", str(one_row(tmp_path / "one.toml")), "one.csv"]) == 0
    row = pd.read_csv("one.csv").iloc[0]
    assert (row.preset, row.scene, row["test tiles"]) == ("paper", "sentinel-2.zarr", 6)
    assert 0 < row["absolute MAE"] < 4000 and 0 < row["relief MAE"] < 4000
    tested = set(pd.read_csv("one-tiles.csv").tile)
    assert tested == {f"cell_{NUMBERS[position]:05d}" for position in paper_split(1, 40)[2]}


def test_both_sensors_come_from_one_download(record):
    assert iberia(record) == 0 and iberia(record, "--sensor", "landsat") == 0
    sentinel, landsat = (open_store(f"iberia/{name}.zarr") for name in ("sentinel-2", "landsat"))
    np.testing.assert_array_equal(landsat.rgb, sentinel.rgb // 2)
    np.testing.assert_array_equal(landsat.dem, sentinel.dem)
    assert len(record.asked()) == 3, "something was downloaded twice"


def test_a_broken_download_is_continued_by_the_same_command(record, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    record.server.set(faults={"landsat_images.zip": ["cut"]})
    assert iberia(record) == 1
    assert "bytes are kept, and the same command continues from there" in error_of(capsys)
    kept = (tmp_path / "iberia/landsat_images.zip.part").stat().st_size
    assert iberia(record) == 0
    assert ("landsat_images.zip", f"bytes={kept}-") in record.asked()
    assert [name for name, _ in record.asked()].count("dem.zip") == 1
    assert open_store("iberia/sentinel-2.zarr").sizes["tile"] == len(FEW)


def test_a_file_that_is_not_what_the_record_lists_is_removed(record, tmp_path, capsys):
    path = record.folder / "landsat_images.zip"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    assert iberia(record) == 1
    assert "does not have the checksum md5:" in error_of(capsys)
    assert not list((tmp_path / "iberia").glob("landsat*"))
    path.write_bytes(whole + b"x")
    assert iberia(record) == 1
    assert f"sends more than the {len(whole):,} bytes that were announced" in error_of(capsys)
    path.write_bytes(whole)
    assert iberia(record) == 0


def test_a_new_version_of_the_record_is_noticed_before_it_is_downloaded(record, tmp_path, capsys):
    assert iberia(record) == 0 and iberia(record, "--sensor", "landsat") == 0
    with zipfile.ZipFile(record.folder / "sentinel_images.zip", "a") as archive:
        archive.writestr("changes.txt", "brighter images")
    record.publish()
    asked, folder, old = len(record.asked()), tmp_path / "iberia/sentinel_images", tmp_path / "iberia/sentinel-2.zarr"
    assert iberia(record) == 1
    error = error_of(capsys)
    assert f"{folder} was unpacked from another version of sentinel_images.zip" in error
    assert f"remove {folder} and {folder}.zip, and start again" in error and len(record.asked()) == asked
    Path(f"{folder}.zip").unlink()
    assert iberia(record) == 1 and error_of(capsys).endswith(f"remove {folder}, and start again")
    shutil.rmtree(folder)
    assert iberia(record) == 1 and f"{old} holds tiles of another request: remove it" in error_of(capsys)
    shutil.rmtree(old)
    assert iberia(record) == 0 and len(record.asked()) == asked + 1
    assert iberia(record, "--sensor", "landsat") == 0, "the archives of its store are the same"


def test_folders_of_an_earlier_version_of_the_program_are_used(record, tmp_path):
    assert iberia(record) == 0
    for note in tmp_path.rglob(download.NOTE):
        note.unlink()
    shutil.rmtree(tmp_path / "iberia/sentinel-2.zarr")
    assert iberia(record) == 0
    assert json.loads(open_store("iberia/sentinel-2.zarr").attrs["build"])["request"] == {
        "folder": "iberia", "sensor": "sentinel-2",
    }


def test_archives_may_have_any_names(record, tmp_path):
    """Two parts whose names agree up to the first dot, and a tar file."""
    with zipfile.ZipFile(record.folder / "dem.zip") as whole:
        for number in (1, 2):
            with zipfile.ZipFile(record.folder / f"data.part{number}.zip", "w") as part:
                for name in whole.namelist()[number - 1 :: 2]:
                    part.writestr(name, whole.read(name))
        (record.folder / "dem.zip").unlink()
    shutil.unpack_archive(record.folder / "sentinel_images.zip", tmp_path / "loose")
    with tarfile.open(record.folder / "unknown.tgz", "w:gz") as archive:
        archive.add(tmp_path / "loose", ".")
    (record.folder / "sentinel_images.zip").unlink()
    record.publish()
    assert iberia(record, "made.zarr") == 0 and open_store("made.zarr").sizes["tile"] == len(FEW)


def test_an_archive_that_cannot_be_unpacked_is_named(record, capsys):
    (record.folder / "landsat_images.zip").rename(record.folder / "landsat_images.7z")
    record.publish()
    assert iberia(record) == 0
    warning = f"warning: {record.url} lists landsat_images.7z, which this program cannot unpack: unpack it in "
    assert warning in capsys.readouterr().err
    assert iberia(record, "--sensor", "landsat") == 1
    assert "holds 3 original_DEM_cell_<i>.tif and 0 images in a folder named landsat_images" in error_of(capsys)


def test_a_disk_with_too_little_room_is_refused_before_the_download(record, tmp_path, monkeypatch, capsys):
    size = sum(path.stat().st_size for path in record.folder.glob("*.zip"))
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk._replace(free=2 * size - 1))
    assert iberia(record) == 1
    assert (
        f"error: the data set ({size / 1e6:,.1f} MB to download, the rest to unpack) needs {2 * size / 1e6:,.1f} MB in "
        f"{tmp_path / 'iberia'}, where {(2 * size - 1) / 1e6:,.1f} MB are free: make room"
    ) in error_of(capsys)
    assert record.asked() == [] and not (tmp_path / "iberia").exists()
    (tmp_path / "iberia").mkdir()
    (tmp_path / "iberia/dem.zip.part").write_bytes((record.folder / "dem.zip").read_bytes()[:100_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk._replace(free=2 * size - 100_000))
    assert iberia(record) == 0, "what is there needs no room"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk._replace(free=0))
    assert iberia(record) == 0, "all is there"
