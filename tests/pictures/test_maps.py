"""The map of the registry's scenes."""

import matplotlib.pyplot as plt

from sat2dem_core.dataset.registry import sites
from sat2dem_core.pictures.maps import CROWDED, sites_map


def test_every_scene_with_a_place_is_marked_and_numbered_and_no_other():
    table = sites()
    figure = sites_map(table)
    world, detail = figure.axes
    placed = table.longitude.notna()
    assert not placed["california-madre-l8"]
    marks = sum(len(part.get_offsets()) for part in world.collections if part.get_label() in set(table.kind))
    assert marks == placed.sum()
    numbers = {int(number) for axis in (world, detail) for text in axis.texts for number in text.get_text().split(", ")}
    assert numbers == {number for number, shown in enumerate(placed, 1) if shown}
    west, south, east, north = CROWDED
    assert (west, east) == detail.get_xlim() and (south, north) == detail.get_ylim()
    plt.close(figure)
