"""The paper's methods: each its networks, its optimizers and one training step.

Adding one is a class with a ``step`` and a line in ``METHODS``; training, checkpoints and evaluation know none by
name. Every step receives image and elevation with nodata already neutral: see :meth:`Method.step`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sat2dem_core.config import Config
from sat2dem_core.errors import choose
from sat2dem_core.losses import l1
from sat2dem_core.networks import UNet, initialize


class Method(nn.Module):
    """What every method has: a generator from image to normalized elevation, and optimizers.

    Args:
        config: a method reads of it what it needs.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.generator = UNet(config.attention, config.features, config.tile)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.build()
        initialize(self)
        self.to(memory_format=torch.channels_last)

    def build(self) -> None:
        """Add the method's further networks."""

    def start(self) -> None:
        """Make the optimizers: one Adam for each network, as in the paper."""
        for name, network in self.named_children():
            self.optimizers[name] = self._adam(network.parameters())

    def step(self, image: Tensor, dem: Tensor) -> dict[str, Tensor]:
        """Update every network once.

        Args:
            image: (B, 3, T, T) in [-1, 1].
            dem: (B, 1, T, T) normalized, NaN for nodata.

        Returns:
            The losses by name, detached, ``"loss"`` the generator's total.
        """
        fake = self.generator(image)
        # Where nothing is known both sides get one value: no loss sees a difference there, no gradient flows.
        known = ~dem.isnan()
        return self.update(image, torch.where(known, dem, -1.0), torch.where(known, fake, -1.0))

    def update(self, image: Tensor, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The method itself, on elevation without NaN: (B, 3, T, T), (B, 1, T, T), (B, 1, T, T)."""
        raise TypeError(f"{type(self).__name__} must define update")

    def descend(self, name: str, loss: Tensor) -> None:
        """One optimizer step of the network ``name`` down ``loss``."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def _adam(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.config.learning_rate, betas=(0.5, 0.999))


class UNetMethod(Method):
    """The generator alone: 100 L1."""

    def update(self, image: Tensor, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        loss = self.config.l1_weight * l1(fake, real)
        self.descend("generator", loss)
        return {"loss": loss.detach()}


METHODS = {"unet": UNetMethod}


def build_method(config: Config) -> Method:
    """The method that ``config.method`` names, with its initial weights drawn from torch's generator.

    Raises:
        UnknownName: no such method; the message lists the valid names.
    """
    return METHODS[choose("method", config.method, METHODS)](config)
