"""Stores: built tile by tile, killed, interrupted and resumed, in threads and on a cluster, with few packages."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from catalog import BORDER, BORDER_REGION
from dask.distributed import Client
from made_up import made_up, square

from sat2dem_core.dataset import stac
from sat2dem_core.dataset.building import WAITING, assemble, build
from sat2dem_core.dataset.store import open_store
from sat2dem_core.errors import DamagedStore, EmptySearch, RunBusy, Unreachable
from sat2dem_core.rasters.atomic import claimed, part_of


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(params=["threads", "cluster"])
def client(request):
    """None, so that threads of this process build, or a client of a cluster of one worker in this process."""
    if request.param == "threads":
        yield None
    else:
        with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0") as client:
            yield client


# ---- from catalogs

def test_its_tiles_are_those_of_the_catalog(built, request_):
    dataset = open_store(built)
    for cell in BORDER:
        expected, stored = stac.tile(cell, request_), dataset.sel(tile=cell.id)
        np.testing.assert_array_equal(stored.rgb, expected.rgb)
        np.testing.assert_array_equal(stored.dem, expected.dem)
        assert stored.nodata_share.item() == expected.attrs["nodata_share"]


def test_overlaps_across_the_border_of_zones_are_marked(built):
    dataset = open_store(built)
    tiles = zip(dataset.tile.values, dataset.overlaps.values)
    partners = {str(tile): set(str(names).split()) for tile, names in tiles}
    assert any(partners.values())
    for tile, others in partners.items():
        assert all(tile in partners[other] and other[:5] != tile[:5] for other in others)


def test_a_build_of_an_earlier_version_counts_as_the_same(tmp_path):
    """It did not state what that version could not ask for."""
    job = {"cell_0": 0}
    store = assemble(tmp_path / "a.zarr", job, made_up, {"start": "2023-05-01"}, {}, progress=False)
    again = {"start": "2023-05-01", "most_looks": 30}
    assert assemble(store, job, made_up, again, {}, progress=False) == store
    with pytest.raises(DamagedStore, match="tiles of another request"):
        assemble(store, job, made_up, {"start": "2023-05-02"}, {}, progress=False)


def test_a_finished_build_asks_no_catalog(built, request_, monkeypatch):
    monkeypatch.setattr(stac, "search", lambda *args: pytest.fail("asked a catalog"))
    before = everything(built)
    assert build(built, BORDER_REGION, request_) == built and everything(built) == before


# Imports once what a build needs, then forks a process that runs the command for each line on its standard input.
STARTER = """
import os, sys
from sat2dem_core.cli import main
from sat2dem_core.dataset import building, stac

