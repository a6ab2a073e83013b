"""Pictures compared by hand: what their HTML contains, and what a real browser shows."""

import io
import re
from base64 import b64decode

import matplotlib.pyplot as plt
import numpy as np
import pytest
from browser import AS_NOTEBOOK, pixels
from matplotlib.figure import Figure
from PIL import Image

from sat2dem_core.errors import CannotWrite, UnsupportedImagery, WrongShape
from sat2dem_core.pictures import sliders
from sat2dem_core.pictures.sliders import COMPARE_BUDGET, FRAMES_BUDGET, compare, frames

RED, GREEN, BLUE, GRAY = (200, 30, 30), (30, 160, 30), (30, 30, 200), (128, 128, 128)
TEXTS = {"title": "Now & then", "alt": 'Ground, "made up"'}


def plain(color: tuple[int, int, int], height: int = 48, width: int = 64) -> np.ndarray:
    return np.broadcast_to(np.uint8(color)[:, None, None], (3, height, width))


def drawn(color: str = "teal", size: tuple[float, float] = (3, 2)) -> Figure:
    figure = plt.figure(figsize=size)
    figure.add_axes((0.2, 0.2, 0.6, 0.6), facecolor=color)
    return figure


def wipe(**changes):
    return compare(plain(RED), plain(BLUE), **TEXTS | changes)


def row(start: int = 0, **changes):
    colors = (RED, GREEN, BLUE, GRAY)
    labels = ["red", "green", "blue", "gray"]
    return frames([plain(color) for color in colors], **TEXTS | {"labels": labels, "start": start} | changes)


def is_color(shown: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(shown - color) < 12).all(-1)


