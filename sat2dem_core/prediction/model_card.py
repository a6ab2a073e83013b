"""What an exported model is, from the weights' own card: for catalogs as a STAC item, for people as a model card.

The item follows STAC 1.1 and the Machine Learning Model extension (MLM, github.com/stac-extensions/mlm) 1.4, and is
written without a library, since it is one dictionary; tests read it with pystac. The card has the form of Hugging
Face's (huggingface.co/docs/hub/model-cards): Markdown under a header in YAML, here of JSON values, which YAML includes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

SCHEMAS = (
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
)
DIMENSIONS = ("batch", "channel", "height", "width")
METRICS = {"MAE": "mae"}  # of a card's scores, and what Hugging Face calls it


@dataclass(frozen=True)
class Port:
    """An input or the output of a graph, float32.

    Attributes:
        name: of the tensor.
        shape: its first ``DIMENSIONS``; -1 where any size will do.
        text: what it holds, with its unit.
        bands: of an image.
    """

    name: str
    shape: tuple[int, ...]
    text: str
    bands: tuple[str, ...] = ()

    @property
    def dimensions(self) -> tuple[str, ...]:
        return DIMENSIONS[: len(self.shape)]

    @property
    def line(self) -> str:
        """One line of a model card."""
        sizes = [name if size < 0 else str(size) for name, size in zip(self.dimensions, self.shape)]
        return f"`{self.name}`, float32 ({', '.join(sizes)}): {self.text}"

    @property
    def structure(self) -> dict[str, Any]:
        """As MLM describes a tensor."""
        return {"shape": list(self.shape), "dim_order": list(self.dimensions), "data_type": "float32"}


@dataclass(frozen=True)
class Description:
    """What an exported graph takes and gives.

    Attributes:
        name: of the weights.
        architecture: of the network.
        gsd: ground sampling distance of images, meters.
        tile: side of a tile, px.
        inputs, output: of the graph.
        notes: what a user has to know besides, in sentences.
        parameters: number of the network's parameters.
        card: of the weights.
        sha256: of the weights.
    """

    name: str
    architecture: str
    gsd: float
    tile: int
    inputs: tuple[Port, ...]
    output: Port
    notes: tuple[str, ...]
    parameters: int
    card: Mapping[str, Any] = field(repr=False)
    sha256: str = field(repr=False)

    @property
    def text(self) -> str:
        """What the graph does, in one paragraph."""
        return " ".join((
            f"Predicts height from a satellite image: {self.output.text}, at a ground sampling distance of "
            f"{self.gsd:g} m, on tiles of {self.tile} x {self.tile} px.", *self.notes,
        ))

    @property
    def datasets(self) -> list[str]:
        """What the weights were trained on."""
        parts = re.split(r";(?![^()]*\))", str(self.card.get("data", "")))  # not those in parentheses
        return [part.strip() for part in parts if part.strip()]

    @property
    def scores(self) -> list[dict[str, Any]]:
        """The card's scores on held-out areas."""
        return list(self.card.get("held-out scores", []))


def stac_item(
    description: Description, graph: str, card: str, size: int, sha256: str, license: str | None
) -> dict[str, Any]:
    """The STAC item of an exported graph; it has no geometry, because weights are not of one place.

    Args:
        graph, card: names of the files next to the item.
        size, sha256: of the graph.
        license: of the weights, an SPDX identifier; None if it is not known.
    """
    initial, now = description.card.get("initial weights"), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    bands = [{"name": band, "data_type": "uint8"} for port in description.inputs for band in port.bands]
    properties = {
        "datetime": now, "created": now, "title": f"Sat2DEM {description.name}", "description": description.text,
        "license": license or "other", "gsd": description.gsd, "bands": bands,
        "mlm:name": _identifier(description.name), "mlm:architecture": description.architecture,
        "mlm:tasks": ["regression"], "mlm:framework": "ONNX", "mlm:total_parameters": description.parameters,
        "mlm:pretrained": initial is not None, "mlm:pretrained_source": initial, "mlm:accelerator": None,
        "mlm:input": [_input(port) for port in description.inputs],
        "mlm:output": [{
            "name": description.output.name, "description": description.output.text, "tasks": ["regression"],
            "result": description.output.structure, "post_processing_function": None,
        }],
        "mlm:hyperparameters": {
            "ground_sampling_distance": description.gsd, "tile": description.tile, "notes": list(description.notes),
            "weights_sha256": description.sha256, "held_out_scores": description.scores,
        },
    }
    assets = {
        "model": {
            "href": f"./{graph}", "title": "Network with normalization and unit, ONNX",
            "type": "application/octet-stream; framework=onnx", "roles": ["mlm:model", "mlm:weights"],
            "mlm:artifact_type": "onnx", "file:size": size, "file:checksum": f"1220{sha256}",  # as a multihash
            "bands": bands,  # MLM's schema asks for them in the properties, STAC's then for them here, too
        },
        "card": {"href": f"./{card}", "title": "Model card", "type": "text/markdown", "roles": ["metadata"]},
    }
    return {
        "type": "Feature", "stac_version": "1.1.0", "stac_extensions": list(SCHEMAS),
        "id": _identifier(description.name), "geometry": None, "properties": properties, "links": [], "assets": assets,
    }


