"""Odd arguments and odd little rasters at every verb: each ends in success or in one sentence, and nothing else."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyproj import CRS
from rasterio.transform import Affine

from sat2dem_core.cli import main

PLACES = {  # coordinate reference system and geotransform
    "utm": ("EPSG:32613", Affine(30, 0, 450_000, 0, -30, 4_480_000)), "none": (None, None),
    "degrees": ("EPSG:4326", Affine(3e-4, 0, -105, 0, -3e-4, 40)),
    "meters called degrees": ("EPSG:4326", Affine(30, 0, 450_000, 0, -30, 4_480_000)),
    "180": ("EPSG:4326", Affine(3e-4, 0, 179.995, 0, -3e-4, -16)),
    "south up": ("EPSG:32613", Affine(30, 0, 450_000, 0, 30, 4_480_000)),
    "rotated": ("EPSG:32613", Affine(25, 9, 450_000, 9, -25, 4_480_000)),
    "polar": ("EPSG:3413", Affine(60, 0, -2_187_000, 0, -60, -1500)),
    "pole": ("EPSG:4326", Affine(0.5, 0, -180, 0, -0.5, 90)), "Mars": ("IAU_2015:49910", Affine(30, 0, 0, 0, -30, 0)),
}
TYPES = ("uint8", "int8", "uint16", "int16", "int32", "float32", "float64", "complex64")
NUMBERS = ("0", "-30", "nan", "inf", "1e-9", "1e9", "30", "x", "", "30,40", "-0.0", "٣")


@st.composite
def rasters(draw):
    """The shape, type, place and content of a little raster."""
    return {
        "bands": draw(st.integers(1, 5)), "height": draw(st.sampled_from((1, 2, 40))),
        "width": draw(st.sampled_from((1, 3, 45))), "dtype": draw(st.sampled_from(TYPES)),
        "place": draw(st.sampled_from(sorted(PLACES))), "nodata": draw(st.sampled_from((None, 0, 255, -32768, "nan"))),
        "content": draw(st.sampled_from(("noise", "constant", "void", "huge"))),
        "unit": draw(st.sampled_from((None, "ft", "degC", "m"))),
        "names": draw(st.sampled_from((None, "B", "SR_B", "elevation"))),
    }


def write(path: Path, of: dict) -> Path:
    rng = np.random.default_rng(0)
    shape = of["bands"], of["height"], of["width"]
    values = {
        "noise": rng.integers(1, 120, shape), "constant": np.full(shape, 7),
        "void": np.where(rng.random(shape) < 0.3, -100, rng.integers(1, 120, shape)), "huge": np.full(shape, 1e30),
    }[of["content"]]
    crs, transform = PLACES[of["place"]]
    profile = {"driver": "GTiff", "count": of["bands"], "height": of["height"], "width": of["width"]}
    profile |= {"dtype": of["dtype"]} | ({"transform": transform} if transform else {})
    profile["crs"] = CRS.from_user_input(crs).to_wkt() if crs else None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", **profile) as file:
            file.write(values.astype(of["dtype"]))
            if of["nodata"] is not None:
                try:
                    file.nodata = float(of["nodata"])
                except ValueError:
                    pass  # no value of this type
            if of["unit"]:
                file.units = (of["unit"],) * of["bands"]
            if of["names"]:
                file.descriptions = [f"{of['names']}{number or ''}" for number in range(of["bands"])]
    return path


GOOD = {
    "bands": 3, "height": 40, "width": 45, "dtype": "uint8", "place": "utm", "nodata": None, "content": "noise",
    "unit": None, "names": None,
}


@pytest.fixture(scope="module")
def tried(tmp_path_factory, tiny_weights):
    """``tried(arguments, image, dem)``: run a command, and check how it ends."""
    folder = tmp_path_factory.mktemp("odd")

    def run(arguments: tuple[str, ...], image: dict, dem: dict, capsys) -> None:
        files = {
            "IMAGE": write(folder / "image.tif", image), "DEM": write(folder / "dem.tif", dem),
            "OUT": folder / "out.tif", "WEIGHTS": tiny_weights, "FOLDER": folder, "NOWHERE": folder / "nowhere",
        }
        command = [re.sub("[A-Z]{3,}", lambda match: str(files.get(match[0], match[0])), part) for part in arguments]
        capsys.readouterr()
        try:
            status = main(command)
        except SystemExit as stop:  # of argparse
            status = stop.code
        shown = capsys.readouterr()
        assert status in (0, 1, 2), (command, status)
        errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in shown.err and len(errors) == (status == 1), (command, shown.err)
        assert all(len(error) > 25 and "nan m" not in error for error in errors)
        (folder / "out.tif").unlink(missing_ok=True)

    return run


numbers = st.sampled_from(NUMBERS)
what = st.sampled_from(("DEM", "FOLDER", "NOWHERE"))
known = st.sampled_from(("DEM", "IMAGE", "NOWHERE", "-105.5,40.4,2000", "1,2", "nan,nan,nan", "FOLDER"))
options = st.one_of(
    st.tuples(st.sampled_from(("--gsd", "--sun", "--overlap", "--batch", "--nodata")), numbers),
    st.tuples(st.just("--stretch"), numbers, numbers),
    st.tuples(st.just("--bands"), st.sampled_from(("1,2,3", "3", "a,b,c", "9,9,9", ""))),
    st.tuples(st.just("--anchors"), known),
    st.tuples(st.just("--surface"), st.sampled_from(("plane", "cells", "x"))),
    st.tuples(st.just("--interval"), st.sampled_from(("OUT", "IMAGE"))),
)
PREDICT = ("predict", "IMAGE", "OUT", "--overwrite", "--weights", "WEIGHTS")
TRAIN = st.sampled_from(("--steps", "--tile", "--critic-features", "--warmup", "--method", "--seed"))
commands = st.one_of(
    st.lists(options, max_size=3).map(lambda chosen: (*PREDICT, *sum(chosen, ()))),
    st.just(("info", "IMAGE", "--weights", "WEIGHTS", "--json")),
    st.tuples(st.just("evaluate"), what, st.just("--truth"), known),
    st.tuples(st.sampled_from(("evaluate", "study")), what),
    st.tuples(st.just("data"), st.just("check"), what),
    st.tuples(st.just("study"), what, st.just("NOWHERE.csv")),
    st.tuples(st.just("train"), st.just("--steps"), st.just("1"), st.just("--scene"), what),
    st.tuples(st.just("train"), TRAIN, numbers.filter(lambda text: text != "30")),  # which would train
    st.lists(numbers, min_size=1, max_size=4).map(
        lambda box: ("data", "build", "NOWHERE.zarr", "--region", *box, "--start", "2023-05-01", "--end", "x")
    ),
)


WHOLE = " ".join(PREDICT)


def past(arguments: str, image: dict | None = None, dem: dict | None = None):
    """A fault of the past as a fixed example."""
    elevation = GOOD | {"bands": 1, "dtype": "float32"}
    return example(tuple(arguments.split()), GOOD | (image or {}), elevation | (dem or {}))


@past(f"{WHOLE} --gsd 0")
@past(f"{WHOLE} --gsd -30")
@past(f"{WHOLE} --gsd nan")
@past(f"{WHOLE} --sun nan")
@past(f"{WHOLE} --anchors -105.5,40.4,2000")
@past(f"{WHOLE} --anchors DEM", dem={"unit": "ft"})
@past(f"{WHOLE} --surface plane")
@past(f"{WHOLE} --interval IMAGE")
@past("predict IMAGE IMAGE --overwrite --weights WEIGHTS")
@past(WHOLE, {"place": "meters called degrees"})
@past(WHOLE, {"place": "Mars"})
@past(WHOLE, {"place": "180"})
@past(WHOLE, {"place": "polar"})
@past(WHOLE, {"bands": 1})
@past(WHOLE, {"dtype": "complex64"})
@past("evaluate DEM --truth DEM", dem={"place": "none"})
@past("evaluate DEM --truth DEM", dem={"content": "huge"})
@past("evaluate DEM")
@past("data check DEM")
@past("train --scene DEM")
@past("train --critic-features 0")
@past("data build NOWHERE.zarr --region 8.5,46.2,8.6,46.3 --start 2023-05-01 --end 2023-06-01")
@settings(max_examples=90, suppress_health_check=list(HealthCheck))
@given(commands, rasters(), rasters())
@pytest.mark.filterwarnings("ignore")
def test_every_command_ends_in_success_or_one_sentence(tried, capsys, arguments, image, dem):
    tried(arguments, image, dem, capsys)
