from dataclasses import replace

import numpy as np
import pytest
import torch

from sat2dem_core.config import preset
from sat2dem_core.dataset.parts import prepare
from sat2dem_core.errors import InvalidConfig
from sat2dem_core.training.loader import Batches

CPU = torch.device("cpu")


@pytest.fixture
def data(hills, small):
    return prepare(small, hills)


def epoch(data, config, number=0, skip=0, **options):
    return list(Batches(data, config, CPU, **options).epoch(number, skip))


def assert_same(one, other):
    assert len(one) == len(other)
    for ours, theirs in zip(one, other):
        assert torch.equal(ours.image, theirs.image) and torch.equal(ours.dem, theirs.dem)


def test_an_epoch_can_be_taken_up_where_it_was_left(data, small):
    config = replace(small, batch=3)
    assert_same(epoch(data, config, number=4, skip=2), epoch(data, config, number=4)[2:])


@pytest.mark.parametrize("kind", ["memmap", "no room", "array-like"])
def test_tiles_that_do_not_fit_stream_and_are_the_same(data, small, tmp_path, kind, capsys):
    class Stored:
        """An array as Zarr offers it: slices, and sorted lists of numbers."""

        def __init__(self, array):
            self.array = array

        def __getitem__(self, key):
            assert isinstance(key, slice) or (np.diff(key) > 0).all()
            return self.array[key]

    def kept(name, array):
        if kind == "memmap":
            np.save(tmp_path / f"{name}.npy", array)
            return np.load(tmp_path / f"{name}.npy", mmap_mode="r")
        return Stored(array) if kind == "array-like" else array

    tiles = replace(data.train, rgb=kept("rgb", data.train.rgb), dem=kept("dem", data.train.dem))
    streamed = epoch(replace(data, train=tiles), small, room=1000 if kind == "no room" else None)
    where = "in host memory" if kind == "no room" else "on disk"
    assert capsys.readouterr().err == f"the training tiles stay {where} and stream from there\n"
    assert_same(streamed, epoch(data, small))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_share_every_batch_and_their_weights_sum_to_one(data, small, processes):
    config = replace(small, batch=5)  # 16 tiles: the last batch has one
    whole = epoch(data, config)
    shares = [epoch(data, config, rank=rank, processes=processes) for rank in range(processes)]
    for batch, parts in zip(whole, zip(*shares), strict=True):
        assert sum(part.weight for part in parts) == pytest.approx(1)
        assert {part.total for part in parts} == {batch.total}
        if batch.total >= processes:
            assert torch.equal(torch.cat([part.index for part in parts]), batch.index)
            assert torch.equal(torch.cat([part.image for part in parts]), batch.image)
        else:  # too few to share: each has them all
            assert all(torch.equal(part.image, batch.image) for part in parts)


@pytest.mark.parametrize(
    ("flips", "axes"), [("none", []), ("horizontal", [-1]), ("vertical", [-2]), ("both", [-1, -2])]
)
def test_flips_mirror_along_the_axes_that_were_asked_for(data, small, flips, axes):
    plain = {tuple(batch.index.tolist()): batch.image for batch in epoch(data, replace(small, flips="none"))}
    seen = set()
    for batch in epoch(data, replace(small, flips=flips)):
        for image, original in zip(batch.image, plain[tuple(batch.index.tolist())]):
            ways = {(): original, (-1,): original.flip(-1), (-2,): original.flip(-2), (-1, -2): original.flip(-1, -2)}
            seen |= {axis for way, turned in ways.items() if torch.equal(image, turned) for axis in way}
    assert seen == set(axes)


def test_crops_lie_anywhere_in_the_training_region_but_never_on_nodata(hills, small):
    scene = hills.copy(deep=True)
    scene["dem"][40, 40] = np.nan
    config = replace(small, crops=True, normalization="global", flips="none")
    data = prepare(config, scene)
    batches = Batches(data, config, CPU)
    corners = []
    for number in range(30):
        for batch in batches.epoch(number):
            assert batch.dem.isfinite().all()
            for row, column in batches.corners[batch.index].tolist():
                corners.append((row, column))
            row, column = corners[-1]
            region = data.region.rgb.values[:, row : row + 32, column : column + 32]
            assert np.array_equal(((batch.image[-1] + 1) * 127.5).round(), region)
    height, width = data.region.sizes["y"], data.region.sizes["x"]
    assert len(corners) == 30 * len(data.train) and len(set(corners)) > 200
    assert max(row for row, _ in corners) <= height - 32 and max(column for _, column in corners) <= width - 32
    assert batches.names(torch.tensor([0])) == ["the crop at row 0, column 0"]


def test_crops_want_a_region():
    with pytest.raises(InvalidConfig, match="crops are cut from a region, .* choose split=space"):
        preset("paper", crops=True)
