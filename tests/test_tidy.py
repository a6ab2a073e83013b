"""Chapters are stored as one run left them, without what differs between two runs, and with light pictures."""

import base64
import io
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from sat2dem_core.pictures import plots

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
sys.path.insert(0, str(ROOT / "tools"))
import tidy as tool  # noqa: E402
from tidy import LIMIT, PICTURE, check, main, picture  # noqa: E402


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
    main(["--check", str(chapter)])
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


def png(picture: Figure | Image.Image) -> str:
    """A figure as Jupyter stores it, or an image, in base64."""
    file = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(file, format="png", dpi=130)
        plt.close(picture)
    else:
        picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def satellite(size: tuple[int, int] = (260, 200)) -> Image.Image:
    """A part of the sample's satellite image, in true color."""
    with Image.open(next((ROOT / "data/rocky-mountain").glob("*rgb*.tif"))) as image:
        return image.convert("RGB").crop((100, 100, 100 + size[0], 100 + size[1]))


def map_figure() -> Figure:
    """A satellite image beside a smooth surface with its color bar, as the chapters draw them."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(5, 2.4), layout="constrained")
    plots.show_image(left, np.moveaxis(np.asarray(satellite()), -1, 0), (30, 30))
    y, x = np.mgrid[-2:2:0.02, -2:2:0.02]
    plots.show_dem(right, 900 * np.sin(2 * x) * np.cos(3 * y), (30, 30))
    return figure


def chart() -> Figure:
    figure, axis = plt.subplots(figsize=(5, 2.4))
    for power in range(1, 9):
        axis.plot(np.linspace(0, 1, 50) ** power, label=str(power))
    axis.legend()
    return figure


def few_colors() -> Image.Image:
    """256 colors, a few of which cover nearly all pixels."""
    random = np.random.default_rng(0)
    index = random.geometric(0.2, (120, 160)).clip(max=256) - 1
    index.flat[:256] = np.arange(256)
    return Image.fromarray(random.permutation(256**3)[:256].astype("<u4").view("u1").reshape(256, 4)[:, :3][index])


def write(path: Path, *data: dict[str, str], metadata: dict | None = None) -> Path:
    """A chapter with one cell for the data of each output."""
    shown = [new_output("display_data", data=one, metadata=metadata or {}) for one in data]
    cells = [new_code_cell("show()", execution_count=n, outputs=[output]) for n, output in enumerate(shown, 1)]
    nbformat.write(new_notebook(cells=cells), path)
    return path


def stored(path: Path, number: int = 0) -> dict[str, str]:
    """The data of a chapter's output."""
    return nbformat.read(path, as_version=4).cells[number].outputs[0].data


def pixels(data: str) -> np.ndarray:
    """What a reader sees of a picture in base64: (H, W, 4), 0 to 255."""
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("RGBA"), float)


def test_pictures_are_encoded_once_and_check_asks_for_it(tmp_path):
    path = write(tmp_path / "12_chapter.ipynb", {"text/plain": "before"})
    main([str(path)])
    check(path)
    for image in (chart(), map_figure(), few_colors()):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[0].outputs[0].data = nbformat.from_dict({"image/png": png(image)})
        nbformat.write(notebook, path)
        with pytest.raises(SystemExit, match="heavy pictures: python tools/tidy.py"):
            check(path)
        main([str(path)])
        check(path)
        first = path.read_bytes()
        main([str(path)])
        assert path.read_bytes() == first


def test_tidy_picture_is_left_alone_by_another_version_of_the_encoder(tmp_path, monkeypatch):
    path = write(tmp_path / "12_chapter.ipynb", {"image/png": png(chart())}, {"image/png": png(few_colors())})
    main([str(path)])
    monkeypatch.setattr(tool, "encoded", lambda *args, **options: b"other bytes")
    check(path)


@pytest.mark.parametrize("draw", [few_colors, chart])
def test_chart_loses_no_pixel_and_gets_lighter(tmp_path, draw):
    heavy = png(draw())
    path = write(tmp_path / "12_chapter.ipynb", {"image/png": heavy})
    main([str(path)])
    assert set(stored(path)) == {"image/png"}
    light = stored(path)["image/png"]
    assert len(light) < len(heavy)
    assert np.array_equal(pixels(light), pixels(heavy))


