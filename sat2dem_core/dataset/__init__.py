"""What networks learn from: scenes and stores of tiles, their splits and their normalization.

The rooms ``tiles``, ``splits``, ``parts`` and ``normalize`` need no raster library, so names load when they are used.
"""

from typing import TYPE_CHECKING

from sat2dem_core.lazy import lazy

if TYPE_CHECKING:
    from sat2dem_core.dataset.building import build
    from sat2dem_core.dataset.parts import prepare
    from sat2dem_core.dataset.scenes import open_pair, open_scene
    from sat2dem_core.dataset.tiles import Tiles

__all__ = ["Tiles", "build", "open_pair", "open_scene", "prepare"]
__getattr__ = lazy(__name__, {
    "Tiles": "sat2dem_core.dataset.tiles",
    "build": "sat2dem_core.dataset.building",
    "open_pair": "sat2dem_core.dataset.scenes",
    "open_scene": "sat2dem_core.dataset.scenes",
    "prepare": "sat2dem_core.dataset.parts",
})
