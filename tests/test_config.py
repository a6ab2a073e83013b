from dataclasses import asdict

import pytest

from sat2dem_core.config import PRESETS, Config, preset
from sat2dem_core.errors import InvalidConfig, UnknownName
from sat2dem_core.models.methods import build_method


def test_paper_preset_is_the_authors_settings():
    """Field by field; what the authors name no value for is off, and what a schedule does not use stands at its default."""
    assert asdict(preset("paper")) == {
        "scene": "rocky-mountain", "split": "paper", "version": 1, "tile": 256, "stride": 256,
        "method": "unet", "attention": "none", "attention_form": "paper", "drpan": "detached", "normalization": "shift",
        "features": 64, "critic_features": 64, "l1_weight": 100, "region_weight": 10, "penalty_weight": 10,
        "gradient": "none", "gradient_weight": 20, "second_weight": Config.second_weight,
        "learning_rate": 2e-4, "batch": 32, "accumulate": 1, "schedule": "plateau", "warmup": Config.warmup, "ema": 0,
        "steps": Config.steps, "epochs": 500, "validate_every": 1, "flips": "both", "crops": False,
        "precision": "float32", "compile": False, "seed": 0,
    }
    method = build_method(preset("paper", method="drpan"))
    method.start(meters=1.0, gsd=(30.0, 30.0))
    assert {kind.defaults["betas"] for kind in method.optimizers.values()} == {(0.5, 0.999)}
    assert {kind.defaults["lr"] for kind in method.optimizers.values()} == {2e-4} and len(method.optimizers) == 3


def test_changes_replace_settings_and_leave_the_preset_alone():
    assert preset("cpu", seed=7).seed == 7
    assert PRESETS["cpu"].seed == 0 == preset("cpu").seed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preset("fast"), "unknown preset 'fast': choose one of cpu"),
        (lambda: preset("cpu", learningrate=1), "unknown setting 'learningrate': choose one of scene, .*learning_rate"),
        (lambda: Config(split="random"), "unknown split 'random': choose one of space, blocks, paper"),
        (lambda: Config(flips="up"), "unknown flips 'up': choose one of none, horizontal, vertical, both"),
        (lambda: Config(precision="half"), "unknown precision 'half': choose one of float32, mixed"),
        (lambda: Config(schedule="step"), "unknown schedule 'step': choose one of plateau, cosine"),
    ],
)
def test_unknown_names_list_the_valid_ones(make, message):
    with pytest.raises(UnknownName, match=message):
        make()


@pytest.mark.parametrize(
    "name", ["batch", "steps", "stride", "features", "validate_every", "learning_rate", "l1_weight"],
)
def test_settings_that_must_be_positive_are_refused_otherwise(name):
    for value in (0, -1):
        with pytest.raises(InvalidConfig, match=f"{name} is {value}: give a positive number"):
            Config(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", -1), ("seed", -1), ("seed", 2**64), ("learning_rate", float("nan")), ("learning_rate", float("inf")),
     ("steps", 2.5), ("batch", "16"), ("crops", "yes"), ("scene", None)],
)
def test_values_that_make_no_run_are_refused_and_named(name, value):
    with pytest.raises(InvalidConfig, match=f"{name} is .*{value}.*: give"):
        Config(**{name: value})


def test_tiles_that_overlap_cannot_be_split_by_blocks():
    with pytest.raises(InvalidConfig, match="tiles of 64 px at a stride of 4 overlap, across blocks too: set stride=64"):
        Config(split="blocks")
    Config(split="blocks", stride=64)
