import pytest
import torch

from sat2dem_core.errors import UnknownName, WrongShape
from sat2dem_core.models.attention import ATTENTIONS, FORMS, GAM, build_attention
from sat2dem_core.models.networks import UNet


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_keeps_the_shape_and_sends_gradients_back(name, form):
    x = torch.randn(2, 32, 8, 8, requires_grad=True)
    y = build_attention(name, 32, form)(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert x.grad.isfinite().all() and (x.grad != 0).any()


def test_attention_only_ever_damps_features():
    x = torch.randn(2, 32, 8, 8)
    for name in ("cbam", "gam", "simam"):
        assert (build_attention(name, 32)(x).abs() <= x.abs()).all(), name


def test_original_forms_differ_where_the_articles_do():
    paper, original = build_attention("gam", 32), build_attention("gam", 32, "original")
    assert paper.channel_attention.channel_mlp[0].out_features == 2  # ratio 16
    assert original.channel_attention.channel_mlp[0].out_features == 8  # ratio 4
    assert isinstance(original.spatial_attention.spatial_attention[1], torch.nn.BatchNorm2d)
    assert isinstance(build_attention("cbam", 32, "original").spatial_attention.norm, torch.nn.BatchNorm2d)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in build_attention("cbam", 32).modules())


def test_simam_favors_the_pixel_that_stands_out():
    x = torch.ones(1, 1, 8, 8)
    x[0, 0, 3, 4] = 2.0
    share = build_attention("simam", 1)(x) / x
    assert share.flatten().argmax() == 3 * 8 + 4


def test_gam_channel_half_equals_a_linear_layer_on_every_pixel():
    torch.manual_seed(0)
    half, x = GAM(32, "paper").channel_attention, torch.randn(2, 32, 5, 7)
    plain = x * half.channel_mlp(x.movedim(1, -1)).movedim(-1, 1).sigmoid()
    torch.testing.assert_close(half(x), plain)


@pytest.mark.parametrize(("channels", "width"), [(64, 16), (128, 16), (256, 16), (32, 16), (48, 15)])
def test_gam_spatial_half_equals_its_layers_one_by_one(channels, width):
    torch.manual_seed(0)
    half, x = GAM(channels, "paper").spatial_attention, torch.randn(2, channels, 9, width)
    torch.testing.assert_close(half(x), x * half.spatial_attention(x).sigmoid(), rtol=1e-4, atol=1e-5)


def test_unknown_attention_and_form_list_the_valid_ones():
    with pytest.raises(UnknownName, match="unknown attention 'gamm': choose one of none, cbam, gam, simam"):
        UNet(attention="gamm", features=16)
    with pytest.raises(UnknownName, match="unknown attention form 'own': choose one of paper, original"):
        build_attention("gam", 32, "own")


@pytest.mark.parametrize("name", ["cbam", "gam"])
def test_ratio_larger_than_the_narrowest_block_says_what_would_do(name):
    with pytest.raises(WrongShape, match="ratio 16 .* 8 channels: use networks of at least 16 features"):
        UNet(attention=name, features=8, tile=64)
