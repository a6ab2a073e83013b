"""Runs in processes of their own, started as a user starts them: killed and started again; two at once."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist

from sat2dem_core.config import preset
from sat2dem_core.training import distributed, trainer
from sat2dem_core.training.checkpoints import load_checkpoint
from sat2dem_core.training.distributed import Agreement, Group, join

SETTINGS = {"tile": 32, "features": 4, "critic_features": 4, "stride": 24, "batch": 5, "steps": 27}
ALONE = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}


def python(script, *arguments):
    """Run a script of one process."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=ALONE)


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch._dynamo  # which optimizers import when they are first used
from sat2dem_core.config import preset
from sat2dem_core.dataset.parts import prepare
from sat2dem_core.training.checkpoints import load_checkpoint
from sat2dem_core.training.trainer import train

config, last, moments = preset("cpu", **json.loads(sys.argv[1])), Path(sys.argv[2]) / "last.json", random.Random(5)
data = prepare(config)  # once for all starts, like the imports
for _ in range(3):
    before = last.read_bytes() if last.exists() else b""
    child = os.fork()
    if not child:
        train(config, data=data, run=last.parent, progress=False)
        os._exit(0)
    deadline = time.monotonic() + 60
    while not last.exists() or last.read_bytes() == before:
        assert time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.001)
    time.sleep(moments.uniform(0, 0.25))
    os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), load_checkpoint(last)[1]["step"])
train(config, data=data, run=last.parent, progress=False)
"""


def test_a_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not(tmp_path):
    """Three real SIGKILLs, each a random while after the first checkpoint, in a step or in the middle of a write."""
    settings = SETTINGS | {"method": "pix2pix", "steps": 180, "ema": 0.9}  # twenty epochs
    done = python(KILLED, json.dumps(settings), tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    ends, steps = zip(*(map(int, line.split()) for line in done.stdout.splitlines()))
    assert ends == (-signal.SIGKILL,) * 3
    assert 0 < steps[0] < steps[1] < steps[2] < 180
    whole = trainer.train(preset("cpu", **settings), run=tmp_path / "whole", progress=False)
    for name in ("last", "best"):
        ours, theirs = (load_checkpoint(tmp_path / run / f"{name}.json")[0] for run in ("killed", "whole"))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "killed" / "log.csv"), whole.log)
    assert not [path for path in (tmp_path / "killed").iterdir() if path.name.startswith(".")]


WITHOUT_DROPOUT = """
import sys, torch
from sat2dem_core.cli import main

