"""Training of the refiner on lit terrain."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from sat2dem_core.errors import NoTiles, RunExists
from sat2dem_core.models.refiner import Refiner, look, mirrors
from sat2dem_core.terrain import hillshade
from sat2dem_core.training import refining
from sat2dem_core.training.lessons import Lessons, Source, recolored
from sat2dem_core.training.muon import orthogonal
from sat2dem_core.training.refining import Recipe, refining_loss, stacked, train_refiner

SMALL = Recipe(widths=(8, 8), size=64, batch=2, steps=6)


def lit(seed: int = 0, side: int = 160, azimuth: float = 140.0) -> Source:
    rng = np.random.default_rng(seed)
    dem = 1000 + sum(12 * s**1.5 * gaussian_filter(rng.normal(size=(side, side)), s) for s in (1.5, 3, 6, 12))
    shade = hillshade(dem, (30.0, 30.0), sun=(azimuth, 45.0))
    image = np.stack([250 * shade, 200 * shade, 150 * shade]).clip(1, 255).astype(np.uint8)
    return Source(image, dem, (30.0, 30.0), azimuth, name=f"hills {seed}")


@settings(max_examples=25)
@given(st.floats(0, 360), st.integers(2, 9), st.integers(2, 9))
def test_mirrored_windows_have_the_sun_in_the_south_east(azimuth, height, width):
    values = np.random.default_rng(0).normal(size=(3, height, width))
    rows, columns = np.mgrid[:height, :width]
    angle = np.radians(azimuth)
    rising = columns * np.sin(angle) - rows * np.cos(angle)  # towards the sun
    for mirror in mirrors(azimuth):
        assert np.array_equal(mirror.back(mirror.turn(values)), values)
        assert 90 <= mirror.azimuth <= 180
        south, east = (part.mean() for part in np.gradient(mirror.turn(rising)))
        told = np.radians(mirror.azimuth)
        assert east == pytest.approx(np.sin(told), abs=1e-6) and south == pytest.approx(-np.cos(told), abs=1e-6)


def test_a_lesson_is_determined_by_its_number_and_its_spline_keeps_what_the_truth_has():
    lessons = Lessons([lit()], 64, seed=1)
    one, again, other = lessons.draw(3), lessons.draw(3), lessons.draw(4)
    assert np.array_equal(one.image, again.image) and one.cell == again.cell
    assert not np.array_equal(one.image, other.image)
    for number in range(20):
        lesson = lessons.draw(number)
        assert 90 <= lesson.azimuth <= 180 and 3 <= lesson.cell <= 40
        error = (lesson.surface - lesson.truth)[lesson.known > 0]
        assert abs(error.mean()) < np.abs(error).mean()


def test_sources_with_voids_and_small_ones():
    source = lit()
    source.truth[:, 40:] = np.nan
    assert Lessons([source], 64).draw(0).known.mean() >= 0.5
    source.truth[:] = np.nan
    with pytest.raises(NoTiles, match="wherever a window of 64 px"):
        Lessons([source], 64).draw(0)
    with pytest.raises(NoTiles, match="200 x 200 px"):
        Lessons([lit()], 200)


def test_an_unknown_sun_is_estimated():
    source = lit(azimuth=115.0)
    source.azimuth = None
    assert source.sun == pytest.approx(115.0, abs=8)


def test_recolored_images_keep_their_nodata():
    image = np.random.default_rng(0).uniform(1, 255, (3, 20, 20)).astype(np.float32)
    image[:, :5] = 0
    for seed in range(20):
        changed = recolored(image, np.random.default_rng(seed))
        assert (changed[:, :5] == 0).all() and (changed.max(0)[5:] > 0).all() and np.isfinite(changed).all()


def test_what_the_network_sees_does_not_depend_on_the_sensors_unit():
    batch = stacked([Lessons([lit()], 64, plain=True).draw(0)], torch.device("cpu"))
    rest = [batch[name] for name in ("surface", "cell", "gsd", "azimuth")]
    one, other = (look(batch["image"] * factor, *rest)[0] for factor in (1.0, 37.0))
    assert (one - other).abs().max() < 1e-3


def test_level_terrain_stays_level():
    torch.manual_seed(0)
    network = Refiner((8, 8)).eval()
    image = np.random.default_rng(0).uniform(1, 255, (3, 64, 64))
    added, unit = network.relief(image, np.full((64, 64), 500.0), 11, 30.0, 135.0)
    assert np.abs(added).max() < 1.5 and unit.max() == pytest.approx(1.0)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_orthogonal_matrices(rows, columns, seed):
    matrix = torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.max() < 1.6 and values.median() > 0.4


def test_training_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    lessons = Lessons([lit(), lit(1)], SMALL.size)
    whole = train_refiner(lessons, SMALL, tmp_path / "whole", progress=False)
    update = refining._Training._update

    def interrupted(self, batch):
        if self.step == 3:
            raise KeyboardInterrupt
        return update(self, batch)

    monkeypatch.setattr(refining._Training, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_refiner(lessons, SMALL, tmp_path / "parts", progress=False)
    monkeypatch.setattr(refining._Training, "_update", update)
    parts = train_refiner(lessons, SMALL, tmp_path / "parts", progress=False)
    for one, other in zip(whole.parameters(), parts.parameters()):
        assert torch.equal(one, other)
    with pytest.raises(RunExists, match="a run of other recipe"):
        train_refiner(lessons, Recipe(widths=(8, 8), size=64, batch=2, steps=7), tmp_path / "parts", progress=False)


def test_training_lowers_the_loss_below_that_of_the_spline(tmp_path):
    lessons = Lessons([lit(), lit(1), lit(2)], 64)
    recipe = Recipe(widths=(16, 16), size=64, batch=4, steps=60)
    network = train_refiner(lessons, recipe, tmp_path / "run", progress=False)
    batch = stacked([Lessons([lit(9)], 64, seed=5).draw(number) for number in range(8)], torch.device("cpu"))
    with torch.no_grad():
        trained, nothing = (refining_loss(net, batch, 2.0) for net in (network, lambda seen: 0 * seen[:, 0]))
    assert trained < 0.85 * nothing