for _ in sys.stdin:
    if not (child := os.fork()):
        sys.stdout = open(os.devnull, "w")
        os._exit(main(sys.argv[1:]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
        return True
    except ProcessLookupError:
        return False


def test_a_build_killed_at_any_moment_continues_and_ends_byte_for_byte_the_same(tmp_path, api, built):
    store, part = tmp_path / "border.zarr", tmp_path / "border.zarr.part"
    command = [
        "data", "build", store, "--region", *map(str, BORDER_REGION), "--start", "2023-07-01", "--end", "2023-07-31",
        "--url", api,
    ]
    # Killed when there is one tile, when there are two, and while the store is packed; then left alone.
    moments = [
        lambda: len(list(part.glob("*.npz"))) >= 1, lambda: len(list(part.glob("*.npz"))) >= 2, (part / "store").exists,
    ]
    endings = []
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as starter:
        for moment in (*moments, lambda: False):
            print(file=starter.stdin, flush=True)
            process = int(starter.stdout.readline())
            while runs(process) and not moment():
                time.sleep(0.002)
            if runs(process):
                os.kill(process, signal.SIGKILL)
            endings.append(int(starter.stdout.readline()))
            if endings[-1]:
                with pytest.raises(DamagedStore, match="not finished"):
                    open_store(store)
    assert endings[-1] == 0 and endings.count(-signal.SIGKILL) >= 2 and not part.exists()
    assert everything(store) == everything(built)


def test_two_processes_build_the_same_store(tmp_path, request_, built, cluster):
    store = build(tmp_path / "border.zarr", BORDER_REGION, request_, client=cluster, progress=False)
    assert everything(store) == everything(built)


def test_another_request_does_not_mix_with_what_is_there(tmp_path, built, request_):
    with pytest.raises(DamagedStore, match="another request"):
        build(built, BORDER_REGION, replace(request_, max_cloud=10))
    part = tmp_path / "b.zarr.part"
    part.mkdir()
    (part / "build.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DamagedStore, match="unfinished build of another request"):
        build(tmp_path / "b.zarr", BORDER_REGION, request_)


def test_an_empty_search_leaves_nothing_behind(tmp_path, request_):
    with pytest.raises(EmptySearch):
        build(tmp_path / "sea.zarr", (-20, 40, -19.9, 40.1), request_)
    assert not list(tmp_path.iterdir())


def test_a_second_builder_says_so_and_the_first_goes_on(tmp_path, request_, monkeypatch):
    monkeypatch.setattr("sat2dem_core.rasters.atomic.PATIENCE", 0.1)
    with claimed(part_of(tmp_path / "border.zarr")), pytest.raises(RunBusy, match="another process is at work"):
        build(tmp_path / "border.zarr", BORDER_REGION, request_, progress=False)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/b", "..", ".hidden", "", "a\\b"])
def test_names_of_tiles_do_not_lead_out_of_the_folder(tmp_path, name):
    with pytest.raises(DamagedStore, match="is no name of a tile"):
        assemble(tmp_path / "a.zarr", {name: 1}, made_up, {}, {}, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_region_without_any_pair_makes_no_store(tmp_path):
    """All sea, all cloud, or acquisitions that lack what is needed: every tile is empty."""
    def empty(job):
        shape = 256, 256
        scene = xr.Dataset({"rgb": (("band", "y", "x"), np.zeros((3, *shape), np.uint8))})
        scene["dem"] = ("y", "x"), np.full(shape, np.nan, np.float32)
        scene.attrs = {"nodata_share": 1.0}
        return scene

    with pytest.raises(EmptySearch, match="none of the 2 tiles of .*sea.zarr has both an image and elevation"):
        assemble(tmp_path / "sea.zarr", {"a": 1, "b": 2}, empty, {}, {}, progress=False)
    assert not list(tmp_path.iterdir())


# ---- from any function

def test_a_tile_that_cannot_be_made_ends_the_build_and_finished_tiles_stay(tmp_path, client):
    def make(number):
        if number == 5:
            raise Unreachable("the server is away: try later")
        return made_up(number)

    jobs = {square(number).id: number for number in range(6)}
    with pytest.raises(Unreachable, match="the server is away"):
        assemble(tmp_path / "a.zarr", jobs, make, {}, {}, client=client, progress=False)
    kept = {path.stem for path in (tmp_path / "a.zarr.part").glob("*.npz")}
    assert len(kept) >= 4 and not (tmp_path / "a.zarr").exists()

    def make_and_mark(number):
        (tmp_path / f"made{number}").touch()
        return made_up(number)

    store = assemble(tmp_path / "a.zarr", jobs, make_and_mark, {}, {}, client=client, progress=False)
    remade = list(tmp_path.glob("made*"))
    assert tmp_path / "made5" in remade and len(remade) <= 2 and open_store(store).sizes["tile"] == 6


def test_threads_and_a_cluster_make_the_same_store(tmp_path, many, client):
    jobs = {square(number).id: number for number in range(64)}
    attrs = {"sensor": "landsat", "overlaps": dict.fromkeys(jobs, "")}
    store = assemble(tmp_path / "a.zarr", jobs, made_up, {}, attrs, client=client, progress=False)
    assert everything(store) == everything(many)


def test_an_interruption_keeps_the_tiles_in_work_and_begins_no_more(tmp_path):
    jobs, begun = {square(number).id: number for number in range(64)}, []
    threads = threading.active_count()

    def make(number):
        begun.append(square(number).id)
        if len(begun) == 4:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does
            time.sleep(0.2)
        return made_up(number)

    with pytest.raises(KeyboardInterrupt):
        assemble(tmp_path / "a.zarr", jobs, make, {}, {}, progress=False)
    assert threading.active_count() <= threads
    kept = {path.stem for path in (tmp_path / "a.zarr.part").glob("*.npz")}
    assert kept == set(begun) and 4 <= len(kept) < 64
    before = len(begun)
    store = assemble(tmp_path / "a.zarr", jobs, make, {}, {}, progress=False)
    assert not kept & set(begun[before:]) and open_store(store).sizes["tile"] == 64


def test_an_interrupted_program_ends_before_its_waiting_tiles(tmp_path):
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from sat2dem_core.dataset.building import assemble\n"
        "def make(number):\n"
        "    Path(sys.argv[1], f'begun{number}').touch()\n"
        "    time.sleep(2)\n"
        "    raise AssertionError\n"
        "assemble(Path(sys.argv[1], 'a.zarr'), {str(n): n for n in range(1000)}, make, {}, {}, progress=False)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, tmp_path], stderr=subprocess.PIPE, text=True)
    while child.poll() is None and not list(tmp_path.glob("begun*")):
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert "KeyboardInterrupt" in child.communicate(timeout=60)[1]
    assert time.monotonic() - began < 10 and len(list(tmp_path.glob("begun*"))) < WAITING * (os.cpu_count() or 1)


# ---- with the packages of a plain installation

WITHOUT_EXTRAS = """
import sys
for name in ("dask", "distributed", "odc.stac", "odc.loader", "planetary_computer", "pystac", "pystac_client"):
    sys.modules[name] = None  # as if it were not installed
import sat2dem_core
from sat2dem_core.dataset.catalogs import Request
from sat2dem_core.dataset.paper_folders import export_folders, import_folders
from sat2dem_core.dataset.store import open_store, read_parts
from sat2dem_core.errors import MissingExtra

folder, store = sys.argv[1:]
path = import_folders(export_folders(store, folder), folder + ".zarr", "landsat", progress=False)
print(open_store(path).sizes["tile"], [len(part) for part in read_parts(path, "paper")])
try:
    sat2dem_core.build(folder + "/new.zarr", (-3.5, 40, -3.4, 40.1), Request("2023-06-01", "2023-06-30"))
except MissingExtra as error:
    print(error)
"""


def test_without_extras_everything_but_catalogs_and_clusters_works(tmp_path):
    jobs = {square(number).id: number for number in range(8)}
    store = assemble(tmp_path / "a.zarr", jobs, made_up, {}, {"sensor": "landsat"}, progress=False)
    command = [sys.executable, "-c", WITHOUT_EXTRAS, tmp_path / "folders", store]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == "8 [5, 1, 2]\nodc.stac is not installed: pip install 'sat2dem-core[catalogs]'\n"
