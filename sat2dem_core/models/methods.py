"""The paper's methods: each its networks, its optimizers and one training step.

Source: Leyva, Ortega & de Moura (2026), doi 10.1007/s41064-026-00393-y. To add a method, write a class with an
``update`` and a line in ``METHODS``; training, checkpoints and evaluation know no method by name.

In every ``update``, x is the image (B, 3, T, T) in [-1, 1], y the true elevation and fake = G(x) the predicted one,
(B, 1, T, T) normalized, without NaN; at each ``yield`` one network steps down a loss: see :meth:`Method.step`.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sat2dem_core.config import Config
from sat2dem_core.errors import choose
from sat2dem_core.models.device import half_type
from sat2dem_core.models.losses import (
    GRADIENTS, Proposal, adversarial_loss, first_order, gradient_penalty, l1, second_order, slope_loss,
)
from sat2dem_core.models.networks import PatchGAN, UNet, initialize


class Method(nn.Module):
    """Base of all methods: a generator, optimizers, a training step, and the loss of predicted against true elevation.

    Args:
        config: a run's settings.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        choose("gradient loss", config.gradient, GRADIENTS)
        self.generator = initialize(
            UNet(config.attention, config.features, config.tile, form=config.attention_form)
        )
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    def start(self, meters: float, gsd: tuple[float, float]) -> None:
        """Prepare for training, on the device where the weights are: one Adam for each network, and the precision.

        Args:
            meters: length of one normalized unit.
            gsd: ground sampling distance (down the rows, along the columns), meters.
        """
        self.meters, self.gsd = meters, gsd
        self.device = next(self.parameters()).device
        self.reduced = half_type(self.device) if self.config.precision == "mixed" else None
        # Only float16 needs scaled losses: its smallest numbers are larger than many gradients.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.reduced == torch.float16)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every batch has one shape
        for name, network in self.named_children():
            if self.reduced is not None and self.device.type == "cuda":  # the layout that tensor cores read
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.optimizers[name] = torch.optim.Adam(
                network.parameters(), lr=self.config.learning_rate, betas=(0.5, 0.999), fused=True
            )
            if self.config.compile and name != "reviser":  # its penalty is differentiated twice: not compilable
                # CUDA graphs, which the mode adds, overwrite outputs that other parts of a batch still need.
                graphs = self.device.type == "cuda" and self.config.accumulate == 1
                network.compile(mode="reduce-overhead" if graphs else None)

    def seed(self, number: int) -> None:
        """Restart the random numbers of the steps that follow."""
        torch.manual_seed(number)

    def autocast(self) -> torch.autocast:
        """The context in which networks run: 16 bits where the precision is mixed."""
        return torch.autocast(self.device.type, self.reduced, enabled=self.reduced is not None)

    def step(self, image: Tensor, dem: Tensor, weight: float = 1.0) -> dict[str, Tensor]:
        """Update every network once.

        The batch is split into ``config.accumulate`` parts, and each part runs the same :meth:`update` on its tiles.
        One part after the other computes the first loss and adds its gradient; then the network of that loss takes its
        step, and the parts go on to the next loss. Several processes share a batch in the same way and add up their
        gradients before the step. The result is that of the undivided batch, except that each part draws random numbers
        of its own, such as dropout's masks.

        Args:
            image: (B, 3, T, T) in [-1, 1].
            dem: (B, 1, T, T) normalized, NaN for nodata.
            weight: share of these tiles in the update; the shares of all processes sum to one.

        Returns:
            The losses by name, detached and times the weight, ``"loss"`` the generator's total.
        """
        self.zero_grad(set_to_none=True)
        count = self.config.accumulate
        recompute = count > 1 and len(self.optimizers) > 1  # one network alone ends with a part before the next begins
        parts = [
            self.add_gradients(x, y, weight * len(x) / len(image), recompute)
            for x, y in zip(image.chunk(count), dem.chunk(count))
        ]
        losses = {}
        for turn in zip(*parts):  # the same loss of every part
            name = turn[0][0]
            losses[name] = torch.stack([loss for _, loss in turn]).sum()
            if name in self.optimizers:
                self.descend(name)
        self.scaler.update()
        return {"loss": losses.pop("generator")} | losses

    def add_gradients(self, image: Tensor, dem: Tensor, share: float, recompute: bool) -> Iterator[tuple[str, Tensor]]:
        """Run :meth:`update` on some tiles of a batch; when it yields a loss, it has added that loss's gradient.

        Args:
            share: weight of these tiles in the update.
            recompute: discard the generator's activations, and compute them again, with the same dropout, when its
                gradient needs them: then only one part's activations are in memory at a time.

        Yields:
            Name and value of each loss, the value detached and times the share.
        """
        with self.autocast():
            fake = self.recomputed(image) if recompute else self.generator(image)
        # Where the truth is unknown both sides get one value: no loss counts an error there or sends back a gradient.
        # A gradient loss counts the edge of such a hole as if the prediction inside were right.
        known = ~dem.isnan()
        update = self.update(image, torch.where(known, dem, -1.0), torch.where(known, fake, -1.0))
        while True:
            with self.autocast():
                turn = next(update, None)
            if turn is None:
                return
            name, loss = turn
            if name in self.optimizers:
                network: nn.Module = getattr(self, name)
                self.scaler.scale(loss * share).backward(inputs=list(network.parameters()))
            yield name, loss.detach() * share

    def recomputed(self, image: Tensor) -> Tensor:
        """The generator's output, whose activations are computed again when a gradient comes back."""
        number = int(torch.randint(2**62, ()))

        def generate(x: Tensor) -> Tensor:
            torch.manual_seed(number)  # so that dropout's masks are the same; checkpoint itself cannot do it on MPS
            return self.generator(x)

        return checkpoint(generate, image, use_reentrant=False, preserve_rng_state=False)

    def update(self, x: Tensor, y: Tensor, fake: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The method itself: yields a network's name and its loss wherever that network is to step.

        When it goes on, the network has taken its step. A loss under any other name is only logged.
        """
        raise TypeError(f"{type(self).__name__} must define update")

    def descend(self, name: str) -> None:
        """One optimizer step of the network ``name`` down its gradient, summed over all processes."""
        if dist.is_initialized():
            gradients = [parameter.grad for parameter in getattr(self, name).parameters()]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            for gradient, summed in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
                gradient.copy_(summed.view_as(gradient))
        self.scaler.step(self.optimizers[name])

    def optimizer_state(self) -> dict[str, Tensor]:
        """The state of every optimizer as tensors by name, ``optimizer.<network>.<index of the parameter>.<field>``."""
        return {
            f"optimizer.{name}.{index}.{field}": value
            for name, optimizer in self.optimizers.items()
            for index, values in optimizer.state_dict()["state"].items() for field, value in values.items()
        }

    def restore_optimizers(self, tensors: dict[str, Tensor], rates: dict[str, float]) -> None:
        """Load what :meth:`optimizer_state` returned, and the learning rate of each network."""
        for name, optimizer in self.optimizers.items():
            state = optimizer.state_dict()
            for key in (key for key in tensors if key.startswith(f"optimizer.{name}.")):
                index, field = key.split(".")[2:]
                state["state"].setdefault(int(index), {})[field] = tensors[key]
            state["param_groups"][0]["lr"] = rates[name]
            optimizer.load_state_dict(state)

    def reconstruction(self, fake: Tensor, y: Tensor) -> Tensor:
        """The loss that all methods share: 100 L1, and the gradient terms that the config asks for."""
        config = self.config
        loss = config.l1_weight * l1(fake, y)
        for term in GRADIENTS[config.gradient]:
            if term == "first":
                loss = loss + config.gradient_weight * first_order(fake, y)
            elif term == "second":
                loss = loss + config.second_weight * second_order(fake, y)
            else:
                loss = loss + config.gradient_weight * slope_loss(fake, y, self.meters, self.gsd)
        return loss


class UNetMethod(Method):
    """The generator alone."""

    def update(self, x: Tensor, y: Tensor, fake: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield "generator", self.reconstruction(fake, y)


class Pix2Pix(Method):
    """Isola et al. (2017), arXiv 1611.07004: a discriminator tells true from predicted elevation, given the image."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.discriminator = initialize(PatchGAN(config.attention, config.critic_features, config.attention_form))

    def update(self, x: Tensor, y: Tensor, fake: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield "discriminator", self.discriminate(x, y, fake)[0]
        yield "generator", self.deceive(x, fake) + self.reconstruction(fake, y)

    def discriminate(self, x: Tensor, y: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's loss, halved as in the paper, and its logits of the fake."""
        logits = self.discriminator(x, fake.detach())  # (B, 1, m, m)
        loss = (adversarial_loss(self.discriminator(x, y), real=True) + adversarial_loss(logits, real=False)) / 2
        return loss, logits.detach()

    def deceive(self, x: Tensor, fake: Tensor) -> Tensor:
        """The generator's adversarial loss: low where the discriminator takes the fake for real."""
        return adversarial_loss(self.discriminator(x, fake), real=True)


class DRPAN(Pix2Pix):
    """Wang et al. (2018), doi 10.1007/978-3-030-01246-5_47: a reviser looks at the least convincing region.

    With ``config.drpan="flow"`` the gradients of reviser and region reach the generator, as in the article; with
    ``"detached"`` they do not, as in the code of the paper's authors, and the generator learns what Pix2Pix's learns.
    """

    def __init__(self, config: Config):
        super().__init__(config)
        self.reviser = initialize(PatchGAN(features=config.critic_features))
        self.proposal = Proposal(config.tile, config.tile // 8 - 2)
        self.mixing = torch.Generator()  # separate from dropout's random numbers, which stay those of Pix2Pix

    def seed(self, number: int) -> None:
        super().seed(number)
        self.mixing.manual_seed(number)

    def update(self, x: Tensor, y: Tensor, fake: Tensor) -> Iterator[tuple[str, Tensor]]:
        discriminator_loss, logits = self.discriminate(x, y, fake)
        yield "discriminator", discriminator_loss
        corner = self.proposal.corner(logits.sigmoid())  # (B, 2)
        seen = fake if self.config.drpan == "flow" else fake.detach()
        masked = self.proposal.masked(y, seen, corner)  # (B, 1, T, T)
        yield "reviser", self.revise(x, y, masked.detach())

        region = l1(self.proposal.region(seen, corner), self.proposal.region(y, corner))
        yield "region", region
        revised = adversarial_loss(self.reviser(x, masked), real=True)
        loss = self.deceive(x, fake) + self.reconstruction(fake, y)
        yield "generator", loss + revised + self.config.region_weight * region

    def revise(self, x: Tensor, y: Tensor, masked: Tensor) -> Tensor:
        """The reviser's loss: halved, with 10 times the gradient penalty."""
        real = adversarial_loss(self.reviser(x, y), real=True)
        fake = adversarial_loss(self.reviser(x, masked), real=False)
        share = torch.rand(len(x), 1, 1, 1, generator=self.mixing).to(x.device)
        penalty = gradient_penalty(self.reviser, x, share * y + (1 - share) * masked)
        return (real + fake) / 2 + self.config.penalty_weight * penalty


METHODS: dict[str, type[Method]] = {"unet": UNetMethod, "pix2pix": Pix2Pix, "drpan": DRPAN}


def build_method(config: Config) -> Method:
    """The method that ``config.method`` names, with initial weights from torch's random numbers.

    It draws the generator first, then the discriminator, then the reviser: from one seed, all methods start alike.

    Raises:
        UnknownName: no such method; the message lists the valid names.
    """
    return METHODS[choose("method", config.method, METHODS)](config)
