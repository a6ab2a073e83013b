"""The paper's methods: each its networks, its optimizers and one training step.

Source: Leyva, Ortega & de Moura (2026), doi 10.1007/s41064-026-00393-y. Adding a method is a class with an ``update``
and a line in ``METHODS``; training, checkpoints and evaluation know none by name.

In every ``update``, x is the image (B, 3, T, T) in [-1, 1], y the real elevation and fake = G(x) the predicted one,
(B, 1, T, T) normalized, without NaN; each ``yield`` is a step of one network down a loss: see :meth:`Method.step`.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sat2dem_core.config import Config
from sat2dem_core.errors import choose
from sat2dem_core.models.device import half_type
from sat2dem_core.models.losses import (
    GRADIENTS, Proposal, adversarial_loss, first_order, gradient_penalty, l1, second_order, slope_loss,
)
from sat2dem_core.models.networks import Dropout, PatchGAN, UNet, initialize


class Method(nn.Module):
    """What every method has: a generator, optimizers, and the loss that compares elevation with the truth.

    Args:
        config: a method reads of it what it needs.
    """

    place: tuple[int, int]  # in a step, the first row at hand and the number of rows in the whole batch

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        choose("gradient loss", config.gradient, GRADIENTS)
        self.generator = initialize(
            UNet(config.attention, config.features, config.tile, form=config.attention_form)
        )
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.number = config.seed
        self.noise = torch.Generator()  # a stream apart, so that what a method draws moves no other's dropout

    def start(self, meters: float, gsd: tuple[float, float]) -> None:
        """Prepare for training, on the device where the weights are: one Adam for each network, and the precision.

        Args:
            meters: what one normalized unit stands for.
            gsd: ground sampling distance (down the rows, along the columns), meters.
        """
        self.meters, self.gsd = meters, gsd
        self.device = next(self.parameters()).device
        self.reduced = half_type(self.device) if self.config.precision == "mixed" else None
        # Only float16 needs it: its smallest numbers are larger than many gradients.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.reduced == torch.float16)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every batch has one shape
            torch.backends.cuda.matmul.allow_tf32 = self.reduced is not None  # convolutions have it anyway
        for name, network in self.named_children():
            if self.reduced is not None and self.device.type == "cuda":  # what tensor cores read; processors gain nothing
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.optimizers[name] = torch.optim.Adam(
                network.parameters(), lr=self.config.learning_rate, betas=(0.5, 0.999), fused=True
            )
            if self.config.compile and name != "reviser":  # whose penalty is differentiated twice: not compilable
                network.compile(mode="reduce-overhead" if self.device.type == "cuda" else None)

    def seed(self, number: int) -> None:
        """Restart all that is random in a step."""
        self.number = number
        torch.manual_seed(number)
        self.noise.manual_seed(number)

    def autocast(self) -> torch.autocast:
        """The context in which networks run: 16 bits where the precision is mixed."""
        return torch.autocast(self.device.type, self.reduced, enabled=self.reduced is not None)

    def step(
        self, image: Tensor, dem: Tensor, first: int = 0, total: int | None = None, weight: float = 1.0
    ) -> dict[str, Tensor]:
        """Update every network once.

        Args:
            image: (B, 3, T, T) in [-1, 1].
            dem: (B, 1, T, T) normalized, NaN for nodata.
            first, total: where several processes share a batch, the first row at hand and the number of all.
            weight: share of these rows in the update; those of all processes sum to one.

        Returns:
            The losses by name, detached and times the weight, ``"loss"`` the generator's total.
        """
        count, total = len(image), total or len(image)
        self.zero_grad(set_to_none=True)
        rows = torch.arange(count).chunk(self.config.accumulate)
        spans = [(int(part[0]), len(part)) for part in rows]
        parts = [_Part(self, image[at : at + n], dem[at : at + n], first + at, total, len(rows) == 1) for at, n in spans]
        losses: dict[str, Tensor] = {}
        while True:  # each turn is one network's: every part adds its gradient, then the network steps
            for part in parts:
                name, loss = part.turn(weight * part.count / count)
                if name is not None and loss is not None:
                    losses[name] = losses[name] + loss if name in losses else loss
            if name in self.optimizers:
                self.descend(name)
            elif name is None:
                self.scaler.update()
                return {"loss": losses.pop("generator")} | losses

    def update(self, x: Tensor, y: Tensor, fake: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The method itself: yields a network's name and its loss wherever that network is to step.

        When it goes on, the network has stepped. Another name than a network's goes to the log alone.
        """
        raise TypeError(f"{type(self).__name__} must define update")

    def generate(self, x: Tensor, first: int, total: int) -> Tensor:
        """The generator's output for rows of a batch, with the dropout masks that the whole batch would have."""
        layers = [module for module in self.generator.modules() if isinstance(module, Dropout)]
        for layer in layers:
            layer.place = (first, total)
        with self.autocast():
            fake = self.generator(x)
        for layer in layers:
            layer.place = None
        return fake

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
        """What the optimizers remember, by name."""
        return {
            f"optimizer.{name}.{index}.{field}": value
            for name, optimizer in self.optimizers.items()
            for index, values in optimizer.state_dict()["state"].items() for field, value in values.items()
        }

    def restore_optimizers(self, tensors: dict[str, Tensor], rates: dict[str, float]) -> None:
        """Take up what :meth:`optimizer_state` gave, and the learning rates."""
        for name, optimizer in self.optimizers.items():
            state = optimizer.state_dict()
            for key in (key for key in tensors if key.startswith(f"optimizer.{name}.")):
                index, field = key.split(".")[2:]
                state["state"].setdefault(int(index), {})[field] = tensors[key]
            state["param_groups"][0]["lr"] = rates[name]
            optimizer.load_state_dict(state)

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
                loss = loss + config.gradient_weight * slope_loss(fake, y, self.meters, self.gsd)
        return loss


