"""Pictures of the pages: small files that the browser loads late and knows the size of beforehand.

Notebooks store charts as PNG, for which the pages show WebP, a third of the bytes. The size in each ``img`` keeps the
text in place when the picture arrives, and the browser loads a picture when the reader scrolls near it.
"""

from pathlib import Path

from docutils import nodes
from PIL import Image
from sphinx.transforms import SphinxTransform
from sphinx.writers.html5 import HTML5Translator

QUALITY = 88
EAGER = 1  # pictures of a page that the browser loads at once


class WebP(SphinxTransform):
    """Replace each PNG file of a notebook's output by a WebP file in the same folder."""

    default_priority = 300  # before Sphinx collects the pictures

    def apply(self, **kwargs) -> None:
        for node in self.document.findall(nodes.image):
            path = Path(self.env.relfn2path(node["uri"], self.env.docname)[1])
            if path.suffix != ".png" or "jupyter_execute" not in path.parts:
                continue
            target = path.with_suffix(".webp")
            if not target.exists():
                with Image.open(path) as picture:
                    picture.save(target, quality=QUALITY)
            node["uri"] = node["uri"].removesuffix(".png") + ".webp"


def visit_image(self: HTML5Translator, node: nodes.image) -> None:
    path = Path(self.builder.srcdir, node["uri"])  # before Sphinx makes it that of the built page
    HTML5Translator.visit_image(self, node)
    if path.suffix in (".png", ".jpg", ".webp") and path.exists():
        with Image.open(path) as picture:
            width, height = picture.size
        self.pictures = getattr(self, "pictures", 0) + 1
        wait = "" if self.pictures <= EAGER else ' loading="lazy"'
        size = f'<img width="{width}" height="{height}"{wait} decoding="async" '
        self.body[-1] = self.body[-1].replace("<img ", size, 1)


def depart_image(self: HTML5Translator, node: nodes.image) -> None:
    HTML5Translator.depart_image(self, node)


def setup(app) -> dict:
    app.add_transform(WebP)
    app.add_node(nodes.image, override=True, html=(visit_image, depart_image))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
