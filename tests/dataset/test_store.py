"""Stores: built tile by tile, killed and resumed, read by plain xarray, trained on."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from catalog import BORDER
from dask.distributed import Client, LocalCluster

from sat2dem_core.config import preset
from sat2dem_core.dataset import stac, store
from sat2dem_core.dataset.building import assemble, build
from sat2dem_core.dataset.catalogs import Request, source
from sat2dem_core.dataset.grid import PIXELS, SIDE, Cell
from sat2dem_core.dataset.parts import prepare
from sat2dem_core.dataset.store import open_store, read_parts, read_tiles
from sat2dem_core.errors import DamagedStore, EmptySearch, NoTiles, Unreachable, WrongShape
from sat2dem_core.training.checkpoints import load_checkpoint
from sat2dem_core.training.trainer import train

REGION = (-6.04, 40.85, -5.96, 40.91)  # tiles of two UTM zones


@pytest.fixture(scope="module")
def request_(api):
    return Request("2023-07-01", "2023-07-31", source("sentinel-2", url=api), source("glo-30", url=api))


@pytest.fixture(scope="module")
def built(tmp_path_factory, request_):
    """A store that nothing interrupted."""
    return build(tmp_path_factory.mktemp("built") / "border.zarr", REGION, request_, progress=False)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def made_up(number: int) -> xr.Dataset:
    """A tile of the grid near the middle of a zone, with elevation that tells its number."""
    values = np.random.default_rng(number)
    rgb = values.integers(0, 255, (3, PIXELS, PIXELS), dtype=np.uint8)
    dem = (1000 + 10 * number + values.normal(0, 1, (PIXELS, PIXELS))).astype(np.float32)
    scene = xr.Dataset({"rgb": (("band", "y", "x"), rgb), "dem": (("y", "x"), dem)})
    cell = square(number)
    scene.attrs = {"crs": "EPSG:32630", "left": cell.left, "top": cell.top, "nodata_share": 0.0}
    return scene


def square(number: int) -> Cell:
    return Cell(32630, 60 + number % 8, 570 + number // 8)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A store of 64 tiles in a square."""
    jobs = {square(number).id: number for number in range(64)}
    overlaps = dict.fromkeys(jobs, "")
    return assemble(tmp_path_factory.mktemp("many") / "many.zarr", jobs, made_up, {}, {"sensor": "landsat", "overlaps": overlaps}, progress=False)


# ---- building

def test_a_store_is_read_by_plain_xarray(built):
    with xr.open_zarr(built) as dataset:
        assert dataset.rgb.dims == ("tile", "band", "y", "x") and dataset.rgb.dtype == np.uint8
        assert dataset.dem.dims == ("tile", "y", "x") and dataset.dem.dtype == np.float32
        assert sorted(dataset.tile.values) == sorted(cell.id for cell in BORDER)
        names = {"crs", "left", "top", "acquisitions", "dates", "cloud_share", "nodata_share", "sea_share", "license", "overlaps"}
        assert names <= set(dataset.coords)
        assert "S2A_32630_20230701" in dataset.acquisitions.values[-1] and "2023-07-01" in dataset.dates.values[0]


def test_its_tiles_are_those_of_the_catalog(built, request_):
    dataset = open_store(built)
    for cell in BORDER:
        expected, found = stac.tile(cell, request_), dataset.sel(tile=cell.id)
        np.testing.assert_array_equal(found.rgb, expected.rgb)
        np.testing.assert_array_equal(found.dem, expected.dem)
        assert found.nodata_share.item() == expected.attrs["nodata_share"]


def test_overlaps_across_the_border_of_zones_are_marked(built):
    dataset = open_store(built)
    partners = {str(tile): set(str(names).split()) for tile, names in zip(dataset.tile.values, dataset.overlaps.values)}
    assert any(partners.values())
    for tile, others in partners.items():
        assert all(tile in partners[other] and other[:5] != tile[:5] for other in others)


def test_a_build_that_is_done_asks_nobody(built, request_, monkeypatch):
    monkeypatch.setattr(stac, "search", lambda *args: pytest.fail("asked a catalog"))
    before = everything(built)
    assert build(built, REGION, request_) == built and everything(built) == before


