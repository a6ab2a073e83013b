"""What xdem and geoutils say of one made-up DEM, for the tests to compare with.

Their packages and ours need different versions of pandas, so they run once, in an environment of their own:

    python -m venv peers && peers/bin/pip install xdem==0.2.3 && peers/bin/python tests/peers/xdem_peers.py
"""

from pathlib import Path

import geoutils
import numpy as np
import xdem
from geoutils.stats import nmad

rng = np.random.default_rng(0)
rows, columns = np.mgrid[:40, :48]
waves = [rng.normal(0, 60) * np.sin(rows / rng.uniform(3, 20) + columns / rng.uniform(3, 20) + rng.uniform(0, 6)) for _ in range(12)]
dem = (900 + sum(waves) + rng.normal(0, 3, rows.shape)).astype(np.float32)
errors = (rng.standard_t(3, 20_000) * 12 + 4).astype(np.float32)

names = ["slope", "aspect", "roughness"]
answers = xdem.terrain.get_terrain_attribute(dem.astype(np.float64), names, resolution=30.0, surface_fit="Horn", out_dtype=np.float64)
np.savez_compressed(
    Path(__file__).with_name("xdem.npz"), dem=dem, errors=errors, nmad=nmad(errors.astype(np.float64)),
    versions=f"xdem {xdem.__version__}, geoutils {geoutils.__version__}", **dict(zip(names, answers)),
)
