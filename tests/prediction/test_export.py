"""Weights as ONNX: the same heights as PyTorch, what Deepness reads and does, the STAC item, the model card, errors."""

import hashlib
import json
import re
import sys
import tomllib
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pystac
import pytest
import torch
import yaml
from pystac.extensions.file import FileExtension
from pystac.extensions.mlm import MLMExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from sat2dem_core.cli import main
from sat2dem_core.config import Config
from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.errors import CannotWrite, DamagedCheckpoint, InvalidConfig, MissingExtra, OutputExists, UnknownName
from sat2dem_core.models.networks import UNet
from sat2dem_core.prediction import export
from sat2dem_core.prediction.export import LICENSE, compare, export_onnx, onnx_bytes, relief_graph
from sat2dem_core.prediction.mosaic import starts
from sat2dem_core.prediction.weights import load_weights
from sat2dem_core.training.checkpoints import Model

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
GSD = 146.0  # meters, about that of the sample


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The shipped weights: the paths of graph, item and card."""
    return export_onnx("relief", tmp_path_factory.mktemp("exported") / "relief.onnx", gsd=GSD)


@pytest.fixture(scope="module")
def session(exported):
    return onnxruntime.InferenceSession(exported[0], providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def weights():
    return load_weights()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """The embedded sample, (3, H, W) uint8."""
    return open_scene("rocky-mountain").rgb.values


@pytest.fixture(scope="module")
def tiny_graph(tiny_weights):
    """Tiles of 32 px; an untrained network with the attention whose parts are the most."""
    weights = load_weights(tiny_weights)
    torch.manual_seed(0)
    network, config = UNet("gam", 16, 32).eval(), Config(attention="gam", features=16, tile=32)
    return relief_graph(replace(weights, model=Model(network, weights.model.normalization, config)))


@pytest.fixture(scope="module")
def tiny_bytes(tiny_graph) -> bytes:
    return onnx_bytes(tiny_graph)


@pytest.fixture
def quick(tiny_bytes, monkeypatch):
    """Every export has the same content, so that none takes time."""
    monkeypatch.setattr(export, "onnx_bytes", lambda graph: tiny_bytes)
    monkeypatch.setattr(export, "compare", lambda content, graph: 0.0)


def by_pytorch(weights, tiles: np.ndarray) -> np.ndarray:
    """Relief of uint8 tiles as ``predict`` computes it: (N, 3, T, T) to (N, T, T) meters."""
    model = weights.model
    ways = model.predict(tiles), model.predict(tiles.swapaxes(2, 3)).mT
    heights = [model.normalization.height_above_minimum(normalized) for normalized in ways]
    return weights.unit(GSD) * torch.stack(heights).mean(0).numpy()


def cut(image: np.ndarray, size: int, stride: int) -> np.ndarray:
    rows, columns = (starts(side, size, stride) for side in image.shape[1:])
    return np.stack([image[:, row : row + size, column : column + size] for row, column in product(rows, columns)])


# ---- heights


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnxruntime_predicts_the_meters_of_pytorch_on_real_tiles(session, weights, image, batch):
    tiles = cut(image, 128, 128)[:batch]
    (heights,) = session.run(None, {"image": tiles.astype(np.float32) / 255})
    wanted = by_pytorch(weights, tiles)
    assert heights.shape == (batch, 1, 128, 128) and heights.dtype == np.float32 and np.ptp(wanted) > 300
    assert np.abs(heights[:, 0] - wanted).max() < 1e-3


def test_a_global_model_gives_elevation_and_a_coarser_image_more_relief(tiny_weights, tiny_graph):
    weights, image = load_weights(tiny_weights), tiny_graph.examples[0]
    scale = Normalization("global", -100.0, 900.0, 400.0)
    graph = relief_graph(replace(weights, model=replace(weights.model, normalization=scale), gsd=(30.0, 120.0)))
    with torch.inference_mode():
        network, x = weights.model.generator, 2 * image - 1
        mean = (network(x) + network(x.mT).mT) / 2
        assert torch.allclose(graph.module(image), 500 * (mean + 1) - 100, atol=1e-3)
        scaled = replace(weights, hurst=0.5, gsd=(30.0, 120.0))
        fine, coarse = (relief_graph(scaled, gsd).module(image) for gsd in (30, 120))
    assert graph.description.output.name == "elevation" and tiny_graph.description.output.name == "relief"
    assert torch.allclose(coarse, 2 * fine)


def test_attention_is_exported_for_any_batch(tiny_graph, tiny_bytes):
    for size in (1, 3):
        assert compare(tiny_bytes, replace(tiny_graph, examples=(tiny_graph.examples[0][:size],))) < 1e-2


def test_a_graph_that_differs_from_the_weights_is_refused(tiny_graph, tiny_bytes):
    for value in (1e-3, float("nan")):
        other = replace(tiny_graph, module=export.Relief(
            tiny_graph.module.generator, tiny_graph.module.normalization, tiny_graph.module.unit + value
        ))
        with pytest.raises(DamagedCheckpoint, match=r"the ONNX graph of .* differs from its weights by"):
            compare(tiny_bytes, other)


# ---- what others read


def test_old_readers_can_open_the_file(exported):
    model = onnx.load(exported[0])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)] and model.ir_version == 8
    assert {tensor.data_location for tensor in model.graph.initializer} == {onnx.TensorProto.DEFAULT}
    assert {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4} == {onnx.TensorProto.FLOAT}
    assert len(exported[0].read_bytes()) < 12e6
    assert not re.search(rb"site-packages|sat2dem_core/", exported[0].read_bytes())  # paths of this machine


def read_metadata(session) -> dict:
    """As Deepness reads it (ModelBase): every value is JSON."""
    return {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}


def test_deepness_finds_its_settings(session):
    meta = read_metadata(session)
    assert meta["model_type"].capitalize() == "Regressor" and float(meta["reg_output_scaling"]) == 1
    assert float(meta["resolution"]) == 100 * GSD and int(meta["tiles_overlap"]) == 50
    (port,), (output,) = session.get_inputs(), session.get_outputs()  # it refuses a model of two inputs
    assert port.shape[1:] == [3, 128, 128] and isinstance(port.shape[0], str)
    assert output.shape[1:] == [1, 128, 128] and meta["tiles_size"] == meta["tile_size"] == port.shape[-1]
    assert sorted(meta["class_names"].items(), key=lambda pair: int(pair[0])) == [("0", output.name)]
    assert meta["units"] == "metre" and any("Heights are relative" in note for note in meta["notes"])
    assert "standardization_mean" not in meta  # which it would apply


def deepness(session, image: np.ndarray, overlap: int) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """What Deepness makes of a whole layer at the model's resolution.

    It extends the layer to the right and to the top until tiles fit, reads zeros there, and of each tile's result
    copies all but half of the overlap at each side that another tile adjoins (TileParams).

    Args:
        image: (3, H, W) uint8.
        overlap: percent.

    Returns:
        Heights of the extended layer; the extended layer; and the upper left corners of its tiles.
    """
    meta, size = read_metadata(session), session.get_inputs()[0].shape[-1]
    stride = size - int(size * overlap / 100 * 2) // 2
    up, right = (
        size - side if side <= size else (stride - (side - size) % stride) % stride for side in image.shape[1:]
    )
    layer = np.pad(image, ((0, 0), (up, 0), (0, right)))
    result, half = np.zeros(layer.shape[1:], np.float32), (size - stride) // 2
    rows, columns = (range(0, side - size + 1, stride) for side in layer.shape[1:])
    for row, column in product(rows, columns):
        tile = layer[:, row : row + size, column : column + size].transpose(1, 2, 0)[None]
        batch = np.float32(tile * 1.0 / 255.0).transpose(0, 3, 1, 2)
        (heights,) = session.run(None, {session.get_inputs()[0].name: batch})
        top, left = half * (row != rows[0]), half * (column != columns[0])
        bottom, end = size - half * (row != rows[-1]), size - half * (column != columns[-1])
        part = heights[0, 0, top:bottom, left:end] * meta["reg_output_scaling"]
        result[row + top : row + bottom, column + left : column + end] = part
    return result, layer, list(product(rows, columns))


@pytest.mark.parametrize("overlap", [0, 50])
def test_deepness_shows_the_networks_own_heights_where_tiles_do_not_overlap(session, weights, image, overlap):
    result, layer, corners = deepness(session, image, overlap)
    wanted = by_pytorch(weights, np.stack([layer[:, row : row + 128, left : left + 128] for row, left in corners]))
    half, compared = 128 * overlap // 200, 0
    for (row, left), heights in zip(corners, wanted):
        tile, core = np.s_[row : row + 128, left : left + 128], np.s_[half : 128 - half, half : 128 - half]
        if (layer[:, *tile] == 0).all(0).mean() < 0.5:  # in tiles of nearly one color, norms magnify rounding
            assert np.abs(result[tile][core] - heights[core]).max() < 1e-3
            compared += 1
    assert (result != 0).all() and layer.shape[1:] != image.shape[1:] and compared >= 4


def test_the_item_is_a_stac_item_of_a_model(exported, weights):
    content = json.loads(exported[1].read_text(encoding="utf-8"))
    JsonSchemaSTACValidator().validate_core(content, pystac.STACObjectType.ITEM, "1.1.0")  # its schema is in pystac
    item = pystac.Item.from_dict(content)
    assert item.to_dict(include_self_link=False) == content and item.geometry is None and item.properties["gsd"] == GSD
    model = MLMExtension.ext(item)
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", model.mlm_name)
    assert (model.architecture, model.tasks, model.framework) == ("U-Net", ["regression"], "ONNX")
    (taken,), (given,) = model.input, model.output
    assert taken.input.shape == [-1, 3, 128, 128] and given.result.shape == [-1, 1, 128, 128]
    assert taken.input.dim_order == given.result.dim_order == ["batch", "channel", "height", "width"]
    assert taken.name == "image" and given.name == "relief" and "meters" in given.description
    assert taken.properties["value_scaling"] == [{"type": "min-max", "minimum": 0, "maximum": 255}]
    assert model.total_parameters == sum(parameter.numel() for parameter in weights.model.generator.parameters())
    assert model.pretrained is False and model.pretrained_source is None
    (asset,) = (asset for asset in item.assets.values() if "mlm:model" in asset.roles)
    assert asset.extra_fields["mlm:artifact_type"] == "onnx"
    for bands in (item.properties["bands"], asset.extra_fields["bands"]):
        assert [band["name"] for band in bands] == taken.bands == ["red", "green", "blue"]
    file, written = FileExtension.ext(asset), exported[0].read_bytes()
    assert file.size == len(written) and file.checksum == f"1220{hashlib.sha256(written).hexdigest()}"
    names = {(exported[1].parent / asset.href).resolve() for asset in item.assets.values()}
    assert names == {exported[0].resolve(), exported[2].resolve()}


def test_the_card_has_a_header_and_the_numbers_of_the_weights(exported, weights):
    _, header, body = exported[2].read_text(encoding="utf-8").split("---\n", 2)
    header = yaml.safe_load(header)
    assert header["license"] == LICENSE.lower() and header["library_name"] == "onnx"
    assert header["pipeline_tag"] and header["tags"] and header["metrics"] == ["mae"] and len(header["datasets"]) == 2
    scores = weights.card["held-out scores"]
    listed = [
        (result["dataset"]["type"], metric["value"])
        for result in header["model-index"][0]["results"] for metric in result["metrics"]
    ]
    assert listed == [(score["scene"], score["MAE"]) for score in scores]
    for value in [score[name] for score in scores for name in ("MAE", "tile mean", "ratio", "coverage")]:
        assert f"{value:g}" in body
    assert weights.sha256 in body and weights.card["limits"] in body and weights.card["command"] in body
    assert "Heights are relative" in body and "float32 (batch, 3, 128, 128)" in body


def test_the_license_is_the_projects_for_shipped_weights_alone(quick, tiny_weights, tmp_path):
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    assert tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["license"] == LICENSE
    _, item, card = export_onnx(tiny_weights, tmp_path / "own.onnx")
    assert json.loads(item.read_text(encoding="utf-8"))["properties"]["license"] == "other"
    header = yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])
    assert header["license"] == "unknown" and header["model-index"] == []


# ---- errors


def test_the_command_writes_three_files_and_replaces_none_unasked(quick, tiny_weights, tmp_path, capsys):
    out = tmp_path / "new" / "model.onnx"
    command = ["export", str(tiny_weights), str(out)]
    assert main(command) == 0
    written = [out.with_suffix(suffix) for suffix in (".onnx", ".json", ".md")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in written]
    assert sorted(out.parent.iterdir()) == sorted(written)
    written[1].unlink()
    assert main(command) == 1
    assert f"error: {out} exists: give another name, or --overwrite to replace it\n" == capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0 and written[1].exists()


def test_a_checkpoint_is_never_replaced(quick, trained):
    checkpoint, out = trained.folder / "best.json", trained.folder / "best.onnx"
    before = checkpoint.read_bytes()
    for overwrite, message in ((False, "exists: give another"), (True, "holds no STAC item, and is never replaced")):
        with pytest.raises(OutputExists, match=rf"best\.json {message}"):
            export_onnx(trained.folder, out, overwrite=overwrite)
    assert checkpoint.read_bytes() == before and not out.exists()


@pytest.mark.parametrize(("source", "name", "settings", "error", "message"), [
    ("everest", "a.onnx", {}, UnknownName, "unknown weights 'everest'"),
    ("relief", "a.pt", {}, InvalidConfig, r"a\.pt is no ONNX file: give a name that ends in \.onnx"),
    ("relief", "a.onnx", {"gsd": 10}, InvalidConfig, "is 10, but the weights were trained on 30 to 150 m"),
    ("relief", "a.onnx", {"gsd": float("nan")}, InvalidConfig, "is nan, but"),
])
def test_mistakes_end_before_anything_is_written(tmp_path, source, name, settings, error, message):
    with pytest.raises(error, match=message):
        export_onnx(source, tmp_path / name, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_named(tmp_path, tiny_graph, tiny_bytes, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    step = (lambda: compare(tiny_bytes, tiny_graph)) if missing == "onnxruntime" else (lambda: onnx_bytes(tiny_graph))
    with pytest.raises(MissingExtra, match=rf"{missing} is not installed: pip install 'sat2dem-core\[onnx\]'"):
        step()


def test_a_full_disk_leaves_no_file(quick, tiny_weights, tmp_path, full_disk):
    with full_disk(10_000), pytest.raises(CannotWrite):
        export_onnx(tiny_weights, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
