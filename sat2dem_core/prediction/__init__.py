"""A DEM of an image of any size: overlapping tiles, one surface, known heights, and how far to trust the result."""

from sat2dem_core.prediction.pipeline import Prediction, predict
from sat2dem_core.prediction.weights import load_weights

__all__ = ["Prediction", "load_weights", "predict"]
