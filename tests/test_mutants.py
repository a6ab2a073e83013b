"""Changes of code that tests must notice: which there are, and how a run reports them."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import mutants as tool  # noqa: E402

SOURCE = '''
def area(width: int = 2, height=3.0) -> float:
    """Two sides: 4."""
    if width < 0 or not height:
        raise ValueError(f"{width + 1} is no width")
    return min(width, -1) * height
'''


def test_operators_constants_and_conditions_change_and_no_text_annotation_or_message():
    changes = {mutant.change for mutant in tool.mutants(SOURCE)}
    assert changes >= {
        "width < 0 → width <= 0", "width < 0 → width < 1", "width < 0 or not height → width < 0 and (not height)",
        "width < 0 or not height → not (width < 0 or not height)",
        "width < 0 or not height → width < 0 or not not height",
        "min(width, -1) → max(width, -1)", "min(width, -1) → min(width, +1)", "min(width, -1) → min(width, -2)",
        "min(width, -1) * height → min(width, -1) / height",
    }
    assert len(changes) == 11  # and the two defaults
    assert not any("is no width" in change for change in changes)


def test_every_change_is_one_and_names_its_line_and_function():
    found = tool.mutants(SOURCE)
    assert len({mutant.source for mutant in found}) == len(found)
    assert {mutant.where for mutant in found} == {"area"} and {mutant.line for mutant in found} == {2, 4, 6}


def test_modules_and_their_tests_exist():
    for module in tool.MODULES:
        assert all((ROOT / path).is_file() for path in tool.tests_of(module)), module
    reasons = tomllib.loads((ROOT / "tools/mutants.toml").read_text(encoding="utf-8"))
    assert reasons.keys() <= set(tool.MODULES)


def test_a_table_keeps_the_rows_of_other_modules(tmp_path):
    table = tmp_path / "table.md"
    tool.write(table, {"losses": ("| losses | 9 | 9 | 8 | 1 | 0 |", ["- losses, `f: 1 → 2`: a reason"])})
    tool.write(table, {"grid": ("| grid | 7 | 7 | 7 | 0 | 0 |", [])})
    tool.write(table, {"losses": ("| losses | 9 | 9 | 9 | 0 | 0 |", [])})
    lines = table.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line[:2] in ("| ", "- ")] == [
        "| module | changes possible | tried | killed | explained | survived |",
        "| grid | 7 | 7 | 7 | 0 | 0 |", "| losses | 9 | 9 | 9 | 0 | 0 |",
    ]
