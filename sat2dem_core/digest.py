"""A digest of what code means: of its syntax tree, so that a better sentence or another folder makes no result stale."""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from sat2dem_core.paths import PACKAGE

# The modules that decide what a training run computes.
TRAINING = (
    "config", "scenes", "grids", "tiles", "splits", "parts", "normalize", "attention", "networks", "losses", "methods",
    "loader", "trainer",
)


def module_digests(modules: Iterable[str] = TRAINING) -> dict[str, str]:
    """The digest of each module, named without its folder.

    A digest covers the syntax tree without docstrings, annotations, comments and imports: it changes with an operator or
    a name, and not with a sentence, a type or the folder that a file lies in.

    Raises:
        LookupError: no module, or more than one, has that name.
    """
    return {name: _file_digest(_find(name)) for name in modules}


def digest(modules: Iterable[str] = TRAINING) -> str:
    """One digest of several modules; see :func:`module_digests`."""
    return hashlib.sha256("".join(module_digests(modules).values()).encode()).hexdigest()[:12]


def meaning(source: str) -> str:
    """What a module's digest is made of: its syntax tree as text, the same for every version of Python.

    >>> meaning("x: int = 1  # one") == meaning("x: float = 1")
    True
    """
    return _text(_Bare().visit(ast.parse(source)))


@cache
def _find(name: str) -> Path:
    found = [path for path in PACKAGE.rglob(f"{name}.py")]
    if len(found) != 1:
        raise LookupError(f"{len(found)} modules of sat2dem_core are called {name}: a digest needs one")
    return found[0]


@cache
def _file_digest(path: Path) -> str:
    return hashlib.sha256(meaning(path.read_text(encoding="utf-8")).encode()).hexdigest()[:12]


class _Bare(ast.NodeTransformer):
    """Drop what does not change what code does."""

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)  # a docstring, or a text that nobody reads

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def _text(node: Any) -> str:
    """A node with its fields, without positions; ``ast.dump`` writes other texts in other versions of Python."""
    if isinstance(node, ast.AST):
        fields = (f"{name}={_text(value)}" for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({', '.join(fields)})"
    return f"[{', '.join(map(_text, node))}]" if isinstance(node, list) else repr(node)
