"""How good a DEM is: measures in meters, baselines, and whether the difference between two models is significant.

Tiles in memory are scored without a raster library, so names load when they are used.
"""

from typing import TYPE_CHECKING

from sat2dem_core.lazy import lazy

if TYPE_CHECKING:
    from sat2dem_core.evaluation.measures import Measures
    from sat2dem_core.evaluation.scoring import evaluate
    from sat2dem_core.evaluation.two_rasters import score

__all__ = ["Measures", "evaluate", "score"]
__getattr__ = lazy(__name__, {
    "Measures": "sat2dem_core.evaluation.measures",
    "evaluate": "sat2dem_core.evaluation.scoring",
    "score": "sat2dem_core.evaluation.two_rasters",
})
