import pytest
import torch

from sat2dem_core.errors import UnknownName, WrongShape
from sat2dem_core.models.networks import PatchGAN, UNet, initialize


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (UNet, 54_410_433), (lambda: UNet("simam"), 54_410_433), (lambda: UNet("cbam"), 54_694_843),
        (lambda: UNet("gam"), 68_577_705), (PatchGAN, 2_766_657), (lambda: PatchGAN("cbam"), 2_809_959),
        (lambda: PatchGAN("gam"), 4_918_961),
    ],
)
def test_parameter_counts_are_the_papers(build, count):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build().parameters()) == count


@pytest.mark.parametrize("tile", [32, 64, 128, 256, 512])
def test_unet_takes_every_power_of_two_and_learns_in_every_parameter(tile):
    torch.manual_seed(0)
    network = UNet(features=2, tile=tile)
    elevation = network(torch.rand(2, 3, tile, tile) * 2 - 1)
    assert elevation.shape == (2, 1, tile, tile)
    assert elevation.abs().max() < 1 and elevation.std() > 0
    elevation.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("features", [1, 5, 24])
def test_unet_takes_any_width(features):
    assert UNet(features=features, tile=32)(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)


def test_dropout_sits_in_as_many_up_blocks_as_asked_and_only_while_training():
    for count in (0, 2, 3):
        modules = UNet(features=2, tile=64, dropout=count).modules()
        assert sum(isinstance(module, torch.nn.Dropout) for module in modules) == count
    torch.manual_seed(0)
    network, image = UNet(features=4, tile=32), torch.rand(1, 3, 32, 32)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 32, 32), (1, 4, 32, 32), (3, 32, 32), (1, 3, 32, 64)])
def test_image_of_another_shape_is_refused_with_what_to_do(shape):
    with pytest.raises(WrongShape, match=r"images of shape \(batch, 3, 32, 32\), not .* cut tiles of 32 px, or build"):
        UNet(features=2, tile=32)(torch.zeros(shape))


def test_image_that_was_not_scaled_is_refused():
    with pytest.raises(WrongShape, match="numbers from -1 to 1, not torch.uint8: see normalize.scale_image"):
        UNet(features=2, tile=32)(torch.zeros((1, 3, 32, 32), dtype=torch.uint8))


@pytest.mark.parametrize("tile", [16, 100, 1024])
def test_unet_of_another_tile_is_refused(tile):
    with pytest.raises(WrongShape, match=f"tile of {tile} px .* choose 32, 64, 128, 256, 512"):
        UNet(tile=tile)


def test_unet_without_features_is_refused():
    with pytest.raises(WrongShape, match="0 features .* give 1 or more"):
        UNet(features=0)


@pytest.mark.parametrize("build", [UNet, PatchGAN])
def test_unknown_attention_lists_the_valid_ones(build):
    with pytest.raises(UnknownName, match="unknown attention 'cbma': choose one of none"):
        build(attention="cbma")


def test_patchgan_gives_a_logit_for_each_patch_and_refuses_other_grids():
    network = PatchGAN()
    assert network(torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)).shape == (1, 1, 2, 2)
    with pytest.raises(WrongShape, match="image .*64.* and DEM .*32.* differ in size: put both on one grid"):
        network(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 32, 32))


def test_initial_weights_are_the_papers():
    torch.manual_seed(0)
    network = UNet(features=16, tile=64)
    initialize(network)
    for name, parameter in network.state_dict().items():
        if parameter.ndim > 1:
            assert abs(float(parameter.mean())) < 0.005 and float(parameter.std()) == pytest.approx(0.02, rel=0.2)
        else:
            assert (parameter == (1 if name.endswith("conv.1.weight") else 0)).all(), name
