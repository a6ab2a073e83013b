"""The sun of an image: how its brightness follows the gradient of the terrain.

An image is brighter on slopes that face the sun. To first order log brightness falls with the terrain's rise towards
the sun, so a regression of one on the other gives the sun's azimuth, and how strong and how visible shading is. The
reflectance of a surface as a function of its gradient: Horn 1981, doi 10.1109/PROC.1981.11918. Albedo, haze and clouds
vary for other reasons, and lower the correlation.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter

FINEST = 0.5  # cells: standard deviation of the Gaussian that removes what a DEM does not resolve
BROADEST = 2.0, 12.0  # cells, px; the larger one: the Gaussian that is subtracted, since albedo varies over distance
CLIP = 2.5  # robust standard deviations of log brightness: snow, clouds and shadows count no more than that
NORMAL_SD = 1.4826  # times the median absolute deviation: the standard deviation of a normal distribution


@dataclass(frozen=True)
class Shading:
    """How log brightness follows the terrain.

    Attributes:
        azimuth: of the sun, degrees clockwise from the top of the image.
        strength: by how much log brightness falls for each unit of rise over run towards the sun. Without haze and
            diffuse light it is the cotangent of the sun's elevation: 1 for 45 degrees.
        r: correlation of log brightness with what the terrain explains; negative where slopes that face the given sun
            are dark.
    """

    azimuth: float
    strength: float
    r: float


def estimate_sun(
    image: np.ndarray, dem: np.ndarray, gsd: tuple[float, float], cell: float = 1.0
) -> tuple[float, float]:
    """The azimuth of the sun that explains an image's brightness best, and the correlation that it reaches.

    Args: see :func:`fit_shading`.

    Returns:
        Degrees clockwise from the top of the image, and r from 0 to 1. Below 0.2 the azimuth says nothing, and neither
        does a larger one over few cells: by chance r reaches about 2 over the square root of their number.
    """
    shading = fit_shading(image, dem, gsd, cell)
    return shading.azimuth, shading.r


def fit_shading(
    image: np.ndarray, dem: np.ndarray, gsd: tuple[float, float], cell: float = 1.0, azimuth: float | None = None
) -> Shading:
    """Linear regression of log brightness on the terrain's gradient, both between two scales.

    Args:
        image: (bands, H, W) of any unit, not negative; NaN or 0 in all bands is nodata.
        dem: (H, W) meters, NaN for voids; of a coarse DEM a smooth surface through its cells.
        gsd: ground sampling distance (down the rows, along the columns), meters.
        cell: side of the cells that the DEM resolves, px.
        azimuth: of the sun, degrees clockwise from the top of the image; by default the one that explains most.

    Returns:
        The shading; without any brightness or relief, one of strength 0 and r 0.
    """
    return fit_moments(image, dem, gsd, cell).shading(azimuth)


@dataclass(frozen=True)
class Moments:
    """Sums over pixels that the regression needs; those of several windows of an image may be added.

    Attributes:
        count: of the pixels.
        sums: (3,) of log brightness, and of the terrain's fall to the south and to the east.
        products: (3, 3) sums of products of these.
    """

    count: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3))
    products: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.sums + other.sums, self.products + other.products)

    def shading(self, azimuth: float | None = None) -> Shading:
        """The regression, for a given azimuth or the one that explains most; without relief, of strength 0 and r 0."""
        nothing = Shading(azimuth or 0.0, 0.0, 0.0)
        if self.count < 3:
            return nothing
        covariance = self.products - np.outer(self.sums, self.sums) / self.count
        mix = np.eye(2) if azimuth is None else np.array([towards(azimuth, *np.eye(2))])
        falls, target = mix @ covariance[1:, 1:] @ mix.T, mix @ covariance[1:, 0]
        weights = np.linalg.lstsq(falls, target, rcond=1e-9)[0]
        scale = np.sqrt((weights @ falls @ weights) * covariance[0, 0])
        if not scale > 0:
            return nothing
        r = float(weights @ target / scale)
        if azimuth is not None:
            strength = float(weights[0])
            return Shading(azimuth, strength, float(np.copysign(r, strength)))
        south, east = weights
        return Shading(float(np.degrees(np.arctan2(east, -south)) % 360), float(np.hypot(south, east)), r)


def fit_moments(image: np.ndarray, dem: np.ndarray, gsd: tuple[float, float], cell: float = 1.0) -> Moments:
    """The sums over one window; see :func:`fit_shading` for the arguments."""
    brightness = log_brightness(image)
    fine, broad = FINEST * cell, max(BROADEST[0] * cell, BROADEST[1])
    parts = np.stack([brightness, *np.gradient(dem, *gsd)])  # log brightness, rise to the south and to the east
    parts = band(parts, fine, broad)
    parts = parts[:, ~np.isnan(parts).any(0)]  # (3, pixels)
    if parts.shape[1] < 3:
        return Moments()
    parts = np.stack([clipped(parts[0]), *-parts[1:]])
    return Moments(parts.shape[1], parts.sum(1), parts @ parts.T)


def towards(azimuth: float, south: np.ndarray, east: np.ndarray) -> np.ndarray:
    """The component of a vector towards an azimuth, degrees clockwise from the top."""
    angle = np.radians(azimuth)
    return east * np.sin(angle) - south * np.cos(angle)


def log_brightness(image: np.ndarray) -> np.ndarray:
    """The logarithm of the mean of bands, (bands, H, W) to (H, W); NaN where there is no light."""
    mean = image.mean(0, dtype=np.float64)
    return np.log(np.where(mean > 0, mean, np.nan))


def clipped(values: np.ndarray, limit: float = CLIP) -> np.ndarray:
    """Values with outliers at that many robust standard deviations from the median; NaN stays."""
    median = np.nanmedian(values)
    reach = limit * NORMAL_SD * np.nanmedian(np.abs(values - median))
    return values.clip(median - reach, median + reach)


def band(parts: np.ndarray, fine: float, broad: float) -> np.ndarray:
    """What of parts (N, H, W) lies between two scales, the standard deviations of two Gaussians in px.

    A pixel is known where all parts are; Gaussians average known pixels alone.
    """
    known = ~np.isnan(parts).any(0)
    filled = np.where(known, parts, 0.0)

    def blurred(sigma: float) -> np.ndarray:
        weight = gaussian_filter(known.astype(np.float64), sigma, mode="nearest")
        smooth = np.stack([gaussian_filter(part, sigma, mode="nearest") for part in filled])
        return smooth / np.maximum(weight, 1e-9)

    return np.where(known, blurred(fine) - blurred(broad), np.nan)
