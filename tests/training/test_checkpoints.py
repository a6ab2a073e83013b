import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

from sat2dem_core.config import Config
from sat2dem_core.dataset.parts import every_tile, prepare
from sat2dem_core.errors import CannotWrite, DamagedCheckpoint, RunExists, Sat2DEMError
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.training.checkpoints import load_checkpoint, load_model, save_checkpoint, tiles_to_score

SMALL, LARGE = {"w": torch.arange(6.0).view(2, 3)}, {"w": torch.arange(9000.0)}


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the finished run, to damage."""
    return shutil.copytree(trained.folder, tmp_path / "run")


def test_saved_tensors_and_meta_come_back(tmp_path):
    image = torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last)
    tensors = {"a": torch.randn(3, 4).to(torch.float64), "b": image}
    save_checkpoint(tmp_path / "new" / "folder", "best", tensors, {"step": 3})
    loaded, meta = load_checkpoint(tmp_path / "new" / "folder" / "best.json")
    assert loaded.keys() == tensors.keys() and meta["step"] == 3
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype


def test_saving_again_replaces_the_earlier_files(tmp_path):
    save_checkpoint(tmp_path, "best", SMALL, {"step": 1})
    save_checkpoint(tmp_path, "last", SMALL, {"step": 1})
    save_checkpoint(tmp_path, "best", LARGE, {"step": 2})
    assert len(list(tmp_path.iterdir())) == 6
    save_checkpoint(tmp_path, "best", {"w": torch.ones(3)}, {"step": 2})
    save_checkpoint(tmp_path, "best", LARGE, {"step": 2})
    assert len(list(tmp_path.iterdir())) == 6
    assert load_checkpoint(tmp_path / "best.previous.json")[0]["w"].tolist() == [1, 1, 1]
    assert load_checkpoint(tmp_path / "best.json")[1]["step"] == 2
    assert load_checkpoint(tmp_path / "last.json")[1]["step"] == 1


@pytest.mark.parametrize("what", ["weights", "meta"])
def test_full_disk_leaves_the_earlier_checkpoint_and_no_parts(tmp_path, full_disk, listing, what):
    save_checkpoint(tmp_path, "best", SMALL, {"step": 1})
    before = listing(tmp_path)
    tensors, meta = (LARGE, {}) if what == "weights" else ({"w": torch.ones(7)}, {"note": "x" * 9000})
    with full_disk(4096) as reason, pytest.raises(CannotWrite) as caught:
        save_checkpoint(tmp_path, "best", tensors, meta | {"step": 2})
    message = str(caught.value)
    assert str(tmp_path / "best") in message and reason in message and "make room or choose another folder" in message
    assert listing(tmp_path) == before
    tensors, meta = load_checkpoint(tmp_path / "best.json")
    assert torch.equal(tensors["w"], SMALL["w"]) and meta["step"] == 1


def test_full_disk_keeps_weights_that_the_earlier_checkpoint_shares(tmp_path, full_disk, listing):
    save_checkpoint(tmp_path, "best", SMALL, {"step": 1})
    before = listing(tmp_path)
    with full_disk(4096), pytest.raises(CannotWrite):
        save_checkpoint(tmp_path, "best", SMALL, {"note": "x" * 9000})
    assert listing(tmp_path) == before


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(CannotWrite, match="cannot write .*file.*best.* choose another folder"):
        save_checkpoint(tmp_path / "file", "best", SMALL, {})
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_replacing_keeps_the_old_file_when_writing_is_interrupted(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), replacing(path) as beside:
        beside.write_text("ne", encoding="utf-8")
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"] and path.read_text(encoding="utf-8") == "old"


def test_model_is_rebuilt_from_the_checkpoint_alone(trained, small, tmp_path, hills):
    moved = shutil.copytree(trained.folder, tmp_path / "elsewhere")
    for unneeded in ("config.json", "log.csv", "last.json"):
        (moved / unneeded).unlink()
    model = load_model(moved)
    assert model.config == small and model.normalization.kind == "shift" and not model.generator.training
    rgb = hills.rgb.values[None, :, :32, :32]
    original = trained.model()
    assert torch.equal(model.predict(rgb), original.predict(rgb))
    assert torch.equal(load_model(moved / "best.json").predict(rgb), original.predict(rgb))


def test_prediction_does_not_depend_on_the_batch(trained, hills):
    rgb = np.stack([hills.rgb.values[:, i : i + 32, i : i + 32] for i in range(0, 90, 15)])
    model = trained.model()
    whole = model.predict(rgb)
    assert whole.shape == (6, 32, 32) and whole.dtype == torch.float32 and not whole.requires_grad
    torch.testing.assert_close(model.predict(rgb, batch=4), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.predict(rgb[2:3])[0], whole[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_json_cut_short_is_refused(run, share):
    text = (run / "best.json").read_text(encoding="utf-8")
    (run / "best.json").write_text(text[: int(len(text) * share)], encoding="utf-8")
    said = r"best\.json is no whole checkpoint .*copy .* again, or train it again"
    with pytest.raises(DamagedCheckpoint, match=said):
        load_model(run)


@pytest.mark.parametrize(
    "text", ["[]", "null", "3", "{}", '{"weights": 3}', '{"weights": "../best.json", "sha256": ""}', "\ud800"],
)
def test_json_of_something_else_is_refused(run, text):
    (run / "best.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(DamagedCheckpoint, match=r"best\.json is no whole checkpoint file"):
        load_model(run)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_weights_cut_short_are_refused(run, share):
    weights = run / rewrite(run)["weights"]
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DamagedCheckpoint, match=rf"{weights.name} differs from what was written .*copy the checkpoint"):
        load_model(run)


def test_weights_with_one_bit_changed_are_refused(run):
    weights = run / rewrite(run)["weights"]
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=weights.name):
        load_model(run)


@pytest.mark.parametrize("pattern", ["best.json", "weights"])
def test_missing_file_is_named(run, pattern):
    path = run / (pattern if pattern == "best.json" else rewrite(run)["weights"])
    path.unlink()
    with pytest.raises(DamagedCheckpoint, match=rf"{path.name} cannot be read .*copy the checkpoint again"):
        load_model(run)


def test_folder_without_a_run_and_path_to_nothing_are_named(tmp_path):
    for path, named in ((tmp_path, "best.json"), (tmp_path / "nothing", "nothing")):
        with pytest.raises(DamagedCheckpoint, match=rf"{named} cannot be read"):
            load_model(path)


def rewrite(run, **changes):
    meta = json.loads((run / "best.json").read_text(encoding="utf-8"))
    (run / "best.json").write_text(json.dumps(meta | changes), encoding="utf-8")
    return meta


def test_weights_of_another_architecture_are_refused_naming_a_tensor(run, small):
    meta = rewrite(run)
    rewrite(run, config=meta["config"] | {"features": 8})
    with pytest.raises(DamagedCheckpoint, match=r"best\.json: the weights are of another architecture .*initial_down"):
        load_model(run)
    rewrite(run, config=meta["config"] | {"tile": 64})
    with pytest.raises(DamagedCheckpoint, match=r"best\.json: the weights are of another architecture .*[Mm]issing"):
        load_model(run)


def test_checkpoint_without_some_tensors_is_refused_naming_them(run):
    tensors, meta = load_checkpoint(run / "best.json")
    tensors.pop("weights.generator.final_up.0.bias")
    save_checkpoint(run, "best", tensors, {k: v for k, v in meta.items() if k not in ("weights", "sha256")})
    with pytest.raises(DamagedCheckpoint, match=r"another architecture .*generator\.final_up\.0\.bias"):
        load_model(run)


@pytest.mark.parametrize(
    "changes", [{"config": {"color": "red"}}, {"config": None}, {"normalization": {}}, {"normalization": 3}],
)
def test_json_that_describes_no_model_is_refused(run, changes):
    rewrite(run, **changes)
    with pytest.raises(DamagedCheckpoint, match=r"best\.json does not describe a model of this .*train it again"):
        load_model(run)


@pytest.mark.parametrize(
    ("name", "value"), [("method", "pix2pixx"), ("attention", "cbma"), ("tile", 48), ("batch", -1)],
)
def test_config_of_no_valid_model_ends_in_a_clear_error(run, name, value):
    rewrite(run, config=rewrite(run)["config"] | {name: value})
    with pytest.raises(Sat2DEMError, match=str(value)):
        load_model(run)


def test_no_pickle_is_ever_loaded(run):
    weights = run / rewrite(run)["weights"]
    torch.save({"w": torch.ones(1)}, weights)
    rewrite(run, sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
    with pytest.raises(DamagedCheckpoint, match=rf"{weights.name} is no safetensors file"):
        load_model(run)


# --- what a run is scored on ------------------------------------------------------------------------------------------


def edit(folder, **changes):
    """Rewrite entries of the description of a run's best checkpoint; None removes one."""
    meta = json.loads((folder / "best.json").read_text(encoding="utf-8")) | changes
    meta = {key: value for key, value in meta.items() if value is not None}
    (folder / "best.json").write_text(json.dumps(meta), encoding="utf-8")


