"""How much a shuffle of neighboring tiles improves a score, on a 30 m scene: the table of chapter 11.

    python benchmarks/leakage.py data/results/zion-folds.csv
"""

import sys
from pathlib import Path

import pandas as pd

from sat2dem_core.config import preset
from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.study.leakage import cross_validate
from sat2dem_core.study.runner import provenance

STEPS = 1000

if __name__ == "__main__":
    tables = []
    for kind in ("global", "shift"):
        config = preset("zion", tile=64, stride=64, normalization=kind, steps=STEPS, validate_every=4)
        tables.append(cross_validate(config).assign(normalization=kind, steps=STEPS))
    with replacing(Path(sys.argv[1])) as temporary:
        pd.concat(tables).assign(**provenance()).to_csv(temporary, index=False)
