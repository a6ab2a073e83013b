"""The book's figures of images, elevations, errors and training, all in one style.

They show elevation in a perceptually uniform color map over its hillshade, and errors in a diverging map with white at
zero. Panels of one row share their limits, and a color bar states them with their unit.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from sat2dem_core.rasters.atomic import replacing
from sat2dem_core.rasters.grids import ground_sampling_distance
from sat2dem_core.terrain import hillshade
from sat2dem_core.training.checkpoints import Run

ELEVATION, ERROR, SHADE = "viridis", "RdBu_r", "gray"
WIDTH = 7.0  # inches, of a figure as wide as the page: its text is legible on a phone, where it shrinks to half
STYLE: dict[str, Any] = {
    "figure.dpi": 130, "font.size": 11.5, "axes.titlesize": 11.5, "axes.labelsize": 11.5, "legend.fontsize": 10.5,
    "xtick.labelsize": 10.5, "ytick.labelsize": 10.5, "axes.spines.top": False, "axes.spines.right": False,
    # Okabe and Ito's colors, which color-blind readers can tell apart, without the yellow, which is too pale on white
    "axes.prop_cycle": cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]),
}


def use_style() -> None:
    """Draw all later figures in the book's style: text legible on a phone, colors that all readers can tell apart."""
    plt.style.use(STYLE)


def _bare(axis: Axes, title: str, gsd: tuple[float, float]) -> None:
    axis.set(title=title, xticks=[], yticks=[])
    axis.set_aspect(gsd[0] / gsd[1])  # pixels need not be square: 167 by 127 m, for example
    for spine in axis.spines.values():
        spine.set_visible(False)


def show_image(axis: Axes, rgb: np.ndarray, gsd: tuple[float, float], title: str = "Image") -> None:
    """Draw a uint8 image (3, H, W) with pixels of ``gsd`` (down the rows, along the columns), meters."""
    axis.imshow(np.moveaxis(rgb, 0, -1))
    _bare(axis, title, gsd)


def show_dem(
    axis: Axes, dem: np.ndarray, gsd: tuple[float, float], title: str = "Elevation",
    limits: tuple[float, float] | None = None, label: str | None = "m",
) -> None:
    """Draw elevation (H, W) in meters over its hillshade.

    Args:
        gsd: ground sampling distance (down the rows, along the columns), meters.
        limits: elevations at the ends of the color map, meters; the lowest and highest of ``dem`` when not given.
        label: of the color bar; None for no bar.
    """
    low, high = (np.nanmin(dem), np.nanmax(dem)) if limits is None else limits
    axis.imshow(hillshade(dem, gsd), cmap=SHADE, vmin=0, vmax=1)
    drawn = axis.imshow(dem, cmap=ELEVATION, vmin=low, vmax=high, alpha=0.65)
    _bare(axis, title, gsd)
    _bar(axis, drawn, label)


def show_error(
    axis: Axes, error: np.ndarray, gsd: tuple[float, float], title: str = "Error", limit: float | None = None,
    label: str | None = "m",
) -> None:
    """Draw an error (H, W) in meters: red where the prediction is too high, blue where it is too low.

    Args:
        gsd: ground sampling distance (down the rows, along the columns), meters.
        limit: error at the ends of the color map, meters; the largest one when not given.
        label: of the color bar; None for no bar.
    """
    limit = float(np.nanmax(np.abs(error))) if limit is None else limit
    drawn = axis.imshow(error, cmap=ERROR, vmin=-limit, vmax=limit)
    _bare(axis, title, gsd)
    _bar(axis, drawn, label)


def _bar(axis: Axes, drawn: ScalarMappable, label: str | None) -> None:
    if label is not None:
        axis.figure.colorbar(drawn, ax=axis, shrink=0.75, pad=0.03, label=label)


def scene_figure(scene: xr.Dataset) -> Figure:
    """A scene's image and its elevation, side by side, with a scale bar."""
    gsd = ground_sampling_distance(scene)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.9), layout="constrained")
    show_image(left, scene.rgb.values, gsd, "Satellite image")
    show_dem(right, scene.dem.values, gsd, "Elevation", label="elevation, m")
    scale_bar(left, gsd)
    return figure


