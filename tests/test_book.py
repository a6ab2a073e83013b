"""The text of the rendered book: what its pages load, and where their links lead."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


class Page(HTMLParser):
    """What a page loads, which links and pictures it has, and the ids that links can lead to."""

    def __init__(self, path: Path):
        super().__init__()
        self.loads, self.links, self.anchors, self.images = [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.add(values.get("id"))
        if tag in ("script", "img", "iframe", "source", "video") and values.get("src"):
            self.loads.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "preload", "icon", "shortcut icon"):
            self.loads.append(values["href"])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "img":
            self.images.append(values)


@pytest.fixture(scope="module")
def pages(book) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted([*book.glob("*.html"), *book.glob("notebooks/*.html")])}


def test_nothing_is_loaded_from_another_host(pages):
    for path, page in pages.items():
        foreign = [address for address in page.loads if urlsplit(address).netloc]
        assert not foreign, f"{path.name} loads {foreign}"
        files = [unquote(urlsplit(address).path) for address in page.loads if not address.startswith("data:")]
        missing = [file for file in files if not (path.parent / file).exists()]
        assert not missing, f"{path.name} lacks {missing}"


def test_links_within_the_book_lead_somewhere(pages):
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name} links to {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name} links to {link}"


def test_every_picture_has_an_alternative_text(pages):
    for path, page in pages.items():
        for image in page.images:
            assert image.get("alt") and not image["alt"].startswith("../"), f"{path.name}: {image.get('src')}"


def test_every_chapter_offers_colab_and_the_notebook_file(pages):
    chapters = [path for path in pages if path.parent.name == "notebooks"]
    assert chapters
    for path in chapters:
        links = " ".join(pages[path].links)
        assert "colab.research.google.com/github" in links and f"notebooks/{path.stem}.ipynb" in links
        assert f"_sources/notebooks/{path.stem}.ipynb" in links
