from dataclasses import asdict

import pytest

from sat2dem_core.config import PRESETS, Config, preset
from sat2dem_core.errors import InvalidConfig, UnknownName


def test_paper_preset_is_the_authors_settings():
    expected = {
        "tile": 256, "features": 64, "learning_rate": 2e-4, "batch": 32, "epochs": 500, "l1_weight": 100,
        "schedule": "plateau", "split": "paper", "flips": "both", "precision": "float32", "ema": 0, "accumulate": 1, "crops": False,
    }
    paper = asdict(preset("paper"))
    assert {name: paper[name] for name in expected} == expected


def test_changes_replace_settings_and_leave_the_preset_alone():
    assert preset("cpu", seed=7).seed == 7
    assert PRESETS["cpu"].seed == 0 == preset("cpu").seed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preset("fast"), "unknown preset 'fast': choose one of cpu"),
        (lambda: preset("cpu", learningrate=1), "unknown setting 'learningrate': choose one of scene, .*learning_rate"),
        (lambda: Config(split="random"), "unknown split 'random': choose one of space, paper"),
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