def scale_bar(axis: Axes, gsd: tuple[float, float]) -> None:
    """A bar of a round length, about a quarter of the picture, in its lower left corner."""
    left, right = axis.get_xlim()
    longest = (right - left) * gsd[1] / 4  # m
    power = 10 ** int(np.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest)
    x, y = left + 0.05 * (right - left), axis.get_ylim()[0] * 0.94
    axis.plot([x, x + length / gsd[1]], [y, y], color="white", lw=4, solid_capstyle="butt")
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axis.text(x, y * 0.975, text, color="white", va="bottom", fontweight="bold")


def prediction_figure(
    rgb: np.ndarray, truth: np.ndarray, prediction: np.ndarray, gsd: tuple[float, float], label: str = "m"
) -> Figure:
    """One row for each tile: image, truth, prediction, and prediction minus truth; all rows share their limits.

    Args:
        rgb: (N, 3, T, T) uint8.
        truth, prediction: (N, T, T) meters.
        gsd: ground sampling distance (down the rows, along the columns), meters.
        label: of the color bar of elevations.
    """
    rows = len(rgb)
    figure, axes = plt.subplots(rows, 4, figsize=(WIDTH, 2.3 * rows), layout="constrained", squeeze=False)
    limits = (min(np.nanmin(truth), np.nanmin(prediction)), max(np.nanmax(truth), np.nanmax(prediction)))
    error = prediction - truth
    limit = float(np.nanmax(np.abs(error)))
    for row, panels in enumerate(axes):
        titles = ("Image", "Truth", "Prediction", "Error") if row == 0 else ("",) * 4
        show_image(panels[0], rgb[row], gsd, titles[0])
        show_dem(panels[1], truth[row], gsd, titles[1], limits, label=None)
        show_dem(panels[2], prediction[row], gsd, titles[2], limits, label=None)
        show_error(panels[3], error[row], gsd, titles[3], limit, label=None)
    elevations = ScalarMappable(Normalize(*limits), ELEVATION)
    figure.colorbar(elevations, ax=axes[:, 1:3], location="bottom", shrink=0.6, aspect=40, label=label)
    errors = ScalarMappable(Normalize(-limit, limit), ERROR)
    figure.colorbar(errors, ax=axes[:, 3:], location="bottom", shrink=0.9, label="prediction − truth, m")
    return figure


