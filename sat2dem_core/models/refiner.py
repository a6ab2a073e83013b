"""The refiner: relief within the cells of a coarse DEM, from an image, the DEM and the sun.

Not in the paper. A residual U-Net without fully connected parts, so that it takes windows of any size, and two crops of
one image get the same relief. What it sees is made of nothing but the window itself:

* the image's detail, in units of its own contrast, so that no sensor or stretch is foreign;
* the gradient of the surface through the coarse DEM's cells, in units of its own size nearby. Its output has the same
  unit, so that relief is low where the coarse DEM is level;
* how well, and how strongly, brightness follows that gradient nearby: where shading is invisible, the network can know;
* the direction of the sun, the size of a cell and the steepness of the terrain.

Blocks: residual (He et al. 2016, arXiv 1512.03385) with layer norm over channels and one activation (Liu et al. 2022,
arXiv 2201.03545). The first level works on squares of 2 x 2 px (Shi et al. 2016, arXiv 1609.05158).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 16  # of what the network sees
POOL = 8  # px: statistics of the surroundings are computed on squares of this side
AROUND, WIDE = 4.0, 10.0  # squares: standard deviations of Gaussians, so 32 and 80 px
FLOOR = 1.0  # meters: the smallest unit of height, about the noise of global DEMs from one cell to the next
SHADING, SCALE = 4.0, 0.2  # what makes shape from shading, and what the network adds to it, about as large as 1
CLIP = 3.0  # standard deviations of brightness: snow, clouds and shadows count no more
WAVELENGTH = 20.0  # px, at which albedo disturbs shading as much as its correlation says; finer, it disturbs more
WITHIN, RESOLVED, REACH = 0.3, 0.35, 1.5  # cells: standard deviations of Gaussians; see look
VISIBLE = (0.3, 0.5, 0.7, 0.9)  # correlations for which brightness is integrated
EDGE = 32  # px of zeros around a window, since Fourier transforms are periodic
CORE, MARGIN = 768, 96  # px: side of the windows that make up an image, and what they see beyond
MULTIPLE = 16  # px: sides of windows are multiples of it


class Refiner(nn.Module):
    """Window of an image and a surface through a coarse DEM to relief: (B, 3, H, W) and (B, H, W) to (B, H, W) meters.

    Args:
        widths: channels of each level, of which each has half the resolution of the one before.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 96, 128, 128)):
        super().__init__()
        self.widths = tuple(widths)
        self.stem = nn.Conv2d(4 * CHANNELS, widths[0], 3, padding=1)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(_Residual(width, width) for width in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(_Residual(2 * fine, fine) for fine, _ in pairs)
        self.norm = _Norm(widths[0])
        self.head = nn.Conv2d(widths[0], 8, 3, padding=1)
        nn.init.normal_(self.head.weight, std=0.01)  # before training, a share of linear shape from shading is added
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, seen: Tensor) -> Tensor:
        """What :func:`look` returns, (B, CHANNELS, H, W), to relief in its unit, (B, H, W)."""
        x = self.stem(F.pixel_unshuffle(seen, 2))  # (B, widths[0], H/2, W/2)
        skips = []
        for block, shrink in zip(self.down, self.shrink):
            x = block(x)
            skips.append(x)
            x = shrink(x)
        x = self.down[-1](x)  # (B, widths[-1], H/16, W/16)
        for block, grow in zip(reversed(self.up), reversed(self.grow)):
            x = block(torch.cat([grow(x), skips.pop()], 1))
        trust, added = F.pixel_shuffle(self.head(F.silu(self.norm(x))), 2).float().unbind(1)  # (B, H, W) each
        return torch.sigmoid(trust) * seen[:, -1] / SHADING + SCALE * added


    def relief(
        self, image: np.ndarray, surface: np.ndarray, cell: float, gsd: float, azimuth: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The relief of an image, in windows of ``CORE`` px, the mean over each window and its mirror image.

        Args:
            image: (3, H, W) of any unit, 0 in all bands for nodata.
            surface: (H, W) meters, the mean-keeping spline through the cells of the coarse DEM.
            cell: side of a cell, px.
            gsd: ground sampling distance, meters.
            azimuth: of the sun, degrees clockwise from the top of the image.

        Returns:
            (H, W) float32 meters, to be added to the surface, and its unit, (H, W) meters.
        """
        result = np.zeros((2, *surface.shape), np.float32)
        for inner, outer, place in windows(*surface.shape):
            parts = self.window(image[:, *outer], surface[outer], cell, gsd, azimuth)
            result[:, *inner] = parts[:, *place]
        return result[0], result[1]

    @torch.no_grad()
    def window(
        self, image: np.ndarray, surface: np.ndarray, cell: float, gsd: float, azimuth: float
    ) -> np.ndarray:
        """Relief and unit of a window, (2, H, W); see :meth:`relief`."""
        device = next(self.parameters()).device
        total = np.zeros((2, *surface.shape), np.float32)
        for mirror in mirrors(azimuth):
            pixels, heights = (mirror.turn(part.astype(np.float32)) for part in (image, surface))
            rows, columns = (-side % MULTIPLE for side in heights.shape)
            pixels = np.pad(pixels, ((0, 0), (0, rows), (0, columns)))  # nodata
            heights = np.pad(heights, ((0, rows), (0, columns)), mode="edge")
            numbers = torch.tensor([[cell], [gsd], [mirror.azimuth]], dtype=torch.float32, device=device)
            seen, unit = look(*(torch.from_numpy(part)[None].to(device) for part in (pixels, heights)), *numbers)
            both = torch.cat([self(seen) * unit[:, 0], unit[:, 0]]).cpu().numpy()
            total += mirror.back(both[:, : both.shape[1] - rows, : both.shape[2] - columns]) / 2
        return total


def windows(height: int, width: int) -> Iterator[tuple[tuple[slice, slice], ...]]:
    """Windows that make up an image: the pixels that each determines, those it sees, and the former among the latter.

    Windows see ``MARGIN`` px beyond, as far as the image goes, and begin at multiples of ``CORE``.
    """
    for top in range(0, height, CORE):
        for left in range(0, width, CORE):
            inner = slice(top, min(top + CORE, height)), slice(left, min(left + CORE, width))
            outer = tuple(
                slice(max(0, part.start - MARGIN), min(side, part.stop + MARGIN))
                for part, side in zip(inner, (height, width))
            )
            place = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer))
            yield inner, outer, place  # type: ignore[misc]


@dataclass(frozen=True)
class Mirror:
    """How a window is mirrored so that the sun stands in the south-east.

    Attributes:
        left_right, up_down, transposed: about which axes; the last one after the others.
        azimuth: of the sun in the mirrored window, degrees clockwise from the top, from 90 to 180.
    """

    left_right: bool
    up_down: bool
    transposed: bool
    azimuth: float

    def turn(self, values: np.ndarray) -> np.ndarray:
        """Values (..., H, W), mirrored."""
        values = values[..., ::-1] if self.left_right else values
        values = values[..., ::-1, :] if self.up_down else values
        return np.ascontiguousarray(values.swapaxes(-1, -2) if self.transposed else values)

    def back(self, values: np.ndarray) -> np.ndarray:
        """Mirrored values, as they were."""
        values = values.swapaxes(-1, -2) if self.transposed else values
        values = values[..., ::-1, :] if self.up_down else values
        return np.ascontiguousarray(values[..., ::-1] if self.left_right else values)


def mirrors(azimuth: float) -> tuple[Mirror, Mirror]:
    """The two ways to mirror a window that bring the sun, degrees clockwise from the top, to the south-east."""
    azimuth %= 360
    west = azimuth > 180
    azimuth = 360 - azimuth if west else azimuth
    north = azimuth < 90
    azimuth = 180 - azimuth if north else azimuth
    return Mirror(west, north, False, azimuth), Mirror(west, north, True, 270 - azimuth)


class _Norm(nn.LayerNorm):
    """Each pixel's features get mean 0 and variance 1, so that no pixel depends on another."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    """Norm, convolution, activation, convolution, and the input added."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.norm = _Norm(channels_in)
        self.first = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        self.second.weight.data.mul_(0.5)  # so that training starts near a shallow network

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.second(F.silu(self.first(self.norm(x))))


def look(image: Tensor, surface: Tensor, cell: Tensor, gsd: Tensor, azimuth: Tensor) -> tuple[Tensor, Tensor]:
    """What the network sees of windows, and the unit of its output.

    Args:
        image: (B, 3, H, W) of any unit, not negative; 0 in all bands is nodata.
        surface: (B, H, W) meters, a smooth surface through the cells of the coarse DEM.
        cell: (B,) side of a cell, px.
        gsd: (B,) ground sampling distance, meters.
        azimuth: (B,) of the sun, degrees clockwise from the top of the window, from 90 to 180: other windows are
            mirrored first.

    Returns:
        (B, CHANNELS, H, W), and the unit, (B, 1, H, W) meters.
    """
    known = (image.amax(1, keepdim=True) > 0).to(surface.dtype)  # (B, 1, H, W)
    cell, gsd, angle = (part[:, None, None, None] for part in (cell, gsd, torch.deg2rad(azimuth)))
    share = _surroundings(known, AROUND).clamp(min=1e-3)

    brightness = torch.log(image.mean(1, keepdim=True).clamp(min=1e-6)) * known
    brightness = (brightness - _surroundings(brightness, AROUND) / share) * known
    contrast = (_surroundings(brightness.square(), AROUND) / share).clamp(min=1e-6).sqrt()
    brightness = (brightness / contrast).clamp(-CLIP, CLIP)

    mean = _surroundings(image * known, AROUND) / share
    colors = (image - mean) * known
    spread = (_surroundings(colors.square(), AROUND) / share).sqrt()
    colors = (colors / spread.clamp(min=1e-6 + 0.01 * mean)).clamp(-CLIP, CLIP)

    waves = _Waves(brightness, gsd)
    south, east = _gradient(surface[:, None])  # meters per px
    rise = torch.hypot(south, east)
    unit = (waves.smoothed(rise, REACH * cell) * cell).clamp(min=FLOOR)
    falls = -(east * torch.sin(angle) - south * torch.cos(angle)) / gsd * known  # towards the sun, rise over run
    falls = (falls - _surroundings(falls, AROUND) / share) * known
    shade = brightness * contrast
    spectrum = waves.of(shade)
    coarse = waves.back(spectrum * waves.gaussian(RESOLVED * cell)) * known  # as finely as the DEM resolves
    together, own, light = (_surroundings(part, WIDE) for part in (falls * coarse, falls.square(), coarse.square()))
    visible = together / (own * light).clamp(min=1e-12).sqrt()  # correlation
    strength = (together / own.clamp(min=1e-7)).clamp(-1.0, 4.0)
    spectrum = spectrum * (1 - waves.gaussian(WITHIN * cell))  # the DEM knows broader relief
    heights = [waves.integrated(spectrum, angle, r) for r in VISIBLE]
    relief = _blend(heights, visible) / strength.clamp(min=0.2) * ((visible - 0.05) / 0.15).clamp(0, 1)

    whole = torch.ones_like(brightness)
    away = angle - math.radians(135.0)
    seen = [
        colors, brightness, torch.log(contrast) / 2 + 1, south * cell / unit, east * cell / unit,
        torch.log(unit / (cell * gsd) + 1e-3) / 2 + 1, torch.log(cell / 11) * whole,
        torch.cos(away) * whole, torch.sin(away) * whole, 2 * visible, strength / 2,
        *((SHADING * part / unit).clamp(-CLIP, CLIP) for part in (heights[1], heights[3], relief)),
    ]
    return torch.cat(seen, 1), unit


def _gradient(values: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences down the rows and along the columns, (B, 1, H, W) each; at the border to the neighbor."""
    down = F.pad(values, (0, 0, 1, 1), mode="replicate")
    along = F.pad(values, (1, 1, 0, 0), mode="replicate")
    return (down[..., 2:, :] - down[..., :-2, :]) / 2, (along[..., 2:] - along[..., :-2]) / 2


def _blend(heights: list[Tensor], visible: Tensor) -> Tensor:
    """Heights for each correlation of ``VISIBLE``, interpolated to the correlation at each pixel."""
    total = torch.zeros_like(visible)
    for number, (part, r) in enumerate(zip(heights, VISIBLE)):
        before, after = VISIBLE[max(number - 1, 0)], VISIBLE[min(number + 1, len(VISIBLE) - 1)]
        rising = (visible - before) / (r - before) if number else torch.ones_like(visible)
        falling = (after - visible) / (after - r) if number + 1 < len(VISIBLE) else torch.ones_like(visible)
        total = total + part * torch.minimum(rising, falling).clamp(0, 1)
    return total


class _Waves:
    """Fourier transforms of windows (B, 1, H, W), with zeros around them, since the transform is periodic.

    Attributes:
        frequency: cycles per px.
        south, east: of the waves, radians per meter.
    """

    def __init__(self, window: Tensor, gsd: Tensor):
        self.sides = tuple(side + 2 * EDGE for side in window.shape[2:])
        down = torch.fft.fftfreq(self.sides[0], device=window.device)[:, None]
        along = torch.fft.rfftfreq(self.sides[1], device=window.device)[None]
        self.frequency = torch.hypot(down, along)
        self.south, self.east = 2 * math.pi * down / gsd, 2 * math.pi * along / gsd

    def of(self, values: Tensor) -> Tensor:
        return torch.fft.rfft2(F.pad(values, (EDGE,) * 4))

    def back(self, spectrum: Tensor) -> Tensor:
        whole = torch.fft.irfft2(spectrum, self.sides)
        return whole[..., EDGE : self.sides[0] - EDGE, EDGE : self.sides[1] - EDGE]

    def gaussian(self, sigma: Tensor) -> Tensor:
        """The response of a Gaussian mean with a standard deviation of ``sigma`` px, (B, 1, 1, 1)."""
        return torch.exp(-2 * (math.pi * sigma * self.frequency).square())

    def smoothed(self, values: Tensor, sigma: Tensor) -> Tensor:
        """The Gaussian mean of the values that lie in the window."""
        response = self.gaussian(sigma)
        weight = self.back(self.of(torch.ones_like(values)) * response)
        return self.back(self.of(values) * response) / weight.clamp(min=1e-3)

    def integrated(self, brightness: Tensor, angle: Tensor, r: float) -> Tensor:
        """Heights whose shading of strength 1 is the brightness: linear shape from shading.

        See :mod:`sat2dem_core.evaluation.shading`, and Pentland 1990 there.

        Args:
            brightness: spectrum of log brightness.
            angle: of the sun, (B, 1, 1, 1) radians.
            r: correlation of brightness and terrain to assume: the lower, the smoother the heights.
        """
        falls = self.east * torch.sin(angle) - self.south * torch.cos(angle)  # times -i: the response to heights
        disturbance = (1 - r**2) / (2 * r**2) * WAVELENGTH * self.frequency
        power = (falls.square() + disturbance * (self.south.square() + self.east.square())).clamp(min=1e-12)
        return self.back(1j * falls / power * brightness)


def _surroundings(values: Tensor, sigma: float) -> Tensor:
    """A Gaussian mean of values (B, C, H, W), computed on squares of ``POOL`` px and interpolated."""
    reach = math.ceil(3 * sigma)
    places = torch.arange(-reach, reach + 1, dtype=values.dtype, device=values.device)
    kernel = torch.exp(-places.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None]
    batch, channels, height, width = values.shape
    small = F.avg_pool2d(values, POOL)
    rows, columns = small.shape[2:]
    small = small.reshape(batch * channels, 1, rows, columns)
    small = F.conv2d(F.pad(small, (reach, reach, 0, 0), mode="replicate"), kernel[:, :, None])
    small = F.conv2d(F.pad(small, (0, 0, reach, reach), mode="replicate"), kernel[..., None])
    return F.interpolate(
        small.reshape(batch, channels, rows, columns), size=(height, width), mode="bilinear", align_corners=False
    )