def share(page, color: tuple[int, int, int], number: int = 0) -> float:
    """How much of a row in the upper half of a view's box has a color, 0 to 1."""
    shown = pixels(page.locator(".box").nth(number).screenshot())
    return is_color(shown[len(shown) // 4], color).mean()


@pytest.mark.parametrize("make", [wipe, row])
def test_same_input_gives_same_bytes_and_other_input_another_name(make):
    assert make()._repr_mimebundle_() == make()._repr_mimebundle_()
    names = {re.search('data-slider="(.*?)"', view._repr_html_())[1] for view in (make(), make(title="Else"))}
    assert len(names) == 2


def test_figures_give_the_same_bytes_and_are_closed():
    before = plt.get_fignums()
    pages = [compare(drawn(), drawn("olive"), **TEXTS)._repr_mimebundle_() for _ in range(2)]
    assert pages[0] == pages[1]
    assert plt.get_fignums() == before


@pytest.mark.parametrize("make", [wipe, row])
def test_notebook_gets_a_page_and_a_picture(make):
    view = make()
    bundle = view._repr_mimebundle_()
    assert bundle["text/html"] == view._repr_html_()
    assert b64decode(bundle["image/png"]) == view.png()
    assert len(repr(view)) < 100  # a notebook stores it too


@pytest.mark.parametrize("make", [wipe, row])
def test_pictures_come_first_have_their_alt_text_and_nothing_comes_from_the_net(make):
    page = make()._repr_html_()
    assert page.index("<img") < page.index("<input") < page.index("<script")
    assert page.count(': Ground, &quot;made up&quot;"') == page.count("<img") == 2
    assert "Now &amp; then</figcaption>" in page
    bare = re.sub('"[^"]{100,}"', "", page)
    assert "://" not in page and not re.search("@[A-Z]+@", bare)
    for address in re.findall("""src=["']?([^"'>]*)""", page):
        assert address.startswith("data:image/webp;base64,")


def test_picture_without_scripts_shows_both_with_labels_on_white():
    shown = pixels(wipe().png())
    height = len(shown) - 28  # beneath the labels
    assert shown.shape == (28 + 336, 2 * 448 + 16, 3)  # 64 px, seven times as large
    assert is_color(shown[-height:, :448], RED).all() and is_color(shown[-height:, -448:], BLUE).all()
    assert (shown[:, 448:-448] == 255).all()
    for label in (shown[:28, :448], shown[:28, -448:]):
        assert label.min() < 100 and (label[0] == 255).all()


@pytest.mark.parametrize(("start", "left", "right"), [(0, RED, GRAY), (2, BLUE, GRAY), (3, RED, GRAY)])
def test_picture_without_scripts_shows_the_start_and_the_last(start, left, right):
    shown = pixels(row(start).png())[-100]
    assert is_color(shown[:448], left).all() and is_color(shown[-448:], right).all()


def stored(page: str) -> list[np.ndarray]:
    encoded = re.findall("data:image/webp;base64,([^\"]+)", page)
    return [np.asarray(Image.open(io.BytesIO(b64decode(text)))) for text in encoded]


def test_few_pixels_stay_as_they_are_and_are_shown_large():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    page = frames(pictures, labels=range(3), **TEXTS)._repr_html_()
    first, last, middle = stored(page)  # the two that need no script come first
    for picture, decoded in zip(pictures, (first, middle, last)):
        np.testing.assert_array_equal(np.moveaxis(picture, 0, -1), decoded)
    assert "image-rendering: pixelated" in page and 'width="448"' in page


def test_large_arrays_shrink_and_figures_are_sharper_than_shown():
    big = np.zeros((3, 900, 1800), np.uint8)
    page = compare(big, big, **TEXTS)._repr_html_()
    assert {picture.shape for picture in stored(page)} == {(384, 768, 3)} and "image-rendering: auto" in page
    page = compare(drawn(), drawn(), **TEXTS)._repr_html_()
    assert {picture.shape for picture in stored(page)} == {(300, 450, 3)} and 'width="300" height="200"' in page


def test_figure_without_a_background_is_on_white():
    clear = drawn()
    clear.set_facecolor("none")
    assert (stored(compare(clear, drawn(), **TEXTS)._repr_html_())[0][:10] > 250).all()


def test_worst_case_keeps_to_the_budget():
    noise = np.random.default_rng(0).integers(0, 256, (3, 256, 256), dtype=np.uint8)
    assert len(compare(noise, noise[::-1], **TEXTS)._repr_html_()) <= COMPARE_BUDGET
    page = frames([noise[:, :128, :128]] * 16, labels=range(16), **TEXTS)._repr_html_()
    assert FRAMES_BUDGET / 10 < len(page) <= FRAMES_BUDGET


def test_noise_that_no_quality_makes_small_enough_loses_pixels(monkeypatch):
    monkeypatch.setattr(sliders, "COMPARE_BUDGET", 16_000)
    noise = np.random.default_rng(0).integers(0, 256, (3, 150, 300), dtype=np.uint8)
    page = compare(noise, noise, **TEXTS)._repr_html_()
    assert len(page) <= 16_000 and 'width="300"' in page
    assert {picture.shape for picture in stored(page)} == {(75, 150, 3)}


def test_shapes_that_do_not_fit_are_an_error():
    with pytest.raises(WrongShape, match="64 by 48, 64 by 40 px"):
        compare(plain(RED), plain(RED, 40), **TEXTS)
    with pytest.raises(WrongShape, match="450 by 300, 64 by 48 px"):
        frames([drawn(), plain(RED)], labels="ab", **TEXTS)
    arrays = [np.zeros(shape, np.uint8) for shape in ((48, 64, 3), (48, 64), (3, 0, 64))]
    for wrong in (*arrays, "a.png"):
        with pytest.raises(WrongShape, match=re.escape(str(np.shape(wrong)))):
            compare(plain(RED), wrong, **TEXTS)
    with pytest.raises(UnsupportedImagery, match="float"):
        compare(plain(RED), plain(RED) / 255, **TEXTS)


def test_large_pictures_of_different_sizes_are_an_error_although_they_would_shrink_to_one_size():
    with pytest.raises(WrongShape, match="800 by 800, 1600 by 1600 px"):
        compare(plain(RED, 800, 800), plain(RED, 1600, 1600), **TEXTS)


def test_numbers_that_do_not_fit_are_an_error():
    with pytest.raises(WrongShape, match="2 pictures, 3 labels"):
        wipe(labels=("a", "b", "c"))
    with pytest.raises(WrongShape, match="1 pictures, 1 labels"):
        frames([plain(RED)], labels=["a"], **TEXTS)
    for start in (-1, 4):
        with pytest.raises(WrongShape, match=f"no picture {start} .* 0 to 3"):
            row(start)


def test_page_that_cannot_be_written_leaves_the_old_one(tmp_path, full_disk, listing):
    view = row()
    view.save(tmp_path / "view.html")
    before = listing(tmp_path)
    assert b"<title>Now &amp; then</title>" in before["view.html"]
    with full_disk(1_000), pytest.raises(CannotWrite):
        view.save(tmp_path / "view.html")
    assert listing(tmp_path) == before


def test_border_moves_by_mouse_and_by_keyboard(opened):
    with opened(wipe()._repr_html_()) as page:
        border = page.get_by_role("slider", name="Border between before and after")
        box = page.locator(".box").bounding_box()
        assert share(page, RED) == pytest.approx(0.5, abs=0.02) and share(page, BLUE) == pytest.approx(0.5, abs=0.02)
        assert border.get_attribute("aria-valuetext") == "50 % before, 50 % after"

        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] / 2, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 4, middle, steps=4)
        page.mouse.up()
        assert share(page, RED) == pytest.approx(0.25, abs=0.02) and share(page, BLUE) == pytest.approx(0.75, abs=0.02)
        page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 20)  # anywhere on the picture
        assert share(page, RED) == pytest.approx(0.8, abs=0.02)

        page.keyboard.press("ArrowLeft")
        assert share(page, RED) < 0.8
        page.keyboard.press("End")
        assert share(page, RED) > 0.98 and share(page, BLUE) == 0
        page.keyboard.press("Home")
        assert share(page, BLUE) > 0.98 and share(page, RED) == 0
        assert border.get_attribute("aria-valuetext") == "0 % before, 100 % after"


