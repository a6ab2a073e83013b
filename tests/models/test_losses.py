import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sat2dem_core.errors import WrongShape
from sat2dem_core.models import losses
from sat2dem_core.models.losses import Proposal


def ramp(x: float = 0.0, y: float = 0.0) -> torch.Tensor:
    """A plane that rises by x along the columns and by y down the rows: (1, 1, 8, 8)."""
    return (torch.arange(8.0) * x + torch.arange(8.0)[:, None] * y)[None, None]


def test_first_order_is_the_mean_difference_of_neighbors():
    assert losses.first_order(ramp(x=3, y=2), ramp()).item() == pytest.approx(5)


def test_second_order_sees_curvature_and_no_plane():
    assert losses.second_order(ramp(x=3, y=2), ramp()).item() == pytest.approx(0, abs=1e-6)
    bowl = ramp(x=1).square()  # 0, 1, 4, 9: second differences of 2
    assert losses.second_order(bowl, ramp()).item() == pytest.approx(2)


def test_slope_is_in_meters_per_meter_and_knows_no_direction():
    rise = losses.slope_loss(ramp(x=3), ramp(), meters=10.0, gsd=(30.0, 30.0))  # 30 m on 30 m
    assert rise.item() == pytest.approx(1)
    turned = losses.slope_loss(ramp(y=3), ramp(), meters=10.0, gsd=(30.0, 30.0))
    assert turned.item() == pytest.approx(rise.item())
    stretched = losses.slope_loss(ramp(x=3), ramp(), meters=10.0, gsd=(30.0, 60.0))
    assert stretched.item() == pytest.approx(0.5)


def test_slope_of_a_perfect_prediction_has_a_finite_gradient():
    fake = ramp(x=1).requires_grad_()
    losses.slope_loss(fake, ramp(x=1), 1.0, (30.0, 30.0)).backward()
    assert fake.grad.isfinite().all()


@given(st.floats(-5, 5))
@settings(deadline=None)
def test_gradient_losses_ignore_a_constant_offset(offset):
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    for loss in (losses.first_order, losses.second_order, lambda p, t: losses.slope_loss(p, t, 10.0, (30.0, 30.0))):
        torch.testing.assert_close(loss(a + offset, b), loss(a, b))


def test_shapes_that_would_broadcast_are_refused():
    for loss in (losses.l1, losses.first_order, losses.second_order):
        with pytest.raises(WrongShape, match="differ in shape"):
            loss(torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8))


def test_adversarial_loss_is_low_for_the_right_verdict():
    sure = torch.full((1, 1, 2, 2), 8.0)
    assert losses.adversarial_loss(sure, real=True) < 0.01 < 5 < losses.adversarial_loss(sure, real=False)
    assert losses.adversarial_loss(torch.zeros(1, 1, 2, 2), real=True).item() == pytest.approx(0.6931, abs=1e-4)


def test_gradient_penalty_of_a_linear_critic_is_known():
    x, y = torch.randn(3, 3, 4, 4), torch.randn(3, 1, 4, 4)
    critic = lambda image, dem: 2 * dem + 0 * image[:, :1]  # its gradient is 2 at 16 pixels: norm 8
    assert losses.gradient_penalty(critic, x, y).item() == pytest.approx((8 - 1) ** 2)


@given(tile=st.sampled_from([32, 64, 128, 256, 512]), seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_proposed_window_lies_inside_the_tile_and_holds_the_fake(tile, seed):
    proposal = Proposal(tile, tile // 8 - 2)
    scores = torch.rand(2, 1, tile // 8 - 2, tile // 8 - 2, generator=torch.Generator().manual_seed(seed))
    corner = proposal.corner(scores)
    masked = proposal.masked(torch.zeros(2, 1, tile, tile), torch.ones(2, 1, tile, tile), corner)
    assert (masked.sum((1, 2, 3)) == proposal.mask**2).all()
    x, y = corner.round().long()[0]
    assert masked[0, 0, y, x] == 1 and masked[0, 0, y + proposal.mask - 1, x + proposal.mask - 1] == 1


def test_proposal_finds_the_least_convincing_place():
    scores = torch.ones(2, 1, 30, 30)
    scores[0, :, :5, :5] = 0  # upper left
    scores[1, :, -5:, 10:15] = 0  # lower edge
    x, y = 10 * 256 / 30, 25 * 256 / 30
    expected = torch.tensor([[0.0, 0.0], [x, min(y, 186.0)]])
    torch.testing.assert_close(Proposal(256, 30).corner(scores), expected)


def test_region_of_a_plane_is_read_between_the_pixels():
    proposal = Proposal(256, 30)
    plane = (torch.arange(256.0) + 1000 * torch.arange(256.0)[:, None])[None, None]
    region = proposal.region(plane, torch.tensor([[10.25, 20.5]]))
    assert region.shape == (1, 1, 20, 20)
    # four readings at a quarter and three quarters of a pixel average to half a pixel past the corner
    expected = (10.75 + torch.arange(20.0)) + 1000 * (21.0 + torch.arange(20.0)[:, None])
    torch.testing.assert_close(region[0, 0], expected, rtol=1e-5, atol=0.05)
