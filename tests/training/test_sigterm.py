"""SIGTERM has a training saved and ends it; the second one ends the process; nothing is left behind."""

import signal
import threading

import pytest
import torch

from sat2dem_core import cli
from sat2dem_core.errors import Terminated
from sat2dem_core.models import methods
from sat2dem_core.training import sigterm, trainer
from sat2dem_core.training.checkpoints import load_checkpoint
from sat2dem_core.training.sigterm import Sigterm
from sat2dem_core.training.trainer import train

TERM = signal.SIGTERM


@pytest.fixture(autouse=True)
def ours():
    """A handler that counts, in place of the system's, which would end the tests; it must be there afterwards."""
    calls = []
    count = lambda number, frame: calls.append(number)
    before = signal.signal(TERM, count)
    yield calls
    left = signal.signal(TERM, before)
    assert left is count


def terminate_in(monkeypatch, *steps, signals=1):
    """Let SIGTERM come in these steps, counted from 1 over all trainings."""
    step, calls = methods.UNetMethod.step, []

    def terminated(self, image, dem, *share):
        calls.append(0)
        for _ in range(signals if len(calls) in steps else 0):
            signal.raise_signal(TERM)
        return step(self, image, dem, *share)

    monkeypatch.setattr(methods.UNetMethod, "step", terminated)


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_the_run_is_saved_after_the_step_and_goes_on_to_the_same_bits(
    hills, small, trained, tmp_path, monkeypatch, ours, at
):
    """Also after the last step of an epoch, whose validation is then the first thing to do."""
    terminate_in(monkeypatch, at)
    go = lambda: train(small, scene=hills, run=tmp_path / "run", progress=False)
    with pytest.raises(Terminated, match=f"^step {at} of 6 is saved in .*run$") as caught:
        go()
    assert caught.value.code == 143 and ours == []
    assert load_checkpoint(tmp_path / "run" / "last.json")[1]["step"] == at
    run = go()
    for name in ("last", "best"):
        whole, resumed = (load_checkpoint(folder / f"{name}.json")[0] for folder in (trained.folder, run.folder))
        assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert run.log.equals(trained.log)


def test_a_signal_in_the_last_step_ends_the_program_with_the_finished_run(hills, small, tmp_path, monkeypatch):
    terminate_in(monkeypatch, 6)
    with pytest.raises(Terminated, match="^step 6 of 6 is saved"):
        train(small, scene=hills, run=tmp_path, progress=False)
    assert train(small, scene=hills, run=tmp_path, progress=False).log.step.tolist() == [2, 4, 6]


def test_the_second_signal_goes_to_the_earlier_handler_at_once(hills, small, tmp_path, monkeypatch, ours):
    """That of the system ends the process."""
    terminate_in(monkeypatch, 2, signals=2)
    with pytest.raises(Terminated):
        train(small, scene=hills, run=tmp_path, progress=False)
    assert ours == [TERM]


def test_an_error_puts_the_handler_back_and_is_not_replaced(hills, small, tmp_path, monkeypatch, ours):
    def broken(*args):
        signal.raise_signal(TERM)
        raise KeyboardInterrupt

    monkeypatch.setattr(methods.UNetMethod, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        train(small, scene=hills, run=tmp_path, progress=False)
    assert signal.getsignal(TERM)(TERM, None) is None and ours == [TERM]


def test_a_launcher_passes_a_signal_on_and_this_is_no_second_one(monkeypatch, ours):
    clock = [100.0]
    monkeypatch.setattr(sigterm.time, "monotonic", lambda: clock[0])
    with Sigterm(launched=True) as request:
        assert not request.asked
        for clock[0] in (100.0, 100.2, 100.0 + sigterm.ECHO):
            signal.raise_signal(TERM)
        assert request.asked and ours == []
        clock[0] += 0.01
        signal.raise_signal(TERM)
        assert ours == [TERM]


def test_a_thread_trains_without_a_handler(hills, small, tmp_path, monkeypatch, ours):
    step, seen = methods.UNetMethod.step, []

    def watching(self, *batch):
        seen.append(signal.getsignal(TERM))
        return step(self, *batch)

    monkeypatch.setattr(methods.UNetMethod, "step", watching)
    before = signal.getsignal(TERM)
    thread = threading.Thread(target=train, args=(small,), kwargs={"scene": hills, "run": tmp_path, "progress": False})
    thread.start()
    thread.join()
    assert seen == [before] * 6


def test_an_ignored_signal_stays_ignored(ours):
    before = signal.signal(TERM, signal.SIG_IGN)
    with Sigterm() as request:
        signal.raise_signal(TERM)
        assert signal.getsignal(TERM) == signal.SIG_IGN and not request.asked
    signal.signal(TERM, before)


def test_the_command_says_it_in_one_sentence_and_ends_with_143(monkeypatch, capsys, tmp_path):
    terminate_in(monkeypatch, 2)
    tiny = ["--tile", "32", "--features", "4", "--stride", "32"]
    assert cli.main(["train", *tiny, "--run", str(tmp_path / "run")]) == 143
    lines = [line for line in capsys.readouterr().err.splitlines() if "terminated" in line]
    assert lines == [f"terminated: step 2 of 600 is saved in {tmp_path / 'run'}; the same command continues there"]


# --- saving by the clock ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [2, 4])
def test_a_run_saved_by_the_clock_loses_no_step_since(hills, small, trained, tmp_path, monkeypatch, at):
    """Killed in step ``at``, after the clock had the step before saved."""
    monkeypatch.setattr(trainer, "SAVE_SECONDS", -1)
    step, calls = methods.UNetMethod.step, []

    def killed(self, image, dem, *share):
        calls.append(0)
        if len(calls) == at:
            raise KeyboardInterrupt
        return step(self, image, dem, *share)

    monkeypatch.setattr(methods.UNetMethod, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(small, scene=hills, run=tmp_path, progress=False)
    assert load_checkpoint(tmp_path / "last.json")[1]["step"] == at - 1
    assert train(small, scene=hills, run=tmp_path, progress=False).log.equals(trained.log)
    assert len(calls) == 6 + 1
