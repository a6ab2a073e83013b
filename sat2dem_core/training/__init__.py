"""One training loop for every method: batches, checkpoints, several devices.

It trains on tiles in memory with PyTorch, NumPy, pandas, safetensors and tqdm alone; opening a scene needs more.
"""

from sat2dem_core.training.checkpoints import Run, load_model
from sat2dem_core.training.trainer import train

__all__ = ["Run", "load_model", "train"]
