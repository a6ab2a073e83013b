"""The module from a shell: ``python -m sat2dem_core`` with ``data``, ``train``, ``predict``, ``evaluate`` or ``study``."""

import argparse
import os
import sys
import warnings
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from sat2dem_core.config import PRESETS, Config, meanings, preset
from sat2dem_core.dataset.catalogs import ZENODO, Request, source
from sat2dem_core.errors import InvalidConfig, InvalidRegion, Sat2DEMError
from sat2dem_core.rasters.atomic import replacing


def parser() -> argparse.ArgumentParser:
    """The command line, every setting of :class:`sat2dem_core.config.Config` an option of ``train``."""
    top = argparse.ArgumentParser(prog="sat2dem_core", description="One satellite image in, a DEM out.")
    verbs = top.add_subparsers(dest="verb", required=True)

    _add_data(verbs.add_parser("data", help="build, fetch, check or convert data sets").add_subparsers(dest="what", required=True))

    train = verbs.add_parser(
        "train", help="train a model, or resume or load the run that is already there",
        description="Train a model, or resume or load the run that is already there. On several GPUs: python -m "
        "torch.distributed.run --nproc-per-node 2 -m -- sat2dem_core train ...",
    )
    train.add_argument("--preset", default="cpu", help=f"settings to start from: {', '.join(PRESETS)} (default: cpu)")
    train.add_argument("--run", metavar="DIR", help="the run's folder (default: a cache folder named after settings and data)")
    train.add_argument("--tensorboard", action="store_true", help="write the log for TensorBoard too, in the run's folder")
    train.add_argument("--accept-changed-code", action="store_true", help="go on with a run that other code began")
    settings = train.add_argument_group("settings", "each in place of the preset's; in brackets the value in preset cpu")
    for field in fields(Config):
        kind: Any = field.type
        meaning = f"{meanings()[field.name]} [{field.default}]".replace("%", "%%")
        settings.add_argument(f"--{field.name.replace('_', '-')}", metavar=kind.__name__.upper(), help=meaning)

    _add_predict(verbs.add_parser("predict", help="elevation for an image of any size, as a Cloud-Optimized GeoTIFF or Zarr"))

    evaluate = verbs.add_parser("evaluate", help="score a run on its held-out tiles beside baselines, or any DEM against another")
    evaluate.add_argument("what", metavar="DIR | DEM", help="a run's folder, of which the best checkpoint is scored; or a raster")
    evaluate.add_argument("--truth", metavar="DEM", help="what to score a raster against, on the same grid")
    evaluate.add_argument("--mask-water", action="store_true", help="leave out water: what is quite level in the truth")
    evaluate.add_argument("--table", metavar="CSV", help="write every measure")

    study = verbs.add_parser(
        "study", help="make every run of a study file, and a table with a row a run",
        description="Make every run of a study file, and a table with a row a run. On several GPUs or machines, a share "
        "each: python -m torch.distributed.run --nproc-per-node 2 -m -- sat2dem_core study ...",
    )
    study.add_argument("study", metavar="STUDY", help="a TOML file: a preset and [[grid]] tables of settings")
    study.add_argument("table", metavar="CSV", help="the table to write; an interrupted study goes on where it stopped")
    study.add_argument("--report", metavar="FOLDER", help="write it there as Markdown, LaTeX and a figure, too")
    return top


def _add_predict(predict: argparse.ArgumentParser) -> None:
    predict.description = (
        "Predict the elevation of an image: meters, half the width of an interval that held the truth in 90 % of unseen ground, and how "
        "far the image is from what the model was trained on (more than 1 is outside). An interrupted prediction goes on where it stopped."
    )
    predict.add_argument("image", metavar="IMAGE", help="any raster that GDAL reads")
    predict.add_argument("out", metavar="OUT", help="to write: .tif or .zarr")
    predict.add_argument(
        "--weights", nargs="+", metavar="WEIGHTS",
        help="a name, a .safetensors file, a run's folder, or https://...#sha256=...; several are an ensemble (default: those that ship)",
    )
    predict.add_argument("--bands", metavar="R,G,B", help="numbers or names of red, green and blue (default: what the file says)")
    predict.add_argument("--stretch", nargs=2, type=float, metavar=("LOW", "HIGH"), help="values that become black and white")
    predict.add_argument("--nodata", metavar="VALUE", help="that means nothing here, or 'none' to ignore what the file declares")
    predict.add_argument("--gsd", type=float, metavar="METERS", help="to predict at; of an image without a CRS, the size of its pixels")
    predict.add_argument("--sun", type=float, metavar="AZIMUTH", help="degrees from north (default: morning, by latitude)")
    predict.add_argument(
        "--anchors", metavar="DEM | CSV | POINTS | LON,LAT,HEIGHT", help="known heights to tie relief to; a negative longitude as --anchors=-112,37,1500"
    )
    predict.add_argument("--surface", help="between relief and anchors: offset, plane, quadratic or cells")
    predict.add_argument("--overlap", type=float, default=0.5, metavar="SHARE", help="of neighboring tiles (default: 0.5)")
    predict.add_argument("--batch", type=int, default=32, metavar="TILES", help="at once (default: 32)")
    predict.add_argument("--no-caution", action="store_true", help="do not lower relief where the image is unlike training")
    predict.add_argument("--scheduler", metavar="ADDRESS", help="of a dask cluster to predict on (default: this process)")
    predict.add_argument("--overwrite", action="store_true", help="replace what stands at OUT")


