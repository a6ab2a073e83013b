"""Chapters are stored as one run left them, without what differs between two runs."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from tidy import check, main  # noqa: E402


@pytest.fixture
def chapter(tmp_path) -> Path:
    """A small chapter as papermill leaves it: with timings, and a progress bar on stderr."""
    cells = [
        new_code_cell("print(1)", execution_count=1, outputs=[
            new_output("stream", name="stdout", text="1\n"), new_output("stream", name="stderr", text="100%"),
        ]),
        new_code_cell("pass", execution_count=2, metadata={"tags": ["hide-cell"], "papermill": {"duration": 0.1}}),
    ]
    path = tmp_path / "12_chapter.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"papermill": {"duration": 1}}), path)
    return path


def test_tidied_chapter_passes_and_keeps_its_outputs_and_tags(chapter):
    with pytest.raises(SystemExit, match="differs between two executions"):
        check(chapter)
    main([str(chapter)])
    check(chapter)
    cells = nbformat.read(chapter, as_version=4).cells
    assert [output.text for output in cells[0].outputs] == ["1\n"]
    assert cells[1].metadata == {"tags": ["hide-cell"]}


@pytest.mark.parametrize("counts", [(1, None), (2, 1), (1, 3)])
def test_chapter_that_was_not_executed_in_one_go_is_told(chapter, counts):
    notebook = nbformat.read(chapter, as_version=4)
    for cell, count in zip(notebook.cells, counts):
        cell.execution_count = count
    nbformat.write(notebook, chapter)
    main([str(chapter)])
    with pytest.raises(SystemExit, match=r"12_chapter\.ipynb was not executed in one go"):
        check(chapter)


def test_code_wider_than_the_page_is_told(chapter):
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells[1].source = f"a = 1\nb = '{'x' * 84}'"
    nbformat.write(notebook, chapter)
    main([str(chapter)])
    with pytest.raises(SystemExit, match=r"12_chapter\.ipynb, cell 1: a line of 90 characters, of which 88 fit"):
        check(chapter)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_chapter_is_tidy(path):
    check(path)
