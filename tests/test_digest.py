"""Digests of code follow what it does, not how it is written, by which Python, or where it lies."""

import ast
import hashlib
from pathlib import Path

import pytest

from sat2dem_core import digest
from sat2dem_core.digest import TRAINING, meaning, module_digests
from sat2dem_core.paths import PACKAGE
from sat2dem_core.study.runner import SCORING

SOURCE = '''
"""A module."""

from dataclasses import dataclass
from math import hypot

RATE: float = 1e-3


@dataclass(frozen=True)
class Point:
    """Where something is."""

    x: float
    y: float = setting(0.0, help="upwards")


async def place(point, scale=2, *, label="a"):
    low, high = -1, 1_000
    match point:
        case Point(x=0.0, y=None) | {"x": _, **rest} if rest:
            raise ValueError(f"{point} is no point")
        case [first, *others] | first:
            others = lambda index, step=3: first[index::step]
        case _:
            return f"{point!r:>{scale}}: {label}" "." if low <= high else b"\\x00"
    return hypot(point.x, point.y) * scale ** 0.5 + RATE
'''


def changed(*replacements: tuple[str, str]) -> str:
    source = SOURCE
    for old, new in replacements:
        assert old in source
        source = source.replace(old, new)
    return source


@pytest.mark.parametrize(
    "replacements",
    [
        [("    low, high", "    # the range\n    low, high")],
        [('"""A module."""', '"""What this module is for."""')],
        [('"""A module."""', "")],
        [("    low, high", '    """Place a point."""\n    low, high')],
        [("point, scale=2, *, label", "point: Point, scale: int = 2, *, label: str")],
        [('label="a"):', 'label="a") -> str | bytes:')],
        [("    low, high", "    others: object\n    low, high")],
        [("others = lambda", "others: object = lambda")],
        [("RATE: float", "RATE")],
        [("x: float", 'x: "int"')],
        [("RATE: float", "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import numpy\n\nRATE: float")],
        [("RATE: float", "import typing\n\nif typing.TYPE_CHECKING:\n    import numpy\nelse:\n    pass\nRATE: float")],
        [("from math import hypot", "from ground.numbers import hypot")],
        [("low, high = -1, 1_000", "(low, high) = (\n        -1,\n        1000,\n    )"), ('"a"', "u'a'")],
        [("is no point", "is not a point: give two numbers")],
        [("upwards", "height above the ground, meters")],
    ],
)
def test_what_changes_no_result_changes_no_digest(replacements):
    assert changed(*replacements) != SOURCE
    assert meaning(changed(*replacements)) == meaning(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* scale", "/ scale"), ("** 0.5 +", "** 0.5 -"), ("<=", "<"), ("-1,", "1,"), ("1e-3", "1e-4"),
        ("1_000", "1_001"),
        ("scale=2", "scale=2.0"), ('label="a"', 'label="b"'), ("step=3", "step=4"), ("setting(0.0", "setting(1.0"),
        ("RATE", "SPEED"), ("hypot(", "dist("), ("point.x", "point.y"), ("frozen=True", "frozen=False"),
        ("@dataclass(frozen=True)\n", ""), ("    x: float\n", ""), ("    x: float\n", "    x: float\n    z: float\n"),
        ("async def", "def"), ("ValueError", "KeyError"), (" if rest", ""), ("y=None", "y=True"), ("*others", "*_"),
        ("!r", "!s"), (":>{", ":<{"), ('}: {label}"', '} {label}"'), (' if low <= high else b"\\x00"', ""),
        ("b\"\\x00", "b\"\\x01"), ("*, label", "label"), ("[index::step]", "[index:step]"),
    ],
)
def test_what_changes_a_result_changes_the_digest(old, new):
    assert meaning(changed((old, new))) != meaning(SOURCE)


def test_the_digest_is_the_same_in_every_version_of_python():
    """Computed with Python 3.11.7, 3.12.1 and 3.13.0."""
    assert hashlib.sha256(meaning(SOURCE).encode()).hexdigest()[:12] == "5549a9601375"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_the_layout_of_a_module_does_not_matter(path):
    source = path.read_text(encoding="utf-8")
    assert meaning(ast.unparse(ast.parse(source))) == meaning(source)


def test_every_module_that_decides_a_result_has_its_digest():
    modules = (*TRAINING, *SCORING, "weights", "confidence")
    digests = module_digests(modules)
    assert list(digests) == list(dict.fromkeys(modules)) and len(set(digests.values())) == len(digests)
    assert all(len(value) == 12 for value in digests.values())


def test_a_module_keeps_its_digest_when_it_moves(tmp_path, monkeypatch):
    def package(folder: Path, where: str) -> dict[str, str]:
        (folder / where).mkdir(parents=True)
        (folder / where / "losses.py").write_text(SOURCE, encoding="utf-8")
        monkeypatch.setattr(digest, "PACKAGE", folder)
        return module_digests(["losses"])

    assert package(tmp_path / "one", "") == package(tmp_path / "two", "models")


def test_a_name_must_mean_one_module_and_data_hold_none(tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "PACKAGE", tmp_path)
    for folder in ("data/results", "models", "training"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/results/losses.py").write_text("x = 1", encoding="utf-8")
    with pytest.raises(LookupError, match="0 modules of sat2dem_core are called losses"):
        module_digests(["losses"])
    (tmp_path / "models/losses.py").write_text("x = 2", encoding="utf-8")
    assert module_digests(["losses"]).keys() == {"losses"}
    (tmp_path / "training/losses.py").write_text("x = 3", encoding="utf-8")
    with pytest.raises(LookupError, match="2 modules of sat2dem_core are called losses: a digest needs exactly one"):
        module_digests(["losses"])
