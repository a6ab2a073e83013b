"""Networks and training work on tiles in memory with PyTorch, NumPy, pandas, safetensors and tqdm alone."""

import os
import subprocess
import sys

# Only the five and the distributions that they require can be imported; all others that are installed cannot.
LIGHT = """
import re, sys
from importlib import metadata

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

allowed, waiting = {"sat2dem-core"}, ["torch", "numpy", "pandas", "safetensors", "tqdm"]
while waiting:
    name = plain(waiting.pop())
    if name not in allowed:
        allowed.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # on another platform
            continue
        waiting += [re.match(r"[\\w.-]+", line)[0] for line in required if "extra ==" not in line]

installed = metadata.packages_distributions()
blocked = {module for module, owners in installed.items() if not allowed & set(map(plain, owners))}
unwanted = {"xarray", "rasterio", "rioxarray", "pyproj", "scipy", "zarr", "dask", "matplotlib", "shapely", "requests",
            "psutil", "odc", "affine", "PIL"}
assert unwanted <= blocked, unwanted - blocked

class Light:
    finders = sys.meta_path

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            return None
        specs = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in specs if spec), None)

sys.meta_path = [Light()]
"""

TRAIN = """
import numpy as np
from sat2dem_core.config import preset
from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.parts import Data
from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.models import PatchGAN, UNet, build_method
from sat2dem_core.training import load_model, train, trainer

draws = np.random.default_rng(0)

def made_up(count):
    rgb = draws.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    dem = draws.normal(1000, 50, (count, 32, 32)).astype(np.float32)
    return Tiles(rgb, dem, tuple(map(str, range(count))), np.zeros((count, 2), int), (30.0, 30.0))

parts = made_up(6), made_up(2), made_up(2)
data = Data(*parts, Normalization.fit("shift", parts[0].dem))
config = preset("cpu", method="drpan", tile=32, features=4, critic_features=4, batch=3, steps=6)
validate, epochs = trainer._Trainer._validate, []

def interrupted(self, epoch):
    epochs.append(epoch)
    if epochs == [0, 1]:
        raise KeyboardInterrupt
    return validate(self, epoch)

trainer._Trainer._validate = interrupted
try:
    train(config, data=data, run=sys.argv[1], progress=False)
except KeyboardInterrupt:
    run = train(config, data=data, run=sys.argv[1], progress=False)
assert epochs == [0, 1, 1, 2] and run.log.step.tolist() == [2, 4, 6]
predicted = load_model(sys.argv[1]).predict(data.test.rgb)
assert predicted.shape == (2, 32, 32) and predicted.isfinite().all()
"""


def light(script, *arguments):
    command = [sys.executable, "-W", "ignore", "-c", LIGHT + script, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_a_run_on_tiles_in_memory_needs_five_libraries_alone(tmp_path):
    done = light(TRAIN, tmp_path / "run")
    assert done.returncode == 0, done.stderr


def test_opening_a_scene_needs_more():
    """So the test above would notice."""
    assert "No module named 'rio" in light("import sat2dem_core.dataset.scenes").stderr
