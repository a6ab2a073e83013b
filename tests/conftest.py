"""What several tests need: small scenes, real GeoTIFFs, a run that is trained once, a disk that is full."""

import errno
import importlib.util
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import rasterio
import rioxarray  # a Dataset has ``rio`` once this is imported
import torch
import xarray as xr
from browser import WEBGL, browse
from catalog import World
from file_server import file_server
from hypothesis import settings
from rasterio.transform import from_origin
from stac_api import missing, stac_api

from sat2dem_core.config import preset
from sat2dem_core.pictures import plots
from sat2dem_core.prediction.weights import pack
from sat2dem_core.training import checkpoints, trainer

matplotlib.use("Agg")
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("suite")
torch.set_num_threads(1)  # tiny networks: more threads cost more than they give

WEST, NORTH = 450_000.0, 4_480_000.0  # where test rasters begin, meters in UTM zone 13N


def pytest_configure(config):
    config.addinivalue_line("markers", "pictures: draw the pictures of a run's folder")
    # rasterio and rioxarray multiply affine transforms with an operator that affine 3 will drop; theirs to change.
    config.addinivalue_line("filterwarnings", "ignore:Use `@` matmul:PendingDeprecationWarning")
    config.addinivalue_line("filterwarnings", "ignore:The 'shapely.ops.transform:DeprecationWarning:odc")
    pydantic = "ignore:Support for class-based `config`:DeprecationWarning:planetary_computer"
    config.addinivalue_line("filterwarnings", pydantic)
    config.addinivalue_line("filterwarnings", "ignore:Dataset has no geotransform")  # of rasterio's own target


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache; all compute on the CPU, where results are the same bit by bit."""
    monkeypatch.setenv("SAT2DEM_CACHE", str(tmp_path_factory.mktemp("cache")))
    for module in (trainer, checkpoints):
        monkeypatch.setattr(module, "pick_device", lambda: torch.device("cpu"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch, request):
    """A run's pictures take longer than a small run: only tests marked ``pictures`` have them drawn."""
    if not request.node.get_closest_marker("pictures"):
        monkeypatch.setattr(plots, "draw_run", lambda run: None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside a clone, never part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("../shared with its reference data is not on this machine")
    return folder


@pytest.fixture(scope="session")
def require_system():
    """``require_system(program)``: its path, or a skip for want of it; a failure where CI has promised all programs."""

    def require(program_or_reason: str) -> str:
        if found := shutil.which(program_or_reason):
            return found
        stop = pytest.fail if os.environ.get("REQUIRE_SYSTEM") == "1" else pytest.skip
        stop(f"this machine lacks {program_or_reason}")

    return require


@pytest.fixture(scope="module")
def chromium(require_system):
    """``chromium(options)``: the system's Chromium, started once a module for each list of options."""
    program = require_system("chromium")
    if importlib.util.find_spec("playwright") is None:
        require_system("playwright (in the extra 'test')")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browsers = {}

        def launch(options=WEBGL):
            if (key := tuple(options)) not in browsers:
                browsers[key] = playwright.chromium.launch(executable_path=program, args=options)
            return browsers[key]

        yield launch
        for browser in browsers.values():
            browser.close()


@pytest.fixture
def opened(tmp_path, chromium):
    """``with opened(body, ...) as page:`` HTML in Chromium, which must log nothing and request nothing else."""
    return lambda body, options=WEBGL, **context: browse(chromium(options), tmp_path / "page.html", body, **context)


@pytest.fixture
def write_raster(tmp_path):
    """Write a GeoTIFF: ``write_raster(name, (H, W) or (bands, H, W))``, 30 m pixels in UTM unless told otherwise."""

    def write(name: str, values: np.ndarray, crs="EPSG:32613", transform=None, **profile) -> Path:
        values = values if values.ndim == 3 else values[None]
        count, height, width = values.shape
        profile = {"crs": crs, "transform": transform or from_origin(WEST, NORTH, 30, 30)} | profile
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", width=width, height=height, count=count, dtype=values.dtype, **profile
        ) as file:
            file.write(values)
        return tmp_path / name

    return write


@pytest.fixture
def picture() -> np.ndarray:
    """A uint8 image (3, 64, 80) without black or white."""
    return np.random.default_rng(0).integers(1, 255, (3, 64, 80), dtype=np.uint8)


