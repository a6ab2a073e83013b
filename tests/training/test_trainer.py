import json
import os
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from sat2dem_core.dataset.parts import prepare
from sat2dem_core.errors import (
    CannotWrite, DamagedCheckpoint, FlatElevation, InvalidConfig, NoElevation, NoTiles, NonFiniteLoss, OutOfMemory,
    RunExists, UnknownName, WrongShape,
)
from sat2dem_core.models import methods
from sat2dem_core.models.networks import UNet
from sat2dem_core.training import checkpoints, trainer
from sat2dem_core.training.checkpoints import load_checkpoint, load_model
from sat2dem_core.training.trainer import train


def weights(run, name="last") -> dict[str, torch.Tensor]:
    return load_checkpoint(run.folder / f"{name}.json")[0]


def assert_same_run(one, other):
    """Bit for bit: weights, optimizer state and log."""
    for name in ("last", "best"):
        ours, theirs = weights(one, name), weights(other, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    pd.testing.assert_frame_equal(one.log, other.log)


@pytest.fixture
def go(hills, tmp_path):
    """Train on ``hills`` without a progress bar: ``go(config, folder name)``."""
    return lambda config, run="run": train(config, scene=hills, run=tmp_path / run, progress=False)


# --- data -------------------------------------------------------------------------------------------------------------


def test_scene_without_relief_or_elevation_is_refused_before_anything_is_written(hills, small, tmp_path):
    flat, void = hills.copy(deep=True), hills.copy(deep=True)
    flat["dem"][:], void["dem"][:] = 700, np.nan
    with pytest.raises(FlatElevation, match="every elevation is 700 m"):
        train(small, scene=flat, run=tmp_path / "run", progress=False)
    with pytest.raises(NoTiles, match="all .* tiles of hills have more than 0% nodata"):
        train(small, scene=void, run=tmp_path / "run", progress=False)
    void["dem"][:] = hills.dem
    void["dem"][0, 0] = np.inf
    with pytest.raises(NoElevation, match="infinite"):
        train(small, scene=void, run=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "pix2pixx"}, UnknownName, "unknown method 'pix2pixx': choose one of unet"),
        ({"attention": "cbma"}, UnknownName, "unknown attention 'cbma': choose one of none"),
        ({"normalization": "local"}, UnknownName, "unknown normalization 'local': choose one of global, shift"),
        ({"tile": 48}, WrongShape, "48 px .* choose 32, 64"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(go, small, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        go(replace(small, **changes))
    assert not (tmp_path / "run").exists()


def test_unknown_scene_lists_the_valid_ones(small):
    with pytest.raises(UnknownName, match="unknown scene 'atlantis': choose one of .*rocky-mountain"):
        train(replace(small, scene="atlantis"))


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_run_logs_every_validation_and_keeps_best_and_last(trained, small):
    log = trained.log
    assert log.epoch.tolist() == [1, 2, 3] and log.step.tolist() == [2, 4, 6]
    assert {"loss", "validation_mae", "rate"} <= set(log.columns) and np.isfinite(log).all(axis=None)
    best, last = (load_checkpoint(trained.folder / f"{name}.json")[1] for name in ("best", "last"))
    assert last["step"] == 6 and trained.seconds == last["seconds"] > 0
    assert best["step"] == log.step[log.validation_mae.idxmin()] and best["best"] == log.validation_mae.min()
    assert best["config"]["features"] == small.features and len(best["data"]) == 64 and best["code"]
    settings = json.loads((trained.folder / "config.json").read_text(encoding="utf-8"))
    assert best["source"] == last["source"] == settings["source"] == "scene hills, given in Python"
    assert load_checkpoint(trained.folder / "last.previous.json")[1]["step"] == 4
    metas = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in trained.folder.glob("[bl]*.json")}
    named = {name: meta["weights"] for name, meta in metas.items()}
    assert {"best.json", "last.json", "last.previous.json"} <= named.keys()
    files = {path.name for path in trained.folder.iterdir()}
    assert files == {"config.json", "environment.json", "log.csv", *named, *named.values()}


def test_validation_mae_is_in_meters_of_the_training_objective(trained, hills, small):
    data, model = prepare(small, hills), trained.model()
    height = model.normalization.height_above_minimum(model.predict(data.validation.rgb))
    truth = torch.from_numpy(data.validation.dem)
    truth = truth - truth.amin((1, 2), keepdim=True)
    assert float((height - truth).abs().mean()) == pytest.approx(trained.log.validation_mae.min(), rel=1e-4)


@pytest.mark.parametrize("normalization", ["shift", "global"])
def test_training_learns(go, small, normalization):
    log = go(replace(small, steps=60, normalization=normalization, learning_rate=0.01)).log
    assert log.loss.iloc[-1] < 0.7 * log.loss.iloc[0]
    assert log.validation_mae.min() < 0.8 * log.validation_mae.iloc[0]


def test_same_seed_gives_the_same_bits_and_another_seed_others(go, small, trained):
    again, other = go(small, "again"), go(replace(small, seed=1), "other")
    assert_same_run(trained, again)
    name = "weights.generator.final_up.0.weight"
    assert not torch.equal(weights(trained)[name], weights(other)[name])


def test_global_random_state_is_left_alone(go, small):
    torch.manual_seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    run = go(small)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    torch.manual_seed(12)  # and does not decide anything
    assert_same_run(run, go(small, "again"))


@pytest.mark.parametrize("tf32", [False, True])
def test_steps_validations_and_predictions_compute_in_the_format_of_the_config(go, small, monkeypatch, tf32):
    """The switches mean something on GPUs alone, but can be read everywhere."""
    switches = lambda: (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    forward, seen, before = UNet.forward, set(), switches()

    def observed(network, image):
        seen.add((switches(), torch.is_inference_mode_enabled()))
        return forward(network, image)

    monkeypatch.setattr(UNet, "forward", observed)
    run = go(replace(small, tf32=tf32))
    wanted = ("high", True) if tf32 else ("highest", False)
    assert seen == {(wanted, False), (wanted, True)} and switches() == before == ("highest", True)
    seen.clear()
    run.model().predict(run.data.test.rgb)
    assert seen == {(wanted, True)} and switches() == before


def test_a_run_from_before_a_setting_existed_goes_on_if_the_setting_has_its_default(go, small, tmp_path):
    interrupt(go, small, 1)
    path = tmp_path / "run" / "last.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    del meta["config"]["tf32"]
    path.write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(RunExists, match=r"run holds a run with other config \(tf32=False\)"):
        go(replace(small, tf32=True))
    assert go(small).log.step.tolist() == [2, 4, 6]


def test_epochs_count_passes_over_the_tiles(go, small):
    assert go(replace(small, epochs=2)).log.step.tolist() == [2, 4]


def test_steps_may_end_within_an_epoch_and_batches_be_larger_than_the_data(go, small):
    assert go(replace(small, steps=5), "a").log.step.tolist() == [2, 4, 5]
    assert go(replace(small, batch=100, steps=2), "b").log.step.tolist() == [1, 2]


def test_validation_every_other_epoch_and_after_the_last(go, small):
    assert go(replace(small, validate_every=2)).log.step.tolist() == [4, 6]
    assert go(replace(small, validate_every=50), "b").log.step.tolist() == [6]


def test_cosine_warms_up_and_falls(go, small):
    rate = go(replace(small, steps=40, validate_every=1)).log.rate / small.learning_rate
    assert rate[0] < rate[1] <= 1 and (np.diff(rate[2:]) < 0).all() and rate.iloc[-1] < 0.05


@pytest.fixture
def standstill(monkeypatch):
    """Nothing is learned, and the plateau schedule loses patience after one round."""
    schedule = trainer.ReduceLROnPlateau
    impatient = lambda optimizer, factor, patience: schedule(optimizer, factor=factor, patience=1)
    monkeypatch.setattr(trainer, "ReduceLROnPlateau", impatient)
    losses = lambda self, image, dem, *share: {"loss": image.mean()}
    monkeypatch.setattr(methods.UNetMethod, "step", losses)


def test_plateau_halves_the_rate_when_validation_stands_still(go, small, standstill):
    rates = go(replace(small, schedule="plateau", steps=12)).log.rate / small.learning_rate
    assert rates.tolist() == [1, 1, 1, 0.5, 0.5, 0.25]


def interrupt(go, config, last):
    """Start a run that the user interrupts before the validation of epoch ``last``, counted from 0."""
    validate = trainer._Trainer._validate

    def interrupted(self, epoch):
        if epoch == last:
            raise KeyboardInterrupt
        return validate(self, epoch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer._Trainer, "_validate", interrupted)
        go(config)


def test_plateau_goes_on_counting_after_an_interruption(go, small, standstill):
    config = replace(small, schedule="plateau", steps=12)
    for last in (2, 4):
        interrupt(go, config, last)
    assert (go(config).log.rate / small.learning_rate).tolist() == [1, 1, 1, 0.5, 0.5, 0.25]


def test_every_epoch_sees_every_tile_once_in_an_order_of_its_own(small, hills, tmp_path, monkeypatch):
    seen = []

    def step(self, image, dem, *share):
        seen.extend(tile.sum().item() for tile in image)
        return {"loss": torch.zeros(())}

    monkeypatch.setattr(methods.UNetMethod, "step", step)
    for seed in (0, 1):
        train(replace(small, seed=seed, flips="none"), scene=hills, run=tmp_path / str(seed), progress=False)
    epochs = [tuple(seen[start : start + 16]) for start in range(0, 96, 16)]
    assert len(set(epochs)) == 6  # three of each seed
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1 and len(set(epochs[0])) == 16


def test_best_is_the_first_of_the_lowest(go, small, standstill):
    run = go(small)
    assert run.log.validation_mae.nunique() == 1
    steps = {name: load_checkpoint(run.folder / f"{name}.json")[1]["step"] for name in ("best", "last")}
    assert steps == {"best": 2, "last": 6}


def test_flips_turn_image_and_elevation_together(small, hills, monkeypatch, tmp_path):
    seen = []

    def update(self, image, real, fake):
        seen.append((image[:, 0], real[:, 0]))
        yield "generator", fake.mean()

    monkeypatch.setattr(methods.UNetMethod, "update", update)
    scene = hills.copy(deep=True)
    scene["rgb"][:] = np.arange(160, dtype=np.uint8)  # the same numbers in both, apart from their units
    scene["dem"][:] = np.arange(160) / 10.0
    train(replace(small, normalization="global"), scene=scene, run=tmp_path, progress=False)
    images, dems = (torch.cat(part) for part in zip(*seen))
    rising = images[:, 0, -1] > images[:, 0, 0]
    assert rising.any() and not rising.all()
    for image, dem in zip(images, dems):
        assert torch.equal(image.flatten().argsort(stable=True), dem.flatten().argsort(stable=True))


# --- cache and folders ------------------------------------------------------------------------------------------------


def test_finished_run_is_loaded_not_trained_again(hills, small):
    first = train(small, scene=hills, progress=False)
    times = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    second = train(small, scene=hills, progress=False)
    assert second.folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in second.folder.iterdir()} == times


def test_other_settings_data_and_code_have_other_cache_folders(hills, small, make_scene, monkeypatch):
    first = train(small, scene=hills, progress=False).folder
    folders = {first, train(replace(small, seed=5), scene=hills, progress=False).folder}
    folders.add(train(small, scene=make_scene(128, 161), progress=False).folder)
    monkeypatch.setattr(trainer, "module_digests", lambda: {"methods": "other"})
    folders.add(train(small, scene=hills, progress=False).folder)
    assert len(folders) == 4 and len({folder.parent for folder in folders}) == 1


def test_explicit_folder_is_trained_although_the_cache_has_the_run(go, hills, small, tmp_path, monkeypatch):
    cached = train(small, scene=hills, progress=False)
    steps = []
    monkeypatch.setattr(methods.UNetMethod, "step", _counted(methods.UNetMethod.step, steps))
    run = go(small)
    assert len(steps) == 6 and run.folder == tmp_path / "run"
    assert_same_run(run, cached)


def _counted(step, calls):
    def counting(self, image, dem, *share):
        calls.append(len(image))
        return step(self, image, dem, *share)

    return counting


def test_folder_with_a_run_of_other_settings_is_refused_untouched(go, small, listing, tmp_path):
    go(small)
    before = listing(tmp_path / "run")
    other = r"holds a run with other config \(seed=0\): choose another folder, or remove it"
    with pytest.raises(RunExists, match=other):
        go(replace(small, seed=1))
    assert listing(tmp_path / "run") == before


def test_folder_with_a_run_of_other_data_is_refused(go, small, make_scene, tmp_path):
    go(small)
    with pytest.raises(RunExists, match="run holds a run with other data: choose another folder"):
        train(small, scene=make_scene(128, 161), run=tmp_path / "run", progress=False)


@pytest.fixture
def change_code(monkeypatch):
    """``change_code(losses="...", ...)``: let modules have other digests from now on."""
    digests = trainer.module_digests
    return lambda **changes: monkeypatch.setattr(trainer, "module_digests", lambda: digests() | changes)


def test_run_of_other_code_is_refused_naming_the_modules_that_changed(go, small, listing, tmp_path, change_code):
    go(small)
    before = listing(tmp_path / "run")
    change_code(losses="1", normalize="2", new="3")
    said = r"run holds a run of other code \(changed since: normalize, losses, new\): "
    with pytest.raises(RunExists, match=said) as error:
        go(small)
    assert "--accept-changed-code" in str(error.value) and "choose another folder" in str(error.value)
    assert listing(tmp_path / "run") == before


def test_run_of_other_code_goes_on_if_accepted_and_records_the_new_digests(hills, go, small, tmp_path, change_code):
    interrupt(go, small, 1)
    change_code(losses="1")
    run = train(small, scene=hills, run=tmp_path / "run", progress=False, accept_changed_code=True)
    assert run.log.step.tolist() == [2, 4, 6]
    stored = [json.loads((run.folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("config", "last")]
    assert [meta["code"]["losses"] for meta in stored] == ["1", "1"]
    assert go(small).log.step.tolist() == [2, 4, 6]  # from now on it is a run of this code


def test_run_of_a_version_that_kept_one_digest_for_all_code_is_refused(go, small, hills, tmp_path):
    interrupt(go, small, 1)
    path = tmp_path / "run" / "last.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(meta | {"code": "0123456789ab"}), encoding="utf-8")
    said = "run holds a run of an earlier version, which did not record its modules.*: choose another folder"
    with pytest.raises(RunExists, match=said):
        go(small)
    run = train(small, scene=hills, run=tmp_path / "run", progress=False, accept_changed_code=True)
    assert run.log.step.tolist() == [2, 4, 6]


def test_folder_that_is_a_file_is_refused(go, small, tmp_path):
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    with pytest.raises(CannotWrite, match="cannot write .*run.*: .*choose another folder"):
        go(small)
    assert (tmp_path / "run").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("part", ["json", "weights"])
def test_damaged_last_checkpoint_falls_back_to_the_one_before_with_a_warning(go, small, trained, tmp_path, part):
    go(small)
    meta = load_checkpoint(tmp_path / "run" / "last.json")[1]
    path = tmp_path / "run" / ("last.json" if part == "json" else meta["weights"])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="going on from the one before it, of step 4"):
        resumed = go(small)
    assert_same_run(resumed, trained)


def test_two_damaged_checkpoints_are_named_not_replaced(go, small, tmp_path):
    run = go(small)
    for name in ("last.json", "last.previous.json"):
        (tmp_path / "run" / name).write_text('{"weights": "la', encoding="utf-8")
    with pytest.raises(DamagedCheckpoint, match=r"last\.previous\.json is no whole checkpoint file"):
        go(small)
    assert run.model("best").config == small


# --- interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 3, 4, 6])
def test_run_interrupted_at_a_step_resumes_to_the_same_bits(go, small, trained, monkeypatch, at):
    step, calls = methods.UNetMethod.step, []

    def interrupted(self, image, dem, *share):
        calls.append(0)
        if len(calls) == at:
            raise KeyboardInterrupt
        return step(self, image, dem, *share)

    monkeypatch.setattr(methods.UNetMethod, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(small)
    assert_same_run(go(small), trained)


def test_run_in_parts_interrupted_resumes_to_the_same_bits(go, small):
    """With every random number that a step draws: dropout, and the mixtures of the reviser's gradient penalty."""
    config = replace(small, method="drpan", critic_features=4, accumulate=3, ema=0.9)
    interrupt(go, config, 1)
    assert_same_run(go(config), go(config, "whole"))


@pytest.mark.parametrize("at", range(1, 18, 2))
def test_run_interrupted_at_a_write_resumes_to_the_same_bits(go, small, trained, monkeypatch, tmp_path, at):
    replace_file, calls = checkpoints.Path.replace, []

    def interrupted(self, target):
        calls.append(target)
        if len(calls) == at:
            raise KeyboardInterrupt
        return replace_file(self, target)

    monkeypatch.setattr(checkpoints.Path, "replace", interrupted)
    try:
        go(small)
    except KeyboardInterrupt:
        pass
    assert len(calls) <= at
    resumed = go(small)
    assert_same_run(resumed, trained)
    assert not [path for path in resumed.folder.iterdir() if path.name.startswith(".")]


def test_change_of_environment_is_warned_of_and_the_run_goes_on(go, small, tmp_path, monkeypatch, recwarn):
    interrupt(go, small, 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(trainer, "processor", lambda: "another processor")
    said = "is now another processor, threads 1 is now 7: the run goes on, but its results may differ slightly"
    with pytest.warns(UserWarning, match=said):
        run = go(small)
    assert run.log.step.tolist() == [2, 4, 6]
    assert json.loads((tmp_path / "run" / "environment.json").read_text(encoding="utf-8"))["threads"] == 7
    monkeypatch.undo()
    recwarn.clear()
    go(small)  # a finished run is only loaded: no warning
    assert not [warning for warning in recwarn.list if issubclass(warning.category, UserWarning)]


def test_full_disk_while_training_leaves_the_earlier_checkpoints_and_the_run_goes_on(
    go, small, trained, tmp_path, monkeypatch, full_disk, listing
):
    save, before = checkpoints.save_checkpoint, {}

    def cramped(folder, name, tensors, meta):
        if meta["step"] == 4 and name == "last":
            before.update(listing(folder))
            with full_disk(20_000):
                save(folder, name, tensors, meta)
        save(folder, name, tensors, meta)

    monkeypatch.setattr(trainer, "save_checkpoint", cramped)
    with pytest.raises(CannotWrite, match=r"cannot write .*last-.*\.safetensors .* make room or choose another folder"):
        go(small)
    assert listing(tmp_path / "run") == before
    assert load_checkpoint(tmp_path / "run" / "last.json")[1]["step"] == 2
    assert load_model(tmp_path / "run").config == small
    monkeypatch.setattr(trainer, "save_checkpoint", save)
    assert_same_run(go(small), trained)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_memory(monkeypatch):
    """A device whose memory does not hold a step of more than three tiles at once."""
    update = methods.UNetMethod.update

    def limited(self, image, real, fake):
        if len(image) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return update(self, image, real, fake)

    monkeypatch.setattr(methods.UNetMethod, "update", limited)


def test_batch_that_does_not_fit_ends_in_advice_that_works(go, small, small_memory, trained, tmp_path):
    advice = "^8 tiles at once do not fit .*; 3 do: use batch=3, or accumulate=3, which computes the batch in 3 parts$"
    with pytest.raises(OutOfMemory, match=advice):
        go(small)
    assert not (tmp_path / "run" / "last.json").exists()
    run = go(replace(small, accumulate=3), "accumulated")
    np.testing.assert_allclose(run.log, trained.log, rtol=0.05)  # dropout draws other masks
    assert go(replace(small, batch=3), "smaller").log.step.iloc[-1] == 6


def test_other_errors_are_not_taken_for_a_lack_of_memory(go, small, monkeypatch):
    def broken(*args):
        raise RuntimeError("something else")

    monkeypatch.setattr(methods.UNetMethod, "step", broken)
    with pytest.raises(RuntimeError, match="^something else$"):
        go(small)


def test_compiler_that_is_missing_ends_in_advice(go, small, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "no-such-compiler")))
    whole = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network, mode: whole(network.initial_down, mode=mode))
    with pytest.raises(InvalidConfig, match="^torch.compile fails here .*compiler.*: set compile=false$"):
        go(replace(small, compile=True))
    torch.compiler.reset()


# --- losses that blow up ----------------------------------------------------------------------------------------------


def test_poisoned_tile_is_named_with_its_step(go, hills, small, monkeypatch, tmp_path):
    data = prepare(small, hills)
    data.train.dem[5, 3, 3] = np.inf
    monkeypatch.setattr(trainer, "prepare", lambda config, scene: data)
    with pytest.raises(NonFiniteLoss, match=r"^step [12]: the loss is (inf|nan), on tiles .* lower the") as caught:
        go(small)
    assert data.train.ids[5] in str(caught.value)
    assert len([name for name in data.train.ids if name in str(caught.value)]) == 8  # the batch, not more
    assert not (tmp_path / "run" / "last.json").exists()
    data.train.dem[:, 3, 3] = np.inf
    with pytest.raises(NonFiniteLoss, match="^step 1:"):
        go(small, "again")


def test_loss_that_blows_up_later_names_the_last_good_checkpoint(go, small, tmp_path, monkeypatch):
    step, calls = methods.UNetMethod.step, []

    def poisoned(self, image, dem, *share):
        calls.append(0)
        return step(self, image * (torch.nan if len(calls) == 6 else 1), dem, *share)

    monkeypatch.setattr(methods.UNetMethod, "step", poisoned)
    last = re.escape(str(tmp_path / "run" / "last.json"))
    said = rf"^step 6: the loss is nan, on tiles .*\(the last good checkpoint is {last}\)"
    with pytest.raises(NonFiniteLoss, match=said):
        go(small)
    assert load_checkpoint(tmp_path / "run" / "last.json")[1]["step"] == 4


def test_huge_learning_rate_ends_in_an_error_and_the_checkpoints_are_from_before(go, small, tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"^step \d+: .* train in another folder \((the last good|no) checkpoint"):
        go(replace(small, learning_rate=1e38, schedule="plateau"))
    assert not (tmp_path / "run" / "last.json").exists()


def test_weights_that_became_nan_after_the_last_loss_are_not_kept(go, small, tmp_path, monkeypatch):
    step = methods.UNetMethod.step

    def poisoned(self, image, dem, *share):
        losses = step(self, image, dem, *share)
        if self.poison:
            torch.nn.init.constant_(self.generator.final_up[0].bias, torch.nan)
        self.poison = not self.poison
        return losses

    monkeypatch.setattr(methods.UNetMethod, "poison", False, raising=False)
    monkeypatch.setattr(methods.UNetMethod, "step", poisoned)
    with pytest.raises(NonFiniteLoss, match="^step 2: predictions of the validation tiles are no longer finite"):
        go(small)
    assert not (tmp_path / "run" / "best.json").exists() and not (tmp_path / "run" / "last.json").exists()


def test_cache_lies_in_the_home_folder_unless_told_otherwise(monkeypatch):
    assert str(trainer.cache_folder()) == os.environ["SAT2DEM_CACHE"]
    monkeypatch.delenv("SAT2DEM_CACHE")
    assert trainer.cache_folder().parts[-2:] == (".cache", "sat2dem")