@pytest.mark.parametrize(("source", "said"), [
    ("scene hills, given in Python", "was trained on scene hills, given in Python: say what to score it on with --s"),
    ("scene rocky-mountain", "was trained on scene rocky-mountain, whose pixels were different then: say what"),
    (None, "was trained on other data than scene rocky-mountain: say what"),
])
def test_a_run_on_other_data_than_its_config_names_is_not_scored_on_these(run, source, said):
    edit(run, source=source)
    with pytest.raises(RunExists, match=said):
        tiles_to_score(run)


def test_a_config_that_fits_no_scene_is_not_what_the_message_is_about(run):
    meta = load_checkpoint(run / "best.json")[1]
    edit(run, config=meta["config"] | {"scene": "none.zarr"})
    with pytest.raises(RunExists, match="was trained on scene hills, given in Python: say"):
        tiles_to_score(run)
    edit(run, source="store none.zarr")
    with pytest.raises(Sat2DEMError, match="none.zarr does not exist"):
        tiles_to_score(run)


@pytest.mark.parametrize("change", [0, 1])
def test_of_the_scene_that_a_run_was_trained_on_only_held_out_tiles_are_scored(trained, hills, change):
    """Also where its elevation is another one by now."""
    tiles, train, text = tiles_to_score(trained.folder, pair=hills.assign(dem=hills.dem + change))
    assert (tiles.ids, train.ids) == (trained.data.test.ids, trained.data.train.ids)
    assert text == "scored on the 4 held-out tiles of scene hills"


