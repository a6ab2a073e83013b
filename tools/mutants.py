"""Change one operator, bound, constant or condition of a module at a time, and report which changes its tests miss.

    python tools/mutants.py                              forty changes of each module of MODULES, drawn with a seed
    python tools/mutants.py losses methods --count 0     all changes of two modules
    python tools/mutants.py losses --out FILE            and write the table, where other modules keep their rows

A change that no test notices (a mutant that survives) asks for a test, or for a reason in tools/mutants.toml why it
changes nothing. The changes are made in a copy of package and tests in a temporary folder, without ../shared, and no
file of this repository is touched. mutmut and cosmic-ray start a process for every change, which here imports PyTorch
for seconds; this script imports it once and forks, so that a change costs the time of the tests alone. Linux or macOS.
"""

import argparse
import ast
import gc
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, settings

from sat2dem_core.digest import _find, meaning

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "sat2dem_core", "tests", "data/README.md", "data/scenes.toml", "data/rocky-mountain", "data/results",
    "data/weights", "pyproject.toml", "notation.md", "glossary.md",
)
MODULES = (
    "losses", "methods", "normalize", "measures", "mosaic", "anchors", "tiles", "grid", "confidence", "terrain",
    "augment", "bootstrap",
)
# Tests of a module that do not bear its name, the fastest first.
TESTS = {
    "losses": ("tests/models/test_formulas.py", "tests/models/test_losses.py"),
    "methods": ("tests/models/test_formulas.py", "tests/models/test_methods.py"),
}
SMALL = ast.Constant | ast.Name | ast.Attribute | ast.UnaryOp | ast.Slice  # say little on their own
MEMORY = 24 << 30  # bytes: a changed size must not take the machine's memory; PyTorch alone reserves some
QUICK = ("-x", "-q", "--tb=no", "--assert=plain", *(f"-pno:{plugin}" for plugin in (
    "cacheprovider", "unraisableexception", "threadexception",  # the latter two collect garbage for a second
)))
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.USub: ast.UAdd,
}
PAIRS = (
    ("min", "max"), ("amin", "amax"), ("nanmin", "nanmax"), ("argmin", "argmax"), ("minimum", "maximum"),
    ("any", "all"), ("floor", "ceil"), ("sin", "cos"), ("zeros", "ones"), ("mean", "sum"), ("argsort", "sort"),
)
NAMES = dict(PAIRS) | {b: a for a, b in PAIRS}


class Unshrunk:
    """A plugin of pytest: no example that fails is made smaller, which takes longer than to find it."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        settings.register_profile("unshrunk", settings.default, phases=(Phase.explicit, Phase.generate))
        settings.load_profile("unshrunk")


class Mutant(NamedTuple):
    """One change: the line, the function, the expression before and after, and the module's source with it."""

    line: int
    where: str
    change: str
    source: str


def edits(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """The fields of a node that can be changed, each with its new value."""
    match node:
        case ast.UnaryOp(op=ast.Not() | ast.Invert()):
            yield "operand", ast.UnaryOp(node.op, node.operand)
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() | ast.UnaryOp() if type(node.op) in SWAPS:
            yield "op", SWAPS[type(node.op)]()
        case ast.Compare():
            for index, op in enumerate(node.ops):
                yield "ops", [*node.ops[:index], SWAPS[type(op)](), *node.ops[index + 1 :]]
        case ast.Constant(value=bool()):
            yield "value", not node.value
        case ast.Constant(value=int() | float()):
            yield "value", node.value + 1
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            match test:  # the first two become their opposite below; the third is for mypy alone
                case ast.UnaryOp(op=ast.Not()) | ast.Compare(ops=[ast.Eq() | ast.NotEq() | ast.Is() | ast.IsNot()]):
                    pass
                case ast.Name(id="TYPE_CHECKING"):
                    pass
                case _:
                    yield "test", ast.UnaryOp(ast.Not(), test)
        case ast.comprehension():
            for index, test in enumerate(node.ifs):
                yield "ifs", [*node.ifs[:index], ast.UnaryOp(ast.Not(), test), *node.ifs[index + 1 :]]
        case ast.Name(id=name) if name in NAMES:
            yield "id", NAMES[name]
        case ast.Attribute(attr=name) if name in NAMES:
            yield "attr", NAMES[name]


def mutants(source: str) -> list[Mutant]:
    """All single changes of a module that change its meaning: not its annotations, messages of errors or help."""
    tree, seen, found = ast.parse(source), {meaning(source)}, []

    def walk(node: ast.AST, above: list[ast.AST]) -> None:
        shown, outer = node, [*above]
        while isinstance(shown, SMALL) or (isinstance(shown, ast.Tuple) and isinstance(outer[-1], ast.Subscript)):
            if isinstance(outer[-1], ast.stmt) and not isinstance(outer[-1], ast.Assign | ast.AnnAssign | ast.Return):
                break
            shown = outer.pop()
        if isinstance(node, ast.If | ast.While):
            shown = node.test
        for field, value in edits(node):
            before, old = ast.unparse(shown), getattr(node, field)
            setattr(node, field, value)
            changed = ast.unparse(tree)
            if (meant := meaning(changed)) not in seen:
                seen.add(meant)
                after = ast.unparse(value if shown is old else shown)
                names = [parent.name for parent in above if isinstance(parent, ast.FunctionDef | ast.ClassDef)]
                lines = [parent.lineno for parent in [*above, node] if hasattr(parent, "lineno")]
                change = " ".join(f"{before} → {after}".split())
                found.append(Mutant(lines[-1], ".".join(names) or "module", change, changed))
            setattr(node, field, old)
        for child in ast.iter_child_nodes(node):
            walk(child, [*above, node])

    walk(tree, [])
    return sorted(found)


def tests_of(module: str) -> list[str]:
    """The module's own test files, relative to the repository."""
    wing = _find(module).parent.relative_to(ROOT / "sat2dem_core")
    return list(TESTS.get(module, (str(Path("tests") / wing / f"test_{module}.py"),)))


def make_copy(folder: Path) -> Path:
    """A clone with what the tests of a module read, and nothing next to it."""
    clone = folder / "clone"
    for name in COPIED:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, clone / name)
    (clone / "notebooks").mkdir()  # by which sat2dem_core.paths knows a clone
    (folder / "temporary").mkdir()
    return clone


