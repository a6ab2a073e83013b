"""The paper's networks: a U-Net generator and a 70x70 PatchGAN.

Source: Leyva, Ortega & de Moura (2026), doi 10.1007/s41064-026-00393-y, after Isola et al. (2017),
arXiv 1611.07004. Modules are named so that parameters have the keys of the authors' checkpoints.
"""

import os
import pickle
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sat2dem_core.dataset.tiles import check_tile_size
from sat2dem_core.errors import DamagedCheckpoint, WrongShape
from sat2dem_core.models.attention import build_attention, widened

Network = TypeVar("Network", bound=nn.Module)


class _Reflecting(nn.Conv2d):
    """A 4x4 convolution of the input extended by its mirror image, one pixel wide."""

    def forward(self, x: Tensor) -> Tensor:
        # Autocast would pad in float32, which takes a twentieth of a step. It does not know the meta device.
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(x, self.weight, self.bias, self.stride)


def _conv(channels_in: int, channels_out: int, stride: int = 2, bias: bool = False) -> nn.Conv2d:
    return _Reflecting(channels_in, channels_out, 4, stride, bias=bias)


def _upconv(channels_in: int, channels_out: int, bias: bool = False) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels_in, channels_out, 4, 2, padding=1, bias=bias)


class Block(nn.Module):
    """Convolution, norm and activation; then attention; then dropout."""

    def __init__(
        self, conv: nn.Conv2d | nn.ConvTranspose2d, activation: nn.Module, attention: str, form: str,
        dropout: bool = False,
    ):
        super().__init__()
        channels = conv.out_channels
        self.conv = nn.Sequential(conv, nn.InstanceNorm2d(channels, affine=True), activation)
        self.attention = build_attention(attention, channels, form)
        self.dropout = nn.Dropout(0.5) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.attention(self.conv(x)))


class UNet(nn.Module):
    """Image to normalized elevation: (B, 3, T, T) in [-1, 1] to (B, 1, T, T) in (-1, 1).

    A tile of 2^k px is halved k times, to a single pixel, and doubled k times; skip connections carry the features of
    every level across. At 256 px this is the paper's generator.

    Args:
        attention: a name of :data:`sat2dem_core.models.attention.ATTENTIONS`, in every inner block.
        features: channels of the first level; they double with each level up to eight times as many.
        tile: T, a power of two from 32 to 512 px.
        dropout: how many of the first up blocks have dropout 0.5.
        form: of the attention, a name of :data:`sat2dem_core.models.attention.FORMS`.

    Raises:
        UnknownName: no such attention or form; the message lists the valid names.
        WrongShape: a tile or width that the network cannot have.

    >>> UNet(features=8, tile=32)(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 1, 32, 32])
    """

    def __init__(
        self, attention: str = "none", features: int = 64, tile: int = 256, dropout: int = 3, form: str = "paper"
    ):
        super().__init__()
        check_tile_size(tile)
        if features < 1:
            raise WrongShape(f"a U-Net of {features} features has nothing to learn with: give 1 or more")
        self.tile = tile
        levels = tile.bit_length() - 1
        width = [features * min(2**level, 8) for level in range(levels)]  # channels after each halving

        self.initial_down = nn.Sequential(_conv(3, width[0], bias=True), nn.LeakyReLU(0.2))
        self._downs, self._ups = [], []
        for i in range(1, levels - 1):
            block = Block(_conv(width[i - 1], width[i]), nn.LeakyReLU(0.2), attention, form)
            self.add_module(f"down{i}", block)
            self._downs.append(f"down{i}")
        self.bottleneck = nn.Sequential(_conv(width[-2], width[-1], bias=True), nn.ReLU())
        for i in range(1, levels):
            below = width[-1] if i == 1 else 2 * width[-i]  # from the second on, a skip connection doubles them
            block = Block(_upconv(below, width[-1 - i]), nn.ReLU(), attention, form, dropout=i <= dropout)
            self.add_module(f"up{i}", block)
            self._ups.append(f"up{i}")
        self.final_up = nn.Sequential(_upconv(2 * width[0], 1, bias=True), nn.Tanh())

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[1:] != (3, self.tile, self.tile):
            raise WrongShape(
                f"this U-Net takes images of shape (batch, 3, {self.tile}, {self.tile}), not {tuple(image.shape)}: "
                f"cut tiles of {self.tile} px, or build UNet(tile=...) for yours"
            )
        if not image.is_floating_point():
            raise WrongShape(f"this U-Net takes numbers from -1 to 1, not {image.dtype}: see normalize.scale_image")
        x = self.initial_down(image)  # (B, F, T/2, T/2)
        skips = [x]
        for name in self._downs:
            x = getattr(self, name)(x)  # (B, min(2^i, 8)F, T/2^(i+1), T/2^(i+1))
            skips.append(x)
        x = self.bottleneck(x)  # (B, 8F, 1, 1)
        for name in self._ups:
            x = getattr(self, name)(x)
            x = torch.cat((x, skips.pop()), 1)
        # In bfloat16 the output would have steps of 7 m.
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            return self.final_up(widened(x))  # (B, 1, T, T)


