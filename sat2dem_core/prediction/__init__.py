"""From an image of any size to a DEM with an interval and a distance from the training distribution.

Tiles are predicted with trained weights, blended into one surface, and tied to known heights, if there are any.
"""

from sat2dem_core.prediction.pipeline import Prediction, predict
from sat2dem_core.prediction.weights import load_weights

__all__ = ["Prediction", "load_weights", "predict"]
