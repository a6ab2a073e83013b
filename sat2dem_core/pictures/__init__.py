"""What notebooks show: figures in the book's style, diagrams of networks, and views that a reader moves.

They draw what the other wings have computed.
"""

from sat2dem_core.pictures.plots import use_style
from sat2dem_core.pictures.sliders import compare, frames
from sat2dem_core.pictures.terrain3d import view3d

__all__ = ["compare", "frames", "use_style", "view3d"]
