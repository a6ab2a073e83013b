"""The 3D view: what its HTML contains, and what a real browser shows."""

import io
import re
from base64 import b64decode

import numpy as np
import pytest
from browser import AS_NOTEBOOK, NO_WEBGL, changed, pixels
from PIL import Image

from sat2dem_core.errors import CannotWrite, NoElevation, UnsupportedImagery, WrongShape
from sat2dem_core.pictures import terrain3d
from sat2dem_core.pictures.terrain3d import view3d
from sat2dem_core.pictures.views import View

SQUARE = (30.0, 30.0)


@pytest.fixture(scope="module")
def terrain(hills) -> dict:
    """Arguments of a view of terrain with a hole and a missing corner."""
    dem = hills.dem.values.copy()
    dem[40:70, 60:100] = dem[100:, 120:] = np.nan
    return {"rgb": hills.rgb.values, "dem": dem, "gsd": SQUARE, "alt": 'Hills, "made up"', "title": "Hills & holes"}


@pytest.fixture(scope="module")
def view(terrain) -> View:
    """The view of ``terrain``."""
    return view3d(**terrain)


@pytest.fixture(scope="module")
def exaggerated(terrain) -> View:
    """The view of ``terrain`` with its heights times 2.5."""
    return view3d(**terrain, exaggeration=2.5)


def codes(page: str, rows: int, columns: int) -> np.ndarray:
    return np.frombuffer(b64decode(re.search('"heights": "([^"]+)"', page)[1]), "<u2").reshape(rows, columns)


def colors(png: bytes) -> int:
    return len(np.unique(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3), axis=0))


def test_same_input_gives_same_bytes_and_other_input_another_name(terrain, view, exaggerated):
    assert view._repr_mimebundle_() == view3d(**terrain)._repr_mimebundle_()
    names = {re.search('data-view3d="(.*?)"', page._repr_html_())[1] for page in (view, exaggerated)}
    assert len(names) == 2


def test_input_is_left_as_it_was(terrain):
    rgb, dem = terrain["rgb"].copy(), terrain["dem"].copy()
    view3d(**terrain)
    np.testing.assert_array_equal(terrain["rgb"], rgb)
    np.testing.assert_array_equal(terrain["dem"], dem)


def test_notebook_gets_a_page_and_a_picture(view):
    bundle = view._repr_mimebundle_()
    assert bundle["text/html"] == view._repr_html_()
    assert b64decode(bundle["image/png"]) == view.png()
    assert Image.open(io.BytesIO(view.png())).size == (512, 341)
    assert colors(view.png()) > 100
    assert len(repr(view)) < 100  # a notebook stores it too


def test_picture_comes_first_has_its_alt_text_and_nothing_comes_from_the_net(view):
    page = view._repr_html_()
    assert page.index("<img") < page.index("<canvas") < page.index("<script")
    assert 'alt="Hills, &quot;made up&quot;"' in page
    assert "Hills &amp; holes\n" in page
    assert "://" not in page and "@" not in re.sub('"[^"]{1000,}"', "", page)
    for address in re.findall("""src=["']?([^"'>]*)""", page):
        assert address.startswith("data:image/webp;base64,")


def test_caption_states_an_exaggeration(exaggerated):
    assert "Hills &amp; holes (heights × 2.5)" in exaggerated._repr_html_()


def test_worst_case_keeps_to_the_budget():
    random = np.random.default_rng(0)
    view = view3d(random.integers(0, 256, (3, 700, 900), dtype=np.uint8), random.normal(0, 100, (700, 900)), SQUARE)
    assert len(view._repr_html_()) < 250_000
    assert codes(view._repr_html_(), 192, 192).all()


def test_heights_are_block_means_that_leave_nodata_out():
    dem = np.repeat(np.repeat(np.arange(1000.0, 1192), 2)[:, None], 384, 1)
    dem[::2, ::2] = np.nan  # a quarter of every block
    dem[:4, :4] = np.nan
    heights = terrain3d._block_mean(dem)
    assert heights.shape == (192, 192)
    assert np.isnan(heights[:2, :2]).all() and np.isnan(heights).sum() == 4
    np.testing.assert_allclose(heights[5:, 0], np.arange(1005, 1192), atol=1e-3)
    stored = terrain3d._codes(heights)
    assert (stored == 0).sum() == 4 and stored[stored > 0].min() == 1 and stored.max() == 65535


def test_small_and_uneven_sizes_stay_as_they_are(picture, slope):
    page = view3d(picture[:, :2, :3], slope[:2, :3], SQUARE)._repr_html_()
    assert codes(page, 2, 3).tolist() == [[1, 21846, 43690], [21846, 43690, 65535]]  # thirds of the rise
    assert '"rows": 2, "columns": 3' in page


def test_flat_terrain_is_drawn(picture):
    assert colors(view3d(picture, np.full((64, 80), 12.0), SQUARE).png()) > 100


