"""How fast pages of the rendered book appear in Chromium, how far they shift and how much they weigh, from localhost.

The row "floor" is a page with one line of text. Usage: make book, then
python benchmarks/pages.py [--out benchmarks/results/pages.md]
"""

import argparse
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from browser import CHROMIUM  # noqa: E402
from file_server import file_server  # noqa: E402
from test_pages import PAGES, SCROLL, WATCH  # noqa: E402

FLOOR = "<!DOCTYPE html><html lang='en'><title>floor</title><p>One line of text.</p></html>"
TIMES = """() => ({
    first: performance.getEntriesByName("first-contentful-paint")[0].startTime,
    ready: performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd,
})"""


def measure(browser, url: str, repeats: int = 3) -> dict:
    """Medians over visits with an empty cache."""
    rows = []
    for _ in range(repeats):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        responses = []
        page.on("response", lambda response: responses.append(response))
        page.add_init_script(WATCH)
        page.goto(url, wait_until="networkidle")
        times = page.evaluate(TIMES)
        page.evaluate(SCROLL)
        requests = [response.request for response in responses if response.url.startswith("http")]
        sizes = {request: request.sizes()["responseBodySize"] for request in requests}
        pictures = sum(size for request, size in sizes.items() if request.resource_type == "image")
        rows.append({
            "first content, s": times["first"] / 1000, "ready, s": times["ready"] / 1000,
            "shift": page.evaluate("window.shifted"), "all, MB": sum(sizes.values()) / 1e6,
            "pictures, MB": pictures / 1e6,
        })
        page.close()
    return pd.DataFrame(rows).median().to_dict()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--book", type=Path, default=ROOT / "_build/html")
    arguments.add_argument("--out", type=Path)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        shutil.copytree(args.book, folder, dirs_exist_ok=True)
        (Path(folder) / "floor.html").write_text(FLOOR, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        with file_server(Path(folder)) as server:
            server.set(compress=True)
            table = pd.DataFrame({name: measure(browser, f"{server.url}/{name}.html") for name in ("floor", *PAGES)}).T
        text = f"""# What a page costs its reader

{__doc__.splitlines()[0]}
Files are sent compressed; medians of three visits with an empty cache, scrolled to the end. *Shift* is the Layout
Instability API's sum over the article; Lighthouse calls less than 0.1 good. *Floor* is a page with one line of text.
Chromium {browser.version}, {platform.machine()}, {platform.system()}.

{table.round({"first content, s": 2, "ready, s": 2, "shift": 3, "all, MB": 2, "pictures, MB": 2}).to_markdown()}

Made by `python benchmarks/pages.py`.
"""
        browser.close()
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