torch.nn.Dropout.forward = lambda self, x: x
sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_follow_the_curve_of_one(tmp_path, monkeypatch):
    """DRPAN has every part there is: flips, a last batch of two tiles.

    Only what a step draws at random differs: dropout, and the mixtures of the reviser's gradient penalty.
    """
    settings = SETTINGS | {"method": "drpan", "learning_rate": 2e-4, "penalty_weight": 0.0}
    (tmp_path / "sat2dem.py").write_text(WITHOUT_DROPOUT, encoding="utf-8")
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--"]
    command = [*torchrun, str(tmp_path / "sat2dem.py"), "train", *options, "--run", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ALONE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation MAE") == 1  # one speaks for both
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    one = trainer.train(preset("cpu", **settings), run=tmp_path / "one", progress=False)
    two = pd.read_csv(tmp_path / "two" / "log.csv")
    assert two.step.tolist() == [9, 18, 27] and len(one.data.train) % 5 == 2
    np.testing.assert_allclose(two, one.log, rtol=2e-3)
    np.testing.assert_allclose(two.loss[:1], one.log.loss[:1], rtol=1e-5)
    assert json.loads((tmp_path / "two" / "environment.json").read_text(encoding="utf-8"))["processes"] == 2


SHARING = """
import json, os, socket, sys
from pathlib import Path
import torch._dynamo
from sat2dem_core.config import preset
from sat2dem_core.dataset.parts import prepare
from sat2dem_core.errors import LostProcess
from sat2dem_core.models import methods
from sat2dem_core.training.checkpoints import load_checkpoint
from sat2dem_core.training.trainer import train

config = preset("cpu", **json.loads(sys.argv[1]))
data = prepare(config)  # once for all starts, like the imports

def lose():
    step, calls = methods.Method.step, []

    def failing(self, *batch):
        calls.append(0)
        return os._exit(9) if len(calls) == 14 else step(self, *batch)

    methods.Method.step = failing

def work(rank, losing):
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
    if rank == losing:
        lose()
    try:
        train(config, data=data, run=sys.argv[2], progress=False)
    except LostProcess as error:
        print(error, flush=True)
        os._exit(1)
    os._exit(0)

for losing in ("1", None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [os.fork() or work(rank, losing) for rank in "01"]
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in both]
    print(*ends, load_checkpoint(Path(sys.argv[2]) / "last.json")[1]["step"], flush=True)
"""


def test_a_lost_process_ends_the_run_with_a_clear_error_and_the_same_command_goes_on(tmp_path):
    """Without torch's launcher, which ends the other process when one is gone, perhaps before it can say so."""
    done = python(SHARING, json.dumps(SETTINGS), tmp_path / "run")
    assert done.stdout.splitlines() == [
        f"another process of the run in {tmp_path / 'run'} is gone: look at its message, and start the same command "
        "again to go on from the last checkpoint",
        "1 9 9",  # how both ended, and the step of the last checkpoint
        "0 0 27",
    ], done.stderr
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    whole = trainer.train(preset("cpu", **SETTINGS), run=tmp_path / "whole", progress=False).log
    np.testing.assert_allclose(log, whole, rtol=0.05)  # dropout draws other masks


SLOW_FIRST = """
import os, socket, sys, time
from datetime import timedelta
import torch
from sat2dem_core.training import distributed

def work(rank):
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
    distributed.TIMEOUT = timedelta(seconds=1)
    group = distributed.join(torch.device("cpu"))
    with group.first_alone():
        if not group.rank:
            time.sleep(3)
            open(sys.argv[1], "w").close()
        assert os.path.exists(sys.argv[1])
    group.wait()
    os._exit(0)

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
both = [os.fork() or work(rank) for rank in "01"]
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in both))
"""


def test_the_others_wait_for_the_first_longer_than_for_a_step(tmp_path):
    done = python(SLOW_FIRST, tmp_path / "written")
    assert done.stdout == "0 0\n", done.stderr


STOPPING = """
import json, os, signal, socket, sys
from pathlib import Path
import torch._dynamo
from sat2dem_core.config import preset
from sat2dem_core.dataset.parts import prepare
from sat2dem_core.errors import LostProcess, Terminated
from sat2dem_core.models import methods
from sat2dem_core.training import trainer
from sat2dem_core.training.checkpoints import load_checkpoint
from sat2dem_core.training.distributed import Agreement
from sat2dem_core.training.trainer import train

config, folder = preset("cpu", **json.loads(sys.argv[1])), Path(sys.argv[2])
data = prepare(config)

def kill_in(number, signal_number):
    step, calls = methods.Method.step, []

    def failing(self, *batch):
        calls.append(0)
        if len(calls) == number:
            os.kill(os.getpid(), signal_number)
        return step(self, *batch)

    methods.Method.step = failing

def work(rank, run, signal_number):
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
    if rank == "1" and signal_number:
        kill_in(8 if signal_number == signal.SIGKILL else 3, signal_number)
    trainer.SAVE_SECONDS = -1 if rank == "0" else 1e9  # clocks differ: the first one's counts
    if signal_number == signal.SIGTERM:
        Agreement.EVERY = 0  # ask after each step
    try:
        train(config, data=data, run=folder / run, progress=False)
    except LostProcess:
        os._exit(1)
    except Terminated as end:
        os._exit(end.status)
    os._exit(0)

for run, signal_number in (("run", signal.SIGKILL), ("run", signal.SIGTERM), ("run", 0), ("whole", 0)):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [os.fork() or work(rank, run, signal_number) for rank in "01"]
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in both]
    print(*ends, load_checkpoint(folder / run / "last.json")[1]["step"], flush=True)
"""


def test_two_processes_save_by_the_clock_and_at_sigterm_at_one_step_and_go_on_to_the_same_bits(tmp_path):
    """No validation before the end has a checkpoint written; the signal comes to one process alone."""
    done = python(STOPPING, json.dumps(SETTINGS | {"validate_every": 50, "steps": 15}), tmp_path)
    assert done.returncode == 0, done.stderr
    killed, terminated, finished, whole = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    assert killed[:2] == (1, -signal.SIGKILL) and 0 < killed[2] < 8
    assert terminated == (143, 143, killed[2] + 3)
    assert finished == whole == (0, 0, 15)
    for name in ("last", "best"):
        ours, theirs = (load_checkpoint(tmp_path / run / f"{name}.json")[0] for run in ("run", "whole"))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    logs = [pd.read_csv(tmp_path / run / "log.csv") for run in ("run", "whole")]
    pd.testing.assert_frame_equal(*logs)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no groups of processes")
def test_a_signal_to_the_launcher_and_to_its_processes_ends_them_once_they_have_saved(tmp_path):
    """As SLURM sends it: each process gets one SIGTERM from there and one from torchrun."""
    run = tmp_path / "run"
    settings = SETTINGS | {"steps": 100_000, "validate_every": 5}
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "--"]
    command = [*torchrun, "sat2dem_core", "train", *options, "--run", str(run)]
    log = tmp_path / "stderr"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, stdout=file, env=ALONE, start_new_session=True)
        deadline = time.monotonic() + 90
        while not (run / "last.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    said = log.read_text(encoding="utf-8", errors="replace")
    step = load_checkpoint(run / "last.json")[1]["step"]
    assert said.count("terminated: ") == 1, said
    assert f"terminated: step {step} of 100000 is saved in {run}; the same command continues there" in said


NOTEBOOK = """
import json, sys
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from sat2dem_core.config import preset
from sat2dem_core.training.trainer import train

config = preset("cpu", **json.loads(sys.argv[1]))

def work():
    train(config, run=sys.argv[2], progress=False)

processes = LaunchConfig(
    min_nodes=1, max_nodes=1, nproc_per_node=2, start_method="fork",
    run_id="two", rdzv_backend="c10d", rdzv_endpoint="localhost:0",
)
elastic_launch(processes, work)()
print(train(config, run=sys.argv[2], progress=False).log.step.tolist())  # the notebook goes on with the finished run
"""


def test_a_notebook_starts_two_processes_and_goes_on_with_their_run(tmp_path):
    """With what a cell would hold, as the docstring of ``training.distributed`` shows it."""
    done = python(NOTEBOOK, json.dumps(SETTINGS), tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[9, 18, 27]"
    assert json.loads((tmp_path / "run" / "environment.json").read_text(encoding="utf-8"))["processes"] == 2


# --- joining ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "joined", "backend", "own_gpu"),
    [("cpu", "cpu", "gloo", None), ("mps", "cpu", "gloo", None), ("cuda:1", "cuda:1", "nccl", "cuda:1")],
)
def test_nccl_joins_processes_on_gpus_and_gloo_those_on_processors(device, joined, backend, own_gpu, monkeypatch):
    gpus, groups = [], []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "set_device", gpus.append)
    begin = lambda backend, timeout, device_id: groups.append((backend, device_id))
    monkeypatch.setattr(dist, "init_process_group", begin)
    monkeypatch.setattr(distributed, "_patient", lambda world: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    assert join(torch.device(device)) == Group(torch.device(joined), rank=1, processes=2)
    own_gpu = own_gpu and torch.device(own_gpu)
    assert groups == [(backend, own_gpu)] and gpus == ([own_gpu] if own_gpu else [])


def test_without_a_launcher_a_process_is_a_group_of_one_and_waits_for_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group, order = join(torch.device("cpu")), []
    assert group == Group(torch.device("cpu"), rank=0, processes=1)
    with group.together("run"), group.first_alone():
        order.append(float(group.add_up(torch.tensor(3.0))))
    group.wait()
    assert order == [3.0]
    with pytest.raises(RuntimeError, match="^gloo$"), group.together("run"):  # no other process can be gone
        raise RuntimeError("gloo")


# --- agreeing ---------------------------------------------------------------------------------------------------------


def test_processes_meet_at_steps_that_all_know_about_once_a_second(monkeypatch):
    """The first one measures: 1/8 s for a step, later 5 s."""
    clock, meetings = [0.0], []

    class Both(Group):
        """This process, the first, and another one whose votes the test casts."""

        def add_up(self, tensor):
            meetings.append(step)
            return tensor + torch.tensor([0, other, 0])

    monkeypatch.setattr(distributed.time, "monotonic", lambda: clock[0])
    agreement, answers = Agreement(Both(torch.device("cpu"), processes=2)), []
    for step in range(1, 60):
        clock[0] += 0.125 if step < 40 else 5
        other = step > 45
        answers.append(agreement.reached(due=step == 23, asked=False))
    assert meetings[:5] == [1, 3, 7, 15, 23] and np.diff(meetings).max() == 8
    assert answers[23 - 1] == (True, False)
    late = [step for step in meetings if step > 45]
    assert late[1:] == list(range(late[1], 60))  # after each slow step
    assert [index + 1 for index, (_, asked) in enumerate(answers) if asked] == late
    assert all(answer == (False, False) for index, answer in enumerate(answers) if index + 1 not in meetings)


def test_a_process_alone_asks_nobody(monkeypatch):
    monkeypatch.setattr(Group, "add_up", None)
    agreement = Agreement(Group(torch.device("cpu")))
    assert [agreement.reached(due, asked) for due, asked in ((1, 0), (0, 1), (0, 0))] == [(1, 0), (0, 1), (0, 0)]
