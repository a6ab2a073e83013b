"""The paper's networks, their attention blocks, the losses, and the methods that train them, one step at a time.

They need PyTorch alone.
"""

from sat2dem_core.models.methods import build_method
from sat2dem_core.models.networks import PatchGAN, UNet

__all__ = ["PatchGAN", "UNet", "build_method"]
