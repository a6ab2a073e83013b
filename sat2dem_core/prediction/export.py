"""Weights as one ONNX graph, for programs without PyTorch: the QGIS plugin Deepness, or a page with onnxruntime-web.

Normalization, network and unit are inside the graph: it takes an image with values from 0 to 1, (B, 3, T, T) float32,
and gives meters, (B, 1, T, T) float32, for any number B of tiles. As :func:`sat2dem_core.predict` does, it predicts
each tile and its mirror image about the diagonal, and gives their mean. What ``predict`` does around the network is not
inside: it brings the sun to the south-east, fills nodata, finds the level of every tile, blends tiles, lowers relief
out of domain, and ties it to known heights. So with weights that predict relief, each tile's heights count from a level
of its own, and neighboring tiles differ by a step.

Deepness reads its settings from the file's metadata, each a text in JSON: ``model_type``, ``resolution`` in centimeters
per pixel, ``tiles_size`` in pixels (its code reads ``tile_size``), ``tiles_overlap`` in percent of a tile,
``reg_output_scaling``, ``class_names``. It resamples a layer to that resolution, divides bytes by 255, pads with zeros,
and of two overlapping tiles keeps each up to the middle of the overlap, without blending. A model must have one input.
Source: qgis-plugin-deepness.readthedocs.io, "Adding metadata to ONNX model" and "Model classes and requirements";
``TileParams`` and ``calculate_extended_processing_extent`` in github.com/PUTvision/qgis-plugin-deepness.
"""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sat2dem_core import __version__
from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.errors import DamagedCheckpoint, InvalidConfig, OutputExists, needs
from sat2dem_core.prediction.model_card import Description, Port, model_card, stac_item
from sat2dem_core.prediction.weights import Weights, load_weights, shipped
from sat2dem_core.rasters.atomic import replacing

OPSET = 18  # the lowest that PyTorch writes without converting; onnxruntime 1.14 reads it
IR_VERSION = 8  # of the file format: as old as that opset, while PyTorch's own needs onnxruntime 1.18
OVERLAP = 50  # percent of a tile, as in ``predict``
TOLERANCE = 1e-4  # of the largest height: real tiles stay below 1e-6, tiles of one color come near 1e-5
LICENSE = "MIT"  # of weights that come with the package
RGB = ("red", "green", "blue")


@dataclass(frozen=True)
class Graph:
    """A network with what surrounds it, ready to be exported; each kind of weights has a function that makes one.

    Attributes:
        module: from the inputs to meters, (B, 1, T, T).
        examples: of each input, (3, ...), as described.
        description: what the graph takes and gives.
    """

    module: nn.Module
    examples: tuple[Tensor, ...]
    description: Description


class Relief(nn.Module):
    """Image to height: (B, 3, T, T) from 0 to 1 to (B, 1, T, T) meters, the mean over a tile and its mirror image.

    Args:
        generator: (B, 3, T, T) from -1 to 1 to normalized height, (B, 1, T, T).
        normalization: turns that into units of height, above the tile's lowest point for Shift.
        unit: of height, meters.
    """

    def __init__(self, generator: nn.Module, normalization: Normalization, unit: float):
        super().__init__()
        self.generator, self.normalization, self.unit = generator, normalization, unit

    def forward(self, image: Tensor) -> Tensor:
        x = 2 * image - 1  # as normalize.scale_image
        normalized = (self.generator(x) + self.generator(x.mT).mT) / 2  # (B, 1, T, T)
        scale = self.normalization
        height = scale.height_above_minimum if scale.kind == "shift" else scale.inverse
        return height(normalized) * self.unit


def relief_graph(weights: Weights, gsd: float | None = None) -> Graph:
    """The graph of weights that predict height from an image alone.

    Args:
        gsd: ground sampling distance of the images, meters; by default the finest that the weights were trained on.

    Raises:
        InvalidConfig: the weights were not trained on this distance.
    """
    finest, coarsest = weights.gsd
    gsd = finest if gsd is None else gsd
    if not finest * (1 - 1e-3) <= gsd <= coarsest * (1 + 1e-3):
        raise InvalidConfig(
            f"gsd, the ground sampling distance, is {gsd:g}, but the weights were trained on {finest:g} to "
            f"{coarsest:g} m: give a distance in this range"
        )
    model, tile = weights.model, weights.model.config.tile
    module = Relief(
        deepcopy(model.generator).cpu(), model.normalization, weights.unit(gsd) if weights.relative else 1.0
    ).eval()
    text = "red, green and blue from 0 (black) to 1 (white): bytes divided by 255"
    notes = ["The sun has to stand in the south-east of the image."]
    if weights.relative:
        notes.append("Heights are relative: each tile's count from a level of its own, so neighboring tiles differ.")
    description = Description(
        name=str(weights.card.get("name", "model")), architecture="U-Net", gsd=gsd, tile=tile,
        inputs=(Port("image", (-1, 3, tile, tile), text, RGB),),
        output=Port("relief", (-1, 1, tile, tile), "meters above the tile's lowest point") if weights.relative else
        Port("elevation", (-1, 1, tile, tile), "elevation in meters"),
        notes=tuple(notes), parameters=sum(parameter.numel() for parameter in module.parameters()),
        card=weights.card, sha256=weights.sha256,
    )
    return Graph(module, (torch.rand((3, 3, tile, tile), generator=torch.Generator().manual_seed(0)),), description)