def test_nothing_is_drawn_where_there_is_no_elevation(picture, slope):
    def drawn(dem: np.ndarray) -> int:
        with Image.open(io.BytesIO(view3d(picture, dem, SQUARE).png())) as image:
            return (np.asarray(image.convert("RGB")) < 255).any(-1).sum()

    half = slope.copy()
    half[:32] = np.nan
    assert drawn(half) < 0.7 * drawn(slope)


@pytest.mark.parametrize(("rgb", "dem"), [
    ((3, 9, 9), (9, 8)), ((4, 9, 9), (9, 9)), ((9, 9, 3), (9, 9)), ((3, 9, 9), (1, 9, 9)), ((3, 1, 9), (1, 9)),
])
def test_shapes_that_do_not_fit_are_an_error(rgb, dem):
    with pytest.raises(WrongShape, match=re.escape(str(dem))):
        view3d(np.zeros(rgb, np.uint8), np.zeros(dem), SQUARE)


def test_other_bad_input_is_an_error(picture, slope):
    with pytest.raises(NoElevation):
        view3d(picture, np.full_like(slope, np.nan), SQUARE)
    alone = np.full_like(slope, np.nan)
    alone[::2, ::2] = 5
    with pytest.raises(NoElevation):
        view3d(picture, alone, SQUARE)
    with pytest.raises(UnsupportedImagery, match="float"):
        view3d(picture / 255, slope, SQUARE)


def test_page_that_cannot_be_written_leaves_the_old_one(view, tmp_path, full_disk, listing):
    view.save(tmp_path / "view.html")
    before = listing(tmp_path)
    page = before["view.html"]
    assert page.startswith(b"<!DOCTYPE html>") and b"<title>Hills &amp; holes</title>" in page
    with full_disk(10_000), pytest.raises(CannotWrite):
        view.save(tmp_path / "view.html")
    assert listing(tmp_path) == before


def test_two_views_turn_by_themselves_and_by_hand(terrain, opened):
    # Small, because a machine without a GPU draws a second of turning in several.
    part = terrain | {"rgb": terrain["rgb"][:, :32, :40], "dem": terrain["dem"][:32, :40], "width": 256}
    with opened(view3d(**part)._repr_html_() + view3d(**part, exaggeration=3)._repr_html_()) as page:
        canvases, buttons = page.locator("canvas").all(), page.locator("button").all()
        for canvas in canvases:
            canvas.wait_for(state="visible")
        assert page.locator("img:visible").count() == 0
        before = [canvas.screenshot() for canvas in canvases]
        assert min(map(colors, before)) > 1000
        for canvas, picture in zip(canvases, before):
            changed(canvas, picture, 1)

        buttons[0].click()
        assert [button.inner_text() for button in buttons] == ["Turn", "Stop"]
        page.wait_for_timeout(200)
        still = canvases[0].screenshot()
        page.wait_for_timeout(400)
        assert canvases[0].screenshot() == still
        changed(canvases[1], before[1], 1)
        buttons[1].click()

        box = canvases[0].bounding_box()
        page.mouse.move(box["x"] + 100, box["y"] + 75)
        page.mouse.wheel(0, -200)  # before a click, the wheel scrolls the page
        page.wait_for_timeout(200)
        assert canvases[0].screenshot() == still
        page.mouse.down()
        page.mouse.move(box["x"] + 200, box["y"] + 45, steps=4)
        page.mouse.up()
        page.wait_for_timeout(200)
        dragged = changed(canvases[0], still, 5)
        page.mouse.wheel(0, -200)
        page.wait_for_timeout(200)
        nearer = changed(canvases[0], dragged, 5)
        page.keyboard.press("ArrowLeft")
        changed(canvases[0], nearer, 1)


def test_without_webgl_the_picture_stays_and_both_show_the_same(view, opened):
    with opened(view._repr_html_(), NO_WEBGL) as page:
        page.wait_for_timeout(500)
        assert page.locator("img").is_visible()
        assert page.locator("canvas:visible, button:visible, small:visible").count() == 0
        picture = pixels(page.locator("img").screenshot())
    with opened(view._repr_html_(), reduced_motion="reduce") as page:  # the reader wants nothing that moves by itself
        page.locator("canvas").wait_for(state="visible")
        assert page.locator("button").inner_text() == "Turn"
        page.wait_for_timeout(300)
        drawn = pixels(page.locator("canvas").screenshot())
    assert picture.shape == drawn.shape
    assert np.abs(picture - drawn).mean() < 3
    assert ((picture.min(-1) > 250) == (drawn.min(-1) > 250)).mean() > 0.9975  # the outline, and the hole


def test_view_starts_as_notebooks_put_it_in_on_a_narrow_page_twice_over(view, opened):
    with opened("", reduced_motion="reduce") as page:
        page.set_viewport_size({"width": 390, "height": 700})
        page.evaluate(AS_NOTEBOOK, view._repr_html_())
        for number in (0, 1):
            page.locator("canvas").nth(number).wait_for(state="visible")
            assert colors(page.locator("canvas").nth(number).screenshot()) > 1000
        assert page.evaluate("document.documentElement.scrollWidth") == 390
