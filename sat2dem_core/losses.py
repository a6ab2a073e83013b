"""What training minimizes."""

from torch import Tensor


def l1(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference of two tensors of one shape, in their unit."""
    return (prediction - truth).abs().mean()
