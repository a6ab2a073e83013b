"""What a training may start from, what is refused, and what a run keeps of it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from sat2dem_core.config import preset
from sat2dem_core.errors import DamagedCheckpoint, RunExists, UnknownName
from sat2dem_core.models.networks import UNet
from sat2dem_core.prediction.weights import load_weights, pack
from sat2dem_core.training import trainer
from sat2dem_core.training.checkpoints import load_checkpoint, save_checkpoint
from sat2dem_core.training.initial import read_initial_weights
from sat2dem_core.training.trainer import train


@pytest.fixture
def go(hills, tmp_path):
    """Train on ``hills`` from weights: ``go(config, initial weights, folder name)``."""
    return lambda config, weights, run="run", **more: train(
        config, scene=hills, run=tmp_path / run, progress=False, initial_weights=weights, **more
    )


@pytest.fixture
def standing(small):
    """Settings of a run that learns nothing."""
    return replace(small, learning_rate=1e-30, steps=2)


def generator(run):
    prefix = "weights.generator."
    tensors = load_checkpoint(run.folder / "best.json")[0]
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def authors(path, **settings):
    """A checkpoint as the authors' code writes it."""
    network = UNet(**{"features": 4, "tile": 32} | settings)
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, path)
    return network.state_dict()


def test_a_run_starts_from_the_weights_that_were_given(go, standing, trained, tiny_weights, tmp_path):
    """From a run's best checkpoint, another one by its file, weights to predict with, or the authors' checkpoint."""
    best = load_checkpoint(trained.folder / "best.json")[0]
    last = load_checkpoint(trained.folder / "last.json")[0]
    sources = {
        trained.folder: lambda name: best[f"weights.generator.{name}"],
        str(trained.folder / "last.json"): lambda name: last[f"weights.generator.{name}"],
        tiny_weights: lambda name: best[f"weights.generator.{name}"].half().float(),
        tmp_path / "theirs.pth": authors(tmp_path / "theirs.pth").__getitem__,
    }
    for number, (source, wanted) in enumerate(sources.items()):
        started = generator(go(standing, source, str(number)))
        assert len(started) > 10
        for name, tensor in started.items():
            torch.testing.assert_close(tensor, wanted(name), rtol=0, atol=1e-12)


def test_with_a_discriminator_and_an_average_the_generator_alone_is_given(go, standing, trained, hills, tmp_path):
    config = replace(standing, method="pix2pix", critic_features=4, ema=0.9)
    given = go(config, trained.folder)
    assert torch.equal(generator(given)["final_up.0.weight"], generator(trained)["final_up.0.weight"])
    random = train(config, scene=hills, run=tmp_path / "random", progress=False)
    name = "weights.discriminator.final.weight"
    both = [load_checkpoint(run.folder / "best.json")[0][name] for run in (given, random)]
    torch.testing.assert_close(*both, rtol=0, atol=1e-12)


def test_shipped_weights_have_a_name():
    weights = read_initial_weights("relief")
    assert weights.source == "relief" and len(weights.sha256) == 64
    assert weights.settings == {"attention": "none", "attention_form": "paper", "features": 16, "tile": 128}
    config = preset("cpu", tile=128)
    network = UNet(features=16, tile=128)
    weights.put_into(network, config)
    assert all(torch.equal(tensor, weights.tensors[name]) for name, tensor in network.state_dict().items())


def test_a_folder_with_one_file_of_weights_stands_for_it(tiny_weights, tmp_path):
    shutil.copy(tiny_weights, tmp_path / "a.safetensors")
    assert read_initial_weights(tmp_path).sha256 == read_initial_weights(tiny_weights).sha256
    shutil.copy(tiny_weights, tmp_path / "b.safetensors")
    with pytest.raises(DamagedCheckpoint, match=r"holds no run \(no best.json\) and 2 files of weights: give a run's"):
        read_initial_weights(tmp_path)


# --- what a run keeps of it -------------------------------------------------------------------------------------------


def test_a_run_records_where_it_started(go, small, trained):
    run = go(small, trained.folder)
    origin = {"source": str(trained.folder), "sha256": load_checkpoint(trained.folder / "best.json")[1]["sha256"]}
    for name in ("config", "best", "last"):
        stored = json.loads((run.folder / f"{name}.json").read_text(encoding="utf-8"))
        assert stored["initial_weights"] == origin
    stored = json.loads((trained.folder / "config.json").read_text(encoding="utf-8"))
    assert "initial_weights" not in stored


def test_the_card_of_weights_names_what_they_started_from(go, small, trained, tiny_weights):
    run = go(small, trained.folder)
    origin = load_checkpoint(run.folder / "best.json")[1]["initial_weights"]
    card = load_weights(pack(run.folder, run.data)).card
    assert card["initial weights"] == f"{trained.folder}, SHA-256 {origin['sha256']}"
    assert "initial weights" not in load_weights(tiny_weights).card


