"""Reference values of xdem and geoutils for one made-up DEM, which the tests compare with ours.

Their packages and ours need different versions of pandas, so this script runs once, in an environment of its own:

    python -m venv peers && peers/bin/pip install xdem==0.2.3 && peers/bin/python tests/peers/xdem_peers.py
"""

from pathlib import Path

import geoutils
import numpy as np
import xdem
from geoutils.stats import nmad

rng = np.random.default_rng(0)
rows, columns = np.mgrid[:40, :48]


def wave() -> np.ndarray:
    """A sine of random height, direction, wavelength and phase, (40, 48) meters."""
    height, down, along, phase = rng.normal(0, 60), rng.uniform(3, 20), rng.uniform(3, 20), rng.uniform(0, 6)
    return height * np.sin(rows / down + columns / along + phase)


waves = [wave() for _ in range(12)]
dem = (900 + sum(waves) + rng.normal(0, 3, rows.shape)).astype(np.float32)
errors = (rng.standard_t(3, 20_000) * 12 + 4).astype(np.float32)

names = ["slope", "aspect", "roughness"]
attributes = xdem.terrain.get_terrain_attribute(
    dem.astype(np.float64), names, resolution=30.0, surface_fit="Horn", out_dtype=np.float64
)
np.savez_compressed(
    Path(__file__).with_name("xdem.npz"), dem=dem, errors=errors, nmad=nmad(errors.astype(np.float64)),
    versions=f"xdem {xdem.__version__}, geoutils {geoutils.__version__}", **dict(zip(names, attributes)),
)