def _input(port: Port) -> dict[str, Any]:
    """An input as MLM describes it, with the way from an image's bytes to it."""
    scaling = [{"type": "min-max", "minimum": 0, "maximum": 255}] if port.bands else None
    return {
        "name": port.name, "description": port.text, "bands": list(port.bands), "input": port.structure,
        "value_scaling": scaling, "resize_type": None, "pre_processing_function": None,
    }


def _identifier(name: str) -> str:
    """A name as MLM allows it: letters, digits and ``_.-``, the first a letter."""
    return "sat2dem-" + (re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-_.") or "model")


def model_card(description: Description, graph: str, license: str | None) -> str:
    """A model card in Hugging Face's form.

    Args:
        graph: name of the ONNX file.
        license: of the weights, an SPDX identifier; None if it is not known.
    """
    header = {
        "license": (license or "unknown").lower(), "library_name": "onnx", "pipeline_tag": "depth-estimation",
        "tags": ["onnx", "onnxruntime", "remote-sensing", "satellite-image", "digital-elevation-model", "regression"],
        "datasets": description.datasets, "metrics": list(METRICS.values()), "model-index": _index(description),
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    card = description.card
    known = {key: card[key] for key in ("command", "seed", "code", "date", "initial weights") if key in card}
    parts = [
        "\n".join(["---", *lines, "---"]), f"# Sat2DEM {description.name}", description.text,
        "## Input and output",
        "\n".join([*(f"- input {port.line}" for port in description.inputs), f"- output {description.output.line}"]),
        "Normalization and unit are inside the graph.",
        f"```python\n{_example(description, graph)}\n```",
        "In QGIS, the plugin Deepness reads resolution, tile size and overlap from the file. It does not join the "
        "levels of tiles: `sat2dem predict` makes one surface, with a prediction interval, and ties it to known "
        "heights.",
        "## Training data", "\n".join(f"- {text}" for text in description.datasets) or "The weights do not say.",
    ]
    if description.scores:
        columns = [_place(score) for score in description.scores]
        table = pd.DataFrame(description.scores).T.set_axis(columns, axis=1)
        parts += ["## Scores on held-out areas", "Errors are in meters.", table.to_markdown()]
    origin = {"SHA-256": description.sha256, **known}
    parts += [
        "## Limits", str(card.get("limits", "The weights do not say.")),
        "## Origin of the weights", "\n".join(f"- {key}: {value}" for key, value in origin.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _example(description: Description, graph: str) -> str:
    """A few lines of Python that run the graph."""
    inputs = ", ".join(f'"{port.name}": {port.name}' for port in description.inputs)
    return (
        f'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{graph}")\n'
        f'{description.output.name} = session.run(["{description.output.name}"], {{{inputs}}})[0]'
    )


def _index(description: Description) -> list[dict[str, Any]]:
    """The scores as Hugging Face lists them."""
    results = [
        {
            "task": {"type": "depth-estimation", "name": "Height from a satellite image"},
            "dataset": {"type": score["scene"], "name": _place(score)},
            "metrics": [
                {"type": metric, "name": f"{name}, m", "value": score[name]}
                for name, metric in METRICS.items() if name in score
            ],
        }
        for score in description.scores if "scene" in score
    ]
    return [{"name": description.name, "results": results}] if results else []


def _place(score: Mapping[str, Any]) -> str:
    """Where a score was measured."""
    return f"{score.get('scene', 'held-out areas')}, {score.get('part', 'held out')}"
