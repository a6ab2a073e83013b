"""Diagrams show the networks as they are."""

import re
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from sat2dem_core.config import preset
from sat2dem_core.errors import UnknownName
from sat2dem_core.models.attention import build_attention
from sat2dem_core.models.methods import build_method
from sat2dem_core.models.networks import PatchGAN, UNet
from sat2dem_core.pictures import diagrams

SVG = "{http://www.w3.org/2000/svg}"


def texts(diagram) -> list[str]:
    return [node.text for node in ElementTree.fromstring(diagram.svg).iter(f"{SVG}text")]


def marks(diagram) -> int:
    return len(list(ElementTree.fromstring(diagram.svg).iter(f"{SVG}circle")))


def test_unet_shows_the_channels_and_sides_of_every_level():
    shown = texts(diagrams.unet(UNet(features=8, tile=64)))
    assert shown[:3] == ["image, 3", "elevation, 1", "64 px"]
    assert [text for text in shown if re.fullmatch(r"\d+", text)] == ["8", "16", "32", "64", "64"]
    assert [text for text in shown if "+" in text] == ["8 + 8", "16 + 16", "32 + 32", "64 + 64", "64 + 64"]
    sides = [text for text in shown if text.endswith(" px")]
    assert sides == ["64 px", "32 px", "16 px", "8 px", "4 px", "2 px", "64, 1 px"]


def test_attention_and_dropout_are_marked_only_where_they_are():
    plain = diagrams.unet(UNet(features=16, tile=32, dropout=0))
    assert marks(plain) == 0 and "dashed: with dropout" not in texts(plain)
    rich = diagrams.unet(UNet("simam", features=16, tile=32, dropout=2))
    assert marks(rich) == 3 + 4 + 1  # down, up, and the legend
    assert rich.svg.count('stroke-dasharray="5 4"') == 2 and "dashed: with dropout" in texts(rich)
    assert marks(diagrams.patchgan(PatchGAN("cbam", features=16), tile=64)) == 3 + 1


def test_discriminator_shows_the_receptive_field_of_every_layer():
    shown = texts(diagrams.patchgan(PatchGAN(features=4), tile=64))
    assert "6 × 6 logits" in shown
    assert [text for text in shown if text.endswith(" px")] == [f"{n} × {n} px" for n in (4, 10, 22, 46, 70)]


def test_drpan_shows_its_sizes_and_where_the_gradient_is_cut():
    def drawn(kind: str):
        config = preset("cpu", method="drpan", drpan=kind, features=4, critic_features=4, tile=64)
        return diagrams.drpan(build_method(config))

    flow, detached = drawn("flow"), drawn("detached")
    assert {"6 × 6 verdicts", "5 × 5 window", "y, but 18 × 18 px", "L1, 5 × 5"} <= set(texts(flow))
    assert "what" in texts(flow) and "what, without its gradient" in texts(detached)
    assert "dasharray" not in flow.svg and "dasharray" in detached.svg


@pytest.mark.parametrize(("name", "form", "line"), [
    ("cbam", "paper", "4 to 64 channels"), ("gam", "paper", "64 to 4 channels"),
    ("gam", "original", "64 to 16 channels"), ("simam", "paper", "its variance, plus ½"),
])
def test_attention_shows_the_numbers_of_its_layers(name, form, line):
    assert line in texts(diagrams.attention(build_attention(name, 64, form)))


def test_drawing_leaves_the_network_and_the_random_state_as_they_were():
    network = UNet(features=4, tile=32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    assert diagrams.unet(network).svg == diagrams.unet(network).svg
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_file_and_notebook_get_the_same_picture_with_a_title(tmp_path):
    diagram = diagrams.patchgan(PatchGAN(features=4), tile=32)
    diagram.save(tmp_path / "discriminator.svg")
    assert (tmp_path / "discriminator.svg").read_text(encoding="utf-8") == diagram._repr_svg_()
    root = ElementTree.fromstring(diagram.svg)
    assert root.get("role") == "img" and root.find(f"{SVG}title").text == "Discriminator for tiles of 32 px"
    assert len(diagram.svg) < 20_000


def test_unknown_block_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UnknownName, match="SimAM"):
        diagrams.attention(nn.ReLU())