def test_focus_is_seen_with_the_keyboard(opened):
    with opened(wipe()._repr_html_() + row()._repr_html_()) as page:
        still = [page.locator("figure").nth(number).screenshot() for number in (0, 1)]
        for number in (0, 1):
            page.keyboard.press("Tab")
            assert page.locator("figure").nth(number).screenshot() != still[number]


def test_keys_of_the_slider_do_not_reach_the_page(opened):
    with opened(wipe()._repr_html_()) as page:
        page.evaluate("() => { document.onkeydown = event => { document.title += event.key; }; }")
        page.locator("input").focus()
        page.keyboard.press("ArrowLeft")
        assert page.title() == ""
        page.keyboard.press("a")  # the page gets all other keys
        assert page.title() == "a"


def test_slider_picks_the_picture_and_its_label(opened):
    with opened(row(1)._repr_html_()) as page:
        which = page.get_by_role("slider", name="Which picture: Now & then")
        labels, pictures = page.locator(".pane span:visible"), page.locator("img:visible")

        def check(label: str, color: tuple[int, int, int]) -> None:
            assert labels.all_inner_texts() == [label] and which.get_attribute("aria-valuetext") == label
            assert pictures.evaluate_all("all => all.map(image => image.alt)") == [f'{label}: {TEXTS["alt"]}']
            assert share(page, color) == 1

        check("green", GREEN)
        which.focus()
        page.keyboard.press("ArrowRight")
        check("blue", BLUE)
        page.keyboard.press("End")
        check("gray", GRAY)
        page.keyboard.press("Home")
        check("red", RED)
        box = which.bounding_box()
        page.mouse.click(box["x"] + 0.66 * box["width"], box["y"] + box["height"] / 2)
        check("blue", BLUE)
        page.wait_for_timeout(500)  # nothing moves by itself
        check("blue", BLUE)