def test_map_becomes_jpeg_that_looks_the_same(tmp_path):
    heavy = png(map_figure())
    path = write(tmp_path / "12_chapter.ipynb", {"image/png": heavy, "text/plain": "a figure"})
    main([str(path)])
    assert set(stored(path)) == {"image/jpeg", "text/plain"}
    light = stored(path)["image/jpeg"]
    assert len(light) < len(heavy) / 3
    assert pixels(light).shape == pixels(heavy).shape
    difference = np.abs(pixels(light) - pixels(heavy))
    assert difference.mean() < 2  # of 255 levels
    assert np.abs(difference.mean((0, 1))).max() < 3, "a color cast"
    palette = Image.fromarray(pixels(heavy).astype("u1")).convert("RGB").quantize(256, kmeans=1)
    assert len(light) < len(png(palette)), "a palette would be lighter"


def test_heavy_chapter_gets_the_best_quality_that_fits(tmp_path, monkeypatch):
    heavy = png(map_figure())
    path = write(tmp_path / "12_chapter.ipynb", *[{"image/png": heavy}] * 3)
    main([str(path)])
    roomy = path.stat().st_size
    write(path, *[{"image/png": heavy}] * 3)
    monkeypatch.setattr(tool, "TARGET", int(0.7 * roomy))
    main([str(path)])
    assert 0.5 * roomy < path.stat().st_size <= 0.7 * roomy + 1  # the end of the last line
    assert np.abs(pixels(stored(path)["image/jpeg"]) - pixels(heavy)).mean() < 4  # of 255 levels


def test_chapter_that_stays_too_heavy_is_told(tmp_path, monkeypatch):
    path = write(tmp_path / "12_chapter.ipynb", {"text/html": "x" * 3000})
    main([str(path)])
    check(path)
    monkeypatch.setattr(tool, "LIMIT", 3000)
    with pytest.raises(SystemExit, match=r"12_chapter\.ipynb has 0\.00 MB, the limit is 0\.003: draw fewer"):
        check(path)


def test_other_outputs_stay_as_they_are(tmp_path):
    others = {
        "text/html": f'<img src="data:image/png;base64,{png(satellite())}">', "image/svg+xml": "<svg/>",
        "image/jpeg": png(satellite()), "text/plain": "é", "application/json": {"a": [1]},
    }
    path = write(tmp_path / "12_chapter.ipynb", others, {"image/png": png(map_figure())})
    main([str(path)])
    assert stored(path) == others


def test_size_on_the_page_goes_with_the_picture(tmp_path):
    shown = {"image/png": {"width": 300, "height": 200}}
    path = write(tmp_path / "12_chapter.ipynb", {"image/png": png(map_figure())}, metadata=shown)
    main([str(path)])
    assert nbformat.read(path, as_version=4).cells[0].outputs[0].metadata == {"image/jpeg": shown["image/png"]}


def test_transparent_and_deep_pictures_keep_their_pixels(tmp_path):
    veiled = satellite()
    veiled.putalpha(Image.linear_gradient("L").resize(veiled.size))
    deep = png(Image.fromarray(np.arange(60_000, dtype="uint16").reshape(200, 300)))
    path = write(tmp_path / "12_chapter.ipynb", {"image/png": png(veiled)}, {"image/png": deep})
    main([str(path)])
    check(path)
    assert np.array_equal(pixels(stored(path, 0)["image/png"]), np.asarray(veiled, float))
    assert stored(path, 1)["image/png"] == deep


def test_readme_shows_the_figure_of_the_quickstart():
    chapter, name, target = PICTURE
    notebook = nbformat.read(ROOT / f"notebooks/{chapter}.ipynb", as_version=4)
    assert picture(notebook, name) == (ROOT / target).read_bytes()
    for page in ("README.md", "index.md"):
        assert target in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_committed_chapter_is_tidy(path):
    check(path)
    assert path.stat().st_size <= LIMIT


def test_committed_chapters_are_light_together():
    assert sum(path.stat().st_size for path in CHAPTERS) <= 10e6
