"""The files around the package agree with each other."""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PACKAGE = ROOT / "sat2dem_core"
OPENERS = ("rasterio.open", "open_rasterio", "rioxarray.open_rasterio", "WarpedVRT", "rasterio.vrt.WarpedVRT")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def configured_address() -> str:
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]


def test_conda_environment_installs_what_the_makefile_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    extras = ",".join(PYPROJECT["project"]["optional-dependencies"])
    assert pip == ["--constraint constraints.txt", f"--editable .[{extras}]"]
    assert f"'.[{extras}]'" in (ROOT / "Makefile").read_text(encoding="utf-8")
    python = next(entry for entry in environment if str(entry).startswith("python="))
    assert PYPROJECT["project"]["requires-python"] == f">={python.removeprefix('python=')}"


def test_every_direct_dependency_is_pinned_within_its_range():
    packaging = pytest.importorskip("packaging.requirements")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    wanted = PYPROJECT["project"]["dependencies"] + sum(PYPROJECT["project"]["optional-dependencies"].values(), [])
    for requirement in map(packaging.Requirement, wanted):
        if requirement.name == "sat2dem-core":
            continue  # an extra that includes another
        assert requirement.name in pins, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_repository_address_is_the_configured_one_everywhere():
    sys.path.insert(0, str(ROOT / "tools"))
    import address

    assert address.configured(ROOT) == configured_address()
    for path in address.places(ROOT):
        found = set(re.findall(r"https://github\.com/[\w.-]+/sat2dem-book", path.read_text(encoding="utf-8")))
        assert found <= {configured_address()}, path


def test_make_address_rewrites_every_place(tmp_path):
    for name in ("_config.yml", "pyproject.toml", "tools/address.py", CHAPTERS[0].relative_to(ROOT)):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        text = (ROOT / name).read_text(encoding="utf-8")
        moved = text.replace(configured_address(), "https://github.com/new/place") if name == "_config.yml" else text
        target.write_text(moved, encoding="utf-8")
    subprocess.run([sys.executable, tmp_path / "tools/address.py"], check=True, capture_output=True)
    for name in ("pyproject.toml", CHAPTERS[0].relative_to(ROOT)):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "https://github.com/new/place" in text
        assert configured_address() not in text


def test_table_of_contents_lists_the_chapters_that_exist_in_order():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    assert [name for name in listed if "/" in name] == [f"notebooks/{path.stem}" for path in CHAPTERS]
    for path in CHAPTERS:
        assert f"notebooks/{path.name}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_opens_in_colab_and_describes_its_pictures(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"]
    assert f"git+{configured_address()}" in code[1].source and "google.colab" in code[1].source
    assert notebook.metadata.accelerator == "GPU"
    for cell in code:
        assert all(output.output_type != "error" and output.get("name") != "stderr" for output in cell.outputs)
        if any({"image/png", "image/jpeg"} & set(output.get("data", {})) for output in cell.outputs):
            shown = cell.metadata.mystnb
            assert len(shown.image.alt) > 30 and len(shown.figure.caption) > 30, cell.id
    assert any(cell.outputs for cell in code), "the chapter has no outputs: run make refresh"


def test_wheel_carries_the_sample_and_the_stored_tables(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        f"sat2dem_core/data/{folder}/{path.name}"
        for folder in ("rocky-mountain", "results", "weights") for path in (ROOT / "data" / folder).iterdir()
    }
    assert shipped | {"sat2dem_core/pictures/terrain3d.html", "sat2dem_core/pictures/slider.html"} <= names
    assert not [name for name in names if name.endswith(".onnx")], "exported weights are built on demand, not shipped"


def test_page_of_the_module_names_every_file_that_users_call():
    # what only other modules call
    own = {"__init__", "__main__", "cli", "lazy", "atomic", "pieces", "cog", "robust", "rows"}
    listed = set(re.findall(r"automodule:: sat2dem_core\.([\w.]+)", (ROOT / "api.md").read_text(encoding="utf-8")))
    package = ROOT / "sat2dem_core"
    paths = [path.relative_to(package) for path in package.rglob("*.py") if path.stem not in own]
    files = {".".join(path.with_suffix("").parts) for path in paths}
    assert listed == files, "api.md lists the modules"


def test_a_change_deep_in_the_package_runs_the_chapters_again(tmp_path):
    """``make -n book`` in a copy in which all chapters are executed, and then after one file was touched."""
    for name in ("Makefile", "notebooks", "sat2dem_core", "data", "pyproject.toml", "constraints.txt"):
        source = ROOT / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    executed = tmp_path / "_build/chapters"
    for path in [tmp_path / ".venv/installed", *(executed / chapter.name for chapter in CHAPTERS)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def chapters_to_run() -> int:
        done = subprocess.run(["make", "-n", "book"], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.count("-m papermill") + done.stdout.count("/papermill ")

    assert chapters_to_run() == 0
    later = time.time() + 10
    os.utime(tmp_path / "sat2dem_core/evaluation/drainage.py", (later, later))
    assert chapters_to_run() == len(CHAPTERS)


def imported(paths: Iterable[Path]) -> dict[str, str]:
    """The packages that files import, none of Python's own, each with the name of a file that does."""
    found = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {module.split(".")[0]: path.name for module in modules}
    return {name: file for name, file in found.items() if name not in {*sys.stdlib_module_names, "sat2dem_core"}}


def test_what_the_package_imports_is_declared_and_what_is_declared_is_imported():
    requirement = pytest.importorskip("packaging.requirements").Requirement
    extras = PYPROJECT["project"]["optional-dependencies"]
    optional = sum((extras[name] for name in ("catalogs", "cluster", "drainage", "vectors", "onnx")), [])
    running = PYPROJECT["project"]["dependencies"] + optional
    declared = {requirement(text).name.lower() for text in running}
    named = {"pillow": "PIL", "odc-stac": "odc", "odc-geo": "odc"}
    modules = {named.get(name, name.replace("-", "_")) for name in declared}
    used = imported((ROOT / "sat2dem_core").rglob("*.py"))
    undeclared = used.keys() - modules - {"cycler"}  # which matplotlib brings
    assert not undeclared, {name: used[name] for name in undeclared}
    for_pandas = {"tabulate", "jinja2"}
    assert modules - for_pandas <= used.keys()


def test_rasters_are_opened_for_reading_in_one_place():
    """Other rules for masks, scale or place would follow from a second door."""
    elsewhere = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "rasters"]
    calls = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}" for path in elsewhere
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in OPENERS
        and not any(isinstance(argument, ast.Constant) and argument.value == "w" for argument in node.args)
    ]
    assert len(elsewhere) > 40 and not calls, f"read through sat2dem_core.rasters.reader instead: {calls}"
