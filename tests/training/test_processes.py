"""Runs in processes of their own, started as a user starts them: killed and started again; two at once."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import torch

from sat2dem_core.config import preset
from sat2dem_core.training import trainer
from sat2dem_core.training.checkpoints import load_checkpoint

SETTINGS = {"tile": 32, "features": 4, "critic_features": 4, "stride": 24, "batch": 5, "steps": 27}
LOSING = """
import os, sys, torch
from sat2dem_core.cli import main
from sat2dem_core.models import methods
step, calls = methods.Method.step, []

def failing(self, *batch):
    calls.append(0)
    if os.environ["RANK"] == "1" and len(calls) == 14:
        os._exit(9)
    return step(self, *batch)

methods.Method.step = failing
sys.exit(main(sys.argv[1:]))
"""


ALONE = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}


def launch(arguments, processes=2, script=None):
    """The shell's command under torch's launcher."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    module = ["--", str(script)] if script else ["-m", "--", "sat2dem_core"]
    return subprocess.run([*launcher, *module, *arguments], capture_output=True, text=True, timeout=120, env=ALONE)


def shell(settings, folder):
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return ["train", *options, "--run", str(folder)]


def test_a_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not(tmp_path):
    """Three real SIGKILLs, each a random while after the first checkpoint, in a step or in the middle of a write."""
    settings = SETTINGS | {"method": "pix2pix", "steps": 270, "ema": 0.9}  # thirty epochs
    command = [sys.executable, "-m", "sat2dem_core", *shell(settings, tmp_path / "killed")]
    last, moments, reached = tmp_path / "killed" / "last.json", random.Random(5), [0]
    for _ in range(3):
        before = last.read_bytes() if last.exists() else b""
        child = subprocess.Popen(command, env=ALONE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not last.exists() or last.read_bytes() == before:  # it imports torch for seconds
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.25))
        child.kill()
        assert child.wait() == -signal.SIGKILL
        reached.append(load_checkpoint(last)[1]["step"])
    assert reached == sorted(set(reached)) and reached[-1] < 270
    subprocess.run(command, env=ALONE, check=True, capture_output=True)
    whole = trainer.train(preset("cpu", **settings), run=tmp_path / "whole", progress=False)
    for name in ("last", "best"):
        ours, theirs = (load_checkpoint(tmp_path / run / f"{name}.json")[0] for run in ("killed", "whole"))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "killed" / "log.csv"), whole.log)
    assert not [path for path in (tmp_path / "killed").iterdir() if path.name.startswith(".")]


def test_two_processes_follow_the_curve_of_one(tmp_path):
    """DRPAN has every part there is. Dropout, flips, a last batch of two, the reviser's mixture: all are drawn whole."""
    settings = SETTINGS | {"method": "drpan", "learning_rate": 2e-4}
    done = launch(shell(settings, tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation MAE") == 1  # one speaks for both
    one = trainer.train(preset("cpu", **settings), run=tmp_path / "one", progress=False)
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
    whole = trainer.train(preset("cpu", **SETTINGS), run=tmp_path / "whole", progress=False).log
    np.testing.assert_allclose(log, whole, rtol=2e-2)


NOTEBOOK = """
import json, socket, sys
from accelerate import notebook_launcher
from sat2dem_core.config import preset
from sat2dem_core.training.trainer import train

config = preset("cpu", **json.loads(sys.argv[1]))

def work():
    train(config, run=sys.argv[2], progress=False)

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
notebook_launcher(work, num_processes=2, use_port=str(port))
print(train(config, run=sys.argv[2], progress=False).log.step.tolist())  # the notebook goes on with the finished run
"""


def test_a_notebook_starts_two_processes_and_goes_on_with_their_run(tmp_path):
    """With what a cell would hold; notebook_launcher forks them, also on a CPU."""
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, json.dumps(SETTINGS), str(tmp_path / "run")],
        env=ALONE, capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[9, 18, 27]"
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2
