"""A map of the registry's scenes."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.path import Path
from odc.geo.data import ocean_geom

from sat2dem_core.pictures.plots import WIDTH

LAND, SEA, LINES = "#eae6dc", "#dbe7ee", "#b9b4a6"
MARKS = {"embedded": ("s", "#D55E00"), "open": ("o", "#0072B2"), "development": ("^", "#CC79A7")}
WORLD = (-140.0, -35.0, 100.0, 65.0)  # west, south, east, north, degrees
CROWDED = (-114.5, 36.7, -102.5, 41.6)  # where most scenes lie
NEAR = 0.02  # of a map's width: scenes closer than this share one label


def sites_map(table: pd.DataFrame) -> Figure:
    """Where scenes lie: the world, and the part of it that is crowded. Numbers are those of the table's rows, from 1.

    Args:
        table: see :func:`sat2dem_core.dataset.registry.sites`; scenes without a place are left out.
    """
    numbers = pd.Series(range(1, len(table) + 1), table.index)
    known = table.assign(number=numbers).dropna(subset=["longitude", "latitude"])
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 7.4), height_ratios=[3.4, 4.2], layout="constrained")
    for axis, box in zip(axes, (WORLD, CROWDED)):
        _background(axis, box)
        inside = known[known.longitude.between(box[0], box[2]) & known.latitude.between(box[1], box[3])]
        for kind, (mark, color) in MARKS.items():
            part = inside[inside.kind == kind]
            place = (part.longitude, part.latitude)
            axis.scatter(*place, marker=mark, color=color, s=40, label=kind, zorder=3, edgecolor="white")
        within = inside.longitude.between(CROWDED[0], CROWDED[2]) & inside.latitude.between(CROWDED[1], CROWDED[3])
        _label(axis, inside[~within] if box is WORLD else inside, NEAR * (box[2] - box[0]))
    west, south, east, north = CROWDED
    axes[0].add_patch(Rectangle((west, south), east - west, north - south, fill=False, color="black", lw=1, zorder=4))
    axes[0].legend(loc="lower left", frameon=True)
    return figure


def _background(axis: Axes, box: tuple[float, float, float, float]) -> None:
    """Land and sea of Natural Earth, as odc-geo brings them, within a box of degrees."""
    west, south, east, north = box
    axis.set_facecolor(LAND)
    for polygon in ocean_geom("EPSG:4326").geom.geoms:
        rings = [np.asarray(ring.coords)[:, :2] for ring in (polygon.exterior, *polygon.interiors)]
        shape = Path.make_compound_path(*(Path(ring, closed=True) for ring in rings))
        axis.add_collection(PathCollection([shape], facecolor=SEA, edgecolor=LINES, lw=0.6, antialiased=False))
    axis.set(xlim=(west, east), ylim=(south, north), xlabel="longitude, °", ylabel="latitude, °")
    axis.set_aspect(1 / np.cos(np.radians((south + north) / 2)))


def _label(axis: Axes, table: pd.DataFrame, near: float) -> None:
    """The numbers of scenes, one label where they lie within so many degrees."""
    left = table.sort_values("longitude", ascending=False)
    while len(left):
        first = left.iloc[0]
        together = np.hypot(left.longitude - first.longitude, left.latitude - first.latitude) < near
        text = ", ".join(map(str, sorted(left.number[together])))
        place = (first.longitude, first.latitude)
        axis.annotate(text, place, (6, 4), textcoords="offset points", fontsize=10.5, zorder=5)
        left = left[~together]