def test_of_another_scene_every_tile_is_scored(trained, make_scene):
    """Baselines are fitted to the run's training tiles where its config names them."""
    other = make_scene(64, 96, "elsewhere")
    tiles, train, text = tiles_to_score(trained.folder, pair=other)
    assert len(tiles) == 6 and train is tiles
    assert text == (
        f"scored on all 6 tiles of scene elsewhere; {trained.folder} was trained on scene hills, given in Python, and "
        "the baselines are fitted to the scored tiles"
    )
    tiles, _, text = tiles_to_score(trained.folder, "rocky-mountain")
    assert tiles.ids == every_tile(trained.model().config)[0].ids and "all 64 tiles of scene rocky-mountain" in text


def test_baselines_are_fitted_to_the_training_tiles_that_a_config_names(run, make_scene):
    own = prepare(Config(**load_checkpoint(run / "best.json")[1]["config"]))
    edit(run, data=own.fingerprint(), source=None)
    assert tiles_to_score(run).tiles.ids == tiles_to_score(run, "rocky-mountain").tiles.ids == own.test.ids
    with pytest.warns(UserWarning, match="elsewhere has pixels of 30 m, and the run was trained on 146 m: resample"):
        tiles, train, text = tiles_to_score(run, pair=make_scene(64, 96, "elsewhere"))
    assert len(tiles) == 6 and train.ids == own.train.ids
    assert "was trained on scene rocky-mountain, and" in text and text.endswith("fitted to its training tiles")
