"""The paper's normalizations of elevation, Global and Global with Shift, and their inverses.

Source: Leyva, Ortega & de Moura (2026), doi 10.1007/s41064-026-00393-y.

Global maps the data set's elevation range [low, high] to [-1, 1]:

    n = 2 (z - low) / (high - low) - 1

Global with Shift then lowers each tile so that its lowest point is -1:

    s = n - (min over the tile of n + 1)

The authors do not store that offset; here it is returned with the result, so that Shift can be inverted.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sat2dem_core.errors import FlatElevation, NoElevation, choose

NORMALIZATIONS = ("global", "shift")


def tile_minimum(dem: Tensor) -> Tensor:
    """Lowest value of each tile, ignoring NaN: (..., H, W) to (..., 1, 1); NaN for a tile without any value."""
    lowest = torch.where(dem.isnan(), torch.inf, dem).amin((-2, -1), keepdim=True)
    return torch.where(lowest.isinf(), torch.nan, lowest)


@dataclass(frozen=True)
class Normalization:
    """A mapping from elevation in meters to the values that a network predicts.

    Attributes:
        kind: ``"global"`` or ``"shift"``.
        low, high: elevation range of the data set, meters.
        relief: largest relief (highest minus lowest point) of any tile of the data set, meters.

    >>> scale = Normalization("shift", low=0.0, high=1000.0, relief=500.0)
    >>> normalized, offset = scale.forward(torch.tensor([[[200.0, 300.0], [400.0, 700.0]]]))
    >>> normalized.min(), scale.inverse(normalized, offset).max()
    (tensor(-1.), tensor(700.))
    """

    kind: str
    low: float
    high: float
    relief: float

    def __post_init__(self) -> None:
        choose("normalization", self.kind, NORMALIZATIONS)

    @classmethod
    def fit(cls, kind: str, dem: np.ndarray) -> "Normalization":
        """Take the elevation range from all tiles of a data set.

        Following the paper, this is the whole data set, held-out tiles included: an atlas gives these three numbers for
        any region, and without them a Global model could not predict the height of a held-out summit.

        Args:
            kind: one of ``NORMALIZATIONS``.
            dem: (N, H, W) meters, NaN for nodata.

        Raises:
            NoElevation: every value is NaN, or one is infinite.
            FlatElevation: every value is the same.
        """
        valid = ~np.isnan(dem).all((-2, -1))
        if not valid.any():
            raise NoElevation("cannot normalize: every elevation is nodata; give a DEM that covers the image")
        low, high = float(np.nanmin(dem)), float(np.nanmax(dem))
        if np.isinf((low, high)).any():
            raise NoElevation("cannot normalize: an elevation is infinite; set unknown elevations to NaN")
        if low == high:
            raise FlatElevation(f"cannot normalize: every elevation is {low:g} m; give a DEM with some relief")
        relief = np.nanmax(dem[valid], (-2, -1)) - np.nanmin(dem[valid], (-2, -1))
        return cls(kind, low, high, float(relief.max()))

    @property
    def ssim_range(self) -> float:
        """SSIM's ``data_range`` on (n + 1) / 2: 1 for Global; for Shift the largest relief over the range.

        On the paper's Iberian tiles, Shift's is 0.6439.
        """
        return 1.0 if self.kind == "global" else self.relief / (self.high - self.low)

    def forward(self, dem: Tensor) -> tuple[Tensor, Tensor]:
        """Normalize meters.

        Args:
            dem: (..., H, W) meters, NaN for nodata.

        Returns:
            The normalized tiles (..., H, W), NaN where ``dem`` is, and the offset (..., 1, 1) that was subtracted from
            each; it is zero for Global.
        """
        n = 2 * (dem - self.low) / (self.high - self.low) - 1
        offset = tile_minimum(n) + 1 if self.kind == "shift" else torch.zeros_like(n[..., :1, :1])
        return n - offset, offset

    def inverse(self, normalized: Tensor, offset: Tensor | float = 0.0) -> Tensor:
        """Map normalized values back to meters.

        With the offset of :meth:`forward` this gives elevation. Without it, Shift gives ``low`` plus the height above
        the tile's lowest point: use :meth:`height_above_minimum` for that height alone.
        """
        return (normalized + offset + 1) * (self.high - self.low) / 2 + self.low

    def height_above_minimum(self, normalized: Tensor) -> Tensor:
        """Map Shift's normalized values to meters above the tile's lowest point."""
        return (normalized + 1) * (self.high - self.low) / 2


def scale_image(rgb: Tensor) -> Tensor:
    """Scale a uint8 image (..., 3, T, T) from 0 to 255 to float32 from -1 to 1, the input of the networks.

    >>> scale_image(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    return rgb.float() / 127.5 - 1
