"""The paper's losses on small arrays, worked by hand: the arithmetic of each expected number stands next to it."""

import math

import pytest
import torch
from torch import nn

from sat2dem_core.config import preset
from sat2dem_core.models import losses
from sat2dem_core.models.losses import Proposal
from sat2dem_core.models.methods import build_method

# prediction - truth: [-1, 0, 3], [2, 1, 1], [-2, 1, 1]
PREDICTION = torch.tensor([[0.0, 1, 4], [2, 3, 5], [1, 1, 1]])
TRUTH = torch.tensor([[1.0, 1, 1], [0, 2, 4], [3, 0, 0]])
L1 = (1 + 0 + 3 + 2 + 1 + 1 + 2 + 1 + 1) / 9
# along the columns 1, 3; -1, 0; 3, 0, and down the rows 3, 1, -2; -4, 0, 0
FIRST = (1 + 3 + 1 + 0 + 3 + 0) / 6 + (3 + 1 + 2 + 4 + 0 + 0) / 6
# along the columns 2; 1; -3, and down the rows -7, -1, 2
SECOND = (2 + 1 + 3) / 3 + (7 + 1 + 2) / 3
# With 10 m a unit, 20 m down and 5 m along a pixel: (down, along) = (1.5, 2), (0.5, 6), (-2, -2), (0, 0)
SLOPE = (2.5 + math.sqrt(0.5**2 + 6**2) + math.sqrt(2**2 + 2**2) + 0) / 4
METERS, GSD = 10.0, (20.0, 5.0)


def real(logit: float) -> float:
    """Cross-entropy of a logit that should say "real"."""
    return math.log(1 + math.exp(-logit))


def fake(logit: float) -> float:
    """Cross-entropy of a logit that should say "fake"."""
    return math.log(1 + math.exp(logit))


def test_l1_first_order_second_order_and_slope():
    assert losses.l1(PREDICTION, TRUTH).item() == pytest.approx(L1)
    assert losses.first_order(PREDICTION, TRUTH).item() == pytest.approx(FIRST)
    assert losses.second_order(PREDICTION, TRUTH).item() == pytest.approx(SECOND)
    assert losses.slope_loss(PREDICTION, TRUTH, METERS, GSD).item() == pytest.approx(SLOPE, abs=1e-6)


@pytest.mark.parametrize(("gradient", "expected"), [
    ("none", 100 * L1), ("first", 100 * L1 + 20 * FIRST), ("second", 100 * L1 + 20 * SECOND),
    ("fused", 100 * L1 + 20 * FIRST + 20 * SECOND), ("slope", 100 * L1 + 20 * SLOPE),
])
def test_reconstruction_weighs_its_terms_as_the_paper_does(gradient, expected):
    method = build_method(preset("cpu", tile=32, features=4, gradient=gradient))
    method.start(METERS, GSD)
    assert method.reconstruction(PREDICTION, TRUTH).item() == pytest.approx(expected, rel=1e-5)


def test_adversarial_loss_is_the_mean_cross_entropy():
    logits = torch.tensor([[[[1.0, -2.0]]]])
    assert losses.adversarial_loss(logits, real=True).item() == pytest.approx((real(1) + real(-2)) / 2)
    assert losses.adversarial_loss(logits, real=False).item() == pytest.approx((fake(1) + fake(-2)) / 2)


def test_gradient_penalty_has_a_gradient_of_its_own_and_is_computed_in_full_precision():
    weight = torch.tensor(1 / 3, requires_grad=True)
    kernel = lambda: weight.expand(1, 1, 1, 1)
    critic = lambda image, dem: nn.functional.conv2d(dem, kernel()) + 0 * image[:, :1]  # 1/3 at 4 pixels: norm 2/3
    with torch.autocast("cpu", torch.bfloat16):
        penalty = losses.gradient_penalty(critic, torch.zeros(2, 3, 2, 2), torch.ones(2, 1, 2, 2))
    assert penalty.item() == pytest.approx((2 / 3 - 1) ** 2, rel=1e-5)
    penalty.backward()
    assert weight.grad.item() == pytest.approx(2 * (2 / 3 - 1) * 2, rel=1e-5)  # of (2 w - 1)^2


