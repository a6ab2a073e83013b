"""Attention blocks by name: each takes features (B, C, H, W) and returns them weighted.

Each has two forms: ``"paper"``, as in the code of Leyva, Ortega & de Moura (2026), and ``"original"``, as in the
article that introduced the block. SimAM is the same in both.

- CBAM: Woo et al. (2018), doi 10.1007/978-3-030-01234-2_1.
- SimAM: Yang et al. (2021), ICML, PMLR 139.
- GAM: Liu et al. (2021), arXiv 2112.05561.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sat2dem_core.errors import WrongShape, choose

FORMS = ("paper", "original")


def _hidden(channels: int, ratio: int) -> int:
    """Width of the bottleneck inside a block."""
    if channels < ratio:
        raise WrongShape(
            f"attention with ratio {ratio} needs more than {channels} channels: use networks of at least {ratio} "
            f"features, or a ratio of at most {channels}"
        )
    return channels // ratio


def widened(x: Tensor) -> Tensor:
    """A 16-bit tensor in float32; any other tensor unchanged."""
    return x.float() if x.element_size() == 2 else x


class ChannelAttention(nn.Module):
    """CBAM's first half: which channels matter, from their mean and their maximum.

        x * sigmoid(MLP(mean of x) + MLP(max of x)), one MLP of two layers for both
    """

    def __init__(self, channels: int, ratio: int):
        super().__init__()
        hidden = _hidden(channels, ratio)
        self.fc = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, largest = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * torch.sigmoid(self.fc(mean) + self.fc(largest))


class SpatialAttention(nn.Module):
    """CBAM's second half: which positions matter, from mean and maximum over the channels.

        x * sigmoid(7x7 convolution of [mean, max])

    Args:
        norm: whether batch norm follows the convolution, as in the original form; in the paper's it does not.
    """

    def __init__(self, norm: bool):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        summary = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)  # (B, 2, H, W)
        return x * torch.sigmoid(self.norm(self.conv(summary)))


class CBAM(nn.Module):
    """Convolutional block attention: channels, then positions."""

    def __init__(self, channels: int, form: str, ratio: int = 16):
        super().__init__()
        self.channel_attention = ChannelAttention(channels, ratio)
        self.spatial_attention = SpatialAttention(norm=form == "original")

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial_attention(self.channel_attention(x))


class SimAM(nn.Module):
    """Attention without parameters: the more a pixel differs from its channel's mean, the more it matters.

        x * sigmoid(d / (4 (sum of d / (HW - 1) + lambda)) + 0.5),  d = (x - mean)^2
    """

    def __init__(self, channels: int, form: str, stability: float = 1e-4):
        super().__init__()
        self.stability = stability  # the article's lambda

    def forward(self, x: Tensor) -> Tensor:
        d = widened(x)  # sums of squares overflow float16
        d = (d - d.mean((2, 3), keepdim=True)).square()  # (B, C, H, W)
        variance = d.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1)
        return x * torch.sigmoid(d / (4 * (variance + self.stability)) + 0.5).to(x.dtype)


class GlobalChannel(nn.Module):
    """GAM's first half: an MLP across the channels of every pixel, without pooling.

        x * sigmoid(MLP(x))
    """

    def __init__(self, channels: int, ratio: int):
        super().__init__()
        hidden = _hidden(channels, ratio)
        self.channel_mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        # A linear layer on each pixel is a 1x1 convolution, which need not move the channels to the end and back.
        first, activation, second = self.channel_mlp
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        hidden = activation(F.conv2d(x, first.weight[..., None, None], first.bias))  # (B, C/r, H, W)
        return x * torch.sigmoid(F.conv2d(hidden, second.weight[..., None, None], second.bias))


class GlobalSpatial(nn.Module):
    """GAM's second half: two 7x7 convolutions across all channels, without pooling.

        x * sigmoid(norm(conv(ReLU(norm(conv(x))))))
    """

    def __init__(self, channels: int, ratio: int, form: str):
        super().__init__()
        hidden = _hidden(channels, ratio)
        norm = nn.InstanceNorm2d if form == "paper" else nn.BatchNorm2d
        padding: Literal["replicate", "zeros"] = "replicate" if form == "paper" else "zeros"
        self.spatial_attention = nn.Sequential(
            nn.Conv2d(channels, hidden, 7, padding=3, padding_mode=padding), norm(hidden), nn.ReLU(),
            nn.Conv2d(hidden, channels, 7, padding=3, padding_mode=padding), norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.spatial_attention
        assert isinstance(first, nn.Conv2d)
        weights = _conv_to_few(first, x)
        for layer in others:
            weights = layer(weights)
        return x * torch.sigmoid(weights)


def _conv_to_few(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution to few channels, computed as one to 16 channels that hold several neighboring columns.

    The result is the same; a processor's vector units, which work on 16 channels at once, are no longer half idle.
    """
    columns = 16 // conv.out_channels
    if columns < 2 or conv.bias is None or x.is_cuda or conv.padding_mode != "replicate" or x.shape[-1] % columns:
        return conv(x)
    padded = F.pad(x, (3, 3, 3, 3), mode="replicate")
    weight = torch.cat([F.pad(conv.weight, (i, columns - 1 - i)) for i in range(columns)])  # (n h, C, 7, 6 + n)
    y = F.conv2d(padded, weight, conv.bias.repeat(columns), stride=(1, columns))  # (B, n h, H, W/n)
    return y.unflatten(1, (columns, -1)).movedim(1, -1).flatten(-2)  # (B, h, H, W)


class GAM(nn.Module):
    """Global attention: channels, then positions, neither pooled. Ratio 16 in the paper's form, 4 in the original."""

    def __init__(self, channels: int, form: str, ratio: int | None = None):
        super().__init__()
        ratio = ratio or (16 if form == "paper" else 4)
        self.channel_attention = GlobalChannel(channels, ratio)
        self.spatial_attention = GlobalSpatial(channels, ratio, form)

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial_attention(self.channel_attention(x))


class NoAttention(nn.Identity):
    """Features unchanged."""


ATTENTIONS: dict[str, Callable[[int, str], nn.Module]] = {
    "none": NoAttention,
    "cbam": CBAM,
    "gam": GAM,
    "simam": SimAM,
}


def build_attention(name: str, channels: int, form: str = "paper") -> nn.Module:
    """An attention block for (B, ``channels``, H, W).

    Raises:
        UnknownName: no such attention or form; the message lists the valid names.
        WrongShape: fewer channels than the block's ratio.

    >>> build_attention("gam", 32)(torch.rand(2, 32, 8, 8)).shape
    torch.Size([2, 32, 8, 8])
    """
    return ATTENTIONS[choose("attention", name, ATTENTIONS)](channels, choose("attention form", form, FORMS))
