"""The rendered book in a real browser: every page as readers meet it, on a desk and on a phone, by day and by night."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from axe_playwright_python.base import AXE_SCRIPT
from axe_playwright_python.sync_playwright import Axe
from browser import READING_BACK, changed, pixels
from file_server import file_server

TOC = yaml.safe_load((Path(__file__).resolve().parents[1] / "_toc.yml").read_text(encoding="utf-8"))
PAGES = ["index", *(entry["file"] for part in TOC["parts"] for entry in part["chapters"])]
RULES = [
    "image-alt", "heading-order", "empty-heading", "page-has-heading-one", "color-contrast", "landmark-one-main",
    "landmark-unique", "landmark-no-duplicate-main", "landmark-main-is-top-level", "link-name", "button-name", "label",
    "svg-img-alt", "document-title", "html-has-lang", "duplicate-id-aria",
]
HEAVIEST = 3_000_000  # bytes over the wire, compressed as any web server does it
# Adds up how far the text moves after it was first drawn, as the Layout Instability API counts it. The contents at the
# side unfold while one scrolls, on purpose.
WATCH = """
    window.shifted = 0;
    const inArticle = source => source.node?.parentElement?.closest("article");
    new PerformanceObserver(list => {
        for (const entry of list.getEntries()) if (entry.sources.some(inArticle)) window.shifted += entry.value;
    }).observe({type: "layout-shift", buffered: true});
"""
# Waits for fonts and formulas, scrolls down screen by screen so that the browser loads all pictures, waits for them.
SCROLL = """async () => {
    await document.fonts.ready;
    await window.MathJax?.startup?.promise;
    for (let y = 0; y < document.documentElement.scrollHeight; y += window.innerHeight) {
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

# Contrast depends on the styles of an element and of those around it, and axe-core takes a millisecond for each of a
# page's thousands of words. So an element that looks like two before it gets an attribute, and axe-core skips it.
MARK_REPEATED = """() => {
    const looks = new Map(), numbers = new Map(), seen = new Map();
    const look = element => {
        if (!element) return "";
        if (!looks.has(element)) {
            const style = getComputedStyle(element), own = [
                "color", "backgroundColor", "backgroundImage", "opacity", "filter", "mixBlendMode", "textShadow",
                "fontSize", "fontWeight", "display", "position", "overflow", "clipPath",
            ].map(name => style[name]);
            const all = [look(element.parentElement), ...own].join("|");
            if (!numbers.has(all)) numbers.set(all, numbers.size);
            looks.set(element, numbers.get(all));
        }
        return looks.get(element);
    };
    const text = element => [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    for (const element of document.querySelectorAll("body *")) {
        const key = [look(element), text(element), element.checkVisibility()].join(), before = seen.get(key) ?? 0;
        element.toggleAttribute("data-repeated", before >= 2);
        seen.set(key, before + 1);
    }
}"""
AXE = Axe(AXE_SCRIPT + """;
    axe.configure({rules: [{id: "color-contrast", selector: ":not([data-repeated])"}]});
""")


@pytest.fixture(scope="module")
def site(book):
    with file_server(book) as server:
        server.set(compress=True)
        yield server


def faults(page, responses: list, own: str) -> list[str]:
    """What a page lacks after it was scrolled to its end, and what it loaded from elsewhere."""
    page.evaluate(SCROLL)
    found = [f"{r.status} {r.url}" for r in responses if r.status >= 400]
    found += [r.url for r in responses if not r.url.startswith((own, "data:", "blob:"))]
    found += page.evaluate("""[...document.images].filter(i => i.checkVisibility() && (!i.naturalWidth || !i.alt))
        .map(i => i.outerHTML.slice(0, 200))""")
    return found + page.evaluate("[...document.querySelectorAll('mjx-merror')].map(e => 'formula ' + e.textContent)")


def inaccessible(page) -> list[tuple]:
    """The rules that axe-core finds broken: name, number of elements, and one of them."""
    page.evaluate(MARK_REPEATED)
    broken = AXE.run(page, options={"runOnly": RULES, "resultTypes": ["violations"]}).response["violations"]
    return [(rule["id"], len(rule["nodes"]), rule["nodes"][0]["html"][:200]) for rule in broken]


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole_still_light_and_legible_on_desk_and_phone_by_day_and_by_night(chromium, site, name):
    page = chromium().new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    logged, responses = [], []
    page.on("console", lambda m: m.type in ("warning", "error") and logged.append(m.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("requestfailed", lambda request: logged.append(f"{request.url} failed"))
    page.on("response", lambda response: responses.append(response))
    page.add_init_script(WATCH)
    page.goto(f"{site.url}/{name}.html")
    page.add_style_tag(content="* { transition: none !important }")  # or contrast is measured half way to the dark
    assert faults(page, responses, site.url) == []
    assert page.evaluate("window.shifted") < 0.05  # half of what Lighthouse calls good
    weight = sum(r.request.sizes()["responseBodySize"] for r in responses if r.url.startswith(site.url))
    assert weight < HEAVIEST
    assert inaccessible(page) == []

    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    assert inaccessible(page) == []

    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(CROWDED) == []
    assert [text for text in logged if READING_BACK not in text] == []
    page.close()


def test_text_of_too_little_contrast_is_found_among_a_thousand_words_that_look_alike(chromium):
    page = chromium().new_page()
    words = "".join(f"<p><span>word {number}</span></p>" for number in range(1000))
    page.set_content(f"<html lang=en><title>Words</title><main><h1>Words</h1>{words}</main>")
    assert inaccessible(page) == []
    page.evaluate("""document.querySelectorAll("span")[500].style.color = "#bbb" """)
    assert [(rule, count) for rule, count, _ in inaccessible(page)] == [("color-contrast", 1)]
    page.evaluate("""document.querySelectorAll("p")[700].style.background = "#222" """)
    assert [(rule, count) for rule, count, _ in inaccessible(page)] == [("color-contrast", 2)]
    page.close()


def test_search_finds_what_the_book_explains(chromium, site):
    page = chromium().new_page()
    page.goto(f"{site.url}/search.html?q=Shift+normalization")
    page.locator("#search-results ul.search li a").first.wait_for()
    titles = page.locator("#search-results ul.search li > a").all_inner_texts()
    assert any("Normalization" in title for title in titles)
    page.close()


def test_terrain_turns_and_the_slider_moves_within_the_book(chromium, site):
    page = chromium().new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page.goto(f"{site.url}/notebooks/00_quickstart.html")
    terrain = page.locator("canvas").first
    terrain.wait_for(state="visible")
    terrain.scroll_into_view_if_needed()
    before = terrain.screenshot()
    assert len(np.unique(pixels(before).reshape(-1, 3), axis=0)) > 1000
    terrain.focus()
    page.keyboard.press("ArrowLeft")
    changed(terrain, before, 1)

    slider = page.locator("[data-slider]").first
    border = slider.locator("input[type=range]")
    border.scroll_into_view_if_needed()
    before = slider.screenshot()
    border.focus()
    page.keyboard.press("Home")
    changed(slider, before, 1)
    page.close()
