import json
import re
import subprocess
import sys

import pytest

from sat2dem_core import training
from sat2dem_core.__main__ import main
from sat2dem_core.checkpoints import load_model

TINY = ["--scene", "rocky-mountain", "--tile", "32", "--features", "4", "--stride", "32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that the shell trained."""
    folder = tmp_path_factory.mktemp("shell") / "run"
    command = [sys.executable, "-m", "sat2dem_core", "train", "--preset", "cpu", "--epochs", "1"]
    done = subprocess.run([*command, *TINY, "--run", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{re.escape(str(folder))}: validation MAE \d+\.\d m at step 2\n", done.stdout)
    return folder


def test_train_fills_the_folder_with_the_settings_that_were_given(run):
    config = json.loads((run / "config.json").read_text())["config"]
    assert (config["scene"], config["tile"], config["features"], config["stride"]) == ("rocky-mountain", 32, 4, 32)
    assert config["epochs"] == 1 and config["batch"] == 16
    assert load_model(run).config.features == 4


def test_the_same_command_again_loads_the_run(run, capsys):
    times = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    assert main(["train", "--epochs", "1", *TINY, "--run", str(run)]) == 0
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == times


def test_evaluate_prints_every_question_beside_the_baselines(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("MAE", "RMSE", "SSIM", "R2", "absolute", "above minimum", "relief"))
    assert table.count("unet") == table.count("constant") == table.count("tile mean") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--scene", "atlantis"], "unknown scene 'atlantis': choose one of rocky-mountain"),
        (["train", "--preset", "fast"], "unknown preset 'fast': choose one of cpu"),
        (["train", "--method", "pix2pixx"], "unknown method 'pix2pixx': choose one of unet"),
        (["train", "--epochs", "many"], "epochs is 'many': give a number (int)"),
        (["train", "--crops", "maybe"], "crops is 'maybe': give true or false"),
        (["train", "--batch", "0"], "batch is 0: give a positive number"),
        (["evaluate", "nowhere"], "nowhere cannot be read"),
    ],
)
def test_mistakes_end_in_one_sentence_and_status_1(arguments, message, capsys):
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ") and message in output.err
    assert output.err.count("\n") == 1


def test_run_folder_of_other_settings_is_refused(run, capsys):
    assert main(["train", "--epochs", "1", *TINY, "--seed", "4", "--run", str(run)]) == 1
    assert "holds a run with other config (seed=0): choose another folder" in capsys.readouterr().err


def test_module_shows_no_traceback(tmp_path):
    command = [sys.executable, "-m", "sat2dem_core", "evaluate", tmp_path / "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_interruption_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    assert main(["train"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--help"], ["train", "evaluate"]), (["train", "--help"], ["--run DIR", "--learning-rate FLOAT", "paper"])],
)
def test_help_tells_verbs_and_settings(arguments, words, capsys):
    with pytest.raises(SystemExit) as exit_status:
        main(arguments)
    assert exit_status.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in words)
