"""Elevation for an image of any size, in steps that can be interrupted, repeated and spread over a cluster.

1. Strips: a row of overlapping tiles at a time goes through the network, and lands in a file.
2. Joints: how far each strip's tiles stand above those of the next; with the steps within strips, the levels of all tiles
   follow (:mod:`sat2dem_core.prediction.mosaic`).
3. Blocks: some rows at a time, tiles are faded into one surface, in a Zarr array.
4. The surface is tied to known heights, where there are any (:mod:`sat2dem_core.prediction.anchors`), and written.

What a step has made lies in a folder beside the result until the end, so that the same command goes on from there. Memory
holds a strip or a block, never the scene.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from tqdm import tqdm

from sat2dem_core.errors import InvalidConfig, NoTiles, OutputExists
from sat2dem_core.prediction.anchors import Fit, fit_anchors
from sat2dem_core.prediction.mosaic import starts
from sat2dem_core.prediction.pieces import ROWS, Plan, blend_block, find_levels, measure_joint, predict_strip
from sat2dem_core.prediction.weights import DEFAULT, Weights, load_weights
from sat2dem_core.rasters import cog
from sat2dem_core.rasters.atomic import cannot_write, claimed, replacing
from sat2dem_core.rasters.reader import Image, open_image


@dataclass(frozen=True)
class Prediction:
    """What came of a prediction.

    Attributes:
        path: of the DEM.
        tags: what the file says about itself.
        anchors: one row an anchor with its residual after the fit, meters; None without anchors.
        groups: of connected tiles; more than one where nodata parts the image, and then relative heights of one say
            nothing about those of another.
        outside: share of the predicted pixels outside of what the model was trained on.
    """

    path: Path
    tags: dict[str, str]
    anchors: pd.DataFrame | None
    groups: int
    outside: float


def predict(
    image: str | os.PathLike, out: str | os.PathLike, weights: str | os.PathLike | Sequence[str | os.PathLike] = DEFAULT, *,
    bands: Sequence[int | str] | None = None, stretch: tuple[float, float] | None = None,
    nodata: float | str | None = "declared", gsd: float | None = None, sun: float | None = None,
    anchors: str | os.PathLike | None = None, surface: str | None = None, overlap: float = 0.5, batch: int = 32,
    caution: bool = True, overwrite: bool = False, client: Any = None, progress: bool = True,
) -> Prediction:
    """Predict the elevation of an image, and write it as a Cloud-Optimized GeoTIFF or a Zarr store.

    The result has three bands in float32: elevation in meters; half the width of the interval that held the truth in
    90 % of the pixels of ground that the weights had not seen; and how far the image is from what they were trained on,
    where more than 1 is outside. With weights that predict relief, elevation is relative (meters above the lowest point)
    unless ``anchors`` tie it to the Earth, and the interval is of the height about its surroundings, a tile wide.

    Args:
        image: any raster that GDAL reads; see :func:`sat2dem_core.rasters.reader.open_image` for it and for ``bands``, ``stretch``,
            ``nodata`` and ``gsd``.
        out: the file to write: ``….tif``, or ``….zarr``.
        weights: see :func:`sat2dem_core.prediction.weights.load_weights`; several are an ensemble, whose members differ in their seed. Its
            interval is calibrated for the first alone, and so on the wide side.
        sun: azimuth when the image was taken, degrees clockwise from north. Without it, south-east on the northern
            hemisphere and north-east on the southern, where it stands in the morning.
        anchors, surface: see :func:`sat2dem_core.prediction.anchors.fit_anchors`.
        overlap: of neighboring tiles, as a share of their side.
        batch: tiles at once; the result does not depend on it.
        caution: lower relief as a whole where the image as a whole is outside of what the model knows, by as much as it
            is: a model knows nothing of how rugged foreign ground is.
        overwrite: replace what stands at ``out``.
        client: a dask client, on whose workers strips and blocks are then made; they must see one file system.
        progress: show progress bars.

    Raises:
        OutputExists: something stands at ``out``.
        NoTiles: the image is smaller than a tile.
        CannotWrite: the disk is full, say; the same command goes on from there.
        RunBusy: another process is making the same file.
        UnreadableRaster, MissingCRS, UnsupportedImagery, UnknownName, InvalidAnchors: see the functions named above.
    """
    out = Path(out)
    if out.suffix not in (".tif", ".tiff", ".zarr"):
        raise InvalidConfig(f"{out} is neither a GeoTIFF nor a Zarr store: give a name that ends in .tif or .zarr")
    if out.exists() and not overwrite:
        raise OutputExists(f"{out} exists: give another name, or --overwrite to replace it")
    if not 0 <= overlap < 0.9:
        raise InvalidConfig(f"overlap is {overlap}: give a share of a tile's side from 0 to below 0.9")
    if batch < 1:
        raise InvalidConfig(f"batch is {batch}: give 1 or more tiles")
    sources = [weights] if isinstance(weights, str | os.PathLike) else list(weights)
    members = [load_weights(source) for source in sources]
    first = _alike(members, sources)
    picture = open_image(image, *first.gsd, bands=bands, stretch=stretch, nodata=nodata, gsd=gsd)
    plan = _plan(picture, members, sources, sun, overlap, batch, out)
    with _parts(plan) as folder:
        strips = _stage("strip", predict_strip, plan, range(len(plan.rows)), client, progress)
        joints = _stage("joint", measure_joint, plan, range(len(plan.rows) - 1), client, progress)
        levels, groups = find_levels(plan, strips, joints, first)
        cog.scratch(folder / "mosaic.zarr", plan.image, ROWS)
        blocks = _stage("block", blend_block, plan, range(plan.blocks), client, progress, levels)
        distance = float(np.median(np.concatenate([strip["distances"] for strip in strips])))
        factor = first.unit(plan.image.gsd) if first.relative else 1.0
        amplitude = factor / max(1.0, distance if caution and first.relative else 1.0)
        if amplitude < factor:
            warnings.warn(
                f"{image} is unlike what the model was trained on (its distance is {distance:.2g}, more than 1 is outside): "
                f"relief is lowered to {amplitude / factor:.0%}, as the model cannot know how rugged such ground is; "
                "--no-caution leaves it",
                stacklevel=2,
            )
        fit = fit_anchors(anchors, surface, folder / "mosaic.zarr", plan.image, amplitude) if anchors is not None else None
        low = min(block["low"] for block in blocks) * amplitude if first.relative else 0.0
        fit = fit or Fit.level(-low)
        pixels, outside = (sum(block[name] for block in blocks) for name in ("pixels", "outside"))
        tags = _tags(plan, members, first, fit, anchors, amplitude / factor)
        finish = _Finish(str(folder / "mosaic.zarr"), amplitude, factor, fit)
        write = cog.write_zarr if out.suffix == ".zarr" else cog.write_cog
        write(out, plan.image, finish, tags, ROWS, client, progress)
    return Prediction(out, tags, fit.table, groups, outside / pixels)


def _alike(members: list[Weights], sources: list) -> Weights:
    """The first of an ensemble, whose members must answer the same question."""
    first = members[0]
    for member, source in zip(members[1:], sources[1:]):
        if (member.model.config.tile, member.gsd, member.hurst, member.relative) != (
            first.model.config.tile, first.gsd, first.hurst, first.relative
        ):
            raise InvalidConfig(
                f"{source} and {sources[0]} differ in tile, ground sampling distance or normalization: an ensemble needs weights "
                "that differ in their seed alone"
            )
    return first


def _plan(
    picture: Image, members: list[Weights], sources: list, sun: float | None, overlap: float, batch: int, out: Path
) -> Plan:
    size = members[0].model.config.tile
    if min(picture.height, picture.width) < size:
        raise NoTiles(
            f"{picture.path} is {picture.height} x {picture.width} px at {picture.gsd:.3g} m, smaller than one tile of "
            f"{size} x {size} px ({size * picture.gsd / 1000:.3g} km): give a larger image"
        )
    if sun is None:
        sun = 45.0 if (picture.latitude or 0) < 0 else 135.0
    azimuth = sun % 360
    # The sun of the training images stands in the south-east; another is brought there by mirroring the tile.
    mirrored = tuple(axis for axis, wrong in ((-2, azimuth < 90 or azimuth > 270), (-1, azimuth > 180)) if wrong)
    stride = max(1, round(size * (1 - overlap)))
    rows, columns = (tuple(starts(side, size, stride)) for side in (picture.height, picture.width))
    folder = out.absolute().with_name(f".{out.name}.parts")
    checksums = tuple(member.sha256 for member in members)
    sources = [Path(source).absolute() if Path(source).exists() else source for source in sources]  # workers stand elsewhere
    return Plan(picture, tuple(map(str, sources)), checksums, mirrored, rows, columns, size, batch, str(folder))


@contextmanager
def _parts(plan: Plan) -> Iterator[Path]:
    """The folder beside the result where parts collect: kept when interrupted, removed at the end.

    It is emptied where it holds parts of another prediction.
    """
    source = Path(plan.image.path).stat()
    told = asdict(plan) | {"batch": None, "size": source.st_size, "changed": source.st_mtime_ns}
    folder, key = Path(plan.folder), json.dumps(told, sort_keys=True, default=str)
    try:
        with claimed(folder):
            file = folder / "plan.json"
            if not file.exists() or file.read_text() != key:
                for old in folder.iterdir():
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
                with replacing(file) as beside:
                    beside.write_text(key)
            yield folder
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _stage(
    name: str, work: Callable, plan: Plan, numbers: Sequence[int], client: Any, progress: bool, *more: Any
) -> list[dict[str, Any]]:
    """Do what is not done yet, here or on a cluster, and collect what each piece tells."""
    files = [Path(plan.folder) / f"{name}-{number:05d}.json" for number in numbers]
    missing = [number for number, file in zip(numbers, files) if not file.exists()]
    if client is None:
        done = ((number, work(plan, number, *more)) for number in missing)
    else:
        from dask.distributed import as_completed

        shared = client.scatter(more, broadcast=True) if more else ()
        futures = {client.submit(work, plan, number, *shared, pure=False): number for number in missing}
        done = ((futures[future], future.result()) for future in as_completed(futures))
    bar = tqdm(done, f"{name}s", len(files), initial=len(files) - len(missing), disable=not progress)
    for number, told in bar:
        with replacing(Path(plan.folder) / f"{name}-{number:05d}.json") as beside:
            beside.write_text(json.dumps(told))
    return [json.loads(file.read_text()) for file in files]


@dataclass(frozen=True)
class _Finish:
    """The last step: some rows of the mosaic in meters on the Earth, (3, rows, width) float32."""

    store: str
    amplitude: float
    factor: float
    fit: Fit

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        store = zarr.open_group(self.store, mode="r")
        elevation, interval, distance = (store[name][top:bottom] for name in cog.BANDS)
        elevation = elevation * self.amplitude + self.fit.surface(top, bottom, elevation.shape[1])
        return np.stack([elevation, interval * self.factor, distance]).astype(np.float32)


def _tags(plan: Plan, members: list[Weights], first: Weights, fit: Fit, anchors: object, lowered: float) -> dict[str, str]:
    """What the file says about itself."""
    surroundings = f" of heights about their surroundings, {plan.tile * plan.image.gsd / 1000:.3g} km"
    told = {
        "MODEL": ", ".join(str(member.card.get("name")) for member in members),
        "WEIGHTS_SHA256": ", ".join(member.sha256 for member in members),
        "TRAINING_DATA": str(first.card.get("data")), "DATE": pd.Timestamp.now("UTC").strftime("%Y-%m-%d"),
        "HEIGHTS": "absolute" if anchors is not None or not first.relative else "relative",
        "IMAGE": Path(plan.image.path).name, "BANDS_USED": ", ".join(map(str, plan.image.bands)),
        "GROUND_SAMPLING_DISTANCE": f"{plan.image.gsd:.6g} m",
        "INTERVAL": f"{first.interval.share:.0%}" + surroundings * first.relative,
        "RELIEF_LOWERED_TO": f"{lowered:.0%}",
        "MIRRORED_FOR_SUN": {(): "no", (-2,): "up-down", (-1,): "left-right"}.get(plan.mirrored, "both ways"),
        "AREA_OR_POINT": "Area",
    }
    return told | (fit.tags() if anchors is not None else {})
