"""What ``import sat2dem_core`` costs and offers."""

import importlib
import subprocess
import sys

import pytest

import sat2dem_core

WINGS = ("dataset", "evaluation", "models", "pictures", "prediction", "rasters", "study", "training")


def loaded_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_none_of_its_libraries():
    """PyTorch alone takes more than a second to import."""
    loaded = loaded_after("import sat2dem_core")
    assert not loaded & {"torch", "numpy", "pandas", "xarray", "rasterio", "matplotlib", "dask"}


def test_help_loads_none_of_them_either():
    loaded = loaded_after("from sat2dem_core.cli import parser; parser().format_help()")
    assert not loaded & {"torch", "pandas", "xarray", "rasterio", "matplotlib", "dask", "pyproj", "scipy"}


@pytest.mark.parametrize("name", sat2dem_core.__all__)
def test_every_name_of_the_face_is_the_function_that_its_wing_defines(name):
    function = getattr(sat2dem_core, name)
    assert callable(function) and function.__name__ == name
    assert getattr(importlib.import_module(function.__module__), name) is function


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'sat2dem_core' has no attribute 'prediict'"):
        sat2dem_core.prediict
    with pytest.raises(ImportError):
        exec("from sat2dem_core.dataset import atlantis")


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_says_what_it_is_for_and_hands_on_a_few_names_none_of_which_is_a_room(wing):
    package = importlib.import_module(f"sat2dem_core.{wing}")
    assert package.__doc__ and 1 <= len(package.__doc__.strip().splitlines()) <= 4
    assert 2 <= len(package.__all__) <= 5
    for name in package.__all__:
        thing = getattr(package, name)
        assert thing.__module__.startswith(f"sat2dem_core.{wing}.")
        assert not (importlib.util.find_spec(f"sat2dem_core.{wing}.{name}")), f"a room is called {name}, too"


@pytest.mark.parametrize("flag", ["-OO", "-m"])
def test_the_command_works_without_docstrings_and_as_a_module(flag):
    command = [sys.executable, *([flag, "-m"] if flag != "-m" else ["-m"]), "sat2dem_core", "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "{unet,pix2pix,drpan}" in done.stdout, done.stderr
