"""One symbol, one meaning: every symbol in a chapter's formulas is in the notation."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\$)\$([^$\n]+)\$(?!\$)|\{math\}`([^`]+)`", re.DOTALL)
WORDS = re.compile(r"\\(?:text|mathrm|operatorname|begin|end|label|textstyle)\*?\{[^}]*\}")
# Commands of layout, and names of functions: these are no symbols.
PLAIN = set(r"""
    , ; ! : \ quad qquad frac tfrac sqrt left right big Big bigl bigr Bigl Bigr lVert rVert sum min max log sin cos exp
    cdot times to le ge in approx hat bar tilde mathcal textstyle displaystyle lfloor rfloor pi oplus infty
    """.split())


def symbols(text: str) -> set[str]:
    """Letters and commands of the formulas in a text, without words, numbers and layout."""
    names, letters = set(), set()
    for parts in FORMULA.findall(text):
        formula = WORDS.sub(" ", "".join(parts))
        names |= set(re.findall(r"\\([A-Za-z]+)", formula))
        letters |= set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", formula)))
    return names - PLAIN | letters


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_symbols_of_a_chapter_are_in_the_notation(path):
    cells = nbformat.read(path, as_version=4).cells
    used = symbols("\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))
    known = symbols((ROOT / "notation.md").read_text(encoding="utf-8"))
    assert used <= known, "add the symbol to notation.md, or use the one that is there"


def test_symbols_are_found_in_formulas_only():
    text = r"An $\hat z_{i} = \mathrm{mean}\,q$ costs $5 and {math}`\sigma(t)`"
    assert symbols(text) == {"z", "i", "q", "sigma", "t"}