@pytest.fixture
def slope() -> np.ndarray:
    """Elevation (64, 80): 1000 m in the upper left corner, 2 m more each pixel to the right and each down."""
    rows, columns = np.mgrid[:64, :80]
    return (1000 + 2 * rows + 2 * columns).astype(np.float32)


def build_scene(height: int, width: int, name: str = "hills") -> xr.Dataset:
    """A made-up scene of 30 m pixels whose image follows its elevation."""
    rows, columns = np.mgrid[:height, :width]
    dem = 1500 + 400 * np.sin(rows / 17) * np.cos(columns / 23) + rows
    bands = [128 + 100 * np.sin(dem / scale) for scale in (90, 150, 210)]
    scene = xr.Dataset(
        {"rgb": (("band", "y", "x"), np.uint8(bands)), "dem": (("y", "x"), dem.astype(np.float32))},
        {"y": NORTH - 30 * (np.arange(height) + 0.5), "x": WEST + 30 * (np.arange(width) + 0.5)},
        {"name": name},
    )
    return scene.rio.write_crs("EPSG:32613")


@pytest.fixture(scope="session")
def make_scene():
    return build_scene


@pytest.fixture(scope="session")
def hills() -> xr.Dataset:
    """A scene of 128 x 160 px: 16 training, 4 validation and 4 test tiles with ``small``."""
    return build_scene(128, 160)


@pytest.fixture(scope="session")
def small():
    """Settings of a run that takes a fraction of a second: three epochs of two steps."""
    return preset("cpu", tile=32, stride=16, features=4, batch=8, steps=6)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, hills, small) -> trainer.Run:
    """A finished run of ``small`` on ``hills``; tests only read it."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (trainer, checkpoints):
            patch.setattr(module, "pick_device", lambda: torch.device("cpu"))
        return trainer.train(small, scene=hills, run=tmp_path_factory.mktemp("trained"), progress=False)


@pytest.fixture
def full_disk():
    """``with full_disk(n):`` the operating system lets no file grow beyond n bytes."""
    resource = pytest.importorskip("resource", reason="this system has no limit on file sizes to test a full disk with")

    @contextmanager
    def limit(size: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Where standard error is a file, the limit would hold for it, too, and a bar of tqdm that cannot be written
        # keeps tqdm's lock: every bar of another thread would then wait for ever.
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # Python ignores SIGXFSZ: writes fail instead
            try:
                yield os.strerror(errno.EFBIG)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture
def server(tmp_path):
    """A file server with one file, ``big.bin``; tests put more into its ``folder``."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "big.bin").write_bytes(np.random.default_rng(0).bytes(3_000_000))
    with file_server(folder) as server:
        yield server


@pytest.fixture
def listing():
    """``listing(folder)``: all its files with their content, hidden ones too."""
    return lambda folder: {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A :class:`catalog.World` of known truth whose files a server on localhost hands out, with its ``server``."""
    folder = tmp_path_factory.mktemp("world")
    with file_server(folder) as server:
        world = World(folder, server.url, [])
        world.server = server
        world.fill()
        yield world


@pytest.fixture(scope="session")
def api(world, require_system):
    """The address of a real STAC API that offers the world's items."""
    if lacking := missing():
        require_system(lacking)
    with stac_api(world.collections(), world.items) as url:
        yield url


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory, trained) -> Path:
    """Weights of a copy of ``trained``, in the run's folder: tiles of 32 px at 30 m, relief."""
    return pack(shutil.copytree(trained.folder, tmp_path_factory.mktemp("packed") / "run"), trained.data)


@pytest.fixture
def hills_image(tmp_path, hills) -> Path:
    """The image of ``hills`` as a GeoTIFF."""
    hills.rgb.rio.to_raster(tmp_path / "hills.tif")
    return tmp_path / "hills.tif"


@pytest.fixture(scope="session")
def cluster():
    """A dask client with two worker processes; starting and importing takes them seconds, so tests share it."""
    from dask.distributed import Client

    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        yield client


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Path:
    """The book as HTML, rendered from the committed chapters with their stored outputs."""
    root = Path(__file__).resolve().parents[1]
    out = tmp_path_factory.mktemp("book") / "html"
    subprocess.run([sys.executable, root / "tools/render.py", root / "notebooks", out], check=True, capture_output=True)
    return out