def test_killed_at_any_moment_it_goes_on_and_ends_byte_for_byte_the_same(tmp_path, api, built):
    store, part = tmp_path / "border.zarr", tmp_path / "border.zarr.part"
    command = [
        sys.executable, "-m", "sat2dem_core", "data", "build", store, "--region", *map(str, REGION), "--start", "2023-07-01",
        "--end", "2023-07-31", "--url", api,
    ]
    kills = 0
    # Killed when there is one tile, when there are two, and while the store is packed; then left alone.
    moments = [lambda: len(list(part.glob("*.npz"))) >= 1, lambda: len(list(part.glob("*.npz"))) >= 2, (part / "store").exists]
    for moment in (*moments, lambda: False):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        while child.poll() is None and not moment():
            time.sleep(0.002)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
            child.communicate()
            with pytest.raises(DamagedStore, match="not finished"):
                open_store(store)
        else:
            assert child.returncode == 0, child.communicate()[1]
    assert kills >= 2 and not part.exists()
    assert everything(store) == everything(built)


def test_two_processes_build_the_same_store(tmp_path, request_, built):
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        store = build(tmp_path / "border.zarr", REGION, request_, client=client, progress=False)
    assert everything(store) == everything(built)


def test_a_tile_that_cannot_be_made_ends_the_build_and_what_is_there_stays(tmp_path):
    def make(number):
        if number == 5:
            raise Unreachable("the server is away: try later")
        return made_up(number)

    jobs = {square(number).id: number for number in range(6)}
    with pytest.raises(Unreachable, match="the server is away"):
        assemble(tmp_path / "a.zarr", jobs, make, {}, {}, progress=False)
    assert len(list((tmp_path / "a.zarr.part").glob("*.npz"))) >= 4 and not (tmp_path / "a.zarr").exists()

    def make_and_tell(number):
        (tmp_path / f"made{number}").touch()
        return made_up(number)

    store = assemble(tmp_path / "a.zarr", jobs, make_and_tell, {}, {}, progress=False)
    remade = list(tmp_path.glob("made*"))
    assert tmp_path / "made5" in remade and len(remade) <= 2 and open_store(store).sizes["tile"] == 6


def test_another_request_does_not_mix_with_what_is_there(tmp_path, built, request_):
    with pytest.raises(DamagedStore, match="another request"):
        build(built, REGION, replace(request_, max_cloud=10))
    part = tmp_path / "b.zarr.part"
    part.mkdir()
    (part / "build.json").write_text("{}")
    with pytest.raises(DamagedStore, match="unfinished build of another request"):
        build(tmp_path / "b.zarr", REGION, request_)


def test_an_empty_search_leaves_nothing_behind(tmp_path, request_):
    with pytest.raises(EmptySearch):
        build(tmp_path / "sea.zarr", (-20, 40, -19.9, 40.1), request_)
    assert not list(tmp_path.iterdir())


# ---- reading

def test_a_store_of_another_version_is_refused(tmp_path):
    jobs = {square(0).id: 0}
    store = assemble(tmp_path / "old.zarr", jobs, made_up, {}, {}, progress=False)
    for name in (".zattrs", ".zmetadata"):
        content = json.loads((store / name).read_text())
        content.get("metadata", {".zattrs": content})[".zattrs"]["sat2dem_version"] = 0
        (store / name).write_text(json.dumps(content))
    with pytest.raises(DamagedStore, match="layout 0, and this program reads layout 1: build or import it again"):
        open_store(store)


@pytest.mark.parametrize(("prepare_path", "said"), [
    (lambda path: None, "does not exist"), (lambda path: path.mkdir(), "is no Zarr store"),
    (lambda path: zarr.open_group(path, mode="w", zarr_format=2), "layout unknown|is no Zarr store"),
])
def test_what_is_no_store_is_said(tmp_path, prepare_path, said):
    prepare_path(tmp_path / "x.zarr")
    with pytest.raises(DamagedStore, match=said):
        open_store(tmp_path / "x.zarr")


def test_read_tiles_in_any_order(many):
    tiles = read_tiles(many, [40, 3, 17])
    assert tiles.ids == tuple(open_store(many).tile.values[[40, 3, 17]])
    for place, number in enumerate([40, 3, 17]):
        np.testing.assert_array_equal(tiles.rgb[place], made_up(number).rgb)
        np.testing.assert_array_equal(tiles.dem[place], made_up(number).dem)
    assert tiles.gsd == (30, 30) and len(read_tiles(many)) == 64


