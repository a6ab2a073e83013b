"""Everything that decides what a run computes, with the presets to start from."""

import importlib
import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from sat2dem_core.errors import InvalidConfig, choose

FLIPS = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-1, -2)}  # the axes that are mirrored
REGISTRIES = {  # of settings whose choices can be added to: module and name
    "method": ("methods", "METHODS"), "attention": ("attention", "ATTENTIONS"), "gradient": ("losses", "GRADIENTS"),
}
KINDS: dict[Any, Any] = {int: int, float: (int, float), bool: bool, str: str}  # of a setting: what may be given
Value = TypeVar("Value")


def setting(default: Value, help: str, choices: Iterable[str] = ()) -> Value:
    """A field of :class:`Config` with its meaning, for the documentation and for ``sat2dem train --help``."""
    return field(default=default, metadata={"help": help, "choices": tuple(choices)})


@dataclass(frozen=True)
class Config:
    """The settings of one run; stored with it, so that a checkpoint rebuilds its own model."""

    scene: str = setting(
        "rocky-mountain",
        help="name of a scene, such as rocky-mountain or zion, or path of a tile store (.zarr)",
    )
    split: str = setting(
        "space", choices=("space", "blocks", "paper"),
        help="how tiles are split into training, validation and test: by regions with a gap between them (space; in a "
        "store, by groups of tiles), by whole blocks of neighboring tiles drawn at random (blocks), or by the paper's "
        "shuffle of single tiles (paper)",
    )
    version: int = setting(1, help="which random draw of blocks, or which of the paper's four splits (1 to 4)")
    tile: int = setting(64, help="side of a tile in pixels, a power of two from 32 to 512")
    stride: int = setting(
        4, help="distance between neighboring training tiles in pixels; validation and test tiles never overlap"
    )
    method: str = setting("unet", choices=("unet", "pix2pix", "drpan"), help="the networks and how they are trained")
    attention: str = setting("none", choices=("none", "cbam", "gam", "simam"), help="attention block of the networks")
    attention_form: str = setting(
        "paper", choices=("paper", "original"),
        help="the attention block as the paper describes it, or as the block's own article does (original)",
    )
    drpan: str = setting(
        "flow", choices=("flow", "detached"),
        help="whether the gradients of DRPAN's reviser and region loss reach the generator (flow) or not (detached)",
    )
    normalization: str = setting(
        "shift", choices=("global", "shift"),
        help="elevation as a share of the data set's range (global), or above each tile's lowest point (shift)",
    )
    features: int = setting(16, help="channels at the first level of the U-Net")
    critic_features: int = setting(16, help="channels at the first level of discriminator and reviser")
    l1_weight: float = setting(100.0, help="weight of the L1 loss")
    region_weight: float = setting(10.0, help="weight of DRPAN's region loss")
    penalty_weight: float = setting(10.0, help="weight of the gradient penalty on DRPAN's reviser")
    gradient: str = setting(
        "none", choices=("none", "first", "second", "fused", "slope"),
        help="loss term on derivatives of elevation: first or second order, both (fused), or slope in meters per meter",
    )
    gradient_weight: float = setting(20.0, help="weight of the first-order term, or of the slope term")
    second_weight: float = setting(20.0, help="weight of the second-order term")
    learning_rate: float = setting(1e-3, help="learning rate of Adam")
    batch: int = setting(16, help="tiles per step, over all processes together")
    accumulate: int = setting(
        1,
        help="number of parts that a batch is computed in, one after the other, if it does not fit into memory; the "
        "update is the same up to rounding, except for dropout and the batch norms of the original CBAM and GAM",
    )
    schedule: str = setting(
        "cosine", choices=("plateau", "cosine"),
        help="learning rate: halved when the validation error has not improved for 20 validations, as in the paper "
        "(plateau), or lowered to zero by the last step (cosine)",
    )
    warmup: float = setting(0.1, help="share of the steps over which cosine first raises the learning rate from zero")
    ema: float = setting(
        0.0,
        help="share of the generator's moving average that each step keeps, such as 0.999; the average is then what is "
        "validated, saved and used; 0 for no average",
    )
    steps: int = setting(600, help="number of updates")
    epochs: int = setting(0, help="number of passes over the training tiles, instead of steps; 0 to count by steps")
    validate_every: int = setting(
        1, help="epochs between two validations, each of which adds a line to the log and saves a checkpoint"
    )
    flips: str = setting(
        "both", choices=FLIPS,
        help="mirror training tiles at random: left-right (horizontal), up-down (vertical), or both; the sun of a "
        "mirrored tile is on the wrong side",
    )
    crops: bool = setting(
        False,
        help="cut training tiles anew each epoch, anywhere in the training region; stride then sets only their number",
    )
    precision: str = setting(
        "float32", choices=("float32", "mixed"),
        help="number format: float32 as in the paper, or 16 bits for convolutions where the device supports "
        "them natively (mixed); statistics of norms, last layer, losses and metrics stay in float32",
    )
    tf32: bool = setting(
        False,
        help="let NVIDIA GPUs since Ampere round what float32 convolutions and matrix products multiply to TF32, which "
        "keeps 10 of 23 bits of the fraction: faster, and less exact; false for float32 on every GPU",
    )
    compile: bool = setting(
        False, help="fuse the operations between convolutions with torch.compile; the first step then takes a minute"
    )
    seed: int = setting(0, help="seed of the initial weights and of everything random in training")

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            kind: Any = entry.type
            if type(value).__module__ == "numpy" and hasattr(value, "item"):  # NumPy's numbers are numbers
                value = value.item()
                object.__setattr__(self, entry.name, value)
            # To Python, True is an integer.
            if isinstance(value, bool) != (kind is bool) or not isinstance(value, KINDS[kind]):
                raise InvalidConfig(f"{entry.name} is {value!r}: give {kind.__name__}")
        for entry in fields(self):
            choices, value = entry.metadata["choices"], getattr(self, entry.name)
            if choices and value not in choices:
                choose(entry.name.replace("_", " "), value, _registered(entry.name) or choices)
        positive = (
            "batch", "accumulate", "steps", "stride", "features", "critic_features", "validate_every", "learning_rate",
            "l1_weight",
        )
        for name in positive:
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidConfig(f"{name} is {getattr(self, name)}: give a positive number")
        for name in ("warmup", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidConfig(f"{name} is {getattr(self, name)}: give a share from 0 to below 1")
        if self.crops and self.split != "space":
            raise InvalidConfig(f"crops are cut from a region, and split={self.split} has none: choose split=space")
        if self.split == "blocks" and self.stride < self.tile:
            raise InvalidConfig(
                f"tiles of {self.tile} px at a stride of {self.stride} px overlap, also across blocks: "
                f"set stride={self.tile}"
            )
        if self.epochs < 0:
            raise InvalidConfig(f"epochs is {self.epochs}: give 0 to count by steps, or a positive number")
        if not 0 <= self.seed < 2**63:
            raise InvalidConfig(f"seed is {self.seed}: give 0 or a positive number below 2^63")

    def cosine(self, step: int, steps: int) -> float:
        """Learning rate of the cosine schedule at a step, counted from 0."""
        rising = (step + 1) / (self.warmup * steps) if self.warmup else 1.0
        return self.learning_rate * min(rising, 0.5 * (1 + math.cos(math.pi * step / steps)))


def _registered(name: str) -> Iterable[str]:
    """The choices of a setting that has a registry; none for others. Only a name that is not listed needs to look."""
    if name not in REGISTRIES:
        return ()
    module, registry = REGISTRIES[name]
    return getattr(importlib.import_module(f"sat2dem_core.models.{module}"), registry)


def meanings() -> dict[str, str]:
    """The meaning of each setting, in one sentence."""
    return {entry.name: entry.metadata["help"] for entry in fields(Config)}


# The meanings for the page of this module, too. With -OO the class has no docstring of its own, and nobody reads this.
Config.__doc__ = "\n".join([
    inspect.cleandoc(Config.__doc__ or ""), "", "Attributes:",
    *(f"    {name}: {meaning}" for name, meaning in meanings().items()),
])


PRESETS = {
    "cpu": Config(),
    # The paper's network on a free Colab T4 for an evening: 1.3 million tiles, convolutions in float16.
    "gpu": Config(
        tile=256, stride=64, features=64, critic_features=64, learning_rate=2e-4, batch=32, steps=40_000,
        validate_every=5, precision="mixed",
    ),
    # The best settings of studies/search-*.toml on the validation tiles of a 30 m scene: minutes on two cores.
    "zion": Config(
        scene="zion", tile=128, stride=32, precision="mixed", learning_rate=2e-3, flips="none", steps=3960,
        validate_every=4,
    ),
    # The authors' code, whose DRPAN sends no gradient from reviser and region to the generator.
    "paper": Config(
        split="paper", tile=256, stride=256, features=64, critic_features=64, learning_rate=2e-4, batch=32,
        schedule="plateau", epochs=500, drpan="detached",
    ),
}


def preset(name: str, **changes: Any) -> Config:
    """The settings of a preset, with any field changed by keyword.

    Raises:
        UnknownName: no such preset or field; the message lists the valid names.

    >>> preset("cpu", method="pix2pix").steps
    600
    """
    for changed in changes:
        choose("setting", changed, meanings())
    return replace(PRESETS[choose("preset", name, PRESETS)], **changes)
