"""Numbers and captions for tables that a notebook's cell prints: cells whose figure has a name ``tab-…``."""

from docutils import nodes
from sphinx.transforms import SphinxTransform
from sphinx.writers.html5 import HTML5Translator


class table_figure(nodes.figure):
    """A figure that Sphinx numbers as a table."""


class Count(SphinxTransform):
    """Turn the figures named ``tab-…`` into tables."""

    default_priority = 300

    def apply(self, **kwargs) -> None:
        for node in list(self.document.findall(nodes.figure)):
            if any(name.startswith("tab-") for name in node["names"]):
                node.__class__ = table_figure  # in place, because the document's ids point at this node
                node.tagname = "table_figure"
                # The caption of a table comes first.
                node.children.sort(key=lambda child: not isinstance(child, nodes.caption))


def caption_of(node: nodes.Node) -> str | None:
    return next((child.astext() for child in node.children if isinstance(child, nodes.caption)), None)


def visit(self: HTML5Translator, node: table_figure) -> None:
    node["classes"].append("table-figure")
    self.visit_figure(node)


def depart(self: HTML5Translator, node: table_figure) -> None:
    self.depart_figure(node)


def setup(app) -> dict:
    app.add_enumerable_node(table_figure, "table", caption_of, html=(visit, depart))
    app.add_transform(Count)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