def _add_data(verbs: Any) -> None:
    build = verbs.add_parser("build", help="tiles of any region and period, from open catalogs into a store")
    build.add_argument("store", metavar="STORE", help="to write, such as valley.zarr; an interrupted build goes on where it stopped")
    build.add_argument("--region", nargs="+", required=True, metavar="W S E N | FILE", help="degrees, or a GeoJSON file")
    build.add_argument("--start", required=True, metavar="DAY", help="first day, such as 2023-05-01")
    build.add_argument("--end", required=True, metavar="DAY", help="last day")
    build.add_argument("--sensor", default="sentinel-2", help="sentinel-2 (default) or landsat")
    build.add_argument("--catalog", help="of the imagery: earth-search or planetary-computer (default: the sensor's)")
    build.add_argument("--elevation-catalog", metavar="CATALOG", help="of the elevation (default: earth-search)")
    build.add_argument("--url", help="another address of both catalogs, a mirror")
    build.add_argument("--crs", help="one CRS in meters for all tiles, such as EPSG:3035 (default: each tile's UTM zone)")
    build.add_argument("--max-cloud", type=float, default=60.0, metavar="PERCENT", help="of an acquisition (default: 60)")
    build.add_argument("--exclude", nargs="+", default=[], metavar="ID", help="acquisitions to leave out")
    build.add_argument("--scheduler", metavar="ADDRESS", help="of a dask cluster to build on (default: this computer)")

    iberia = verbs.add_parser("iberia", help="fetch the paper's data set and import it into a store")
    iberia.add_argument("store", nargs="?", metavar="STORE", help="default: beside the download, named after the sensor")
    iberia.add_argument("--sensor", default="sentinel-2", help="sentinel-2 (default) or landsat")
    iberia.add_argument("--record", default=ZENODO, metavar="URL", help="the record's API address (default: %(default)s)")

    verbs.add_parser("zion", help="fetch the 30 m scene of Zion National Park")

    check = verbs.add_parser("check", help="look at a store tile by tile; flag what is cloudy, shifted, incomplete or odd")
    check.add_argument("store", metavar="STORE")
    check.add_argument("--table", metavar="CSV", help="write the whole table")
    check.add_argument("--figure", metavar="PNG", help="draw it")

    export = verbs.add_parser("export", help="write a store as the paper's folders of GeoTIFFs")
    export.add_argument("store", metavar="STORE")
    export.add_argument("folder", metavar="FOLDER", help="to write")

    take = verbs.add_parser("import", help="make a store of the paper's folders of GeoTIFFs")
    take.add_argument("folder", metavar="FOLDER")
    take.add_argument("store", metavar="STORE", help="to write")
    take.add_argument("--sensor", default="sentinel-2", help="sentinel-2 (default) or landsat")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. A user's mistake ends in one sentence, not a traceback."""
    args = parser().parse_args(arguments)
    try:
        {"data": _data, "train": _train, "predict": _predict, "evaluate": _evaluate, "study": _study}[args.verb](args)
    except Sat2DEMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def _data(args: argparse.Namespace) -> None:
    from sat2dem_core.dataset import (
        building, paper_folders, quality, scenes,
    )  # these import dask and STAC, which takes seconds

    if args.what == "build":
        from dask.distributed import Client

        imagery = source(args.sensor, args.catalog, args.url)
        request = Request(
            args.start, args.end, imagery, source("glo-30", args.elevation_catalog, args.url), args.max_cloud,
            exclude=tuple(args.exclude),
        )
        region = args.region[0] if len(args.region) == 1 else _box(args.region)
        client = Client(args.scheduler) if args.scheduler else None
        made = building.build(args.store, region, request, crs=args.crs, client=client)
    elif args.what == "iberia":
        folder, license = paper_folders.fetch_iberia(args.record)
        made = paper_folders.import_folders(folder, args.store or folder / f"{args.sensor}.zarr", args.sensor, license=license)
    elif args.what == "zion":
        print(f'{scenes.fetch_zion()}: train on it with scene="zion"')
        return
    elif args.what == "check":
        table = quality.inspect(args.store)
        flagged = table[table.flagged != ""]
        if args.table:
            with replacing(Path(args.table)) as beside:
                table.to_csv(beside)
        if args.figure:
            from sat2dem_core.pictures.plots import quality_figure

            with replacing(Path(args.figure)) as beside:
                quality_figure(table, quality.elevation_histogram(args.store)).savefig(beside, format="png", dpi=150)
        columns = ["relief", "cloud_share", "nodata_share", "down", "east", "shading", "flagged"]
        print(flagged[columns].round(2).to_string(na_rep="-") if len(flagged) else "no tile is flagged")
        print(f"{args.store}: {len(table)} tiles, {len(flagged)} flagged")
        return
    elif args.what == "export":
        made = paper_folders.export_folders(args.store, args.folder)
    else:
        made = paper_folders.import_folders(args.folder, args.store, args.sensor)
    print(made)