def passes(clone: Path, tests: list[str], limit: float) -> bool:
    """Whether the tests pass in the copy, in a process of their own, within so many seconds."""
    child = os.fork()
    if child == 0:
        os.setsid()
        code = 1
        try:
            _enter(clone)
            code = int(pytest.main([*QUICK, *tests], plugins=[Unshrunk()]))
            (clone.parent / "libraries").write_text("\n".join(_libraries()), encoding="utf-8")
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _libraries() -> list[str]:
    """The installed modules that this process has imported."""
    files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
    return [name for name, file in files.items() if "site-packages" in file]


def _preload(clone: Path) -> None:
    """Import what the tests import, so that the processes of the mutants need not."""
    for name in (clone.parent / "libraries").read_text(encoding="utf-8").split():
        with suppress(Exception):  # some only work within the module that imports them
            importlib.import_module(name)
    gc.freeze()  # or every process would search all of it for garbage


def _enter(clone: Path) -> None:
    """Make a forked process see the copy alone, and write nowhere else."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    for name in [name for name in sys.modules if name.split(".")[0] == "sat2dem_core"]:
        del sys.modules[name]
    os.chdir(clone)
    sys.path.insert(0, str(clone))
    temporary = str(clone.parent / "temporary")
    os.environ |= {
        "PYTHONPATH": str(clone), "PYTEST_DEBUG_TEMPROOT": temporary, "TMPDIR": temporary,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # nbval and coverage take seconds to import
    }
    tempfile.tempdir = None  # read again from TMPDIR


def examine(module: str, count: int, seed: int, clone: Path, reasons: dict[str, str]) -> tuple[str, list[str]]:
    """The row of a module in the table, and its survivors, each with its reason or without."""
    path, tests = _find(module), tests_of(module)
    source, target = path.read_text(encoding="utf-8"), clone / path.relative_to(ROOT)
    start = time.monotonic()
    if not passes(clone, tests, 600):
        raise SystemExit(f"{' '.join(tests)} fail without any change: make them pass first")
    _preload(clone)
    limit = 10 + 3 * (time.monotonic() - start)
    everything = mutants(source)
    drawn = sorted(random.Random(f"{seed} {module}").sample(everything, min(count or len(everything), len(everything))))
    notes, explained = [], 0
    for mutant in drawn:
        target.write_text(mutant.source, encoding="utf-8")
        killed = passes(clone, tests, limit) is False
        reason = reasons.get(f"{mutant.where}: {mutant.change}")
        verdict = "killed" if killed else "explained" if reason else "SURVIVED"
        print(f"{verdict:9} {path.relative_to(ROOT)}:{mutant.line} {mutant.where}: {mutant.change}", flush=True)
        if not killed:
            explained += reason is not None
            notes.append(f"- {module}, `{mutant.where}: {mutant.change}`: {reason or 'NO TEST NOTICES IT'}")
    shutil.copy2(path, target)
    killed = len(drawn) - len(notes)
    return f"| {module} | {len(everything)} | {len(drawn)} | {killed} | {explained} | {len(notes) - explained} |", notes


def write(out: Path, rows: dict[str, tuple[str, list[str]]]) -> None:
    """Replace the lines of these modules in the table and in the list below it."""
    before = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    lines = [line for line in before if line.startswith("| ") or line.startswith("- ")]
    lines = [line for line in lines if line[2:].replace(",", " ").split()[0] not in (*rows, "module")]
    table = sorted([line for line in lines if line[0] == "|"] + [row for row, _ in rows.values()])
    notes = sorted([line for line in lines if line[0] == "-"] + [note for _, notes in rows.values() for note in notes])
    out.write_text("\n".join([
        "# Tests that notice", "",
        "One operator, bound, constant or condition of a module was changed at a time, and the module's own tests ran.",
        "Made by `python tools/mutants.py --out benchmarks/results/mutants.md`, which draws changes with a seed.", "",
        "| module | changes possible | tried | killed | explained | survived |", "|:--|--:|--:|--:|--:|--:|", *table,
        "", "Changes that no test can notice, and why:", "", *notes, "",
    ]), encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("modules", nargs="*", metavar="MODULE", help=f"by default {', '.join(MODULES)}")
    arguments.add_argument("--count", type=int, default=40, help="changes of each module; 0 for all (default 40)")
    arguments.add_argument("--seed", type=int, default=0, help="of the draw of changes")
    arguments.add_argument("--out", type=Path, help="Markdown file for the table")
    args = arguments.parse_args()
    sys.dont_write_bytecode = True  # a change within the same second would find the bytecode of the one before
    reasons = tomllib.loads((ROOT / "tools/mutants.toml").read_text(encoding="utf-8"))
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        clone = make_copy(Path(folder))
        for module in args.modules or MODULES:
            rows[module] = examine(module, args.count, args.seed, clone, reasons.get(module, {}))
            print(rows[module][0], flush=True)
            if args.out:
                write(args.out, rows)
    sys.exit(any("NO TEST" in note for _, notes in rows.values() for note in notes))


if __name__ == "__main__":
    main()