def test_last_picture_can_be_the_first_shown(opened):
    with opened(row(3)._repr_html_()) as page:
        assert page.locator("img:visible").count() == 1 and share(page, GRAY) == 1
        page.locator("input").press("Home")
        assert share(page, RED) == 1


def test_text_of_labels_is_text(opened):
    labels = ["</script><b>x</b>", "<i>", "&lt;", '"']
    views = row(labels=labels, title="<u>", alt="<s>"), wipe(labels=labels[:2])
    with opened("".join(view._repr_html_() for view in views)) as page:
        assert page.locator("b, i, u, s").count() == 0
        assert page.locator(".frames .pane span").all_text_contents() == [labels[0], labels[3], *labels[1:3]]
        assert page.locator(".frames span:visible").first.inner_text() == labels[0]
        assert page.locator(".frames figcaption").inner_text() == "<u>"
        assert page.locator(".wipe .pane span").all_inner_texts() == labels[:2]


def test_nothing_jumps_when_the_script_starts(opened):
    started, boxes = wipe()._repr_html_() + row()._repr_html_(), []
    for body in (started, re.sub("(?s)<script>.*?</script>", "", started)):
        with opened(body) as page:
            boxes.append([figure.bounding_box() for figure in page.locator("figure").all()])
    assert boxes[0] == boxes[1] and [box["width"] for box in boxes[0]] == [448, 448]


@pytest.mark.parametrize("how", ["no script", "print"])
def test_without_scripts_and_on_paper_two_pictures_stand_side_by_side(opened, how):
    body = wipe()._repr_html_() + row(1)._repr_html_()
    with opened(body, java_script_enabled=how == "print") as page:
        if how == "print":
            page.locator("input").nth(1).press("End")
            page.emulate_media(media="print")
        assert page.locator("input:visible, .line:visible").count() == 0
        assert page.locator(".pane span:visible").all_inner_texts() == ["before", "after", "green", "gray"]
        for number, (left, right) in enumerate([(RED, BLUE), (GREEN, GRAY)]):
            assert share(page, left, number) == pytest.approx(0.5, abs=0.02)
            assert share(page, right, number) == pytest.approx(0.5, abs=0.02)
        page.set_viewport_size({"width": 390, "height": 700})  # one beneath the other
        for number, (left, right) in enumerate([(RED, BLUE), (GREEN, GRAY)]):
            shown = pixels(page.locator(".box").nth(number).screenshot())[:, 180]
            assert is_color(shown, left).mean() > 0.4 and is_color(shown, right).mean() > 0.4


def test_views_start_as_notebooks_put_them_in_on_a_narrow_page_and_are_independent(opened):
    with opened("", has_touch=True) as page:
        page.set_viewport_size({"width": 390, "height": 700})
        for view in (wipe(), row()):
            page.evaluate(AS_NOTEBOOK, view._repr_html_())  # each twice
        assert page.locator("input:visible").count() == 4
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.locator("input").nth(0).press("End")
        page.locator("input").nth(3).press("End")
        assert share(page, RED, 0) > 0.98 and share(page, RED, 1) == pytest.approx(0.5, abs=0.02)
        assert share(page, RED, 2) == share(page, GRAY, 3) == 1
        page.locator(".wipe .box").nth(1).scroll_into_view_if_needed()
        box = page.locator(".wipe .box").nth(1).bounding_box()
        page.touchscreen.tap(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
        assert share(page, RED, 1) == pytest.approx(0.75, abs=0.02)
        assert page.locator(".wipe input").nth(1).evaluate("input => getComputedStyle(input).touchAction") == "pan-y"


def test_enlarged_pixels_have_sharp_edges(opened):
    stripes = np.zeros((3, 64, 64), np.uint8)
    stripes[..., ::2] = 255
    with opened(frames([stripes, 255 - stripes], labels="ab", **TEXTS)._repr_html_()) as page:
        shown = pixels(page.locator(".box").screenshot())[200]
        assert np.isin(shown, (0, 255)).all() and shown.mean() == 127.5
