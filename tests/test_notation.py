"""One symbol, one meaning: what stands in a formula of a chapter stands in the notation."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\$)\$([^$\n]+)\$(?!\$)|\{math\}`([^`]+)`", re.DOTALL)
WORDS = re.compile(r"\\(?:text|mathrm|operatorname|begin|end|label|textstyle)\*?\{[^}]*\}")
# Commands that set or space, and the names of functions: no symbols.
PLAIN = set(r"""
    , ; ! : \ quad qquad frac tfrac sqrt left right big Big bigl bigr Bigl Bigr lVert rVert sum min max log sin cos exp cdot
    times to le ge in approx hat bar tilde mathcal textstyle displaystyle lfloor rfloor pi oplus infty
    """.split())


def symbols(text: str) -> set[str]:
    """Letters and commands of the formulas in a text, without words, numbers and layout."""
    found = set()
    for formula in ("".join(parts) for parts in FORMULA.findall(text)):
        formula = WORDS.sub(" ", formula)
        found |= {name for name in re.findall(r"\\([A-Za-z]+)", formula) if name not in PLAIN}
        found |= set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", formula)))
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_symbols_of_a_chapter_stand_in_the_notation(path):
    cells = nbformat.read(path, as_version=4).cells
    used = symbols("\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))
    assert used <= symbols((ROOT / "notation.md").read_text()), "name the symbol in notation.md, or use the one that is there"


def test_symbols_are_found_in_formulas_only():
    assert symbols(r"An $\hat z_{i} = \mathrm{mean}\,q$ costs $5 and {math}`\sigma(t)`") == {"z", "i", "q", "sigma", "t"}
