"""Everything that decides what a run computes, with the presets to start from."""

import inspect
import math
import re
from dataclasses import dataclass, fields, replace
from typing import Any

from sat2dem_core.errors import InvalidConfig, choose

SPLITS = ("space", "blocks", "paper")
SCHEDULES = ("plateau", "cosine")
PRECISIONS = ("float32", "mixed")
FLIPS = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-1, -2)}  # the axes that are mirrored


@dataclass(frozen=True)
class Config:
    """The settings of one run; saved with it, so that a checkpoint rebuilds its own model.

    Attributes:
        scene: a name of :data:`sat2dem_core.dataset.scenes.SCENES`, or the path of a store, ``….zarr``.
        split: ``"space"``, regions with a gap (see :func:`sat2dem_core.dataset.tiles.divide`; of a store, blocks), ``"blocks"``,
            whole blocks of neighboring tiles drawn at random, or ``"paper"``, the shuffle of single tiles.
        version: which draw of blocks, or which of the paper's splits, 1 to 4.
        tile: side of a tile, px: a power of two from 32 to 512.
        stride: px between neighboring training tiles. Held-out tiles never overlap.
        method: ``unet``, ``pix2pix`` or ``drpan``; see :data:`sat2dem_core.models.methods.METHODS`.
        attention: ``none``, ``cbam``, ``gam`` or ``simam``; see :data:`sat2dem_core.models.attention.ATTENTIONS`.
        attention_form: ``"paper"``, or ``"original"`` as the block's own article has it.
        drpan: ``"flow"``, reviser and region send their gradients to the generator, or ``"detached"``, they do not.
        normalization: ``global`` or ``shift``; see :mod:`sat2dem_core.dataset.normalize`.
        features: channels of the first level of the U-Net.
        critic_features: those of discriminator and reviser.
        l1_weight: factor of the L1 loss.
        region_weight: factor of DRPAN's region loss.
        penalty_weight: factor of the reviser's gradient penalty.
        gradient: term ``none``, ``first``, ``second``, ``fused`` or ``slope``; see :data:`sat2dem_core.models.losses.GRADIENTS`.
        gradient_weight: factor of the first-order (or slope) term.
        second_weight: factor of the second-order term.
        learning_rate: Adam's.
        batch: tiles a step, over all processes together.
        accumulate: in how many parts a batch is computed, one after the other, where it does not fit into memory whole.
            The update is the same but for rounding and for the batch norms of the original CBAM and GAM.
        schedule: ``"plateau"`` halves the rate when validation stands still for 20 rounds, as the paper does;
            ``"cosine"`` lowers it to zero by the last step.
        warmup: share of the steps over which ``"cosine"`` first raises the rate from zero.
        ema: how much of the generator's moving average each step keeps (0.999, say); the average is what is validated,
            saved and used. 0 for none.
        steps: number of updates.
        epochs: where not 0, counts by passes over the training tiles instead of by steps.
        validate_every: epochs between two validations, each with a line in the log and a checkpoint.
        flips: mirror training tiles at random: ``"horizontal"`` is left-right, ``"vertical"`` up-down, ``"both"`` either,
            ``"none"`` neither. A mirrored tile has its sun on the wrong side.
        crops: cut training tiles anew each epoch, anywhere in the training region; the stride then only says how many.
        precision: ``"float32"``, or ``"mixed"``: convolutions in 16 bits where the device computes so natively, norms'
            statistics, last layer, losses and metrics in float32. Float32 unless asked, as the paper has it.
        compile: let torch.compile fuse what lies between the convolutions; the first step then takes a minute.
        seed: of the initial weights and all that is random in training.
    """

    scene: str = "rocky-mountain"
    split: str = "space"
    version: int = 1
    tile: int = 64
    stride: int = 4
    method: str = "unet"
    attention: str = "none"
    attention_form: str = "paper"
    drpan: str = "flow"
    normalization: str = "shift"
    features: int = 16
    critic_features: int = 16
    l1_weight: float = 100.0
    region_weight: float = 10.0
    penalty_weight: float = 10.0
    gradient: str = "none"
    gradient_weight: float = 20.0
    second_weight: float = 20.0
    learning_rate: float = 1e-3
    batch: int = 16
    accumulate: int = 1
    schedule: str = "cosine"
    warmup: float = 0.1
    ema: float = 0.0
    steps: int = 600
    epochs: int = 0
    validate_every: int = 1
    flips: str = "both"
    crops: bool = False
    precision: str = "float32"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        choose("split", self.split, SPLITS)
        choose("schedule", self.schedule, SCHEDULES)
        choose("precision", self.precision, PRECISIONS)
        choose("flips", self.flips, FLIPS)
        for field in fields(self):
            value = getattr(self, field.name)
            kind: Any = field.type
            if not isinstance(value, int | float if kind is float else kind):
                raise InvalidConfig(f"{field.name} is {value!r}: give {kind.__name__}")
        for name in ("batch", "accumulate", "steps", "stride", "features", "validate_every", "learning_rate", "l1_weight"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidConfig(f"{name} is {getattr(self, name)}: give a positive number")
        for name in ("warmup", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidConfig(f"{name} is {getattr(self, name)}: give a share from 0 to below 1")
        if self.crops and self.split != "space":
            raise InvalidConfig("crops are cut from a region, and the paper's split has none: choose split=space")
        if self.split == "blocks" and self.stride < self.tile:
            raise InvalidConfig(
                f"tiles of {self.tile} px at a stride of {self.stride} overlap, across blocks too: set stride={self.tile}"
            )
        if self.epochs < 0:
            raise InvalidConfig(f"epochs is {self.epochs}: give 0 to count by steps, or a positive number")
        if not 0 <= self.seed < 2**63:
            raise InvalidConfig(f"seed is {self.seed}: give 0 or a positive number below 2^63")

    def cosine(self, step: int, steps: int) -> float:
        """The learning rate of a step of the cosine schedule, the first being 0."""
        rising = (step + 1) / (self.warmup * steps) if self.warmup else 1.0
        return self.learning_rate * min(rising, 0.5 * (1 + math.cos(math.pi * step / steps)))


PRESETS = {
    "cpu": Config(),
    # The paper's network on a free Colab T4 for an evening: 1.3 million tiles in float16 and a cosine that ends there.
    "gpu": Config(
        tile=256, stride=64, features=64, critic_features=64, learning_rate=2e-4, batch=32, steps=40_000,
        validate_every=5, precision="mixed",
    ),
    # What studies/search-*.toml found best on the validation part of a 30 m scene, in minutes on two cores.
    "zion": Config(
        scene="zion", tile=128, stride=32, precision="mixed", learning_rate=2e-3, flips="none", steps=3960, validate_every=4,
    ),
    # The authors' code, whose DRPAN sends no gradient from reviser and region to the generator.
    "paper": Config(
        split="paper", tile=256, stride=256, features=64, critic_features=64, learning_rate=2e-4, batch=32,
        schedule="plateau", epochs=500, drpan="detached",
    ),
}


def meanings() -> dict[str, str]:
    """What each setting means, from :class:`Config`'s docstring: the one source, also of the shell's help."""
    text = inspect.cleandoc(Config.__doc__ or "").split("Attributes:\n")[1]
    entries = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {
        name: re.sub(r":\w+:`([^`]*)`", r"\1", " ".join(meaning.replace("``", "").split()))
        for names, meaning in entries for name in names.split(", ")
    }


def preset(name: str, **changes: Any) -> Config:
    """The settings of a preset, with any field changed by keyword.

    Raises:
        UnknownName: no such preset or field; the message lists the valid ones.

    >>> preset("cpu", method="pix2pix").steps
    600
    """
    known = [field.name for field in fields(Config)]
    for field in changes:
        choose("setting", field, known)
    return replace(PRESETS[choose("preset", name, PRESETS)], **changes)
