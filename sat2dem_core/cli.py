"""The command ``sat2dem``, which is the module from a shell; its verbs are listed in :func:`parser`.

What a verb needs is imported when it runs, so that help appears at once.
"""

import argparse
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import Field, asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from sat2dem_core import __version__
from sat2dem_core.config import PRESETS, Config, meanings, preset
from sat2dem_core.dataset.catalogs import SOURCES, ZENODO, Request, source
from sat2dem_core.errors import InvalidConfig, InvalidRegion, Sat2DEMError, Terminated, choose, needs
from sat2dem_core.rasters.atomic import replacing

EPILOG = """\
exit status: 0 after success; 1 after an error, which one sentence explains; 2 when the command line cannot be read, or
when images of a list failed; 130 after an interruption (Ctrl+C), 143 after SIGTERM (sent by kill, Docker and SLURM);
then the same command continues where it stopped. After SIGTERM, train first saves the run after the present step; a
second SIGTERM ends it at once.
"""
SENSORS = tuple(product for product in SOURCES if product != "glo-30")
BENCHMARKS = ("refinement", "methods")  # tables
SURFACES = ("offset", "plane", "quadratic", "cells")  # as in prediction.anchors, which takes seconds to import
PATIENCE = 10  # seconds for a dask scheduler to answer
# Warnings of libraries about themselves, which users cannot act on.
TECHNICAL = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, RuntimeWarning, ResourceWarning)


