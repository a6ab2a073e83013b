#!/usr/bin/env bash
# What the package does on a GPU, in four minutes at most: whether it is right there (correctness), how fast it trains
# (speed) and predicts (predict). Needs torch, numpy, pandas, safetensors and tqdm; predict also blends where scipy is.
#
#   bash benchmarks/gpu.sh [correctness] [speed] [predict]   all three by default; tables on standard output
#        --dry            tiny sizes, on any processor, in at most a minute: whether every part runs
#        --out FILE       also write the tables, such as benchmarks/results/gpu.md
#        --table FILE     also write the main numbers, such as data/results/gpu.csv
#
# PYTHON chooses the interpreter. COMMIT names the commit where the tree has no .git. The authors' numbers come from
# ../shared/parity/parity.npz, else from benchmarks/.parity/parity.npz (ignored by git: copy the file there for a machine
# that only the tree travels to), else the thinned ones of tests/reference. The exit status is 1 if a check failed or a
# part did not finish.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" benchmarks/gpu "$@"
