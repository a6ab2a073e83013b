"""How good a DEM is: measures in meters, baselines, and whether the difference between two models is significant."""

from sat2dem_core.evaluation.measures import Measures
from sat2dem_core.evaluation.scoring import evaluate
from sat2dem_core.evaluation.two_rasters import score

__all__ = ["Measures", "evaluate", "score"]