def _box(texts: list[str]) -> tuple[float, ...]:
    try:
        west, south, east, north = map(float, texts)
    except ValueError as error:
        raise InvalidRegion(f"the region {' '.join(texts)} is no box: give west, south, east, north in degrees, or a GeoJSON file") from error
    return west, south, east, north


def _train(args: argparse.Namespace) -> None:
    from sat2dem_core.training.trainer import train  # torch takes seconds to import: --help need not wait for it

    given = {field: getattr(args, field.name) for field in fields(Config)}
    changes = {field.name: _read(field, text) for field, text in given.items() if text is not None}
    run = train(preset(args.preset, **changes), run=args.run, tensorboard=args.tensorboard, accept_changed_code=args.accept_changed_code)
    if int(os.environ.get("RANK", 0)):
        return  # one of several processes speaks for all
    if not (run.folder / "examples.png").exists():
        from sat2dem_core.pictures.plots import draw_run

        draw_run(run)
    best = run.log.sort_values("validation_mae").iloc[0]
    print(f"{run.folder}: validation MAE {best.validation_mae:.1f} m at step {best.step:.0f}")


def _predict(args: argparse.Namespace) -> None:
    from sat2dem_core.prediction.pipeline import predict
    from sat2dem_core.prediction.weights import DEFAULT

    nodata: float | str | None = "declared" if args.nodata is None else None
    if args.nodata not in (None, "none"):
        try:
            nodata = float(args.nodata)
        except ValueError as error:
            raise InvalidConfig(f"nodata is {args.nodata!r}: give a number, or none") from error
    client = None
    if args.scheduler:
        from dask.distributed import Client

        client = Client(args.scheduler)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        made = predict(
            args.image, args.out, args.weights or DEFAULT, bands=args.bands and args.bands.split(","),
            stretch=args.stretch and tuple(args.stretch), nodata=nodata, gsd=args.gsd, sun=args.sun, anchors=args.anchors,
            surface=args.surface, overlap=args.overlap, batch=args.batch, caution=not args.no_caution, overwrite=args.overwrite,
            client=client,
        )
    told = made.tags
    print(f"{made.path}: {told['HEIGHTS']} heights at {told['GROUND_SAMPLING_DISTANCE']}, {made.outside:.0%} outside of the model's domain")
    if made.anchors is not None:
        print(f"{told['ANCHORS']} anchors, surface {told['ANCHOR_SURFACE']}: RMSE {told['ANCHOR_RMSE']}, largest {told['ANCHOR_LARGEST']}")


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

    from sat2dem_core.evaluation.scoring import evaluate
    from sat2dem_core.evaluation.two_rasters import score

    if args.truth:
        table = pd.DataFrame({args.what: score(args.what, args.truth, mask_water=args.mask_water).result()}).T
    else:
        from sat2dem_core.training.checkpoints import load_model
        from sat2dem_core.dataset.parts import prepare

        model = load_model(args.what)
        data = prepare(model.config)
        table = evaluate(model, data.test, data.train, mask_water=args.mask_water).table
    if args.table:
        with replacing(Path(args.table)) as beside:
            table.to_csv(beside)
    of_form = table.loc[:, "PSNR":"tiles"].columns[:-1]
    print(table.drop(columns=[*of_form, "pixels", "tiles", "flat tiles"]).round(3).to_string(na_rep="-"))
    print(f"\n{table[of_form].dropna(how='all').round(3).to_string(na_rep='-')}")


def _study(args: argparse.Namespace) -> None:
    from sat2dem_core.study.report import write_report
    from sat2dem_core.study.runner import run_study

    print(f"{args.table}: {len(run_study(args.study, args.table))} runs")
    if args.report:
        print(*write_report(args.table, args.report), sep="\n")
