"""The rendered book in a real browser: every page as its readers meet it, on a desk and on a phone, by day and by night."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from browser import CHROMIUM, WEBGL, pixels
from file_server import file_server

TOC = yaml.safe_load((Path(__file__).resolve().parents[1] / "_toc.yml").read_text())
PAGES = ["index", *(entry["file"] for part in TOC["parts"] for entry in part["chapters"])]
AXE = [
    "image-alt", "heading-order", "empty-heading", "page-has-heading-one", "color-contrast", "landmark-one-main",
    "landmark-unique", "landmark-no-duplicate-main", "landmark-main-is-top-level", "link-name", "button-name", "label",
    "svg-img-alt", "document-title", "html-has-lang", "duplicate-id-aria",
]
HEAVIEST = 3_000_000  # bytes over the wire, compressed as any web server does it
# Adds up how far the text moved after it was first drawn, as the Layout Instability API counts it. The contents at the side
# unfold as one scrolls: that is meant.
WATCH = """
    window.shifted = 0;
    new PerformanceObserver(list => {
        for (const entry of list.getEntries())
            if (entry.sources.some(source => source.node?.parentElement?.closest("article"))) window.shifted += entry.value;
    }).observe({type: "layout-shift", buffered: true});
"""
# Scrolls down step by step, so that pictures which wait for it are loaded, and waits for them.
SCROLL = """async () => {
    const step = window.innerHeight / 2;
    for (let y = 0; y < document.documentElement.scrollHeight; y += step) {
        window.scrollTo(0, y);
        await new Promise(done => requestAnimationFrame(() => setTimeout(done, 10)));
    }
    await Promise.all([...document.images].filter(i => !i.complete && i.checkVisibility()).map(
        i => new Promise(done => { i.onload = i.onerror = done; })));
    window.scrollTo(0, 0);
}"""

# Formulas that run into their numbers.
CROWDED = """() => [...document.querySelectorAll("div.math:has(.eqno)")].filter(math => {
    const formula = math.querySelector("mjx-math, mjx-container svg"), number = math.querySelector(".eqno");
    return formula.getBoundingClientRect().right > number.getBoundingClientRect().left;
}).map(math => math.id)"""


@pytest.fixture(scope="module")
def browser(require_system):
    program = require_system("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        require_system("playwright (in the extra 'test')")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM + WEBGL)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(book):
    with file_server(book) as server:
        server.set(compress=True)
        yield server


def whole(page, asked: list, own: str) -> list[str]:
    """What is missing on a page that was opened, or comes from elsewhere."""
    page.evaluate(SCROLL)
    page.wait_for_load_state("networkidle")
    faults = [f"{r.status} {r.url}" for r in asked if r.status >= 400]
    faults += [r.url for r in asked if not r.url.startswith((own, "data:", "blob:"))]
    faults += page.evaluate("[...document.images].filter(i => i.checkVisibility() && (!i.naturalWidth || !i.alt)).map(i => i.outerHTML.slice(0, 200))")
    return faults + page.evaluate("[...document.querySelectorAll('mjx-merror')].map(e => 'formula ' + e.textContent)")


def inaccessible(page) -> list[tuple]:
    """What axe-core finds against, with an example each."""
    rules = Axe().run(page, options={"runOnly": AXE, "resultTypes": ["violations"]}).response["violations"]
    return [(rule["id"], len(rule["nodes"]), rule["nodes"][0]["html"][:200]) for rule in rules]


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole_still_light_and_legible_on_desk_and_phone_by_day_and_by_night(browser, site, name):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    said, asked = [], []
    page.on("console", lambda message: message.type in ("warning", "error") and said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"{request.url} failed"))
    page.on("response", lambda response: asked.append(response))
    page.add_init_script(WATCH)
    page.goto(f"{site.url}/{name}.html", wait_until="networkidle")
    page.add_style_tag(content="* { transition: none !important }")  # or contrast is measured half way to the dark
    assert whole(page, asked, site.url) == []
    assert page.evaluate("window.shifted") < 0.05  # half of what Lighthouse calls good
    weight = sum(r.request.sizes()["responseBodySize"] for r in asked if r.url.startswith(site.url))
    assert weight < HEAVIEST
    assert inaccessible(page) == []

    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    assert inaccessible(page) == []

    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(CROWDED) == []
    assert said == []
    page.close()


def test_search_finds_what_the_book_explains(browser, site):
    page = browser.new_page()
    page.goto(f"{site.url}/search.html?q=Shift+normalization")
    page.locator("#search-results ul.search li a").first.wait_for()
    titles = page.locator("#search-results ul.search li > a").all_inner_texts()
    assert any("Normalization" in title for title in titles)
    page.close()


def test_terrain_turns_and_the_slider_moves_within_the_book(browser, site):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page.goto(f"{site.url}/notebooks/00_quickstart.html")
    terrain = page.locator("canvas").first
    terrain.wait_for(state="visible")
    terrain.scroll_into_view_if_needed()
    before = pixels(terrain.screenshot())
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 1000
    terrain.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(300)
    assert np.abs(pixels(terrain.screenshot()) - before).mean() > 1

    border = page.locator("[data-slider] input[type=range]").first
    border.scroll_into_view_if_needed()
    whole = page.locator("[data-slider]").first
    before = pixels(whole.screenshot())
    border.focus()
    page.keyboard.press("Home")
    assert np.abs(pixels(whole.screenshot()) - before).mean() > 1
    page.close()