class PatchGAN(nn.Module):
    """Whether elevation belongs to an image: one logit for each of many overlapping patches of 70 px.

    (B, 3, T, T) and (B, 1, T, T) to (B, 1, T/8 - 2, T/8 - 2): 30 x 30 logits at 256 px, 2 x 2 at 32 px, where a
    patch sees the whole tile. The reviser of DRPAN is this network without attention.

    Args:
        attention: a name of :data:`sat2dem_core.models.attention.ATTENTIONS`, after each inner layer.
        features: channels of the first layer; they double with each layer up to eight times as many.
        form: of the attention.

    >>> PatchGAN(features=8)(torch.zeros(1, 3, 256, 256), torch.zeros(1, 1, 256, 256)).shape
    torch.Size([1, 1, 30, 30])
    """

    def __init__(self, attention: str = "none", features: int = 64, form: str = "paper"):
        super().__init__()
        f = features

        def layer(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
            norm = nn.InstanceNorm2d(channels_out, affine=True)
            return nn.Sequential(_conv(channels_in, channels_out, stride), norm, nn.LeakyReLU(0.2))

        self.initial = nn.Sequential(_conv(4, f, bias=True), nn.LeakyReLU(0.2))
        self.layer1 = layer(f, 2 * f, stride=2)
        self.attention1 = build_attention(attention, 2 * f, form)
        self.layer2 = layer(2 * f, 4 * f, stride=2)
        self.attention2 = build_attention(attention, 4 * f, form)
        self.layer3 = layer(4 * f, 8 * f, stride=1)
        self.attention3 = build_attention(attention, 8 * f, form)
        self.final = _conv(8 * f, 1, stride=1, bias=True)

    def forward(self, image: Tensor, dem: Tensor) -> Tensor:
        if image.shape[-2:] != dem.shape[-2:]:
            raise WrongShape(
                f"image {tuple(image.shape)} and DEM {tuple(dem.shape)} differ in size: put both on one grid first"
            )
        x = self.initial(torch.cat((image, dem), 1))  # (B, F, T/2, T/2)
        x = self.attention1(self.layer1(x))  # (B, 2F, T/4, T/4)
        x = self.attention2(self.layer2(x))  # (B, 4F, T/8, T/8)
        x = self.attention3(self.layer3(x))  # (B, 8F, T/8 - 1, T/8 - 1)
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            return self.final(widened(x))  # (B, 1, T/8 - 2, T/8 - 2)


def initialize(network: Network) -> Network:
    """Draw the paper's initial weights: N(0, 0.02) for convolutions, zero bias; norms keep one and zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def load_paper_weights(network: nn.Module, path: str | os.PathLike) -> None:
    """Load a checkpoint of the paper authors' code into our network of the same architecture.

    Args:
        network: a :class:`UNet` or :class:`PatchGAN` at the size and with the attention of the checkpoint.
        path: see :func:`read_paper_weights`.

    Raises:
        DamagedCheckpoint: the file is no such checkpoint, or a key is missing, superfluous or of another shape; the
            message names it, and the network is unchanged.
    """
    tensors = read_paper_weights(path)
    faults = differences(tensors, network.state_dict())
    if faults:
        raise DamagedCheckpoint(
            f"{path} belongs to another architecture ({'; '.join(faults[:5])}): "
            "build the network with the checkpoint's attention, features and tile"
        )
    network.load_state_dict(tensors)


def read_paper_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors by name of a checkpoint of the paper authors' code.

    Args:
        path: a file that ``torch.save`` wrote: the tensors by name, alone or under ``"state_dict"``. Only tensors are
            read (``weights_only``), never other pickled objects.

    Raises:
        DamagedCheckpoint: the file is no such checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{path} does not exist: check the path") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DamagedCheckpoint(
            f"{path} is no whole checkpoint of tensors alone ({' '.join(str(error).split())[:200]}): copy it again"
        ) from error
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict):
        raise DamagedCheckpoint(f"{path} holds no tensors by name: give a file that torch.save made of a state_dict")
    return tensors


def differences(tensors: dict[str, Any], wanted: dict[str, Tensor]) -> list[str]:
    """What keeps tensors from being a network's weights, key by key in the network's order."""
    faults = []
    for key, tensor in wanted.items():
        if key not in tensors:
            faults.append(f"{key} is missing")
        elif not isinstance(tensors[key], Tensor):
            faults.append(f"{key} is no tensor")
        elif tensors[key].shape != tensor.shape:
            faults.append(f"{key} has shape {tuple(tensors[key].shape)}, not {tuple(tensor.shape)}")
    return faults + [f"{key} is not in this network" for key in tensors if key not in wanted]
