"""Settings, their meanings, and what is refused."""

import subprocess
import sys
from dataclasses import asdict, fields

import numpy as np
import pytest

from sat2dem_core.config import PRESETS, Config, meanings, preset
from sat2dem_core.dataset.normalize import NORMALIZATIONS
from sat2dem_core.errors import InvalidConfig, UnknownName
from sat2dem_core.models.attention import ATTENTIONS, FORMS
from sat2dem_core.models.losses import GRADIENTS
from sat2dem_core.models.methods import METHODS, build_method


def test_paper_preset_is_the_authors_settings():
    """Field by field. Settings that the authors do not name are off; those that the schedule ignores have defaults."""
    assert asdict(preset("paper")) == {
        "scene": "rocky-mountain", "split": "paper", "version": 1, "tile": 256, "stride": 256,
        "method": "unet", "attention": "none", "attention_form": "paper", "drpan": "detached", "normalization": "shift",
        "features": 64, "critic_features": 64, "l1_weight": 100, "region_weight": 10, "penalty_weight": 10,
        "gradient": "none", "gradient_weight": 20, "second_weight": Config.second_weight,
        "learning_rate": 2e-4, "batch": 32, "accumulate": 1, "schedule": "plateau", "warmup": Config.warmup, "ema": 0,
        "steps": Config.steps, "epochs": 500, "validate_every": 1, "flips": "both", "crops": False,
        "precision": "float32", "tf32": False, "compile": False, "seed": 0,
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
        (lambda: Config(drpan="on"), "unknown drpan 'on': choose one of flow, detached"),
        (lambda: Config(attention_form="own"), "unknown attention form 'own': choose one of paper, original"),
        (lambda: Config(normalization="local"), "unknown normalization 'local': choose one of global, shift"),
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
    message = "tiles of 64 px at a stride of 4 px overlap, also across blocks: set stride=64"
    with pytest.raises(InvalidConfig, match=message):
        Config(split="blocks")
    Config(split="blocks", stride=64)


@pytest.mark.parametrize(
    ("setting", "registry"),
    [("method", METHODS), ("attention", ATTENTIONS), ("attention_form", FORMS), ("gradient", GRADIENTS),
     ("normalization", NORMALIZATIONS)],
)
def test_the_choices_in_the_help_are_those_of_the_registries(setting, registry):
    choices = {entry.name: entry.metadata["choices"] for entry in fields(Config)}
    assert choices[setting] == tuple(registry)


def test_a_registered_block_of_ones_own_is_accepted(monkeypatch):
    for setting, registry in (("method", METHODS), ("attention", ATTENTIONS), ("gradient", GRADIENTS)):
        with pytest.raises(UnknownName, match=f"unknown {setting} 'mine': choose one of"):
            Config(**{setting: "mine"})
        monkeypatch.setitem(registry, "mine", next(iter(registry.values())))
        assert getattr(Config(**{setting: "mine"}), setting) == "mine"


def test_numbers_of_numpy_are_numbers_and_truth_is_none():
    config = Config(steps=np.int64(7), learning_rate=np.float32(0.5), crops=np.bool_(False))
    assert (type(config.steps), type(config.learning_rate), type(config.crops)) == (int, float, bool)
    for wrong in ({"steps": True}, {"crops": 1}, {"steps": 2.0}, {"learning_rate": "fast"}, {"critic_features": 0}):
        with pytest.raises(InvalidConfig, match=f"{next(iter(wrong))} is "):
            Config(**wrong)


def test_every_setting_is_explained_in_the_documentation_and_in_the_help():
    assert list(meanings()) == [entry.name for entry in fields(Config)]
    for name, meaning in meanings().items():
        assert len(meaning) > 15 and f"\n    {name}: {meaning}" in Config.__doc__
    assert Config.__doc__.startswith("The settings of one run") and "\n\nAttributes:\n    scene: " in Config.__doc__


def test_help_needs_no_docstrings():
    command = [sys.executable, "-OO", "-m", "sat2dem_core", "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "--seed INT seed of the initial weights and of everything random in training [0]" in shown
