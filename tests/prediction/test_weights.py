import hashlib
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from file_server import file_server
from safetensors.torch import save_file

from sat2dem_core.dataset.parts import prepare
from sat2dem_core.errors import DamagedCheckpoint, DamagedDownload, RunExists, UnknownName, UnsafeWeights
from sat2dem_core.prediction.weights import DEFAULT, load_weights, pack, save_weights, shipped
from sat2dem_core.training.checkpoints import load_model
from sat2dem_core.training.trainer import train


def test_shipped_weights_are_small_half_precision_and_describe_themselves():
    path = shipped()[DEFAULT]
    assert path.stat().st_size <= 8e6
    weights = load_weights()
    assert weights.relative and weights.gsd[0] <= 30 <= weights.gsd[1] and 0 < weights.hurst < 1
    assert {"name", "data", "seed", "command", "limits", "held-out scores"} <= set(weights.card)
    assert all(parameter.dtype == torch.float32 for parameter in weights.model.generator.parameters())
    content = path.read_bytes()
    header = json.loads(content[8:][: int.from_bytes(content[:8], "little")])
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F16"}
    assert weights.sha256 == hashlib.sha256(content).hexdigest()


def test_a_run_is_packed_once_and_predicts_as_its_checkpoint_does(trained, tiny_weights):
    before = tiny_weights.stat().st_mtime_ns
    assert pack(tiny_weights.parent) == tiny_weights and tiny_weights.stat().st_mtime_ns == before
    weights = load_weights(tiny_weights.parent)
    rgb = trained.data.test.rgb
    assert np.allclose(weights.model.predict(rgb), load_model(trained.folder).predict(rgb), atol=5e-3)  # half precision
    assert weights.gsd == pytest.approx((30, 30), rel=2e-3) and weights.unit(123.0) == 1.0
    assert weights.interval.factor == 0
    assert (weights.domain.distance(trained.data.train.rgb) <= 1).mean() > 0.9


def test_the_interval_of_a_run_covers_nine_tenths_of_its_validation_errors(trained, tiny_weights):
    weights, tiles = load_weights(tiny_weights), trained.data.validation
    scale = weights.model.normalization
    heights = scale.height_above_minimum(weights.model.predict(tiles.rgb)).numpy()
    error = heights - tiles.dem
    error -= error.mean((1, 2), keepdims=True)
    assert (np.abs(error) <= weights.interval.base).mean() == pytest.approx(0.9, abs=0.02)


def test_a_run_on_data_of_its_own_is_not_packed_with_other_data(small, make_scene, tmp_path):
    run = train(replace(small, steps=2), scene=make_scene(128, 192), run=tmp_path / "own", progress=False)
    with pytest.raises(RunExists, match=r"own was trained on scene hills, given in Python: pack it with pack\("):
        load_weights(run.folder)
    with pytest.raises(RunExists, match="trained on scene hills, given in Python, whose pixels were different then"):
        pack(run.folder, prepare(small, make_scene(160, 128)))
    weights = load_weights(pack(run.folder, run.data))
    assert weights.relative and weights.card["data"] == "the training part of scene hills, given in Python"


def test_an_unknown_name_lists_the_valid_ones(tmp_path):
    with pytest.raises(UnknownName, match=f"no such file or run; choose one of .*{DEFAULT}"):
        load_weights("everest")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_pickle_is_refused_whatever_its_name(tmp_path, name):
    path = tmp_path / name
    torch.save({"a": torch.ones(1)}, path) if name.endswith("pt") else path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnsafeWeights, match="is a pickle.*can run any code"):
        load_weights(path)


def test_damaged_and_foreign_files_are_refused(tmp_path, tiny_weights):
    cut, foreign = tmp_path / "cut.safetensors", tmp_path / "foreign.safetensors"
    cut.write_bytes(tiny_weights.read_bytes()[:-100])
    save_file({"a": torch.ones(1)}, foreign)
    for path, word in ((cut, "not a complete safetensors"), (foreign, "does not hold weights of this project")):
        with pytest.raises(DamagedCheckpoint, match=word):
            load_weights(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DamagedCheckpoint, match="holds no run"):
        load_weights(tmp_path / "empty")


def test_a_url_is_downloaded_once_and_must_give_a_checksum(tmp_path, tiny_weights, monkeypatch):
    monkeypatch.setenv("SAT2DEM_DATA", str(tmp_path / "data"))
    checksum = hashlib.sha256(tiny_weights.read_bytes()).hexdigest()
    with file_server(tiny_weights.parent) as server:
        url = f"{server.url}/{tiny_weights.name}"
        assert load_weights(f"{url}#sha256={checksum}").sha256 == checksum
        with pytest.raises(UnsafeWeights, match="no checksum"):
            load_weights(url)
        with pytest.raises(DamagedDownload):
            load_weights(f"{url}#sha256={'0' * 64}")
    assert load_weights(f"{url}#sha256={checksum}").sha256 == checksum  # without the server


def test_a_full_disk_leaves_no_weights(tmp_path, tiny_weights, full_disk):
    weights = load_weights(tiny_weights)
    described = {"gsd": weights.gsd, "domain": weights.domain, "interval": weights.interval, "card": {}}
    with full_disk(1000), pytest.raises(Exception, match="cannot write"):
        save_weights(tmp_path / "w.safetensors", weights.model, **described)
    assert not list(tmp_path.iterdir())