def export_onnx(
    weights: str | os.PathLike, out: str | os.PathLike, *, gsd: float | None = None, overwrite: bool = False
) -> tuple[Path, Path, Path]:
    """Write weights as an ONNX graph, next to it a STAC item (.json) and a model card (.md) that describe it.

    The files are written only after onnxruntime has computed the same heights with the graph as PyTorch. The text of
    this module says what is inside the graph, :mod:`sat2dem_core.prediction.model_card` what the descriptions hold.

    Args:
        weights: see :func:`sat2dem_core.prediction.weights.load_weights`.
        out: the file to write, ``….onnx``.
        gsd: ground sampling distance of the images that the graph is for, meters, because the unit of relief depends on
            it; by default the finest that the weights were trained on.
        overwrite: replace files that exist, but never a ``.json`` that holds no STAC item.

    Returns:
        The paths of the graph, of the item and of the card.

    Raises:
        OutputExists: one of the three files exists.
        InvalidConfig: ``out`` does not end in ``.onnx``, or the weights were not trained on images of this distance.
        DamagedCheckpoint: the graph does not predict what the weights do, or no finite heights.
        MissingExtra: the extra ``onnx`` is not installed.
        CannotWrite: for example, the disk is full.
        UnknownName, UnsafeWeights: see :func:`sat2dem_core.prediction.weights.load_weights`.
    """
    paths = _outputs(Path(out), overwrite)
    loaded = load_weights(weights)
    graph = relief_graph(loaded, gsd)
    content = onnx_bytes(graph)
    compare(content, graph)
    license = loaded.card.get("license", LICENSE if str(weights) in shipped() else None)
    checksum = hashlib.sha256(content).hexdigest()
    item = stac_item(graph.description, paths[0].name, paths[2].name, len(content), checksum, license)
    card = model_card(graph.description, paths[0].name, license)
    with ExitStack() as stack:  # which renames the graph last
        temporary = [stack.enter_context(replacing(path)) for path in paths]
        temporary[0].write_bytes(content)
        temporary[1].write_text(json.dumps(item, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary[2].write_text(card, encoding="utf-8")
    return paths


def _outputs(out: Path, overwrite: bool) -> tuple[Path, Path, Path]:
    """The graph, the item and the card to write."""
    if out.suffix != ".onnx":
        raise InvalidConfig(f"{out} is no ONNX file: give a name that ends in .onnx")
    graph, item, card = (out.with_suffix(suffix) for suffix in (".onnx", ".json", ".md"))
    for path in (graph, item, card):
        if path.exists() and not overwrite:
            raise OutputExists(f"{path} exists: give another name, or --overwrite to replace it")
    if item.exists() and not _is_item(item):  # that of a run's checkpoint, for example
        raise OutputExists(f"{item} holds no STAC item, and is never replaced: give another name")
    return graph, item, card


def _is_item(path: Path) -> bool:
    try:
        return "stac_version" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        return False


def onnx_bytes(graph: Graph) -> bytes:
    """The content of an ONNX file with the graph, its parameters and its metadata.

    Raises:
        MissingExtra: the extra ``onnx`` is not installed.
    """
    with needs("onnx"):
        import onnx
        import onnxscript  # noqa: F401, with which PyTorch exports
    ports = graph.description.inputs
    with _quiet():
        program = torch.onnx.export(
            graph.module, graph.examples, dynamo=True, opset_version=OPSET, external_data=False, verbose=False,
            input_names=[port.name for port in ports], output_names=[graph.description.output.name],
            dynamic_shapes=tuple(_any_size(port) for port in ports),
        )
    assert program is not None  # which it is only with dynamo=False
    model = program.model_proto
    model.ir_version = IR_VERSION
    for part in (model, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]  # PyTorch's notes, which name paths of this machine
    for key, value in metadata(graph.description).items():
        model.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    model.producer_name, model.producer_version = "sat2dem-core", __version__
    model.doc_string = graph.description.text
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _any_size(port: Port) -> dict[int, Any]:
    """The dimensions of an input that may have any size, for PyTorch."""
    return {i: torch.export.Dim(port.dimensions[i]) for i, size in enumerate(port.shape) if size < 0}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch and onnxscript log and warn of in each step of an export, which users cannot act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def metadata(description: Description) -> dict[str, Any]:
    """The metadata of the ONNX file: the keys of Deepness, and what else a program or a user has to know."""
    return {
        "model_type": "Regressor", "resolution": round(100 * description.gsd, 3), "tiles_size": description.tile,
        "tile_size": description.tile, "tiles_overlap": OVERLAP, "reg_output_scaling": 1.0,
        "class_names": {"0": description.output.name}, "name": description.name, "units": "metre",
        "inputs": {port.name: port.text for port in description.inputs}, "output": description.output.text,
        "notes": list(description.notes), "weights_sha256": description.sha256,
    }


def compare(content: bytes, graph: Graph) -> float:
    """The largest difference between the heights of onnxruntime and of PyTorch on the graph's examples, meters.

    Args:
        content: of the graph's ONNX file.

    Raises:
        DamagedCheckpoint: it is larger than rounding explains, or a height is not finite.
        MissingExtra: the extra ``onnx`` is not installed.
    """
    with needs("onnx"):
        import onnxruntime
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feed = {port.name: example.numpy() for port, example in zip(graph.description.inputs, graph.examples)}
    heights = session.run(None, feed)[0]
    with torch.inference_mode():
        wanted = graph.module(*graph.examples).numpy()
    difference = float(np.abs(heights - wanted).max())
    if not difference <= TOLERANCE * max(100.0, float(np.abs(wanted).max())):
        raise DamagedCheckpoint(
            f"the ONNX graph of {graph.description.name} differs from its weights by {difference:g} m: check that they "
            "predict finite heights, and install the versions of constraints.txt"
        )
    return difference
