"""Figures: what they draw, on which limits, and with which labels."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sat2dem_core.pictures import plots

SQUARE = (30.0, 30.0)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def plane(to_south: float, to_east: float) -> np.ndarray:
    """Elevation (20, 20) that rises by so many meters per pixel."""
    rows, columns = np.mgrid[:20, :20]
    return 1000.0 + to_south * rows + to_east * columns


def test_scene_figure_shows_image_and_elevation_with_unit_and_scale_bar(hills):
    figure = plots.scene_figure(hills)
    figure.canvas.draw()
    image, dem, bar = figure.axes
    assert "m" in bar.get_ylabel()
    assert [text.get_text() for text in image.texts] == ["1 km"]
    (line,) = image.lines
    assert np.ptp(line.get_xdata()) == pytest.approx(1000 / 30, rel=1e-3)


@pytest.mark.parametrize(
    ("gsd", "label"), [(30.0, "1 km"), (127.0, "5 km"), (10.0, "500 m"), (1.0, "50 m"), (2000.0, "100 km")],
)
def test_scale_bar_is_round_and_at_most_a_quarter_of_the_picture(gsd, label):
    _, axis = plt.subplots()
    axis.imshow(np.zeros((160, 200)))
    plots.scale_bar(axis, (gsd, gsd))
    assert axis.texts[0].get_text() == label
    assert 0.1 * 200 <= np.ptp(axis.lines[0].get_xdata()) <= 0.25 * 200


def test_pixels_are_drawn_as_wide_and_high_as_they_are():
    _, axis = plt.subplots()
    plots.show_image(axis, np.zeros((3, 8, 8), np.uint8), (167.0, 127.0))
    assert axis.get_aspect() == pytest.approx(167 / 127)


def test_prediction_figure_shares_limits_and_centres_the_error_at_zero():
    rgb = np.zeros((2, 3, 20, 20), np.uint8)
    truth = np.stack([plane(1, 0), plane(0, 5)])
    prediction = truth + np.array([30.0, -80.0])[:, None, None]
    figure = plots.prediction_figure(rgb, truth, prediction, SQUARE, label="height, m")
    figure.canvas.draw()
    panels, bars = np.reshape(figure.axes[:8], (2, 4)), figure.axes[8:]
    assert [axis.get_title() for axis in panels[0]] == ["Image", "Truth", "Prediction", "Error"]
    limits = {axis.images[-1].get_clim() for axis in panels[:, 1:3].flat}
    assert limits == {(920.0, 1095.0)}  # of truth and prediction together
    assert {axis.images[0].get_clim() for axis in panels[:, 3]} == {(-80.0, 80.0)}
    assert [bar.get_xlabel() for bar in bars] == ["height, m", "prediction − truth, m"]
    np.testing.assert_array_equal(panels[0, 3].images[0].get_array(), 30.0)  # too high is positive


def test_perfect_prediction_and_nodata_can_be_drawn():
    truth = plane(1, 1)[None]
    truth[0, :3] = np.nan
    plots.prediction_figure(np.zeros((1, 3, 20, 20), np.uint8), truth, truth, SQUARE).canvas.draw()


def test_curves_show_every_run_over_its_steps_with_a_legend_for_several():
    log = pd.DataFrame({"step": [2, 4, 6], "loss": [9.0, 5.0, 3.0], "validation_mae": [300.0, 200.0, 180.0]})
    figure = plots.curves_figure({"a": log, "b": log * 2})
    loss, mae = figure.axes
    assert mae.get_ylabel() == "m" and loss.get_yscale() == "log"
    assert mae.lines[1].get_xydata().tolist() == [[4, 600], [8, 400], [12, 360]]
    assert [text.get_text() for text in mae.get_legend().get_texts()] == ["a", "b"]
    assert plots.curves_figure({"a": log}).axes[1].get_legend() is None
