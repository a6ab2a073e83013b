"""Sat2DEM: one satellite image in, a Digital Elevation Model out.

The names of ``__all__`` are what most users need. Each loads its module when it is first used, so that importing the
package takes no time and no PyTorch.
"""

from typing import TYPE_CHECKING

from sat2dem_core.lazy import lazy

if TYPE_CHECKING:
    from sat2dem_core.config import preset
    from sat2dem_core.dataset.building import build
    from sat2dem_core.dataset.scenes import open_pair, open_scene
    from sat2dem_core.evaluation.scoring import evaluate
    from sat2dem_core.prediction.pipeline import predict
    from sat2dem_core.prediction.weights import load_weights
    from sat2dem_core.training.trainer import train

__version__ = "0.1.0"
__all__ = ["build", "evaluate", "load_weights", "open_pair", "open_scene", "predict", "preset", "train"]
__getattr__ = lazy(__name__, {
    "build": "sat2dem_core.dataset.building",
    "evaluate": "sat2dem_core.evaluation.scoring",
    "load_weights": "sat2dem_core.prediction.weights",
    "open_pair": "sat2dem_core.dataset.scenes",
    "open_scene": "sat2dem_core.dataset.scenes",
    "predict": "sat2dem_core.prediction.pipeline",
    "preset": "sat2dem_core.config",
    "train": "sat2dem_core.training.trainer",
})
