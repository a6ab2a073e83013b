"""Stores: read by plain xarray, split, trained on."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from catalog import BORDER
from made_up import made_up, square

from sat2dem_core.config import preset
from sat2dem_core.dataset import building, store
from sat2dem_core.dataset.building import assemble
from sat2dem_core.dataset.grid import PIXELS, SIDE, Cell
from sat2dem_core.dataset.parts import prepare
from sat2dem_core.dataset.store import CHUNK, elevation_range, open_store, read_parts, read_tiles
from sat2dem_core.dataset.tiles import digest_of
from sat2dem_core.errors import DamagedStore, NoTiles
from sat2dem_core.training.checkpoints import load_checkpoint
from sat2dem_core.training.trainer import train


def collect(path: Path, count: int, make: Callable[[int], xr.Dataset] = made_up) -> Path:
    """A store of tiles that were made elsewhere: their names are no cells of the grid."""
    jobs = {f"cell_{number:05d}": number for number in range(count)}
    return assemble(path, jobs, make, {}, {}, progress=False)


def test_a_store_is_read_by_plain_xarray(built):
    with xr.open_zarr(built) as dataset:
        assert dataset.rgb.dims == ("tile", "band", "y", "x") and dataset.rgb.dtype == np.uint8
        assert dataset.dem.dims == ("tile", "y", "x") and dataset.dem.dtype == np.float32
        assert sorted(dataset.tile.values) == sorted(cell.id for cell in BORDER)
        provenance = {"acquisitions", "dates", "cloud_share", "nodata_share", "sea_share", "license", "overlaps"}
        assert {"crs", "left", "top"} | provenance <= set(dataset.coords)
        assert "S2A_32630_20230701" in dataset.acquisitions.values[-1] and "2023-07-01" in dataset.dates.values[0]


def test_a_store_of_another_version_is_refused(tmp_path):
    store = collect(tmp_path / "old.zarr", 1)
    for name in (".zattrs", ".zmetadata"):
        content = json.loads((store / name).read_text(encoding="utf-8"))
        content.get("metadata", {".zattrs": content})[".zattrs"]["sat2dem_version"] = 0
        (store / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DamagedStore, match="layout 0, and this program reads layout 1: build or import it again"):
        open_store(store)


@pytest.mark.parametrize(("prepare_path", "message"), [
    (lambda path: None, "does not exist"), (lambda path: path.mkdir(), "is no Zarr store"),
    (lambda path: zarr.open_group(path, mode="w", zarr_format=2), "layout unknown|is no Zarr store"),
])
def test_a_path_that_is_no_store_is_refused(tmp_path, prepare_path, message):
    prepare_path(tmp_path / "x.zarr")
    with pytest.raises(DamagedStore, match=message):
        open_store(tmp_path / "x.zarr")


def test_read_tiles_in_any_order(many):
    tiles = read_tiles(many, [40, 3, 17])
    assert tiles.ids == tuple(open_store(many).tile.values[[40, 3, 17]])
    for rgb, dem, number in zip(tiles.rgb, tiles.dem, [40, 3, 17]):
        np.testing.assert_array_equal(rgb, made_up(number).rgb)
        np.testing.assert_array_equal(dem, made_up(number).dem)
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
    store = collect(tmp_path / "elsewhere.zarr", 64)
    names = {f"cell_{number:05d}": square(number).id for number in range(64)}
    for part, expected in zip(read_parts(store), read_parts(many)):
        assert {names[name] for name in part.ids} == set(expected.ids)


def test_tiles_without_a_crs_can_only_be_shuffled(tmp_path):
    def make(number):
        scene = made_up(number)
        scene.attrs["crs"] = ""
        return scene

    store = collect(tmp_path / "nowhere.zarr", 8, make)
    with pytest.raises(DamagedStore, match="8 tiles .* do not say where they lie.*split='paper'"):
        read_parts(store)
    assert sum(map(len, read_parts(store, "paper"))) == 8


def test_tiles_without_any_pair_are_left_out_with_a_warning(tmp_path):
    def make(number):
        scene = made_up(number)
        if number == 3:
            scene["dem"][:] = np.nan
            scene.attrs["nodata_share"] = 1.0
        return scene

    store = collect(tmp_path / "holes.zarr", 20, make)
    with pytest.warns(UserWarning, match="1 of 20 tiles hold no pair"):
        parts = read_parts(store, "paper")
    assert sum(map(len, parts)) == 19 and not any("cell_00003" in part.ids for part in parts)


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


@pytest.fixture
def read(monkeypatch) -> Counter:
    """The bytes that were read of each chunk of images or elevation."""
    counts, get = Counter(), zarr.storage.LocalStore.get

    async def counting(self, key, *args, **kwargs):
        value = await get(self, key, *args, **kwargs)
        if value is not None and key.startswith(("rgb/", "dem/")) and key[-1].isdigit():
            counts[key] += len(value)
        return value

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counting)
    return counts


def test_a_random_batch_costs_at_most_twice_its_bytes(many, read):
    tiles = read_tiles(many, lazy=True)
    batch = np.sort(np.random.default_rng(0).choice(64, 16, replace=False))
    wanted = np.asarray(tiles.rgb[batch]).nbytes + np.asarray(tiles.dem[batch]).nbytes
    assert 0 < read.total() <= 2 * wanted
    files = [path for path in Path(many).glob("rgb/*.0.0.0")]
    assert len(files) == 64 // CHUNK and CHUNK > 1


def test_start_and_resume_read_no_tile_twice(many, tmp_path, monkeypatch, read):
    config = preset("cpu", scene=str(many), tile=PIXELS, features=1, batch=3, steps=1)
    monkeypatch.setattr(store, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    data = prepare(config)
    lowest, highest = elevation_range(open_store(many))
    assert data.fingerprint() and 900 < lowest < highest < 1700 and not read
    monkeypatch.undo()
    in_memory = prepare(config)
    assert in_memory.fingerprint() == data.fingerprint() and in_memory.normalization == data.normalization


def test_what_a_store_knows_of_its_tiles_is_so(many):
    tiles = read_tiles(many, [5, 3])
    for rgb, dem, extremes, digest in zip(tiles.rgb, tiles.dem, tiles.extremes, tiles.digests):
        assert digest == digest_of(rgb, dem) and tuple(extremes) == (dem.min(), dem.max())
    assert tiles.take([1]).fingerprint() == read_tiles(many, [3]).fingerprint() != tiles.take([0]).fingerprint()


def test_a_store_of_an_earlier_version_is_read(many, tmp_path, monkeypatch):
    """Its chunks are larger, and it knows neither extremes nor digests."""
    pack = building._pack

    def without(*args):
        return [{key: record[key] for key in record.keys() - {"lowest", "highest", "digest"}} for record in pack(*args)]

    monkeypatch.setattr(building, "CHUNK", 16)
    monkeypatch.setattr(building, "_pack", without)
    earlier = assemble(tmp_path / "old.zarr", {square(n).id: n for n in range(64)}, made_up, {}, {}, progress=False)
    assert open_store(earlier).rgb.encoding["chunks"][0] == 16 and "lowest" not in open_store(earlier).coords
    assert elevation_range(open_store(earlier)) == elevation_range(open_store(many))
    config = preset("cpu", tile=PIXELS, features=1)
    then, now = (prepare(replace(config, scene=str(path))) for path in (earlier, many))
    assert then.normalization == now.normalization and np.array_equal(then.train.dem, now.train.dem)
    monkeypatch.setattr(store, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    assert prepare(replace(config, scene=str(earlier))).fingerprint() == then.fingerprint()


def test_too_few_tiles_for_a_split(built):
    with pytest.raises(NoTiles):
        read_parts(built)


def test_tiles_lie_on_the_grid(built):
    dataset = open_store(built)
    for tile, left, top in zip(dataset.tile.values, dataset.left.values, dataset.top.values):
        cell = Cell.parse(str(tile))
        assert (left, top) == (cell.column * SIDE, (cell.row + 1) * SIDE)



def test_corners_do_not_depend_on_which_tiles_are_read(many):
    whole, corner = read_tiles(many), read_tiles(many).corners[0]
    rows, columns = (whole.corners - corner).T
    number = np.arange(64)
    np.testing.assert_allclose(columns, PIXELS * (number % 8), atol=12)  # a degree does not have one length everywhere
    np.testing.assert_allclose(rows, -PIXELS * (number // 8), atol=12)
    assert (read_tiles(many, [5, 40]).corners == whole.corners[[5, 40]]).all()