def curves_figure(logs: dict[str, pd.DataFrame]) -> Figure:
    """Training loss and validation MAE of several runs over their steps.

    Args:
        logs: each run's log, by the name for the legend: columns ``step``, ``loss`` and ``validation_mae`` (meters).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.0), layout="constrained")
    for name, log in logs.items():
        left.plot(log.step, log.loss, marker=".", label=name)
        right.plot(log.step, log.validation_mae, marker=".", label=name)
    left.set(title="Training loss", xlabel="step", ylabel="loss", yscale="log")
    right.set(title="Validation MAE", xlabel="step", ylabel="m", ylim=(0, None))
    for axis in (left, right):
        axis.grid(alpha=0.3)
    if len(logs) > 1:
        right.legend()
    return figure


def quality_figure(table: pd.DataFrame, histogram: tuple[np.ndarray, np.ndarray]) -> Figure:
    """A store in four panels: where its tiles lie; elevations; relief and clouds; how far images are shifted.

    Args:
        table, histogram: see :func:`sat2dem_core.dataset.quality.inspect` and ``elevation_histogram``.
    """
    figure, ((where, height), (relief, shift)) = plt.subplots(2, 2, figsize=(WIDTH, 6.4), layout="constrained")
    _draw_locations(where, table)
    height.stairs(*histogram, fill=True, color="#0072B2")
    height.set(title="Elevation of all pixels", xlabel="m", ylabel="pixels")
    _draw_clouds(relief, table)
    _draw_shifts(shift, table)
    for axis in (where, height, relief, shift):
        axis.grid(alpha=0.3)
    return figure


def _draw_locations(axis: Axes, table: pd.DataFrame) -> None:
    """A square for each tile, colored by its mean elevation, with a red edge where the tile is flagged."""
    aspect, half = np.cos(np.radians(table.lat.mean())), 0.034  # half a side of a square, ° of latitude
    squares = [
        Rectangle((lon - half / aspect, lat - half), 2 * half / aspect, 2 * half)
        for lon, lat in zip(table.lon, table.lat)
    ]
    edges = np.where(table.flagged != "", "red", "none")
    tiles = PatchCollection(squares, array=table["mean"], cmap=ELEVATION, edgecolors=edges, linewidths=1.5)
    axis.figure.colorbar(axis.add_collection(tiles), ax=axis, label="mean elevation, m")
    title = f"{len(table)} tiles, {(table.flagged != '').sum()} flagged (red)"
    axis.set(title=title, xlabel="longitude, °", ylabel="latitude, °", aspect=1 / aspect)
    axis.autoscale()
    axis.locator_params(axis="x", nbins=4)


def _draw_clouds(axis: Axes, table: pd.DataFrame) -> None:
    """Relief and share of clouds of each tile, with a red ring where the tile is flagged."""
    flagged = table[table.flagged != ""]
    axis.scatter(table.relief, 100 * table.cloud_share, s=14, color="#0072B2")
    axis.scatter(flagged.relief, 100 * flagged.cloud_share, facecolor="none", edgecolor="red", s=40)
    axis.set(
        title="Relief and clouds", xlabel="highest minus lowest point, m", ylabel="clouds in the acquisitions, %",
        ylim=(0, None),
    )


def _draw_shifts(axis: Axes, table: pd.DataFrame) -> None:
    """How far each image is shifted against its elevation, with a circle of one pixel."""
    dots = axis.scatter(table.east, table.down, c=table.shading, cmap="cividis", vmin=0, s=14)
    axis.figure.colorbar(dots, ax=axis, label="correlation with shading")
    axis.add_patch(Circle((0, 0), 1, fill=False, color="gray"))
    reach = max(2.0, 1.1 * np.nanmax(np.abs(table[["east", "down"]].values), initial=0))
    axis.set(
        title="Shift of image and elevation", xlabel="px to the east", ylabel="px down", xlim=(-reach, reach),
        ylim=(reach, -reach), aspect="equal",
    )


def draw_run(run: Run) -> None:
    """Draw a run's ``curves.png``, and ``examples.png``: three validation tiles predicted by the best checkpoint.

    Raises:
        CannotWrite: the disk is full or the run's folder not writable.
    """
    tiles, model = run.data.validation, run.model()
    rgb, dem = (np.asarray(array[:: max(1, len(tiles) // 3)][:3]) for array in (tiles.rgb, tiles.dem))
    scale = model.normalization
    normalized = scale.forward(torch.from_numpy(dem))[0], model.predict(rgb)
    truth, prediction = (scale.height_above_minimum(tensor).numpy() for tensor in normalized)
    label = "m above the tile's lowest point" if scale.kind == "shift" else f"m above {scale.low:.0f} m"
    examples = prediction_figure(rgb, truth, prediction, tiles.gsd, label)
    for name, figure in {"curves": curves_figure({"": run.log}), "examples": examples}.items():
        with replacing(run.folder / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=100)
        plt.close(figure)  # or a notebook would show it


def study_figure(summary: pd.DataFrame, label: str = "MAE of relief, m") -> Figure:
    """The mean error of each setting of a study, with its standard deviation, and the error of the constant baseline.

    Args:
        summary: see :func:`sat2dem_core.study.report.summarize`.
        label: of the axis of errors.
    """
    names = [", ".join(map(str, point if isinstance(point, tuple) else (point,))) for point in summary.index]
    figure, axis = plt.subplots(figsize=(7, 1 + 0.28 * len(names)), layout="constrained")
    spread = summary["MAE ± splits"].fillna(summary["MAE ± seeds"]).fillna(0)
    axis.errorbar(summary.MAE, range(len(names)), xerr=spread, fmt="o", color="#0072B2", capsize=3)
    axis.axvline(summary.constant.mean(), color="gray", ls="--", label="constant")
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel=label)
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
    axis.legend(loc="best", frameon=False)
    return figure
