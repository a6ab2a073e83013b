import itertools
import types
import weakref

import pytest
import torch

from sat2dem_core.config import preset
from sat2dem_core.dataset.normalize import NORMALIZATIONS
from sat2dem_core.dataset.parts import prepare
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.errors import UnknownName, WrongShape
from sat2dem_core.models import methods
from sat2dem_core.models.attention import ATTENTIONS
from sat2dem_core.models.methods import METHODS, build_method
from sat2dem_core.models.networks import PatchGAN
from sat2dem_core.training.checkpoints import load_model
from sat2dem_core.training.trainer import train

SMALL = {"tile": 32, "stride": 96, "features": 16, "critic_features": 16, "steps": 2, "batch": 2}


def started(dropout: bool = True, **changes):
    """A method from seed 0, ready to step, in double precision."""
    config = preset("cpu", **SMALL | changes)
    torch.manual_seed(config.seed)
    method = build_method(config).double()
    method.start(meters=1000.0, gsd=(30.0, 30.0))
    method.seed(0)
    for module in method.modules():
        if isinstance(module, torch.nn.Dropout) and not dropout:
            module.p = 0.0
    return method


def pair(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    image, dem = (torch.rand(count, bands, 32, 32, generator=draws, dtype=torch.float64) * 2 - 1 for bands in (3, 1))
    return image, dem


def generator_after(steps: int = 1, **changes) -> torch.Tensor:
    method, (image, dem) = started(**changes), pair()
    for _ in range(steps):
        method.step(image, dem)
    return torch.cat([parameter.flatten() for parameter in method.generator.parameters()])


@pytest.fixture(scope="module")
def sample():
    """Data of a corner of the sample by normalization, and two images of the test part."""
    scene, data = open_scene(), {}
    for normalization in NORMALIZATIONS:
        config = preset("cpu", normalization=normalization, **SMALL)
        data[normalization] = prepare(config, scene.isel(x=slice(0, 279), y=slice(0, 263)))
    return data, prepare(config, scene).test.rgb[:2]


def test_all_methods_start_from_the_same_generator():
    first, *others = (torch.cat([p.flatten() for p in started(method=name).generator.parameters()]) for name in METHODS)
    assert all(torch.equal(first, other) for other in others)


def test_detached_drpan_trains_its_generator_exactly_as_pix2pix():
    assert torch.equal(generator_after(3, method="pix2pix"), generator_after(3, method="drpan", drpan="detached"))


def test_flow_sends_the_revisers_and_the_regions_gradients_to_the_generator():
    pix2pix = generator_after(method="pix2pix")
    assert not torch.allclose(pix2pix, generator_after(method="drpan", drpan="flow"))
    # without the region term the reviser alone still makes a difference
    assert not torch.allclose(pix2pix, generator_after(method="drpan", drpan="flow", region_weight=0.0))


def test_reviser_learns_the_same_from_flow_and_detached_in_the_first_step():
    image, dem = pair()
    revisers = []
    for mode in ("flow", "detached"):
        method = started(method="drpan", drpan=mode)
        method.step(image, dem)
        revisers.append(torch.cat([p.flatten() for p in method.reviser.parameters()]))
    assert torch.equal(*revisers)


@pytest.mark.parametrize("name", METHODS)
def test_every_network_of_a_method_moves(name):
    method, (image, dem) = started(method=name), pair()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    losses = method.step(image, dem)
    assert "loss" in losses and all(not loss.requires_grad and loss.isfinite() for loss in losses.values())
    for network, _ in method.named_children():
        after = {key: value for key, value in method.state_dict().items() if key.startswith(network)}
        assert not all(torch.equal(value, before[key]) for key, value in after.items()), network


@pytest.mark.parametrize("name", METHODS)
def test_nodata_pulls_no_gradient_from_any_network(name):
    image, dem = pair()
    dem[0] = torch.nan
    method, outputs = started(method=name, gradient="fused"), []

    def keep(module, given, output):
        output.retain_grad()
        outputs.append(output)

    method.generator.register_forward_hook(keep)
    losses = method.step(image, dem)
    assert all(loss.isfinite() for loss in losses.values())
    assert (outputs[0].grad[0] == 0).all() and (outputs[0].grad[1] != 0).any()


def test_gradient_terms_add_to_the_reconstruction():
    image, dem = pair()
    fake = torch.zeros_like(dem)
    terms = ("none", "first", "second", "fused")
    sizes = {name: started(gradient=name).reconstruction(fake, dem).item() for name in terms}
    assert sizes["none"] < sizes["first"] < sizes["fused"]
    assert sizes["fused"] == pytest.approx(sizes["first"] + sizes["second"] - sizes["none"])


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("name", METHODS)
def test_a_batch_in_parts_gives_the_update_of_the_whole(name, parts):
    """Without dropout, because each part draws masks of its own; 5 tiles in 2 or 3 parts make uneven ones."""
    image, dem = pair(5)
    dem[1, :, 4:9] = torch.nan
    runs = {count: started(method=name, accumulate=count, dropout=False) for count in (1, parts)}
    losses = {count: method.step(image, dem) for count, method in runs.items()}
    assert losses[1].keys() == losses[parts].keys()
    for key in losses[1]:
        torch.testing.assert_close(losses[parts][key], losses[1][key])
    gradients = [[p.grad for p in method.parameters()] for method in runs.values()]
    for whole, summed in zip(*gradients):
        torch.testing.assert_close(summed, whole, rtol=1e-6, atol=1e-9)
    for whole, summed in zip(runs[1].parameters(), runs[parts].parameters()):
        torch.testing.assert_close(summed, whole, rtol=0, atol=2e-4)  # Adam's first step is the gradient's sign


def test_parts_of_a_batch_draw_masks_of_their_own_the_same_from_the_same_seed():
    """Each part computes its prediction twice, the second time with the masks of the first."""
    method, (image, dem), outputs = started(method="pix2pix", accumulate=2), pair(1), []
    method.generator.up3.register_forward_hook(lambda module, given, output: outputs.append(output.detach().clone()))
    for _ in range(2):
        method.seed(5)
        method.load_state_dict(started(method="pix2pix").state_dict())
        method.step(image.repeat(2, 1, 1, 1), dem.repeat(2, 1, 1, 1))
    first, second, first_again, second_again = outputs[:4]
    assert not torch.equal(first, second)
    assert torch.equal(first, first_again) and torch.equal(second, second_again)
    assert all(torch.equal(one, other) for one, other in zip(outputs[:4], outputs[4:], strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_only_one_part_of_a_batch_has_its_activations_in_memory(name):
    def most_at_once(parts):
        method, (image, dem) = started(method=name, accumulate=parts), pair(8)
        alive, counts = weakref.WeakSet(), []

        def keep(module, given, output):
            alive.add(output)
            counts.append(sum(len(activation) for activation in alive))

        method.generator.down1.register_forward_hook(keep)
        method.step(image, dem)
        return max(counts)

    assert (most_at_once(1), most_at_once(4)) == (8, 2)


@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_on_a_graphics_card_training_uses_what_it_offers(half, accumulate, monkeypatch):
    """Where there is none, a method that takes itself to be on one shows what it would ask for."""
    compiled = {}
    monkeypatch.setattr(methods, "half_type", lambda device: half)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network, mode: compiled.update({id(network): mode}))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    scaled = []
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaled.append((device, enabled)))
    config = preset("cpu", method="drpan", precision="mixed", compile=True, accumulate=accumulate, **SMALL)
    method = build_method(config)
    method.parameters = lambda: iter([types.SimpleNamespace(device=torch.device("cuda"))])
    method.start(1000.0, (30.0, 30.0))
    assert scaled == [("cuda", half == torch.float16)]
    assert torch.backends.cudnn.benchmark
    graphs = "reduce-overhead" if accumulate == 1 else None
    assert compiled == {id(method.generator): graphs, id(method.discriminator): graphs}
    kernels = [p for p in method.generator.parameters() if p.ndim == 4 and p.shape[1] > 1]
    layouts = {kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels}
    assert layouts == {half is not None}


def test_on_the_processor_training_leaves_the_settings_of_graphics_cards_alone(monkeypatch):
    compiled = []
    monkeypatch.setattr(methods, "half_type", lambda device: torch.bfloat16)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network, mode: compiled.append(mode))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    method = started(method="pix2pix", compile=True, precision="mixed")
    assert compiled == [None, None] and not torch.backends.cudnn.benchmark and not method.scaler.is_enabled()
    kernels = [p for p in method.generator.parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert not any(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    compiled.clear()
    started(method="pix2pix")
    assert compiled == []


def test_every_network_has_the_papers_adam():
    method = started(method="drpan", learning_rate=2e-4)
    assert list(method.optimizers) == ["generator", "discriminator", "reviser"]
    for name, optimizer in method.optimizers.items():
        settings = optimizer.defaults
        assert (settings["lr"], settings["betas"], settings["fused"]) == (2e-4, (0.5, 0.999), True)
        assert sum(map(len, (group["params"] for group in optimizer.param_groups))) == len(
            list(getattr(method, name).parameters())
        )


def test_optimizers_that_are_restored_continue_as_if_never_stopped():
    first, (image, dem) = started(method="pix2pix", dropout=False), pair()
    first.step(image, dem)
    second = started(method="pix2pix", dropout=False)
    second.load_state_dict(first.state_dict())
    stored = {key: value.clone() for key, value in first.optimizer_state().items()}
    second.restore_optimizers(stored, {"generator": 1e-3, "discriminator": 5e-4})
    assert second.optimizers["discriminator"].param_groups[0]["lr"] == 5e-4
    second.optimizers["discriminator"].param_groups[0]["lr"] = 1e-3
    for method in (first, second):
        method.step(image, dem)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "pixpix"}, "unknown method 'pixpix': choose one of unet, pix2pix, drpan"),
        ({"gradient": "third"}, "'third': choose one of none, first, second, fused, slope"),
        ({"method": "drpan", "drpan": "on"}, "'on': choose one of flow, detached"),
    ],
)
def test_unknown_names_list_the_valid_ones(changes, message):
    with pytest.raises(UnknownName, match=message):
        build_method(preset("cpu", **changes))