def test_gradient_penalty_is_the_mean_over_samples_and_sees_the_image():
    critic = lambda image, dem: 2 * image.sum(1, keepdim=True) + 0.5 * dem**2
    mix = torch.tensor([1.0, 6.0])[:, None, None, None]  # one pixel each: slopes (2, 2, 2, 1) and (2, 2, 2, 6)
    penalty = losses.gradient_penalty(critic, torch.zeros(2, 3, 1, 1), mix)
    assert penalty.item() == pytest.approx(((math.sqrt(13) - 1) ** 2 + (math.sqrt(48) - 1) ** 2) / 2)


@pytest.mark.parametrize(("tile", "window", "mask", "crop"), [
    (32, 2, 9, 2), (64, 5, 18, 5), (128, 5, 35, 10), (256, 5, 70, 20), (512, 5, 140, 40),
])
def test_proposal_has_the_papers_sizes_at_256_px_and_their_shares_elsewhere(tile, window, mask, crop):
    proposal = Proposal(tile, tile // 8 - 2)
    assert (proposal.window, proposal.mask, proposal.crop) == (window, mask, crop)
    assert proposal.stride == tile / (tile // 8 - 2)


def test_corner_is_the_column_and_the_row_of_the_lowest_window():
    scores = torch.ones(2, 1, 30, 30)
    scores[0, :, 7:12, 11:16] = 0
    scores[1, :, 3:8, 25:] = 0
    expected = torch.tensor([[11 * 256 / 30, 7 * 256 / 30], [186, 3 * 256 / 30]])  # a window ends 256 - 70 px at most
    torch.testing.assert_close(Proposal(256, 30).corner(scores), expected)


def test_masked_pair_holds_the_fake_in_the_window_of_each_tile():
    proposal = Proposal(32, 2)  # a window of 9 px
    masked = proposal.masked(torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32), torch.tensor([[3.4, 7.0], [20, 0]]))
    expected = torch.zeros(2, 1, 32, 32)
    expected[0, 0, 7:16, 3:12] = expected[1, 0, 0:9, 20:29] = 1
    assert torch.equal(masked, expected)


def test_regions_are_read_at_the_corner_of_each_tile():
    plane = (torch.arange(32.0) + 100 * torch.arange(32.0)[:, None]).expand(2, 1, 32, 32)
    region = Proposal(32, 2).region(plane, torch.tensor([[3.25, 7.0], [20, 1.5]]))  # 2 px, half a pixel further
    expected = torch.tensor([[[753.75, 754.75], [853.75, 854.75]], [[220.5, 221.5], [320.5, 321.5]]])
    torch.testing.assert_close(region[:, 0], expected)


class Critic(nn.Module):
    """Takes the quadrants' means of the elevation for logits, (B, 1, 2, 2), or half their squares."""

    def __init__(self, squared: bool = False):
        super().__init__()
        self.squared = squared

    def forward(self, image: torch.Tensor, dem: torch.Tensor) -> torch.Tensor:
        logits = nn.functional.avg_pool2d(dem, 16) + 0 * image[:, :1, :2, :2]
        return logits**2 / 2 if self.squared else logits


def drpan(**changes):
    """DRPAN whose discriminator and reviser are those above."""
    method = build_method(preset("cpu", tile=32, features=4, critic_features=4, method="drpan", **changes))
    method.start(METERS, GSD)
    method.seed(0)
    method.discriminator, method.reviser = Critic(), Critic()
    return method


def test_losses_of_discriminator_and_generator():
    method, x = drpan(), torch.zeros(1, 3, 32, 32)
    y, predicted = torch.full((1, 1, 32, 32), 0.5), torch.full((1, 1, 32, 32), -1.0)
    loss, logits = method.discriminate(x, y, predicted)
    assert loss.item() == pytest.approx((real(0.5) + fake(-1)) / 2)
    assert (logits == -1).all() and not logits.requires_grad
    assert method.deceive(x, predicted).item() == pytest.approx(real(-1))


def test_loss_of_the_reviser_is_halved_and_has_10_times_the_penalty():
    method, x = drpan(), torch.zeros(2, 3, 32, 32)
    y, masked = torch.full((2, 1, 32, 32), 0.5), torch.full((2, 1, 32, 32), -1.0)
    # The gradient is 1/256 at each of 1024 pixels: its norm is 1/8.
    expected = (real(0.5) + fake(-1)) / 2 + 10 * (1 / 8 - 1) ** 2
    assert method.revise(x, y, masked).item() == pytest.approx(expected)


def test_penalty_is_taken_between_real_and_masked_at_a_random_place_of_each_sample():
    method, x = drpan(), torch.zeros(2, 3, 32, 32)
    method.reviser = Critic(squared=True)
    y, masked = torch.full((2, 1, 32, 32), 24.0), torch.full((2, 1, 32, 32), -8.0)
    shares = torch.rand(2, generator=torch.Generator().manual_seed(0)).tolist()
    assert abs(shares[0] - shares[1]) > 0.2
    # The critic's gradient is its logit times 1/256 at each of 1024 pixels: the norm is an eighth of the logit.
    mixes = [24 * share - 8 * (1 - share) for share in shares]
    penalty = sum((abs(mix) / 8 - 1) ** 2 for mix in mixes) / 2
    assert method.revise(x, y, masked).item() == pytest.approx((real(288) + fake(32)) / 2 + 10 * penalty, rel=1e-5)


def test_drpan_yields_all_its_losses_in_order():
    method, x = drpan(gradient="first"), torch.zeros(2, 3, 32, 32)
    y, predicted = torch.full((2, 1, 32, 32), 0.5), torch.full((2, 1, 32, 32), -1.0)
    # The window is the upper left 9 x 9 px, of 256 in its quadrant.
    quadrant = (81 * -1 + (256 - 81) * 0.5) / 256
    expected = {
        "discriminator": (real(0.5) + fake(-1)) / 2,
        "reviser": (real(0.5) + (fake(quadrant) + 3 * fake(0.5)) / 4) / 2 + 10 * (1 / 8 - 1) ** 2,
        "region": 1.5,
        "generator": real(-1) + 100 * 1.5 + 20 * 0 + (real(quadrant) + 3 * real(0.5)) / 4 + 10 * 1.5,
    }
    yielded = [(name, loss.item()) for name, loss in method.update(x, y, predicted)]
    assert [name for name, _ in yielded] == list(expected) and dict(yielded) == pytest.approx(expected, rel=1e-5)


class Gain(nn.Module):
    """A generator of one weight, 0.5: half of the image's first channel."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.weight * image[:, :1]


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_step_has_the_weighted_loss_and_gradient_of_the_known_pixels(weight):
    method = build_method(preset("cpu", tile=32, features=4))
    method.generator = Gain()
    method.start(METERS, GSD)
    image = torch.tensor([[1.0, 2], [3, -4]]).expand(1, 3, 2, 2)  # so the prediction is 0.5, 1, 1.5, -2
    dem = torch.tensor([[[[0.0, 3], [math.nan, 2]]]])  # errors 0.5, -2, unknown, -4
    given = {} if weight == 1 else {"weight": weight}
    losses = method.step(image, dem, **given)
    assert losses["loss"].item() == pytest.approx(weight * 100 * (0.5 + 2 + 0 + 4) / 4)
    slope = 100 * (1 * 1 - 1 * 2 + 0 - 1 * -4) / 4  # signs of the errors times the image
    assert method.generator.weight.grad.item() == pytest.approx(weight * slope)
    assert method.generator.weight.item() == pytest.approx(0.5 - 1e-3, abs=1e-6)  # Adam's first step is the rate


def test_proposal_of_a_method_has_the_scores_of_its_discriminator():
    for tile, scores in ((32, 2), (64, 6)):
        method = build_method(preset("cpu", tile=tile, features=4, critic_features=4, method="drpan"))
        logits = method.discriminator(torch.zeros(1, 3, tile, tile), torch.zeros(1, 1, tile, tile))
        assert logits.shape == (1, 1, scores, scores) and method.proposal.stride == tile / scores
