"""Raster files: reading images as the networks need them, pixel sizes and UTM zones, downloads, and safe writing.

Names load their module when they are first used, since :mod:`~sat2dem_core.rasters.atomic` needs no raster library.
"""

from typing import TYPE_CHECKING

from sat2dem_core.lazy import lazy

if TYPE_CHECKING:
    from sat2dem_core.rasters.atomic import replacing
    from sat2dem_core.rasters.download import fetch
    from sat2dem_core.rasters.elevation import open_elevation
    from sat2dem_core.rasters.grids import ground_sampling_distance
    from sat2dem_core.rasters.imagery import open_image

__all__ = ["fetch", "ground_sampling_distance", "open_elevation", "open_image", "replacing"]
__getattr__ = lazy(__name__, {
    "fetch": "sat2dem_core.rasters.download",
    "ground_sampling_distance": "sat2dem_core.rasters.grids",
    "open_elevation": "sat2dem_core.rasters.elevation",
    "open_image": "sat2dem_core.rasters.imagery",
    "replacing": "sat2dem_core.rasters.atomic",
})