def test_image_and_elevation_of_different_size_are_refused():
    with pytest.raises(WrongShape, match="put both on one grid"):
        PatchGAN()(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_mixed_precision_computes_convolutions_in_16_bits_and_ends_in_float32(name, parts, half, monkeypatch):
    """Forced on: it is emulated where the processor has no such instructions."""
    monkeypatch.setattr(methods, "half_type", lambda device: half)
    results, ends = {}, []
    end = lambda module, given, out: ends.append((given[0].dtype, out.dtype))
    for precision in ("float32", "mixed"):
        method, dtypes = started(method=name, precision=precision, accumulate=parts).float(), []
        for module in method.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                module.register_forward_hook(lambda module, given, out: dtypes.append(out.dtype))
        for key, network in method.named_children():
            (network.final_up if key == "generator" else network.final).register_forward_hook(end)
        losses = method.step(*(tensor.float() for tensor in pair()))
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in method.parameters())
        results[precision] = losses["loss"], set(dtypes)
    assert set(ends) == {(torch.float32, torch.float32)}
    assert results["float32"][1] == {torch.float32}
    assert results["mixed"][1] == {torch.float32, half}
    torch.testing.assert_close(results["mixed"][0], results["float32"][0], rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("method", "attention", "gradient", "normalization"),
    list(itertools.product(METHODS, ATTENTIONS, ("none", "first", "fused"), NORMALIZATIONS)),
)
def test_every_combination_trains_saves_reloads_and_predicts(
    method, attention, gradient, normalization, sample, tmp_path
):
    config = preset("cpu", method=method, attention=attention, gradient=gradient, normalization=normalization, **SMALL)
    data, rgb = sample
    run = train(config, data=data[normalization], run=tmp_path, progress=False)
    model = load_model(tmp_path)
    assert model.predict(rgb).isfinite().all()
    assert run.log.step.iloc[-1] == 2
    assert torch.equal(model.predict(rgb), run.model("best").predict(rgb))