@pytest.mark.parametrize("split", ["space", "paper"])
def test_parts_share_no_tile_and_lose_none(many, split):
    parts = read_parts(many, split)
    ids = [set(part.ids) for part in parts]
    assert sum(map(len, ids)) == 64 == len(set.union(*ids)) and len(ids[0]) > len(ids[2]) > 0
    if split == "space":  # blocks of 4 x 4 tiles stay whole
        blocks = [{(Cell.parse(name).column // 4, Cell.parse(name).row // 4) for name in part} for part in ids]
        assert not blocks[0] & blocks[1] and not blocks[0] & blocks[2] and not blocks[1] & blocks[2]


def test_tiles_made_elsewhere_are_split_by_where_they_lie(tmp_path, many):
    jobs = {f"cell_{number:05d}": number for number in range(64)}
    store = assemble(tmp_path / "elsewhere.zarr", jobs, made_up, {}, {}, progress=False)
    names = {f"cell_{number:05d}": square(number).id for number in range(64)}
    assert [{names[name] for name in part.ids} for part in read_parts(store)] == [set(part.ids) for part in read_parts(many)]


def test_tiles_that_lie_nowhere_can_only_be_shuffled(tmp_path):
    def make(number):
        scene = made_up(number)
        scene.attrs["crs"] = ""
        return scene

    store = assemble(tmp_path / "nowhere.zarr", {f"cell_{number:05d}": number for number in range(8)}, make, {}, {}, progress=False)
    with pytest.raises(DamagedStore, match="8 tiles .* do not say where they lie.*split='paper'"):
        read_parts(store)
    assert sum(map(len, read_parts(store, "paper"))) == 8


def test_tiles_without_any_pair_are_left_out_with_a_word(tmp_path):
    def make(number):
        scene = made_up(number)
        if number == 3:
            scene["dem"][:] = np.nan
            scene.attrs["nodata_share"] = 1.0
        return scene

    store = assemble(tmp_path / "holes.zarr", {f"cell_{number:05d}": number for number in range(20)}, make, {}, {}, progress=False)
    with pytest.warns(UserWarning, match="1 of 20 tiles hold no pair"):
        parts = read_parts(store, "paper")
    assert sum(map(len, parts)) == 19 and not any("cell_00003" in part.ids for part in parts)


def test_a_store_is_a_scene_to_train_on(many):
    data = prepare(preset("cpu", scene=str(many), tile=256))
    assert len(data.train) + len(data.validation) + len(data.test) == 64
    assert 990 < data.normalization.low < 1010 and 1630 < data.normalization.high < 1640
    with pytest.raises(WrongShape, match="have 256 px: set tile=256"):
        prepare(preset("cpu", scene=str(many), tile=64))


def test_a_store_larger_than_memory_streams_and_gives_the_same_run(many, tmp_path, monkeypatch, capsys):
    config = preset("cpu", scene=str(many), tile=PIXELS, features=1, batch=3, steps=3)
    in_memory = train(config, run=tmp_path / "memory", progress=False)
    assert "stream" not in capsys.readouterr().err
    monkeypatch.setattr(store, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    streamed = train(config, run=tmp_path / "streamed", progress=False)
    assert "the training tiles stay on disk and stream from there\n" in capsys.readouterr().err
    assert type(streamed.data.train.rgb) is not np.ndarray
    for name in ("best", "last"):
        ours, theirs = (load_checkpoint(run.folder / f"{name}.json") for run in (in_memory, streamed))
        assert all(torch.equal(tensor, theirs[0][key]) for key, tensor in ours[0].items())
        assert ours[1]["data"] == theirs[1]["data"] and ours[1]["normalization"] == theirs[1]["normalization"]


def test_too_few_tiles_for_a_split(built):
    with pytest.raises(NoTiles):
        read_parts(built)


def test_tiles_lie_on_the_grid(built):
    dataset = open_store(built)
    for tile, left, top in zip(dataset.tile.values, dataset.left.values, dataset.top.values):
        cell = Cell.parse(str(tile))
        assert (left, top) == (cell.column * SIDE, (cell.row + 1) * SIDE)




def test_tiles_know_where_they_lie_to_each_other_whichever_are_read(many):
    whole, corner = read_tiles(many), read_tiles(many).corners[0]
    rows, columns = (whole.corners - corner).T
    number = np.arange(64)
    np.testing.assert_allclose(columns, PIXELS * (number % 8), atol=12)  # a degree is not everywhere as long
    np.testing.assert_allclose(rows, -PIXELS * (number // 8), atol=12)
    assert (read_tiles(many, [5, 40]).corners == whole.corners[[5, 40]]).all()
