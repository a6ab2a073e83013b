"""Pages in a real browser: what it shows, what it complains about, and whether it asks for anything."""

import io
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

# Software rendering, since CI has no display; root, which CI often is, cannot have the sandbox.
CHROMIUM = ["--no-sandbox", "--disable-background-networking"]
WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
NO_WEBGL = ["--disable-gpu", "--disable-webgl", "--disable-3d-apis"]

# As JupyterLab: into an element that is not on the page yet, scripts made anew, for innerHTML runs none.
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
def browse(program: str, file: Path, body: str, webgl: bool = True, **context):
    """HTML in the browser at ``program``, which must have no complaint and ask for nothing but ``file``."""
    from playwright.sync_api import sync_playwright

    file.write_text(f"<!DOCTYPE html><meta charset='utf-8'><body>{body}", encoding="utf-8")
    complaints, asked = [], []
    with sync_playwright() as playwright:
        arguments = CHROMIUM + (WEBGL if webgl else NO_WEBGL)
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        page = browser.new_page(viewport={"width": 600, "height": 900}, **context)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        yield page
        browser.close()
    assert complaints == []
    assert {url for url in asked if not url.startswith("data:")} == {file.as_uri()}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)
