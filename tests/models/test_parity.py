"""Our networks, proposal and loss give the authors' numbers for weights and inputs that a formula gives.

A part of these numbers is in ``tests/reference``; where all of them lie beside the clone, all are compared.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sat2dem_core.errors import DamagedCheckpoint
from sat2dem_core.models.attention import build_attention
from sat2dem_core.models.losses import Proposal, first_order
from sat2dem_core.models.networks import PatchGAN, UNet, load_paper_weights


def formula_weights(network: torch.nn.Module) -> torch.nn.Module:
    """The reference's weights: parameter i, flat index k, s = sin(0.7 k + i)."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(network.named_parameters()):
            s = np.sin(0.7 * np.arange(parameter.numel(), dtype=np.float64) + i)
            if parameter.ndim > 1:
                s /= np.sqrt(parameter[0].numel())
            else:
                s = 1 + 0.1 * s if name.endswith("weight") else 0.1 * s
            parameter.copy_(torch.from_numpy(s).view(parameter.shape))
    return network.eval()


def ramp(shape: tuple[int, ...], a: float, b: float) -> torch.Tensor:
    k = np.arange(np.prod(shape), dtype=np.float64)
    return torch.from_numpy(np.sin(a * k + b * np.sin(0.0011 * k))).view(shape).float()


IMAGE, DEM = ramp((1, 3, 256, 256), 0.0137, 5), ramp((1, 1, 256, 256), 0.0071, 7)
NETWORKS = {f"attention.{name}": (lambda name=name: build_attention(name, 32)) for name in ("cbam", "gam", "simam")}
for reference in ("None", "cbam", "gam", "simam"):
    name = reference.lower()
    NETWORKS[f"unet.{reference}"] = lambda name=name: UNet(name, features=16)
    NETWORKS[f"discriminator.{reference}"] = lambda name=name: PatchGAN(name)
NETWORKS["reviser"] = PatchGAN


EVERY = {"attention": 4, "unet": 16, "discriminator": 2, "reviser": 2, "drpan.masked_dem": 4}  # pixel is in the part


@pytest.fixture(scope="module", params=["a part", "all"])
def parity(request):
    """The authors' numbers by name, and a function that takes the same pixels of ours."""
    if request.param == "all":
        return np.load(request.getfixturevalue("shared") / "parity/parity.npz"), lambda name, values: values

    def thin(name, values):
        every = EVERY[name if name in EVERY else name.split(".")[0]]
        return values[..., ::every, ::every]

    return np.load(Path(__file__).parents[1] / "reference/parity.npz"), thin


@pytest.mark.parametrize("name", NETWORKS)
def test_network_equals_the_authors_number_by_number(parity, name):
    theirs, same_pixels = parity
    network = formula_weights(NETWORKS[name]())
    inputs = {"a": (ramp((2, 32, 16, 16), 0.37, 3),), "u": (IMAGE,)}.get(name[0], (IMAGE, DEM))
    with torch.inference_mode():
        output = network(*inputs)
    np.testing.assert_allclose(same_pixels(name, output), theirs[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_have_the_authors_names_shapes_and_order(shared, name):
    expected = json.loads((shared / "parity/parameters.json").read_text(encoding="utf-8"))[name]
    assert [(key, list(p.shape)) for key, p in NETWORKS[name]().named_parameters()] == list(expected.items())


def test_proposal_and_gradient_loss_equal_the_authors(parity):
    theirs, same_pixels = parity
    scores = torch.sigmoid(2 * ramp((4, 1, 30, 30), 0.9, 11))
    image, real, fake = (ramp((4, bands, 256, 256), a, 0) for bands, a in ((3, 0.011), (1, 0.017), (1, 0.023)))
    proposal = Proposal(256, 30)
    corner = proposal.corner(scores)
    np.testing.assert_allclose(corner, theirs["drpan.region_xy"], rtol=0, atol=1e-4)
    masked = proposal.masked(real, fake, corner)
    every_fourth = same_pixels("drpan.masked_dem", masked[:, 0, ::4, ::4])
    np.testing.assert_allclose(every_fourth, theirs["drpan.masked_dem"], rtol=0, atol=1e-6)
    pair_sum = torch.cat((image, masked), 1).double().sum((1, 2, 3))
    np.testing.assert_allclose(pair_sum, theirs["drpan.masked_sum"], rtol=0, atol=1e-2)
    assert first_order(fake, real).item() == pytest.approx(float(theirs["loss.gradient"]), abs=1e-4)


@pytest.mark.parametrize("wrapped", [True, False], ids=["under state_dict", "alone"])
def test_checkpoint_of_the_authors_code_loads(tmp_path, wrapped):
    theirs, ours = formula_weights(UNet("gam", features=16)), UNet("gam", features=16)
    optimizer = torch.optim.Adam(theirs.parameters())
    state = {"state_dict": theirs.state_dict(), "optimizer": optimizer.state_dict()} if wrapped else theirs.state_dict()
    torch.save(state, tmp_path / "best_generator.pth")
    load_paper_weights(ours, tmp_path / "best_generator.pth")
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))


def broken(change) -> dict[str, torch.Tensor]:
    state = PatchGAN().state_dict()
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer1.0.weight"), "layer1.0.weight is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is not in this network"),
        (lambda state: state.update({"final.bias": torch.zeros(2)}), r"final.bias has shape \(2,\), not \(1,\)"),
        (lambda state: state.update({"final.bias": "0"}), "final.bias is no tensor"),
    ],
)
def test_checkpoint_of_another_architecture_names_the_key_and_changes_nothing(tmp_path, change, message):
    torch.save(broken(change), tmp_path / "other.pth")
    network = PatchGAN()
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(DamagedCheckpoint, match=message):
        load_paper_weights(network, tmp_path / "other.pth")
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters()))


class Payload:
    """What a malicious pickle would run."""

    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("content", [{"state_dict": Payload()}, [1, 2]], ids=["a pickle", "a list"])
def test_file_with_more_than_tensors_is_refused(tmp_path, capsys, content):
    torch.save(content, tmp_path / "evil.pth")
    with pytest.raises(DamagedCheckpoint, match="evil.pth"):
        load_paper_weights(PatchGAN(), tmp_path / "evil.pth")
    assert capsys.readouterr().out == ""


def test_checkpoint_that_is_missing_or_cut_short_says_so(tmp_path):
    with pytest.raises(DamagedCheckpoint, match="does not exist"):
        load_paper_weights(PatchGAN(), tmp_path / "none.pth")
    torch.save(PatchGAN().state_dict(), tmp_path / "cut.pth")
    content = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedCheckpoint, match="cut.pth is no whole checkpoint"):
        load_paper_weights(PatchGAN(), tmp_path / "cut.pth")
