"""Muon, an optimizer for the weights of convolutions.

Each update is the momentum with all its singular values made about equal, so that directions in which gradients are
small learn as fast as the others: K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024,
kellerjordan.github.io/posts/muon. torch.optim.Muon takes matrices alone, and kernels of convolutions are none.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

STEPS = 5  # of the iteration, whose coefficients are those of the article
COEFFICIENTS = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Parameters of two or more dimensions, of which the first is one side of a matrix and the others the other.

    Args:
        lr: learning rate, of which a share of the parameters' typical size is a good choice, such as 0.02.
        momentum: share of the earlier gradients that each step keeps (Nesterov).
        weight_decay: times the learning rate, what is subtracted of the parameters in each step.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(orthogonal(update).view_as(parameter), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix (m, n) with its singular values moved near 1, by five steps of a polynomial of Newton and Schulz.

    >>> torch.linalg.svdvals(orthogonal(torch.diag(torch.tensor([100.0, 1.0, 0.1])))).min() > 0.3
    tensor(True)
    """
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16() / (matrix.norm() + 1e-7)
    wide = x.shape[0] > x.shape[1]
    x = x.T if wide else x
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if wide else x).to(matrix.dtype)
