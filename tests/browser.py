"""Pages in a real browser: what it shows, what it logs, and what it requests."""

import io
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

# Options of Chromium. As root, which CI often is, it runs without its sandbox only. Without a GPU, SwiftShader computes
# WebGL on the CPU; with --use-angle=swiftshader it would compose whole pages too, and take four times as long.
CHROMIUM = ["--no-sandbox", "--disable-background-networking"]
WEBGL = [*CHROMIUM, "--enable-unsafe-swiftshader"]
NO_WEBGL = [*CHROMIUM, "--disable-gpu", "--disable-webgl", "--disable-3d-apis"]
READING_BACK = "GL Driver Message (OpenGL, Performance"  # what Chromium logs when it composes WebGL without a GPU

# As JupyterLab does: into an element that is not on the page yet, with new script elements: innerHTML runs none.
AS_NOTEBOOK = """text => {
    for (let n = 0; n < 2; n++) {
        const output = document.createElement("div");
        output.innerHTML = text;
        for (const old of output.querySelectorAll("script")) {
            const script = document.createElement("script");
            script.textContent = old.textContent;
            old.replaceWith(script);
        }
        document.body.append(output);
    }
}"""


@contextmanager
def browse(browser, file: Path, body: str, **context):
    """A page with this body in ``browser``, which must log nothing and request nothing but ``file``."""
    file.write_text(f"<!DOCTYPE html><meta charset='utf-8'><body>{body}", encoding="utf-8")
    logged, requested = [], []
    page = browser.new_page(viewport={"width": 600, "height": 900}, **context)
    page.on("console", lambda message: READING_BACK in message.text or logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    try:
        page.goto(file.as_uri())
        yield page
    finally:
        page.close()
    assert logged == []
    assert {url for url in requested if not url.startswith("data:")} == {file.as_uri()}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)


def difference(first: bytes, second: bytes) -> float:
    """How much two screenshots differ, on average over their pixels and colors, 0 to 255."""
    return np.abs(pixels(first) - pixels(second)).mean()


def changed(element, before: bytes, least: float, seconds: float = 20) -> bytes:
    """The first screenshot that differs from ``before`` by more than ``least``; an error when none does in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = element.screenshot()
        if difference(now, before) > least:
            return now
    raise AssertionError(f"after {seconds:g} s the element has not changed by more than {least:g}")