def parser() -> argparse.ArgumentParser:
    """The command line; every setting of :class:`sat2dem_core.config.Config` is an option of ``train``."""
    top = argparse.ArgumentParser(
        prog="sat2dem", description="One satellite image in, a Digital Elevation Model (DEM) out.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"sat2dem {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True)
    data = verbs.add_parser("data", help="build, download, check or convert data sets; list or remove cached runs")
    whats = "{build,iberia,scenes,zion,check,export,import,cache}"
    _add_data(data.add_subparsers(dest="what", required=True, metavar=whats))
    _add_train(verbs.add_parser("train", help="train a model, or continue or load the run in a folder"))
    _add_info(verbs.add_parser("info", help="describe what predict would do with an image"))
    _add_predict(verbs.add_parser("predict", help="predict the elevation of an image of any size"))
    _add_refine(verbs.add_parser("refine", help="make a coarse DEM finer by an image"))
    _add_evaluate(verbs.add_parser("evaluate", help="score a run on its held-out tiles, or one DEM against another"))
    _add_study(verbs.add_parser("study", help="train and score every run of a study, and write its table"))
    _add_benchmark(verbs.add_parser("benchmark", help="score methods on regions that they were not trained on"))
    _add_export(verbs.add_parser("export", help="write weights as ONNX, for QGIS, browsers and other programs"))
    verbs.metavar = _one_of(verbs.choices)
    return top


def _one_of(names: Iterable[str]) -> str:
    return f"{{{','.join(names)}}}"


def _add_train(train: argparse.ArgumentParser) -> None:
    train.description = (
        "Train a model, or continue or load the run in a folder. On several GPUs: torchrun --nproc-per-node 2 "
        "-m -- sat2dem_core train ..."
    )
    train.add_argument(
        "--preset", default="cpu", metavar=_one_of(PRESETS), help="settings to start from (default: cpu)"
    )
    train.add_argument(
        "--run", metavar="DIR", help="the run's folder (default: a folder of the cache, named after settings and data)"
    )
    train.add_argument(
        "--initial-weights", metavar="WEIGHTS",
        help="what the generator starts from: a name (relief), a run's folder, a .safetensors file, or a checkpoint of "
        "the paper's authors (.pth); their architecture must be that of the settings (default: random weights)",
    )
    train.add_argument(
        "--tensorboard", action="store_true", help="also write the log for TensorBoard, in the run's folder"
    )
    train.add_argument(
        "--accept-changed-code", action="store_true",
        help="continue a run although the code that decides its result has changed since it began",
    )
    settings = train.add_argument_group(
        "settings", "each replaces the preset's value; the value in brackets is that of preset cpu"
    )
    for field in fields(Config):
        kind: Any = field.type
        choices = field.metadata.get("choices")
        settings.add_argument(
            f"--{field.name.replace('_', '-')}", metavar=_one_of(choices) if choices else kind.__name__.upper(),
            help=f"{meanings()[field.name]} [{field.default}]".replace("%", "%%"),
        )


def _add_predict(predict: argparse.ArgumentParser) -> None:
    predict.description = (
        "Predict the elevation of an image: a DEM of one band, in meters. After an interruption, the same command "
        "continues where it stopped."
    )
    _add_image(predict, lists=True)
    predict.add_argument(
        "out", metavar="OUT",
        help="the DEM to write: a Cloud-Optimized GeoTIFF (.tif), or a Zarr store (.zarr), which also holds the "
        "interval and the distance; with --images, a folder",
    )
    _add_interval(predict)
    predict.add_argument(
        "--domain", metavar="FILE",
        help="GeoTIFF for the distance of the image from the training distribution; above 1, it lies outside",
    )
    _add_beside(predict)
    _add_image_options(predict)
    predict.add_argument(
        "--anchors", metavar="DEM|CSV|POINTS|LON,LAT,HEIGHT",
        help="known heights that the predicted relief is tied to",
    )
    predict.add_argument(
        "--anchor-band", metavar="BAND",
        help="number or name of the elevation band of a DEM of anchors (default: its only one, or 'elevation')",
    )
    predict.add_argument(
        "--vertical-datum", metavar="NAME",
        help="what the heights of anchors count from, for the tags (default: as their file says)",
    )
    predict.add_argument(
        "--surface", metavar=_one_of(SURFACES),
        help="the correction between relief and anchors (default: cells for a DEM, else offset)",
    )
    predict.add_argument(
        "--overlap", type=float, default=0.5, metavar="SHARE",
        help="overlap of neighboring tiles, a share of their side (default: 0.5)",
    )
    predict.add_argument("--batch", type=int, default=32, metavar="TILES", help="tiles predicted at once (default: 32)")
    predict.add_argument(
        "--no-caution", action="store_true",
        help="keep the relief at full height where the image is unlike the training images",
    )
    _add_execution(predict)


def _add_refine(refine: argparse.ArgumentParser) -> None:
    refine.description = (
        "Make a coarse DEM finer by an image of the same area. The result keeps the heights of the DEM as its means"
        " over the pixels of the DEM; relief within them comes from the image. Where the image shows none, the result"
        " is a smooth surface. After an interruption, the same command continues where it stopped."
    )
    _add_image(refine, lists=True)
    refine.add_argument("dem", metavar="DEM", help="a DEM on any grid, with pixels as large as the image's or larger")
    refine.add_argument(
        "out", metavar="OUT",
        help="the DEM to write: a Cloud-Optimized GeoTIFF (.tif), or a Zarr store (.zarr), which also holds interval "
        "and difference; with --images, a folder",
    )
    _add_interval(refine)
    refine.add_argument(
        "--difference", metavar="FILE", help="GeoTIFF for what the image changed, in meters"
    )
    _add_beside(refine)
    _add_image_options(refine)
    refine.add_argument(
        "--band", metavar="BAND",
        help="number or name of the DEM's elevation band (default: its only one, or 'elevation')",
    )
    refine.add_argument(
        "--vertical-datum", metavar="NAME",
        help="what the DEM's heights count from, for the tags (default: as its file says)",
    )
    _add_execution(refine)


def _add_info(info: argparse.ArgumentParser) -> None:
    info.description = (
        "Describe what predict would do with an image, without predicting: its size, bands, nodata, grid and sun, how "
        "like the training images it is, what to expect in time and disk space, and what to watch out for."
    )
    _add_image(info)
    _add_image_options(info)
    info.add_argument("--json", action="store_true", help="print JSON")


def _add_image(verb: argparse.ArgumentParser, lists: bool = False) -> None:
    """What to read: a raster, or in its place a STAC item or a list, for which :func:`_whole` adds an empty IMAGE."""
    instead = "--item or --images" if lists else "--item"
    verb.add_argument("image", metavar="IMAGE", help=f"any raster that GDAL reads; left out with {instead}")
    group = verb.add_mutually_exclusive_group()
    group.add_argument(
        "--item", metavar="URL|FILE",
        help="a STAC item in place of IMAGE: its red, green and blue, its date and its sun",
    )
    if lists:
        group.add_argument(
            "--images", metavar="LIST|-",
            help="a file of images in place of IMAGE, one path or address a line; - reads them from standard input. "
            "OUT is then a folder, and so is what other options name as a file to write; an image that fails does not "
            "stop the rest",
        )


def _add_interval(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--interval", metavar="FILE", help="GeoTIFF for half the width of a 90 %% prediction interval, in meters"
    )


def _add_beside(verb: argparse.ArgumentParser) -> None:
    """Files with the name of the DEM and another ending."""
    verb.add_argument(
        "--style", action="store_true", help="also write a style (.qml) with which QGIS draws the DEM in colors"
    )
    verb.add_argument(
        "--stac", action="store_true",
        help="also write a STAC item (.json) that describes the DEM and the files next to it",
    )


def _add_execution(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--scheduler", metavar="ADDRESS", help="a dask cluster to work on (default: this process)")
    verb.add_argument("--overwrite", action="store_true", help="replace the files to write if they exist")


def _add_image_options(predict: argparse.ArgumentParser) -> None:
    """Options that say how to read an image, and with which weights."""
    predict.add_argument(
        "--weights", nargs="+", metavar="WEIGHTS",
        help="a name, a .safetensors file, a run's folder, or https://...#sha256=...; several form an ensemble "
        "(default: the weights that come with the package)",
    )
    predict.add_argument(
        "--bands", metavar="R,G,B",
        help="numbers or names of the red, green and blue bands (default: as the file declares them)",
    )
    predict.add_argument(
        "--stretch", nargs=2, type=float, metavar=("LOW", "HIGH"), help="values that become black and white"
    )
    predict.add_argument(
        "--nodata", metavar="VALUE",
        help="nodata value of the image; 'none' ignores the declared one (default: the declared one)",
    )
    predict.add_argument(
        "--gsd", type=float, metavar="METERS",
        help="ground sampling distance (the size of a pixel on the ground) to predict at; for an image without a "
        "coordinate reference system, the size of its pixels",
    )
    predict.add_argument(
        "--sun", type=float, metavar="AZIMUTH",
        help="direction of the sun, degrees clockwise from north (default: from --date, from the image's metadata, or "
        "that of a morning)",
    )
    predict.add_argument(
        "--date", metavar="DAY[THOUR]", help="when the image was taken, such as 2023-07-01 or 2023-07-01T10:30 (UTC)"
    )


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.description = (
        "Score a run on its held-out tiles, next to baselines; or, with --truth, one DEM against another. --scene, "
        "--store or --image score a run on every whole tile of another place, which must be one that it was not "
        "trained on; of the very scene or store that it was trained on, the held-out tiles alone are scored."
    )
    evaluate.add_argument(
        "what", metavar="DIR|DEM", help="a run's folder, whose best checkpoint is scored; or a raster"
    )
    evaluate.add_argument(
        "--truth", metavar="DEM",
        help="the reference DEM for a raster, whose pixels must coincide with the raster's; or the elevation of the "
        "place in --image, on any grid",
    )
    other = evaluate.add_mutually_exclusive_group()
    other.add_argument("--scene", metavar="NAME", help="score the run on this scene, such as rocky-mountain or zion")
    other.add_argument("--store", metavar="STORE", help="score the run on this store of tiles (.zarr)")
    other.add_argument("--image", metavar="IMAGE", help="score the run on this image and the elevation in --truth")
    evaluate.add_argument(
        "--bands", metavar="R,G,B",
        help="numbers or names of the image's red, green and blue bands (default: as the file declares them)",
    )
    evaluate.add_argument(
        "--stretch", nargs=2, type=float, metavar=("LOW", "HIGH"),
        help="values of the image that become black and white; needed unless it is uint8",
    )
    evaluate.add_argument(
        "--band", metavar="BAND",
        help="number or name of the raster's elevation band (default: its only one, or 'elevation')",
    )
    evaluate.add_argument("--truth-band", metavar="BAND", help="the same for the reference DEM")
    evaluate.add_argument(
        "--mask-water", action="store_true", help="leave out water: areas that are level in the reference"
    )
    evaluate.add_argument("--table", metavar="CSV", help="write every measure to this file")


def _add_study(study: argparse.ArgumentParser) -> None:
    study.description = (
        "Train and score every run of a study, and write a table with one row per run. After an interruption, the same "
        "command continues where it stopped. On several GPUs or machines, each makes a share of the runs: torchrun "
        "--nproc-per-node 2 -m -- sat2dem_core study ..."
    )
    study.add_argument("study", metavar="STUDY", help="a TOML file with a preset and [[grid]] tables of settings")
    study.add_argument("table", metavar="CSV", help="the table to write")
    study.add_argument(
        "--report", metavar="FOLDER", help="also write the table as Markdown, LaTeX and a figure to this folder"
    )


def _add_benchmark(benchmark: argparse.ArgumentParser) -> None:
    benchmark.description = (
        "Score methods on the scenes of the registry, each by models that saw none of its region, and write two "
        "tables: refinement.csv (an image and a coarse DEM) and methods.csv (an image alone, trained by a study). Open "
        "scenes are downloaded. After an interruption, the same command continues where it stopped."
    )
    benchmark.add_argument("folder", metavar="FOLDER", help="where the tables are written")
    benchmark.add_argument(
        "--only", metavar=_one_of(BENCHMARKS), help="make one of the two tables (default: both; methods takes hours)"
    )
    benchmark.add_argument(
        "--study", metavar="STUDY", help="a study whose runs have a fold (default: the one that comes with the package)"
    )
    benchmark.add_argument(
        "--scenes", nargs="+", metavar="NAME", help="scenes of refinement.csv (default: all that can be had)"
    )
    benchmark.add_argument(
        "--store", metavar="STORE", help="a store of tiles to train and score on, split by blocks, in place of scenes"
    )


def _add_export(export: argparse.ArgumentParser) -> None:
    export.description = (
        "Write weights as one ONNX graph, from an image to meters, for the QGIS plugin Deepness and onnxruntime; next "
        "to it a STAC item (.json) and a model card (.md) that describe it."
    )
    export.add_argument(
        "weights", metavar="WEIGHTS", help="a name (relief), a .safetensors file, a run's folder, or https://...#sha256=..."
    )
    export.add_argument("out", metavar="OUT", help="the file to write (.onnx)")
    export.add_argument(
        "--gsd", type=float, metavar="METERS",
        help="ground sampling distance of the images that the graph is for (default: the finest that the weights were "
        "trained on)",
    )
    export.add_argument("--overwrite", action="store_true", help="replace the files to write if they exist")


def _add_data(verbs: Any) -> None:
    build = verbs.add_parser("build", help="build a store of tiles of any region and period from open catalogs")
    build.add_argument(
        "store", metavar="STORE",
        help="the store to write, such as valley.zarr; an interrupted build continues where it stopped",
    )
    build.add_argument(
        "--region", nargs="+", required=True, metavar="W S E N|FILE", help="bounds in degrees, or a GeoJSON file"
    )
    build.add_argument("--start", required=True, metavar="DAY", help="first day, such as 2023-05-01")
    build.add_argument("--end", required=True, metavar="DAY", help="last day")
    _add_sensor(build)
    catalogs = _one_of(SOURCES["glo-30"])
    build.add_argument("--catalog", metavar=catalogs, help="catalog of the imagery (default: depends on the sensor)")
    build.add_argument("--elevation-catalog", metavar=catalogs, help="catalog of the elevation (default: earth-search)")
    build.add_argument("--url", help="another address of both catalogs, for example a mirror")
    build.add_argument(
        "--crs",
        help="one coordinate reference system in meters for all tiles, such as EPSG:3035 (default: each tile's UTM "
        "zone)",
    )
    build.add_argument(
        "--max-cloud", type=float, default=60.0, metavar="PERCENT",
        help="largest cloud cover of an acquisition (default: 60)",
    )
    build.add_argument(
        "--most-looks", type=int, default=30, metavar="N",
        help="looks to read for a tile, the clearest by the catalog's cloud cover; a look is what one satellite sees "
        "on one day (default: 30)",
    )
    build.add_argument("--exclude", nargs="+", default=[], metavar="ID", help="acquisitions to leave out")
    build.add_argument("--scheduler", metavar="ADDRESS", help="a dask cluster to build on (default: this computer)")

    iberia = verbs.add_parser("iberia", help="download the paper's data set and import it into a store")
    iberia.add_argument(
        "store", nargs="?", metavar="STORE", help="default: next to the download, named after the sensor"
    )
    _add_sensor(iberia)
    iberia.add_argument(
        "--record", default=ZENODO, metavar="URL", help="the record's API address (default: %(default)s)"
    )

    scenes = verbs.add_parser("scenes", help="list the scenes of the registry, or download some of them")
    scenes.add_argument("names", nargs="*", metavar="NAME", help="scenes to download; without names, all are listed")

    verbs.add_parser("zion", help="download the 30 m scene of Zion National Park")

    check = verbs.add_parser("check", help="flag the tiles of a store that are cloudy, shifted, incomplete or unusual")
    check.add_argument("store", metavar="STORE")
    check.add_argument("--table", metavar="CSV", help="write the whole table to this file")
    check.add_argument("--figure", metavar="PNG", help="draw it to this file")

    export = verbs.add_parser("export", help="write a store as the paper's folders of GeoTIFFs")
    export.add_argument("store", metavar="STORE")
    export.add_argument("folder", metavar="FOLDER", help="the folder to write")

    take = verbs.add_parser("import", help="import the paper's folders of GeoTIFFs into a store")
    take.add_argument("folder", metavar="FOLDER")
    take.add_argument("store", metavar="STORE", help="the store to write")
    _add_sensor(take)

    cache = verbs.add_parser("cache", help="list the runs that train keeps in the cache, or remove them")
    cache.add_argument(
        "--prune", metavar="DAYS|all",
        help="remove, without asking, runs that were last changed so many days ago or earlier, or all; runs that a "
        "process is training stay",
    )


def _add_sensor(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--sensor", default="sentinel-2", metavar=_one_of(SENSORS), help="sensor of the images (default: sentinel-2)"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status, as ``EPILOG`` lists them. Bad input ends in one sentence."""
    args = parser().parse_args(_whole(sys.argv[1:] if arguments is None else arguments))
    try:
        with _tidy_warnings():
            status = RUN[args.verb](args)
    except Sat2DEMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        detail = f" ({interruption})" if str(interruption) else ""
        print(f"interrupted: the same command continues where it stopped{detail}", file=sys.stderr)
        return 130
    except Terminated as termination:
        if not int(os.environ.get("RANK", 0)):  # the first of several processes reports
            print(f"terminated: {termination}; the same command continues there", file=sys.stderr)
        return termination.status
    return status or 0


def _whole(arguments: list[str]) -> list[str]:
    """The arguments in a form that argparse understands.

    ``--anchors -105,40,2532`` becomes one argument, since argparse takes what begins with - for an option. Where an
    item or a list takes the place of IMAGE, IMAGE is empty: argparse cannot leave out a first argument that others
    follow.
    """
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--anchors" and re.match(r"-[\d.]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    in_place = any(re.match(r"--(item|images)(=|$)", argument) for argument in joined)
    return [joined[0], "", *joined[1:]] if in_place else joined


@contextmanager
def _tidy_warnings() -> Iterator[None]:
    """Print each warning as one sentence; leave Python's own form to those who ask for it with ``-W``."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            for kind in TECHNICAL:
                warnings.simplefilter("ignore", kind)
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        yield


def _data(args: argparse.Namespace) -> None:
    if args.what == "check":
        return _check(args)
    if args.what == "cache":
        return _cache(args.prune)
    if args.what in ("scenes", "zion"):
        return _scenes(args.names if args.what == "scenes" else ["zion"])
    if args.what == "build":
        from sat2dem_core.dataset.building import build

        request = Request(
            args.start, args.end, source(args.sensor, args.catalog, args.url),
            source("glo-30", args.elevation_catalog, args.url), args.max_cloud, exclude=tuple(args.exclude),
            most_looks=args.most_looks,
        )
        given = args.region
        if len(given) == 1 and re.fullmatch(r"[-\d.]+([,;] *[-\d.]+)+", given[0]):
            raise InvalidRegion(f"--region is {given[0]}: give west south east north, four numbers with spaces between")
        region = given[0] if len(given) == 1 else _box(given)
        return print(build(args.store, region, request, crs=args.crs, client=_client(args.scheduler)))
    from sat2dem_core.dataset.paper_folders import export_folders, fetch_iberia, import_folders

    if args.what == "iberia":
        folder, license = fetch_iberia(args.record)
        store = args.store or folder / f"{args.sensor}.zarr"
        print(import_folders(folder, store, args.sensor, license=license))
    elif args.what == "export":
        print(export_folders(args.store, args.folder))
    else:
        print(import_folders(args.folder, args.store, args.sensor))


def _scenes(names: list[str]) -> None:
    """List all scenes, or fetch those that are named."""
    from sat2dem_core.dataset.registry import find_site, sites

    if not names:
        table = sites()
        table["px"] = table.width.astype(str) + " x " + table.height.astype(str)
        table["here"] = table.here.map({True: "yes", False: "no"})
        return print(table[["region", "sensor", "pixel", "px", "kind", "here"]].rename_axis(None).to_string())
    from sat2dem_core.dataset.originals import fetch_scene

    for site in [find_site(name) for name in names]:
        print(f'{fetch_scene(site)}: train on it with scene="{site.name}"')


def _check(args: argparse.Namespace) -> None:
    from sat2dem_core.dataset.quality import elevation_histogram, inspect

    table = inspect(args.store)
    flagged = table[table.flagged != ""]
    if args.table:
        with replacing(Path(args.table)) as temporary:
            table.to_csv(temporary)
    if args.figure:
        from sat2dem_core.pictures.plots import quality_figure

        with replacing(Path(args.figure)) as temporary:
            quality_figure(table, elevation_histogram(args.store)).savefig(temporary, format="png", dpi=150)
    columns = ["relief", "cloud_share", "nodata_share", "down", "east", "shading", "flagged"]
    print(flagged[columns].round(2).to_string(na_rep="-") if len(flagged) else "no tile is flagged")
    print(f"{args.store}: {len(table)} tiles, {len(flagged)} flagged")


def _cache(prune: str | None) -> None:
    from sat2dem_core.training import cache

    if prune is None:
        runs = cache.cached_runs()
        _print_runs(runs)
        print(f"{cache.runs_folder()}: {_count(runs)}")
        return
    try:
        days = 0.0 if prune == "all" else float(prune)
    except ValueError as error:
        raise InvalidConfig(f"--prune is {prune!r}: give a number of days, or all") from error
    removed, busy = cache.prune(days)
    _print_runs(removed)
    for run in busy:
        print(f"{run.folder} stays: another process is at work there")
    print(f"{cache.runs_folder()}: {_count(removed)} removed")


def _print_runs(runs: list[Any]) -> None:
    for run in runs:
        changed = datetime.fromtimestamp(run.changed).strftime("%Y-%m-%d %H:%M")
        print(f"{run.folder}  {run.size / 1e6:,.1f} MB  {changed}  {run.settings}")


def _count(runs: list[Any]) -> str:
    return f"{len(runs)} run{'s' * (len(runs) != 1)}, {sum(run.size for run in runs) / 1e6:,.1f} MB"


def _box(texts: list[str]) -> tuple[float, ...]:
    try:
        west, south, east, north = map(float, texts)
    except ValueError as error:
        raise InvalidRegion(
            f"the region {' '.join(texts)} is no box: give west, south, east, north in degrees, or a GeoJSON file"
        ) from error
    return west, south, east, north


def _client(address: str | None) -> Any:
    """A client of the dask cluster at this address; None without an address."""
    if address is None:
        return None
    with needs("cluster"):
        from dask.distributed import Client
    try:
        return Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"no dask scheduler answers at {address} ({error}): start it, or check it") from error


def _train(args: argparse.Namespace) -> None:
    from sat2dem_core.training.trainer import train

    given = {field: getattr(args, field.name) for field in fields(Config)}
    changes = {field.name: _read(field, text) for field, text in given.items() if text is not None}
    run = train(
        preset(args.preset, **changes), run=args.run, tensorboard=args.tensorboard,
        accept_changed_code=args.accept_changed_code, initial_weights=args.initial_weights,
    )
    if int(os.environ.get("RANK", 0)):
        return  # the first of several processes reports
    if not (run.folder / "examples.png").exists():
        from sat2dem_core.pictures.plots import draw_run

        draw_run(run)
    best = run.log.sort_values("validation_mae").iloc[0]
    print(f"{run.folder}: validation MAE {best.validation_mae:.1f} m at step {best.step:.0f}")


def _predict(args: argparse.Namespace) -> int | None:
    from sat2dem_core.prediction.pipeline import predict

    settings: dict[str, Any] = _image_options(args) | {
        "anchors": args.anchors, "anchor_band": args.anchor_band, "surface": args.surface,
        "vertical_datum": args.vertical_datum, "style": args.style, "stac": args.stac, "overlap": args.overlap,
        "batch": args.batch, "caution": not args.no_caution, "overwrite": args.overwrite,
        "client": _client(args.scheduler),
    }
    return _make(args, predict, settings, ("interval", "domain"), _print_prediction)


def _refine(args: argparse.Namespace) -> int | None:
    from sat2dem_core.prediction.refine import refine
    from sat2dem_core.prediction.refiner_weights import REFINING

    settings = _image_options(args) | {
        "weights": args.weights[0] if args.weights else REFINING, "band": args.band,
        "vertical_datum": args.vertical_datum, "style": args.style, "stac": args.stac, "overwrite": args.overwrite,
        "client": _client(args.scheduler),
    }
    if args.weights and len(args.weights) > 1:
        raise InvalidConfig(f"refine takes one file of weights, not {len(args.weights)}: give one")

    def make(image: Any, out: Any, **more: Any) -> Any:
        return refine(image, args.dem, out, **more)

    return _make(args, make, settings, ("interval", "difference"), _print_refinement)


def _print_refinement(result: Any) -> None:
    tags = result.tags
    print(
        f"{result.path}: {tags['GROUND_SAMPLING_DISTANCE']}, cells of {tags['DEM_CELL']}, sun {tags['SUN']}; "
        f"{tags['DEM_VOIDS_FILLED']} of the DEM were voids", flush=True
    )


def _print_prediction(result: Any) -> None:
    tags = result.tags
    gsd = tags["GROUND_SAMPLING_DISTANCE"]
    heights = f"heights {tags['HEIGHTS']}" if " " in tags["HEIGHTS"] else f"{tags['HEIGHTS']} heights"
    print(f"{result.path}: {heights} at {gsd}, {result.outside:.0%} out of domain", flush=True)
    if result.anchors is not None:
        print(
            f"{tags['ANCHORS']} anchors, surface {tags['ANCHOR_SURFACE']}: RMSE {tags['ANCHOR_RMSE']}, largest "
            f"{tags['ANCHOR_LARGEST']}", flush=True
        )


def _make(
    args: argparse.Namespace, make: Callable[..., Any], settings: dict[str, Any], files: tuple[str, ...],
    report: Callable[[Any], None],
) -> int | None:
    """Make a DEM of one image, or of each of a list, for which the options ``files`` name folders."""
    if args.images is None:
        report(make(_image(args), args.out, **{name: getattr(args, name) for name in files}, **settings))
        return None

    def one(image: str, out: Path) -> Any:
        folders = {name: getattr(args, name) for name in files}
        return make(image, out, **{name: path and Path(path, out.name) for name, path in folders.items()}, **settings)

    return _each(args, one, report)


def _each(args: argparse.Namespace, make: Callable[[str, Path], Any], report: Callable[[Any], None]) -> int:
    """Make a DEM of each image of a list; the exit status: 0, or 2 if some failed."""
    from sat2dem_core.prediction.image_lists import each_image, listed

    done, failed = 0, 0
    for outcome in each_image(listed(args.images), args.out, make):
        if outcome.failure is None:
            report(outcome.result)
            done += 1
        else:
            print(f"error: {outcome.failure}", file=sys.stderr)
            failed += 1
    print(f"{args.out}: {done} of {done + failed} images done, {failed} failed", file=sys.stderr)
    return 2 if failed else 0


def _image(args: argparse.Namespace) -> Any:
    """The image to read, or that of a STAC item."""
    if args.item is None:
        return args.image
    from sat2dem_core.prediction.items import open_item

    return open_item(args.item)


def _image_options(args: argparse.Namespace) -> dict[str, Any]:
    from sat2dem_core.prediction.weights import DEFAULT

    return {
        "weights": args.weights or DEFAULT, "bands": args.bands and args.bands.split(","),
        "stretch": args.stretch and tuple(args.stretch), "nodata": _nodata(args.nodata), "gsd": args.gsd,
        "sun": args.sun, "date": args.date,
    }


def _info(args: argparse.Namespace) -> None:
    from sat2dem_core.prediction.preview import preview

    result = preview(_image(args), **_image_options(args))
    print(json.dumps(asdict(result), indent=2) if args.json else result.text())


def _nodata(text: str | None) -> float | str | None:
    if text in (None, "none"):
        return "declared" if text is None else None
    try:
        return float(text or "")
    except ValueError as error:
        raise InvalidConfig(f"nodata is {text!r}: give a number, or none") from error


def _read(field: Field, text: str) -> Any:
    kind: Any = field.type
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise InvalidConfig(f"{field.name} is {text!r}: give true or false")
    try:
        return kind(text)
    except ValueError as error:
        raise InvalidConfig(f"{field.name} is {text!r}: give a number ({kind.__name__})") from error


def _evaluate(args: argparse.Namespace) -> None:
    import pandas as pd

    if args.image and not args.truth:
        raise InvalidConfig(f"{args.image} needs elevation to be scored: give a DEM of the same place with --truth")
    if (args.bands or args.stretch) and not args.image:
        raise InvalidConfig("--bands and --stretch say how to read an image: give it with --image")
    if args.store and Path(args.store).suffix != ".zarr":
        raise InvalidConfig(f"{args.store} is no store (.zarr): give the path of one, or a scene's name with --scene")
    if args.truth and not args.image:
        if (Path(args.what) / "best.json").is_file():
            raise InvalidConfig(f"{args.what} is a run: give the image to score it on with --image, next to --truth")
        from sat2dem_core.evaluation.two_rasters import score

        comparison = score(
            args.what, args.truth, band=args.band, truth_band=args.truth_band, mask_water=args.mask_water
        )
        row = comparison.measures.result()
        print(
            f"scored on {row['pixels']:,} pixels, {comparison.share:.1%} of the reference's in the area that both cover"
        )
        table = pd.DataFrame({args.what: row}).T
    elif Path(args.what).is_file() or Path(args.what).suffix == ".zarr":
        raise InvalidConfig(
            f"{args.what} is no run's folder: to score a DEM, give the reference to measure it against with --truth"
        )
    else:
        from sat2dem_core.evaluation.scoring import evaluate
        from sat2dem_core.training.checkpoints import load_model, tiles_to_score

        model, pair = load_model(args.what), None
        if args.image:
            from sat2dem_core.dataset.scenes import open_pair

            pair = open_pair(
                args.image, args.truth, bands=args.bands and args.bands.split(","),
                stretch=args.stretch and tuple(args.stretch), dem_band=args.truth_band,
            )
        place = args.scene or args.store
        tiles, train, text = tiles_to_score(args.what, place and str(Path(place)), pair)
        print(text)
        table = evaluate(model, tiles, train, mask_water=args.mask_water).table
    if args.table:
        with replacing(Path(args.table)) as temporary:
            table.to_csv(temporary)
    of_form = table.loc[:, "PSNR":"tiles"].columns[:-1]
    print(table.drop(columns=[*of_form, "pixels", "tiles", "flat tiles"]).round(3).to_string(na_rep="-"))
    print(f"\n{table[of_form].dropna(how='all').round(3).to_string(na_rep='-')}")


def _study(args: argparse.Namespace) -> None:
    from sat2dem_core.study.report import write_report
    from sat2dem_core.study.runner import run_study

    print(f"{args.table}: {len(run_study(args.study, args.table))} runs")
    if args.report:
        print(*write_report(args.table, args.report), sep="\n")


def _benchmark(args: argparse.Namespace) -> None:
    from sat2dem_core.dataset.registry import find_site
    from sat2dem_core.study import benchmark
    from sat2dem_core.study.runner import run_study

    wanted = BENCHMARKS if args.only is None else (choose("table", args.only, BENCHMARKS),)
    folder, sites = Path(args.folder), args.scenes and [find_site(name) for name in args.scenes]
    if "refinement" in wanted:
        path = folder / "refinement.csv"
        if args.store:
            table = benchmark.store_table(path, args.store)[["k", "method", "tiles", "MAE", "ratio", "seconds"]]
        else:
            table = benchmark.summarize_refinement(benchmark.refinement_table(path, sites))
        print(table.round(3).to_string(index=False))
    if "methods" in wanted:
        table = run_study(args.study or benchmark.default_study(), folder / "methods.csv", args.store)
        print(benchmark.summarize_methods(table).round(3).to_string(index=False))


def _export(args: argparse.Namespace) -> None:
    from sat2dem_core.prediction.export import export_onnx

    paths = export_onnx(args.weights, args.out, gsd=args.gsd, overwrite=args.overwrite)
    print(*paths, sep="\n")


RUN = {
    "data": _data, "train": _train, "info": _info, "predict": _predict, "refine": _refine, "evaluate": _evaluate,
    "study": _study, "benchmark": _benchmark, "export": _export,
}
