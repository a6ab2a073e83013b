"""Attention blocks, by name."""

from torch import nn

from sat2dem_core.errors import choose

ATTENTIONS = {"none": lambda channels: nn.Identity()}


def build_attention(name: str, channels: int) -> nn.Module:
    """An attention block for (B, ``channels``, H, W) that keeps the shape.

    Raises:
        UnknownName: no such attention; the message lists the valid names.
    """
    return ATTENTIONS[choose("attention", name, ATTENTIONS)](channels)
