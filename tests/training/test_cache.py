"""The runs in the cache are listed and removed, but never one that a process is training."""

import os
import shutil
import time
from dataclasses import replace

import pytest

from sat2dem_core.cli import main
from sat2dem_core.errors import CannotWrite, InvalidConfig, RunBusy
from sat2dem_core.paths import cache_folder
from sat2dem_core.rasters.atomic import locked
from sat2dem_core.training import cache
from sat2dem_core.training.cache import cached_runs, prune
from sat2dem_core.training.trainer import train


@pytest.fixture
def runs(trained):
    """``runs(name=days, ...)``: put copies of a run into the cache that last changed so many days ago."""

    def fill(**ages):
        for name, days in ages.items():
            folder = shutil.copytree(trained.folder, cache_folder() / "runs" / name)
            for path in folder.iterdir():
                os.utime(path, times=(time.time() - 86_400 * days,) * 2)

    return fill


def names():
    return [run.folder.name for run in cached_runs()]


def test_a_cached_run_is_described(hills, small, trained):
    run = train(small, scene=hills, progress=False)
    (only,) = cached_runs()
    assert only.folder == run.folder
    assert only.size == sum(path.stat().st_size for path in run.folder.iterdir())
    assert 0 <= time.time() - only.changed < 60
    assert only.settings == (
        "preset cpu, tile=32, stride=16, features=4, batch=8, steps=6, scene hills, given in Python"
    )
    train(replace(small, steps=2, batch=16, scene="zion"), scene=hills, progress=False, initial_weights=trained.folder)
    assert cached_runs()[-1].settings.endswith(f"given in Python, from {trained.folder}")


@pytest.mark.parametrize("content", [None, "", "[]", '{"config": 3}', '{"config": {}, "source": 3}'])
def test_a_folder_that_explains_nothing_is_listed_too(runs, content):
    runs(a=1)
    config = cache_folder() / "runs" / "a" / "config.json"
    config.unlink()
    if content is not None:
        config.write_text(content, encoding="utf-8")
    assert [run.settings for run in cached_runs()] == ["settings unknown"]


def test_an_empty_cache_and_none_at_all(capsys):
    for _ in range(2):
        assert cached_runs() == [] and prune() == ([], [])
        assert main(["data", "cache"]) == 0
        assert capsys.readouterr().out == f"{cache_folder() / 'runs'}: 0 runs, 0.0 MB\n"
        (cache_folder() / "runs").mkdir(exist_ok=True)


def test_old_runs_are_removed_and_young_ones_stay(runs):
    runs(old=40, older=50, young=20)
    assert names() == ["older", "old", "young"]
    removed, busy = prune(30)
    assert [run.folder.name for run in removed] == ["older", "old"] and busy == [] and names() == ["young"]
    assert [run.folder.name for run in prune()[0]] == ["young"]
    assert list((cache_folder() / "runs").iterdir()) == []  # no lock, no part


def test_a_run_that_a_process_holds_stays(runs):
    runs(mine=40, other=40)
    with locked(cache_folder() / "runs" / "mine"):
        removed, busy = prune(30)
        assert ([run.folder.name for run in removed], [run.folder.name for run in busy]) == (["other"], ["mine"])
        assert names() == ["mine"]
    assert [run.folder.name for run in prune(30)[0]] == ["mine"]


def test_a_run_that_somebody_trains_between_the_list_and_the_lock_stays(runs, monkeypatch):
    runs(a=40)
    listed = cached_runs()
    (listed[0].folder / "log.csv").write_text("more", encoding="utf-8")
    monkeypatch.setattr(cache, "cached_runs", lambda: listed)
    assert prune(30) == ([], []) and names() == ["a"]


def test_a_training_meets_no_half_removed_run(hills, small, monkeypatch):
    """A removal that is interrupted leaves nothing where a run is looked for; the next one removes the rest."""
    run = train(small, scene=hills, progress=False)
    remove = shutil.rmtree

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prune()
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert not run.folder.exists() and names() == []
    prune()
    assert list(run.folder.parent.iterdir()) == []
    assert train(small, scene=hills, progress=False).log.step.tolist() == [2, 4, 6]


def test_a_folder_that_cannot_be_removed_is_named(runs, monkeypatch):
    runs(a=1)

    def refused(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache.Path, "rename", refused)
    with pytest.raises(CannotWrite, match=r"cannot remove .*a \(Permission denied\): remove it by hand"):
        prune()
    assert names() == ["a"]


@pytest.mark.parametrize("days", [-1, float("nan"), float("inf")])
def test_ages_that_are_none_are_refused(runs, days):
    runs(a=1)
    with pytest.raises(InvalidConfig, match="days: give 0 or a positive number"):
        prune(days)
    assert names() == ["a"]


def test_the_command_lists_and_prunes(runs, capsys):
    runs(old=40, held=39, young=1)
    folder = cache_folder() / "runs"
    assert main(["data", "cache"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[-1].startswith(f"{folder}: 3 runs, ")
    assert " MB  20" in lines[0] and "  preset cpu, tile=32" in lines[0] and f"{folder / 'young'}  " in lines[2]
    with locked(folder / "held"):
        assert main(["data", "cache", "--prune", "30"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{folder / 'old'}  ") and lines[-1].startswith(f"{folder}: 1 run, ")
    assert lines[1] == f"{folder / 'held'} stays: another process is at work there" and lines[-1].endswith("removed")
    for wrong, said in (("some", "--prune is 'some': give a number of days, or all"), ("-3", "is -3.0 days: give 0")):
        assert main(["data", "cache", "--prune", wrong]) == 1
        assert said in capsys.readouterr().err and names() == ["held", "young"]
    assert main(["data", "cache", "--prune", "all"]) == 0
    assert names() == [] and "2 runs, " in capsys.readouterr().out


def test_a_lock_of_this_test_is_one_that_a_training_respects(runs, trained, hills, small, monkeypatch):
    """So the tests above hold what a training holds."""
    monkeypatch.setattr("sat2dem_core.rasters.atomic.PATIENCE", 0)
    runs(a=1)
    with locked(cache_folder() / "runs" / "a"), pytest.raises(RunBusy):
        train(small, scene=hills, run=cache_folder() / "runs" / "a", progress=False)
