from dataclasses import replace

import numpy as np
import pytest
import torch

from sat2dem_core.config import preset
from sat2dem_core.dataset.parts import prepare
from sat2dem_core.errors import InvalidConfig
from sat2dem_core.models.device import memory_advice
from sat2dem_core.training import loader
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
        """What a Zarr array offers: a shape, slices, and sorted lists of numbers."""

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
        rows = torch.cat([torch.arange(part.first, part.first + len(part.image)) for part in parts])
        images = torch.cat([part.image for part in parts])
        if batch.total >= processes:
            assert rows.tolist() == list(range(batch.total)) and torch.equal(images, batch.image)
        else:  # too few to share: each has them all
            assert all(torch.equal(part.image, batch.image) for part in parts)


@pytest.mark.parametrize(("flips", "axes"), [("none", []), ("horizontal", [-1]), ("vertical", [-2]), ("both", [-1, -2])])
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
    made = Batches(data, config, CPU)
    corners = []
    for number in range(30):
        for batch in made.epoch(number):
            assert batch.dem.isfinite().all()
            for row, column in made.corners[batch.index].tolist():
                corners.append((row, column))
            row, column = corners[-1]
            region = data.region.rgb.values[:, row : row + 32, column : column + 32]
            assert np.array_equal(((batch.image[-1] + 1) * 127.5).round(), region)
    height, width = data.region.sizes["y"], data.region.sizes["x"]
    assert len(corners) == 30 * len(data.train) and len(set(corners)) > 200
    assert max(row for row, _ in corners) <= height - 32 and max(column for _, column in corners) <= width - 32
    assert made.names(torch.tensor([0])) == ["the crop at row 0, column 0"]


def test_crops_want_a_region():
    with pytest.raises(InvalidConfig, match="crops are cut from a region, .* choose split=space"):
        preset("paper", crops=True)


@pytest.mark.parametrize(
    ("fits", "advice"),
    [
        (1, "; 1 do: use batch=1, or accumulate=16, which gives the same update in 16 parts"),
        (5, "; 5 do: use batch=5, or accumulate=4, which gives the same update in 4 parts"),
        (15, "; 15 do: use batch=15, or accumulate=2, which gives the same update in 2 parts"),
        (0, ", nor does one: use fewer features, smaller tiles, or another device"),
    ],
)
def test_memory_advice_names_the_largest_batch_that_fits(fits, advice, monkeypatch):
    monkeypatch.setattr(loader, "processor", lambda: "a small GPU")

    def attempt(tiles):
        if tiles > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    said = memory_advice(16, preset("cpu", batch=16), attempt)
    assert said == "16 tiles at once do not fit into the memory of a small GPU" + advice


def test_memory_advice_hides_no_other_error():
    def attempt(tiles):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        memory_advice(16, preset("cpu"), attempt)