class _Part:
    """Rows of a batch on their way through one step of a method.

    The update sees the generator's output as a leaf; the gradient that arrives there then goes on into the generator.
    So a batch of several parts holds one part's graph at a time: the generator runs again, on the same dropout.
    """

    def __init__(self, method: Method, x: Tensor, dem: Tensor, first: int, total: int, alone: bool):
        self.method, self.x, self.first, self.total, self.alone, self.count = method, x, first, total, alone, len(x)
        with torch.set_grad_enabled(alone):
            self.fake = self.generate()
        self.leaf = self.fake.detach().requires_grad_()
        # Where nothing is known both sides get one value: no loss sees an error there, and no gradient flows from it.
        # A gradient loss counts the edge of such a hole as if the ground inside were right.
        known = ~dem.isnan()
        self.update = method.update(x, torch.where(known, dem, -1.0), torch.where(known, self.leaf, -1.0))

    def generate(self) -> Tensor:
        if not self.alone:
            self.method.seed(self.method.number)
        return self.method.generate(self.x, self.first, self.total)

    def turn(self, weight: float) -> tuple[str | None, Tensor | None]:
        """Go on to the next loss and send its gradient back; gives name and loss, or None at the end."""
        method = self.method
        if not self.alone:
            method.seed(method.number)
        method.place = (self.first, self.total)
        with method.autocast():
            name, loss = next(self.update, (None, None))
        if name is None or loss is None:
            return None, None
        if name in method.optimizers:
            scaled = method.scaler.scale(loss * weight)
            if name == "generator":
                scaled.backward(inputs=[self.leaf])
                (self.fake if self.alone else self.generate()).backward(self.leaf.grad)
            else:
                scaled.backward(inputs=list(getattr(method, name).parameters()))
        return name, loss.detach() * weight


class UNetMethod(Method):
    """The generator alone."""

    def update(self, x: Tensor, y: Tensor, fake: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield "generator", self.reconstruction(fake, y)


class Pix2Pix(Method):
    """Isola et al. (2017), arXiv 1611.07004: a discriminator judges pairs of image and elevation."""

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
        """The generator's adversarial loss: the fake should be adversarial_loss real."""
        return adversarial_loss(self.discriminator(x, fake), real=True)


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
        real, fake = adversarial_loss(self.reviser(x, y), real=True), adversarial_loss(self.reviser(x, masked), real=False)
        first, total = self.place
        share = torch.rand(total, 1, 1, 1, generator=self.noise)[first : first + len(x)].to(x.device)  # one a sample
        penalty = gradient_penalty(self.reviser, x, share * y + (1 - share) * masked)
        return (real + fake) / 2 + self.config.penalty_weight * penalty


METHODS: dict[str, type[Method]] = {"unet": UNetMethod, "pix2pix": Pix2Pix, "drpan": DRPAN}


def build_method(config: Config) -> Method:
    """The method that ``config.method`` names, with its initial weights drawn from torch's generator.

    The generator is drawn first, then the discriminator, then the reviser: with one seed all methods start alike.

    Raises:
        UnknownName: no such method; the message lists the valid names.
    """
    return METHODS[choose("method", config.method, METHODS)](config)