def test_an_interrupted_run_goes_on_from_the_same_weights_alone(go, small, trained, tmp_path, listing, monkeypatch):
    """The same content may lie elsewhere."""
    whole = go(small, trained.folder, "whole")
    validate, calls = trainer._Trainer._validate, []

    def interrupted(self, epoch):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(self, epoch)

    monkeypatch.setattr(trainer._Trainer, "_validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(small, trained.folder)
    authors(tmp_path / "theirs.pth")
    before = listing(tmp_path / "run")
    for other in (None, tmp_path / "theirs.pth"):
        said = f"run holds a run that started from {trained.folder}, not from {other or 'random weights'}: start from"
        with pytest.raises(RunExists, match=said):
            go(small, other, accept_changed_code=True)
    assert listing(tmp_path / "run") == before
    moved = shutil.copytree(trained.folder, tmp_path / "moved")
    assert go(small, moved).log.equals(whole.log)


def test_a_run_from_random_weights_does_not_go_on_from_others(go, small, tmp_path):
    go(small, None)
    authors(tmp_path / "theirs.pth")
    with pytest.raises(RunExists, match=r"started from random weights, not from .*theirs\.pth: start from the same"):
        go(small, tmp_path / "theirs.pth")


def test_a_file_whose_content_changed_is_another_one(go, small, tmp_path):
    authors(tmp_path / "theirs.pth")
    go(small, tmp_path / "theirs.pth")
    authors(tmp_path / "theirs.pth")  # other random numbers
    with pytest.raises(RunExists, match=r"theirs\.pth, which has other content: start from the same weights, choose"):
        go(small, tmp_path / "theirs.pth")


def test_cached_runs_from_other_weights_have_other_folders(hills, small, trained, tmp_path):
    copied = shutil.copytree(trained.folder, tmp_path / "copied")
    authors(tmp_path / "theirs.pth")
    sources = (None, trained.folder, copied, tmp_path / "theirs.pth")
    folders = [train(small, scene=hills, progress=False, initial_weights=source).folder for source in sources]
    assert folders[1] == folders[2] and len(set(folders)) == 3


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "fault", "advice"), [
    ({"features": 8}, r"initial_down.0.weight has shape \(4, 3, 4, 4\), not \(8, 3, 4, 4\)", "set features=4$"),
    ({"tile": 64}, r"down4.conv.0.weight is missing", "set tile=32$"),
    ({"tile": 64, "features": 8}, "initial_down.0.weight has shape", "set features=4, tile=32$"),
])
def test_weights_of_another_architecture_are_refused_naming_a_tensor_and_the_settings(
    small, trained, changes, fault, advice
):
    config = replace(small, **changes)
    network = UNet(config.attention, config.features, config.tile)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    said = rf"^the initial weights {trained.folder} do not fit this run \({fault}.*\): {advice}"
    with pytest.raises(DamagedCheckpoint, match=said):
        read_initial_weights(trained.folder).put_into(network, config)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_weights_without_attention_do_not_fit_a_network_with_it():
    with pytest.raises(DamagedCheckpoint, match=r"run \(down1\.attention\.\S+ is missing\): set attention=none$"):
        read_initial_weights("relief").put_into(UNet("gam", 16, 128), preset("cpu", tile=128, attention="gam"))


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(go, small, trained, tmp_path):
    with pytest.raises(DamagedCheckpoint, match="set features=4"):
        go(replace(small, features=8), trained.folder)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_the_authors_tells_its_architecture_by_its_tensors(small, tmp_path):
    authors(tmp_path / "theirs.pth", features=16, tile=64, attention="gam")
    weights = read_initial_weights(tmp_path / "theirs.pth")
    with pytest.raises(DamagedCheckpoint, match=r"theirs\.pth do not fit this run .*: set features=16, tile=64$"):
        weights.put_into(UNet(features=4, tile=32), small)
    said = r"\(down1\.attention\.\S+ is not in this network\): set attention and attention_form as they were when"
    with pytest.raises(DamagedCheckpoint, match=said):
        weights.put_into(UNet(features=16, tile=64), preset("cpu"))


def test_numbers_that_are_not_finite_are_refused(go, small, tmp_path):
    network = UNet(features=4, tile=32)
    network.final_up[0].bias.data.fill_(torch.nan)
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(DamagedCheckpoint, match=r"numbers that are not finite \(final_up\.0\.bias\): give other"):
        go(small, tmp_path / "theirs.pth")


def test_what_is_no_weights_is_named(go, small, trained, tmp_path):
    (tmp_path / "text.pth").write_text("no weights", encoding="utf-8")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "empty").mkdir()
    damaged = shutil.copytree(trained.folder, tmp_path / "damaged")
    (damaged / "best.json").write_text("{", encoding="utf-8")
    tensors = {"weights.generator.final_up.0.bias": torch.zeros(1)}
    save_checkpoint(tmp_path / "other", "best", tensors, {"config": 3})
    for source, error, said in (
        ("relieff", UnknownName, "unknown initial weights 'relieff': no such file or run; choose one of relief, or"),
        ("text.pth", DamagedCheckpoint, r"text\.pth is no whole checkpoint of tensors alone"),
        ("cut.safetensors", DamagedCheckpoint, "is not a complete safetensors file"),
        ("foreign.safetensors", DamagedCheckpoint, "does not hold weights of this project"),
        ("empty", DamagedCheckpoint, r"holds no run \(no best.json\) and 0 files of weights: give a run's folder"),
        ("damaged", DamagedCheckpoint, "best.json is no whole checkpoint file"),
        ("other", DamagedCheckpoint, "initial_down.0.weight is missing"),
    ):
        with pytest.raises(error, match=said):
            go(small, source if error is UnknownName else tmp_path / source)
    assert not (tmp_path / "run").exists()
