"""The paper's methods: each its networks, its optimizers and one training step.

Source: Leyva, Ortega & de Moura (2026), doi 10.1007/s41064-026-00393-y. Adding a method is a class with an ``update``
and a line in ``METHODS``; training, checkpoints and evaluation know none by name.

In every ``update``, x is the image (B, 3, T, T) in [-1, 1], y the real elevation and fake = G(x) the predicted one,
(B, 1, T, T) normalized, without NaN: see :meth:`Method.step`.
"""

import torch
from torch import Tensor, nn

from sat2dem_core.config import Config
from sat2dem_core.errors import choose
from sat2dem_core.losses import (
    GRADIENTS, Proposal, first_order, gradient_penalty, judged, l1, second_order, slope,
)
from sat2dem_core.networks import PatchGAN, UNet, initialize


class Method(nn.Module):
    """What every method has: a generator, optimizers, and the loss that compares elevation with the truth.

    Args:
        config: a method reads of it what it needs.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        choose("gradient loss", config.gradient, GRADIENTS)
        self.generator = initialize(
            UNet(config.attention, config.features, config.tile, form=config.attention_form)
        )
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.noise = torch.Generator()  # a stream apart, so that what a method draws moves no other's dropout

    def start(self, meters: float, gsd: tuple[float, float]) -> None:
        """Prepare for training: one Adam for each network.

        Args:
            meters: what one normalized unit stands for.
            gsd: ground sampling distance (down the rows, along the columns), meters.
        """
        self.meters, self.gsd = meters, gsd
        for name, network in self.named_children():
            self.optimizers[name] = torch.optim.Adam(
                network.parameters(), lr=self.config.learning_rate, betas=(0.5, 0.999)
            )

    def seed(self, number: int) -> None:
        """Restart all that is random in a step."""
        torch.manual_seed(number)
        self.noise.manual_seed(number)

    def step(self, image: Tensor, dem: Tensor) -> dict[str, Tensor]:
        """Update every network once.

        Args:
            image: (B, 3, T, T) in [-1, 1].
            dem: (B, 1, T, T) normalized, NaN for nodata.

        Returns:
            The losses by name, detached, ``"loss"`` the generator's total.
        """
        fake = self.generator(image)
        # Where nothing is known both sides get one value: no loss sees an error there, and no gradient flows from it.
        # A gradient loss counts the edge of such a hole as if the ground inside were right.
        known = ~dem.isnan()
        losses = self.update(image, torch.where(known, dem, -1.0), torch.where(known, fake, -1.0))
        return {name: loss.detach() for name, loss in losses.items()}

    def update(self, x: Tensor, y: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The method itself; returns its losses by name."""
        raise TypeError(f"{type(self).__name__} must define update")

    def reconstruction(self, fake: Tensor, y: Tensor) -> Tensor:
        """What all methods share: 100 L1, and the gradient terms that the config asks for."""
        config = self.config
        loss = config.l1_weight * l1(fake, y)
        for term in GRADIENTS[config.gradient]:
            if term == "first":
                loss = loss + config.gradient_weight * first_order(fake, y)
            elif term == "second":
                loss = loss + config.second_weight * second_order(fake, y)
            else:
                loss = loss + config.gradient_weight * slope(fake, y, self.meters, self.gsd)
        return loss

    def descend(self, name: str, loss: Tensor) -> None:
        """One optimizer step of the network ``name`` down ``loss``; other networks' gradients stay untouched."""
        optimizer, network = self.optimizers[name], getattr(self, name)
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(network.parameters()))
        optimizer.step()


class UNetMethod(Method):
    """The generator alone."""

    def update(self, x: Tensor, y: Tensor, fake: Tensor) -> dict[str, Tensor]:
        loss = self.reconstruction(fake, y)
        self.descend("generator", loss)
        return {"loss": loss}


class Pix2Pix(Method):
    """Isola et al. (2017), arXiv 1611.07004: a discriminator judges pairs of image and elevation."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.discriminator = initialize(PatchGAN(config.attention, config.critic_features, config.attention_form))

    def update(self, x: Tensor, y: Tensor, fake: Tensor) -> dict[str, Tensor]:
        discriminator_loss, _ = self.discriminate(x, y, fake)
        loss = self.deceive(x, fake) + self.reconstruction(fake, y)
        self.descend("generator", loss)
        return {"loss": loss, "discriminator": discriminator_loss}

    def discriminate(self, x: Tensor, y: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's step, halved as in the paper; returns its loss and its logits of the fake."""
        logits = self.discriminator(x, fake.detach())  # (B, 1, m, m)
        loss = (judged(self.discriminator(x, y), real=True) + judged(logits, real=False)) / 2
        self.descend("discriminator", loss)
        return loss, logits.detach()

    def deceive(self, x: Tensor, fake: Tensor) -> Tensor:
        """The generator's adversarial loss: the fake should be judged real."""
        return judged(self.discriminator(x, fake), real=True)


class DRPAN(Pix2Pix):
    """Wang et al. (2018), doi 10.1007/978-3-030-01246-5_47: a reviser looks at the least convincing region.

    ``config.drpan`` chooses: in ``"flow"`` the reviser's and the region's gradients reach the generator, as in the
    article; in ``"detached"`` they do not, as the paper's code ran, and the generator learns what Pix2Pix's learns.
    """

    def __init__(self, config: Config):
        super().__init__(config)
        choose("way to run DRPAN", config.drpan, ("flow", "detached"))
        self.reviser = initialize(PatchGAN(features=config.critic_features))
        self.proposal = Proposal(config.tile, config.tile // 8 - 2)

    def update(self, x: Tensor, y: Tensor, fake: Tensor) -> dict[str, Tensor]:
        discriminator_loss, logits = self.discriminate(x, y, fake)
        corner = self.proposal.corner(logits.sigmoid())  # (B, 2)
        seen = fake if self.config.drpan == "flow" else fake.detach()
        masked = self.proposal.masked(y, seen, corner)  # (B, 1, T, T)
        reviser_loss = self.revise(x, y, masked.detach())

        region = l1(self.proposal.region(seen, corner), self.proposal.region(y, corner))
        revised = judged(self.reviser(x, masked), real=True)
        loss = (
            self.deceive(x, fake) + self.reconstruction(fake, y)
            + revised + self.config.region_weight * region
        )
        self.descend("generator", loss)
        return {
            "loss": loss, "discriminator": discriminator_loss, "reviser": reviser_loss, "region": region,
        }

    def revise(self, x: Tensor, y: Tensor, masked: Tensor) -> Tensor:
        """The reviser's step: halved, with 10 times the gradient penalty; returns its loss."""
        real, fake = judged(self.reviser(x, y), real=True), judged(self.reviser(x, masked), real=False)
        share = torch.rand(len(x), 1, 1, 1, generator=self.noise).to(x.device)  # one weight a sample
        penalty = gradient_penalty(self.reviser, x, share * y + (1 - share) * masked)
        loss = (real + fake) / 2 + self.config.penalty_weight * penalty
        self.descend("reviser", loss)
        return loss


METHODS: dict[str, type[Method]] = {"unet": UNetMethod, "pix2pix": Pix2Pix, "drpan": DRPAN}


def build_method(config: Config) -> Method:
    """The method that ``config.method`` names, with its initial weights drawn from torch's generator.

    The generator is drawn first, then the discriminator, then the reviser: with one seed all methods start alike.

    Raises:
        UnknownName: no such method; the message lists the valid names.
    """
    return METHODS[choose("method", config.method, METHODS)](config)
