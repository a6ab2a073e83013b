"""The losses of training. Every function takes tensors of one shape and returns a scalar.

Elevation is normalized, (B, 1, T, T). Adversarial losses work on logits, (B, 1, m, m).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sat2dem_core.errors import WrongShape


def l1(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference."""
    _same_shape(prediction, truth)
    return (prediction - truth).abs().mean()


def adversarial_loss(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of logits against "all real" or "all fake": the adversarial loss."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def first_order(prediction: Tensor, truth: Tensor) -> Tensor:
    """The paper's gradient loss: differences between neighbors, along the columns and down the rows.

    ``mean |Dx (prediction - truth)| + mean |Dy (prediction - truth)|``

    >>> first_order(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.zeros(2, 2))
    tensor(1.)
    """
    _same_shape(prediction, truth)
    error = prediction - truth
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def second_order(prediction: Tensor, truth: Tensor) -> Tensor:
    """Second differences, so curvature: the second part of GADEM's loss (doi 10.3390/aerospace11070529).

    ``mean |Dxx (prediction - truth)| + mean |Dyy (prediction - truth)|``
    """
    _same_shape(prediction, truth)
    error = prediction - truth
    return error.diff(n=2, dim=-1).abs().mean() + error.diff(n=2, dim=-2).abs().mean()


def slope_loss(prediction: Tensor, truth: Tensor, meters: float, gsd: tuple[float, float]) -> Tensor:
    """Mean length of the difference between the two slope vectors, in meters per meter. Not in the paper.

    Unlike :func:`first_order` it does not depend on the normalization or the ground sampling distance, nor on the
    direction that a slope faces, even where pixels are not square.

    Args:
        meters: length of one normalized unit.
        gsd: ground sampling distance (down the rows, along the columns), meters.
    """
    _same_shape(prediction, truth)
    error = (prediction - truth) * meters
    down = error.diff(dim=-2)[..., :, :-1] / gsd[0]  # (B, 1, T-1, T-1)
    along = error.diff(dim=-1)[..., :-1, :] / gsd[1]
    return (down.square() + along.square() + 1e-12).sqrt().mean()  # the small number keeps the root's gradient finite


GRADIENTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "first": ("first",),
    "second": ("second",),
    "fused": ("first", "second"),  # GADEM's
    "slope": ("slope",),
}


def gradient_penalty(critic: Callable[[Tensor, Tensor], Tensor], image: Tensor, mix: Tensor) -> Tensor:
    """How far the critic's gradient is from length one: mean over samples of (norm of d sum(logits) / d pair - 1)^2.

    Source: Gulrajani et al. (2017), arXiv 1704.00028; the norm runs over all channels and pixels of the pair.

    Args:
        critic: takes image (B, 3, T, T) and elevation (B, 1, T, T).
        mix: elevation between a real and a fake one, (B, 1, T, T).
    """
    image, mix = image.detach().requires_grad_(), mix.detach().requires_grad_()
    with torch.autocast(image.device.type, enabled=False):  # a norm of many small numbers, and differentiated twice
        slopes = torch.autograd.grad(critic(image, mix).sum(), (image, mix), create_graph=True)
    length = torch.cat(slopes, 1).flatten(1).norm(2, dim=1)  # (B,)
    return (length - 1).square().mean()


class Proposal:
    """DRPAN's region proposal: the window that the discriminator finds most fake.

    Source: Wang et al. (2018), doi 10.1007/978-3-030-01246-5_47, with the sizes of the paper's authors: on tiles of
    256 px a score map of 30 x 30, a window of 5 scores, a mask of 70 px and a crop of 20 px; on smaller tiles the same
    shares.

    Args:
        tile: T, px.
        scores: m, side of the score map.
    """

    def __init__(self, tile: int, scores: int):
        self.tile, self.stride = tile, tile / scores
        self.window = min(5, scores)
        self.mask, self.crop = round(70 * tile / 256), round(20 * tile / 256)

    def corner(self, score_map: Tensor) -> Tensor:
        """Upper left corner of the least convincing window: (B, 1, m, m) in [0, 1] to (B, 2), x and y in px."""
        means = F.avg_pool2d(score_map, self.window, stride=1)  # (B, 1, m-w+1, m-w+1)
        lowest = means.flatten(1).argmin(1)  # (B,)
        columns = means.shape[-1]
        index = torch.stack((lowest % columns, lowest // columns), 1)  # (B, 2)
        return (index * self.stride).clamp(0, self.tile - self.mask)

    def masked(self, real: Tensor, fake: Tensor, corner: Tensor) -> Tensor:
        """The real elevation with the proposed window of the fake in it: (B, 1, T, T)."""
        pixel = torch.arange(self.tile, device=real.device)
        first = corner.round()[:, :, None]  # (B, 2, 1)
        inside = (pixel >= first) & (pixel < first + self.mask)  # (B, 2, T), along x and down y
        window = inside[:, 0, None, None, :] & inside[:, 1, None, :, None]  # (B, 1, T, T)
        return torch.where(window, fake, real)

    def region(self, dem: Tensor, corner: Tensor) -> Tensor:
        """The elevation at the unrounded corner: (B, 1, T, T) to (B, 1, c, c).

        This is RoIAlign: every pixel is the mean of four bilinear readings, two in each direction.
        """
        count = 2 * self.crop
        offset = torch.arange(count, device=dem.device) / 2 + 0.25  # a quarter and three quarters of each px
        x, y = (corner[:, axis, None] + offset for axis in (0, 1))  # (B, 2c) each
        grid = torch.stack((x[:, None, :].expand(-1, count, -1), y[:, :, None].expand(-1, -1, count)), -1)
        grid = (grid * 2 / (self.tile - 1) - 1).to(dem.dtype)
        readings = F.grid_sample(dem, grid, align_corners=True)  # (B, 1, 2c, 2c)
        return F.avg_pool2d(readings, 2)


def _same_shape(prediction: Tensor, truth: Tensor) -> None:
    if prediction.shape != truth.shape:
        raise WrongShape(
            f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape: "
            "a loss would compare the wrong pixels; cut both on one grid"
        )
