"""Several processes on one run: two real ones on the CPU, started as a user starts them."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd

from sat2dem_core import training
from sat2dem_core.checkpoints import load_checkpoint
from sat2dem_core.config import preset

SETTINGS = {"tile": 32, "features": 4, "critic_features": 4, "stride": 24, "batch": 5, "steps": 27}
LOSING = """
import os, sys, torch
from sat2dem_core import methods
from sat2dem_core.__main__ import main
step, calls = methods.Method.step, []

def failing(self, *batch):
    calls.append(0)
    if os.environ["RANK"] == "1" and len(calls) == 14:
        os._exit(9)
    return step(self, *batch)

methods.Method.step = failing
sys.exit(main(sys.argv[1:]))
"""


def launch(arguments, processes=2, script=None):
    """The shell's command under torch's launcher."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    module = ["--", str(script)] if script else ["-m", "--", "sat2dem_core"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}
    return subprocess.run([*launcher, *module, *arguments], capture_output=True, text=True, timeout=120, env=environment)


def shell(settings, folder):
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return ["train", *options, "--run", str(folder)]


def test_two_processes_follow_the_curve_of_one(tmp_path):
    """DRPAN has every part there is: with dropout, flips, a last batch of two tiles and the reviser's random mixture, all drawn for the whole batch."""
    settings = SETTINGS | {"method": "drpan", "learning_rate": 2e-4}
    done = launch(shell(settings, tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation MAE") == 1  # one speaks for both
    one = training.train(preset("cpu", **settings), run=tmp_path / "one", progress=False)
    two = pd.read_csv(tmp_path / "two" / "log.csv")
    assert two.step.tolist() == [9, 18, 27] and len(one.data.train) % 5 == 2
    np.testing.assert_allclose(two, one.log, rtol=2e-3)
    np.testing.assert_allclose(two.loss[:1], one.log.loss[:1], rtol=1e-5)
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2


def test_a_lost_process_ends_the_run_with_a_clear_error_and_the_same_command_goes_on(tmp_path):
    (tmp_path / "failing.py").write_text(LOSING)
    arguments = shell(SETTINGS, tmp_path / "run")
    done = launch(arguments, script=tmp_path / "failing.py")
    assert done.returncode != 0
    assert f"error: another process of the run in {tmp_path / 'run'} is gone: " in done.stderr
    assert load_checkpoint(tmp_path / "run" / "last.json")[1]["step"] == 9
    done = launch(arguments)
    assert done.returncode == 0, done.stderr
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    whole = training.train(preset("cpu", **SETTINGS), run=tmp_path / "whole", progress=False).log
    np.testing.assert_allclose(log, whole, rtol=2e-2)
