"""Lists of images: each has its own outcome, whatever happens to the others."""

import io

import numpy as np
import pytest
import rasterio

from sat2dem_core.cli import main
from sat2dem_core.errors import InvalidConfig, UnreadableRaster
from sat2dem_core.prediction import pipeline
from sat2dem_core.prediction.image_lists import each_image, listed, stem_of


def test_one_failure_stops_nothing_but_an_interruption_does():
    def make(image, out):
        if "bad" in image:
            raise UnreadableRaster(f"{image} is torn")
        if "odd" in image:
            raise UnreadableRaster("torn")
        if "bug" in image:
            raise IndexError("of\na list")
        if "stop" in image:
            raise KeyboardInterrupt
        return out

    images = ["a/one.tif", "bad.tif", "odd.tif", "bug.tif", "b/ONE.tif", "two.png", "stop.tif"]
    outcomes = each_image(images, "out", make)
    done = [next(outcomes) for _ in range(6)]
    assert [str(outcome.result) for outcome in done if outcome.failure is None] == ["out/one.tif", "out/two.tif"]
    assert [outcome.failure for outcome in done if outcome.failure] == [
        "bad.tif is torn", "odd.tif: torn", "bug.tif: unexpected IndexError: of a list",
        "b/ONE.tif and a/one.tif would both become ONE.tif: predict one of them on its own",
    ]
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)


def test_images_are_made_as_their_names_arrive():
    """A program that names them one by one need not have ended."""
    arrived = []

    def names():
        for name in ("a.tif", "b.tif"):
            arrived.append(name)
            yield name

    outcomes = each_image(names(), "out", lambda image, out: out)
    next(outcomes)
    assert arrived == ["a.tif"]


@pytest.mark.parametrize(("image", "stem"), [
    ("valley.tif", "valley"), ("a b/c.d.tif", "c.d"), (r"C:\data\valley.tif", "valley"),
    ("https://a.org/x/B%204.tif?sig=1/2", "B 4"), ("/vsicurl/https://a.org/b.tif?x", "b"),
    ("zip://a.zip!in/c.tif", "c"), ('NETCDF:"folder/cube.nc":red', "cube"), ('NETCDF:"cube.nc":red', "cube"),
    ("NETCDF:cube.nc:red", "cube"), ("folder/", ""),
])
def test_outputs_are_called_after_their_images(image, stem):
    assert stem_of(image) == stem


def test_a_list_is_read_from_a_file_or_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "list.txt"
    path.write_bytes("a.tif\r\n\n  \nb ü.tif".encode())
    assert list(listed(path)) == ["a.tif", "b ü.tif"]
    monkeypatch.setattr("sys.stdin", io.StringIO("c.tif\n"))
    assert list(listed("-")) == ["c.tif"]
    with pytest.raises(InvalidConfig, match=r"the list .*absent.txt cannot be read \(No such file"):
        list(listed(tmp_path / "absent.txt"))


def test_predict_works_through_a_list(tmp_path, hills_image, tiny_weights, monkeypatch, capsys):
    second = tmp_path / "second.tif"
    second.write_bytes(hills_image.read_bytes())
    (torn := tmp_path / "torn.tif").write_bytes(hills_image.read_bytes()[:200])
    loads = []
    pipeline._loaded.cache_clear()
    load = pipeline.load_weights
    monkeypatch.setattr(pipeline, "load_weights", lambda source: loads.append(source) or load(source))
    out, more = tmp_path / "out", tmp_path / "intervals"
    command = ["predict", "--images", "-", str(out), "--interval", str(more), "--weights", str(tiny_weights)]
    command += ["--stac", "--date", "2020-07-01"]

    def run(*images, flags=()):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{image}\n" for image in images)))
        status = main([*command, *flags])
        text = capsys.readouterr()
        said = text.err.splitlines()
        return status, text.out.splitlines(), [line for line in said if line.startswith("error: ")], said[-1]

    status, done, errors, last = run(hills_image, torn, second)
    assert status == 2 and len(done) == 2 and len(errors) == 1 and "torn.tif" in errors[0]
    assert last == f"{out}: 2 of 3 images done, 1 failed"
    assert len(loads) == 1
    names = {path.name for path in (*out.iterdir(), *more.iterdir())}
    assert names == {"hills.tif", "hills.json", "second.tif", "second.json"}
    with rasterio.open(out / "hills.tif") as a, rasterio.open(out / "second.tif") as b:
        np.testing.assert_array_equal(a.read(), b.read())
    status, done, errors, _ = run(hills_image)
    assert status == 2 and "exists: give another name, or --overwrite" in errors[0] and not done
    assert run(hills_image, flags=["--overwrite"])[0] == 0
    assert run()[0] == 0


def test_a_list_takes_the_place_of_the_image(capsys):
    for command in (["--images", "list.txt", "--item", "a.json", "out"], ["--images", "list.txt"]):
        with pytest.raises(SystemExit) as stopped:
            main(["predict", *command])
        assert stopped.value.code == 2
    assert "not allowed with argument --images" in capsys.readouterr().err
