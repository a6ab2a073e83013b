"""A digest of what code means rather than of its text: a better sentence or another folder makes no result stale."""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from sat2dem_core.paths import PACKAGE

# The modules that decide what a training run computes.
TRAINING = (
    "config", "grids", "reader", "fill", "elevation", "imagery", "scenes", "tiles", "splits", "parts", "normalize",
    "attention", "networks", "losses", "methods", "device", "loader", "initial", "distributed", "trainer",
)
# Fields of syntax nodes without influence on results: types, and the u of u"text".
IGNORED = {"annotation", "returns", "type_comment", "type_params", "kind"}


def module_digests(modules: Iterable[str] = TRAINING) -> dict[str, str]:
    """The digest of each module, by the module's name without its folder.

    A digest changes with an operator, a constant or a name, and not with a sentence, a type or the folder of the file:
    see :func:`meaning`.

    Raises:
        LookupError: no module, or more than one, has that name.
    """
    return {name: _file_digest(_find(name)) for name in modules}


def digest(modules: Iterable[str] = TRAINING) -> str:
    """One digest of several modules; see :func:`module_digests`."""
    return hashlib.sha256("".join(module_digests(modules).values()).encode()).hexdigest()[:12]


def meaning(source: str) -> str:
    """The syntax tree of a module as text, the same in every version of Python.

    Comments, docstrings, annotations, imports, the messages of errors and texts of help (``help=…``) are left out. In
    the body of a class an annotated name stays, without its type, since it may be a field of a dataclass.

    >>> meaning("x: int = 1  # one") == meaning("x = 1") != meaning("x = 2")
    True
    """
    return _text(ast.parse(source))


def _find(name: str) -> Path:
    paths = [path for path in PACKAGE.rglob(f"{name}.py") if PACKAGE / "data" not in path.parents]
    if len(paths) != 1:
        raise LookupError(f"{len(paths)} modules of sat2dem_core are called {name}: a digest needs exactly one")
    return paths[0]


@cache
def _file_digest(path: Path) -> str:
    return hashlib.sha256(meaning(path.read_text(encoding="utf-8")).encode()).hexdigest()[:12]


def _text(node: Any, in_class: bool = False) -> str:
    """A node with its fields but without positions; ``ast.dump`` differs between versions of Python.

    Args:
        node: a node, a list of nodes, or the value of a node's field.
        in_class: whether the node is a statement in the body of a class.
    """
    match node:
        case list():
            return f"[{', '.join(filter(None, (_text(item, in_class) for item in node)))}]"
        case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(value=ast.Constant()) | ast.keyword(arg="help"):
            return ""
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            return _text(node.orelse)[1:-1]  # what the program runs
        case ast.AnnAssign(value=None) if not in_class:
            return ""
        case ast.AnnAssign(value=ast.expr() as value) if not in_class:
            node = ast.Assign([node.target], value)
        case ast.Raise(exc=ast.Call(func=error)):
            node = ast.Raise(error, node.cause)
        case ast.JoinedStr():  # Python 3.12 puts empty texts into some f-strings
            node = ast.JoinedStr([part for part in node.values if getattr(part, "value", None) != ""])
        case ast.AST():
            pass
        case _:
            return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        text = "" if value is None or name in IGNORED else _text(value, isinstance(node, ast.ClassDef))
        if text not in ("", "[]"):
            fields.append(f"{name}={text}")
    return f"{type(node).__name__}({', '.join(fields)})"
