"""How fast a large image is predicted: the network on its tiles, and the blending into one surface."""

import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from loops import paper
from report import HIGHEST, LOWEST, Report

from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.models.networks import UNet
from sat2dem_core.paths import PACKAGE
from sat2dem_core.training.checkpoints import Model

ROWS = 256  # of a block, as in sat2dem_core.prediction.pieces


def measure(report: Report) -> None:
    """Tables of the network alone and of the blending."""
    sizes = report.sizes
    side, tile = sizes.side, sizes.tile
    report("## Prediction")
    report()
    corners = [*range(0, side - tile, tile // 2), side - tile]  # mosaic.starts, which needs SciPy
    report(
        f"An image of {side} x {side} px in {len(corners) ** 2} tiles of {tile} px that overlap by half, each "
        f"predicted with its mirror image, {sizes.batch} at once, by the paper's generator with {sizes.features} "
        "features and random weights; from arrays on the host to arrays on the host."
    )
    image = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    seconds, heights, spread = network_rows(report, image, corners)
    blending = blend(report, corners, heights, spread)
    if blending:
        whole = seconds + blending
        rate, share = side**2 / whole / 1e6, seconds / whole
        report(f"Together {whole:.3g} s, {rate:.3g} Mpx/s; the network takes {share:.0%} of it.")
        report.number("prediction: whole", whole)


def network_rows(report: Report, image: np.ndarray, corners: list[int]) -> tuple[float, np.ndarray, np.ndarray]:
    """Time the network in each precision.

    Returns:
        Seconds in float32, as the package predicts, and its heights and their spread, (rows, columns, T, T) meters.
    """
    model = random_model(report)
    formats: dict[str, tuple[Model, torch.autocast | nullcontext]] = {"float32": (model, nullcontext())}
    if report.cuda:
        formats["TF32"] = replace(model, config=replace(model.config, tf32=True)), nullcontext()
    if report.half is not None:  # not a setting of the package's predict: what it would gain
        formats[f"{report.half_name}, as in validation"] = model, torch.autocast(report.device.type, report.half)
    report.head("network", "s", "Mpx/s", "memory, GiB")
    seconds, first = 0.0, None
    for name, (one, context) in formats.items():
        with context:
            strip(one, image, corners[0], corners, report.sizes.batch)  # the choice of algorithms
            if report.cuda:
                torch.cuda.reset_peak_memory_stats(report.device)
            start = time.perf_counter()
            strips = [strip(one, image, row, corners, report.sizes.batch) for row in corners]
        passed = time.perf_counter() - start
        used = f"{torch.cuda.max_memory_allocated(report.device) / 2**30:.1f}" if report.cuda else "–"
        report.row(name, f"{passed:.3g}", f"{image[0].size / passed / 1e6:.3g}", used)
        report.number(f"prediction: network, {name}", passed)
        if first is None:
            seconds, first = passed, strips
    assert first is not None
    heights, spread = (np.stack(part) for part in zip(*first))
    return seconds, heights, spread


def random_model(report: Report) -> Model:
    config = paper(report, "unet")
    torch.manual_seed(0)
    with report.device:
        generator = UNet(config.attention, config.features, config.tile).eval()
    return Model(generator, Normalization("shift", LOWEST, HIGHEST, relief=2344.0), config)


def strip(
    model: Model, image: np.ndarray, row: int, corners: list[int], batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """A row of tiles as ``sat2dem_core.prediction.pieces`` predicts it: heights and spread, (columns, T, T) meters."""
    size = model.config.tile
    tiles = np.stack([image[:, row : row + size, left : left + size] for left in corners])
    predictions = []
    for transposed in (False, True):
        turned = np.ascontiguousarray(tiles.swapaxes(2, 3)) if transposed else tiles
        meters = model.normalization.height_above_minimum(model.predict(turned, batch)).numpy()
        predictions.append(meters.swapaxes(1, 2) if transposed else meters)
    stack = np.stack(predictions)  # (2, columns, T, T)
    level = stack.mean((2, 3), keepdims=True)
    return (stack - level).mean(0) + level.mean(0), (stack - level).std(0)


def blending_module() -> ModuleType:
    """``sat2dem_core.prediction.mosaic`` without the names of its wing, which need raster libraries.

    Raises:
        ModuleNotFoundError: SciPy is not installed.
    """
    wing = ModuleType("sat2dem_core.prediction")
    wing.__path__ = [str(PACKAGE / "prediction")]
    sys.modules.setdefault(wing.__name__, wing)
    return import_module("sat2dem_core.prediction.mosaic")


def blend(report: Report, corners: list[int], heights: np.ndarray, spread: np.ndarray) -> float:
    """Find the tiles' levels and blend them; the seconds that it takes, 0 where SciPy is missing."""
    report()
    try:
        mosaic = blending_module()
    except ModuleNotFoundError as error:
        report(f"The blending is left out: it needs {error.name}, which is not installed.")
        return 0.0
    count, (size, side) = len(corners), (heights.shape[-1], report.sizes.side)
    number = np.arange(count**2).reshape(count, count)
    start = time.perf_counter()
    pairs, steps = [], []
    for axis in (0, 1):
        for row in range(count - (axis == 0)):
            for column in range(count - (axis == 1)):
                other = row + (axis == 0), column + (axis == 1)
                offset = corners[other[axis]] - corners[(row, column)[axis]]
                steps.append(step(mosaic, heights[row, column], heights[other], axis, offset))
                pairs.append((number[row, column], number[other]))
    measured, weights = np.array(steps).T
    levels = mosaic.solve_levels(count**2, np.array(pairs), measured, weights)[0].reshape(count, count)
    leveled = time.perf_counter()
    known = 0
    for top in range(0, side, ROWS):
        surface = mosaic.Blend(min(ROWS, side - top), side, size)
        for row, down in enumerate(corners):
            if down + size > top and down < top + ROWS:
                for column, right in enumerate(corners):
                    surface.add(
                        heights[row, column] + levels[row, column], spread[row, column], 0.0, down - top, right
                    )
        known += int(np.isfinite(surface.result()[0]).sum())
    passed = time.perf_counter() - start
    assert known == side**2, "the blending left holes"
    report(
        f"The blending takes {passed:.3g} s on the host, {leveled - start:.2g} s of it for the levels of the tiles; it "
        f"covers all {known} px."
    )
    report.number("prediction: blending", passed)
    return passed


def step(mosaic: ModuleType, a: np.ndarray, b: np.ndarray, axis: int, offset: int) -> tuple[float, float]:
    """The step between two tiles of which ``b`` lies ``offset`` px below (axis 0) or right (axis 1); see the module."""
    weight, size = mosaic.window(len(a)), len(a)
    late, early = (slice(offset, None), slice(None)), (slice(None, size - offset), slice(None))
    in_a, in_b = (late, early) if axis == 0 else (late[::-1], early[::-1])
    return mosaic.step_between(a[in_a], b[in_b], weight[in_a] * weight[in_b])
