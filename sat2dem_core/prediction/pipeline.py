"""Elevation for an image of any size, in steps that can be interrupted, repeated and spread over a cluster.

1. Strips: the network predicts one row of overlapping tiles at a time, and the result is saved.
2. Joints: the steps in height between each strip and the next are measured; with the steps within strips, they
   determine the level of every tile (:mod:`sat2dem_core.prediction.mosaic`).
3. Blocks: some rows at a time, the tiles are blended into one surface in a Zarr array.
4. The surface is tied to known heights, if there are any (:mod:`sat2dem_core.prediction.anchors`), and written, all
   files together.

Intermediate results lie in a hidden folder next to the output until the end, so that the same command resumes an
interrupted prediction. Memory holds one strip or one block, never the whole image.
"""

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from sat2dem_core.digest import digest
from sat2dem_core.errors import InvalidConfig, NoTiles
from sat2dem_core.prediction.anchors import Fit, check_surface, fit_anchors, read_anchors
from sat2dem_core.prediction.dem_items import describe
from sat2dem_core.prediction.items import files_of, name_of
from sat2dem_core.prediction.mosaic import starts
from sat2dem_core.prediction.pieces import (
    Plan, blend_block, find_levels, measure_joint, predict_strip, remove_strips, scratch_bytes,
)
from sat2dem_core.prediction.support import Support, measure_support
from sat2dem_core.prediction.weights import DEFAULT, Weights, load_weights, shipped
from sat2dem_core.prediction.work import (
    ROWS, check_outputs, find_outputs, parts_folder, run_stage, working_folder, write_files, write_item,
)
from sat2dem_core.rasters import cog
from sat2dem_core.rasters.imagery import Image, open_image
from sat2dem_core.rasters.reader import version_of
from sat2dem_core.rasters.solar import find_sun

# The modules that decide what a prediction is: one that was interrupted goes on only with the same.
MEANING = (
    "pieces", "mosaic", "robust", "confidence", "weights", "imagery", "reader", "fill", "grids", "networks",
    "attention", "normalize", "augment",
)


@dataclass(frozen=True)
class Prediction:
    """The result of :func:`predict`.

    Attributes:
        path: of the DEM.
        interval: of the half width of its prediction interval; None if it was not asked for, or lies in the same store.
        domain: of the distance from the training distribution; None likewise.
        item: of the STAC item that describes these files; None if it was not asked for.
        tags: of the files.
        anchors: one row for each anchor with its residual after the fit, meters; None without anchors.
        groups: number of groups of connected tiles; with more than one, because nodata divides the image, the steps in
            relative height between them are unknown.
        outside: share of the predicted pixels that lie outside the training distribution.
    """

    path: Path
    interval: Path | None
    domain: Path | None
    item: Path | None
    tags: dict[str, str]
    anchors: pd.DataFrame | None
    groups: int
    outside: float


def predict(
    image: str | os.PathLike, out: str | os.PathLike,
    weights: str | os.PathLike | Sequence[str | os.PathLike] = DEFAULT, *,
    bands: Sequence[int | str] | None = None, stretch: tuple[float, float] | None = None,
    nodata: float | str | None = "declared", gsd: float | None = None, sun: float | None = None,
    date: str | None = None,
    anchors: str | os.PathLike | None = None, anchor_band: int | str | None = None, surface: str | None = None,
    vertical_datum: str | None = None,
    interval: str | os.PathLike | None = None, domain: str | os.PathLike | None = None, style: bool = False,
    stac: bool = False, overlap: float = 0.5, batch: int = 32, caution: bool = True, overwrite: bool = False,
    client: Any = None, progress: bool = True,
) -> Prediction:
    """Predict the elevation of an image, and write it as a Cloud-Optimized GeoTIFF or a Zarr store.

    The DEM has one band, elevation in meters (float32). Two more files can be had: half the width of its prediction
    interval in meters, which covered the truth in 90 % of the pixels of the area that the weights were calibrated on;
    and the image's Mahalanobis distance from the training distribution, where more than 1 is out of domain. A Zarr
    store holds all three as ``elevation``, ``interval`` and ``distance``. With weights that predict relief, elevation
    is relative (meters above the lowest point) unless ``anchors`` give it a vertical reference, and the interval is
    that of the height above the mean of its surroundings, one tile wide.

    Args:
        image: any raster that GDAL reads, or what :func:`sat2dem_core.prediction.items.open_item` returns. For it and
            for ``bands``, ``stretch``, ``nodata`` and ``gsd`` see :func:`sat2dem_core.rasters.imagery.open_image`.
        out: the file to write: ``….tif``, or ``….zarr``.
        weights: see :func:`sat2dem_core.prediction.weights.load_weights`. Several form an ensemble, whose members
            differ in their seed; its interval is calibrated for the first member alone, and so tends to be too wide.
        sun: the sun's azimuth when the image was taken, degrees clockwise from north. By default that of ``date``, or
            that in the image's metadata, or a morning's: south-east on the northern hemisphere, north-east on the
            southern.
        date: when the image was taken, ``2023-07-01`` or ``2023-07-01T10:30`` in UTC.
        anchors, anchor_band, surface, vertical_datum: see :func:`sat2dem_core.prediction.anchors.read_anchors`.
        interval, domain: GeoTIFFs to write half the width of the interval, and the distance, to.
        style: also write a style with the name of ``out`` and the ending ``.qml``, with which QGIS draws elevation in
            colors instead of gray.
        stac: also write a STAC item that describes these files, with the name of ``out`` and the ending ``.json``; see
            :mod:`sat2dem_core.prediction.dem_items`.
        overlap: of neighboring tiles, as a share of their side.
        batch: tiles that the network predicts at once; the result does not depend on it.
        caution: if the median tile is out of domain, divide all relief by its distance, because the model cannot know
            how rugged such terrain is.
        overwrite: replace files that exist, but never one that is read.
        client: a dask client, whose workers compute strips and blocks; they must share one file system.
        progress: show progress bars.

    Raises:
        OutputExists: a file to write exists, or is one that is read.
        InvalidConfig: a setting is out of its range, or the members of an ensemble do not fit together.
        NoTiles: the image is smaller than a tile.
        CannotWrite: for example, the disk is full; the same command resumes the prediction.
        RunBusy: another process is writing the same file.
        UnreadableRaster, MissingCRS, UnsupportedImagery, UnknownName, InvalidAnchors, MissingExtra: see the functions
            named above.
    """
    out = Path(out)
    outputs = find_outputs(out, {"interval": interval, "distance": domain}, style, stac)
    check_settings(overlap, batch, gsd)
    check_surface(anchors, surface)
    sources = [weights] if isinstance(weights, str | os.PathLike) else list(weights)
    check_outputs(outputs, [*files_of(image), anchors, *sources], overwrite)
    members = load_members(sources)
    first = members[0]
    picture = open_image(image, *first.gsd, bands=bands, stretch=stretch, nodata=nodata, gsd=gsd)
    light = find_sun(image, picture.place, sun, date)
    description = describe(image, picture, date, [anchors]) if stac else None
    plan = make_plan(picture, members, sources, light.azimuth, overlap, batch, out)
    known = None
    if anchors is not None:
        known = read_anchors(anchors, picture, surface, anchor_band, vertical_datum)
    identity = asdict(plan) | {"batch": None, "version": version_of(plan.image.path), "code": digest(MEANING)}
    with working_folder(Path(plan.folder), identity, outputs, overwrite, scratch_bytes(plan), progress):
        mosaic = _make_mosaic(plan, first, client, progress)
        unit = first.unit(plan.image.gsd) if first.relative else 1.0
        amplitude = unit / max(1.0, mosaic.distance if caution and first.relative else 1.0)
        if amplitude < unit:
            warnings.warn(lowering(image, mosaic.distance), stacklevel=2)
        lows, shape = np.array(mosaic.lows) * amplitude, plan.image.grid.shape
        support = None
        if known is not None:
            fit = fit_anchors(known, mosaic.store, amplitude, lows)
            support = measure_support(fit, known, zarr.open_group(mosaic.store, mode="r"), plan.tile)
            _warn_of_support(support, plan)
        elif first.relative:
            fit = Fit.relative(lows, shape)
        else:
            fit = Fit.relative(np.zeros(1), shape)
        tags = _tags(plan, members, fit, support, amplitude / unit)
        tags |= {"IMAGE": name_of(image), "SUN": f"{light.azimuth:.0f} degrees, {light.source}"}
        finish = _Finish(str(mosaic.store), amplitude, unit, replace(fit, table=None))
        if out.suffix == ".zarr":
            cog.write_zarr(out, plan.image.grid, finish, tags, ROWS, client, progress)
            if description:
                write_item(outputs, plan.image.grid, tags, description)
        else:
            write_files(outputs, Path(plan.folder), plan.image.grid, finish, tags, progress, description=description)
    return Prediction(
        out, outputs.get("interval"), outputs.get("distance"), outputs.get("item"), tags, fit.table, len(mosaic.lows),
        mosaic.outside,
    )


def lowering(image: object, distance: float) -> str:
    """The warning that relief is lowered, because the median tile of an image is out of domain."""
    return (
        f"{image} lies outside the training distribution (its distance is {distance:.2g}, and more than 1 is out of "
        f"domain): relief is lowered to {1 / distance:.0%}, because the model cannot know how rugged such terrain is; "
        "--no-caution keeps it"
    )


def check_settings(overlap: float, batch: int, gsd: float | None) -> None:
    if not 0 <= overlap < 0.9:
        raise InvalidConfig(f"overlap is {overlap}: give a share of a tile's side from 0 to below 0.9")
    if batch < 1:
        raise InvalidConfig(f"batch is {batch}: give 1 or more tiles")
    if gsd is not None and not 0 < gsd < math.inf:
        raise InvalidConfig(f"gsd, the ground sampling distance, is {gsd:g}: give meters above 0")


def load_members(sources: Sequence[str | os.PathLike]) -> list[Weights]:
    """The members of an ensemble, which predict the same quantity on the same tiles.

    Raises:
        InvalidConfig: they do not fit together.
    """
    members = [_loaded(os.fspath(source), _modified(source)) for source in sources]
    first = members[0]
    for member, source in zip(members[1:], sources[1:]):
        if (member.model.config.tile, member.gsd, member.hurst, member.relative) != (
            first.model.config.tile, first.gsd, first.hurst, first.relative
        ):
            raise InvalidConfig(
                f"{source} and {sources[0]} differ in tile, ground sampling distance or normalization: give an "
                "ensemble of weights that differ in their seed alone"
            )
    return members


@lru_cache(maxsize=8)  # one image after the other is predicted with the same
def _loaded(source: str, modified: int | None) -> Weights:
    return load_weights(source)


def _modified(source: str | os.PathLike) -> int | None:
    """When a file or a run's folder was last changed, nanoseconds; None for weights that have a name or an address."""
    path = Path(source)
    return path.stat().st_mtime_ns if path.exists() else None


def make_plan(
    image: Image, members: list[Weights], sources: list, sun: float, overlap: float, batch: int, out: Path
) -> Plan:
    """Where the tiles lie, and all else that a worker needs.

    Raises:
        NoTiles: the image is smaller than a tile.
    """
    size = members[0].model.config.tile
    if min(image.grid.shape) < size:
        raise NoTiles(
            f"{image.path} is {image.grid.height} x {image.grid.width} px at {image.gsd:.3g} m, smaller than one tile "
            f"of {size} x {size} px ({size * image.gsd / 1000:.3g} km): give a larger image"
        )
    stride = max(1, round(size * (1 - overlap)))
    rows, columns = (tuple(starts(side, size, stride)) for side in image.grid.shape)
    checksums = tuple(member.sha256 for member in members)
    # Absolute, because workers may run in another folder; a shipped name stays a name, whatever lies in this one.
    names = shipped()
    sources = [
        source if source in names or not Path(source).exists() else Path(source).absolute() for source in sources
    ]
    weights = tuple(map(str, sources))
    return Plan(image, weights, checksums, mirrored(sun, image), rows, columns, size, batch, str(parts_folder(out)))


def mirrored(sun: float, image: Image) -> tuple[int, ...]:
    """The axes along which tiles are flipped, so that the sun stands in the south-east as in the training images.

    Args:
        sun: azimuth, degrees clockwise from true north.
    """
    azimuth = (sun - image.north) % 360
    north, west = azimuth < 90 or azimuth > 270, azimuth > 180
    return tuple(axis for axis, flip in ((-2, north), (-1, west)) if flip)


@dataclass(frozen=True)
class _Mosaic:
    """All tiles blended into one surface, in the units of the network.

    Attributes:
        store: Zarr group of the arrays ``cog.BANDS``.
        distance: from the training distribution, of the median tile.
        lows: lowest height of each group of connected tiles.
        outside: share of the predicted pixels outside the training distribution.
    """

    store: Path
    distance: float
    lows: tuple[float, ...]
    outside: float


def _make_mosaic(plan: Plan, weights: Weights, client: Any, progress: bool) -> _Mosaic:
    """Predict all tiles, find their levels, and blend them."""
    strips = run_stage("strip", predict_strip, plan, range(len(plan.rows)), client, progress)
    joints = run_stage("joint", measure_joint, plan, range(len(plan.rows) - 1), client, progress)
    levels, groups = find_levels(plan, strips, joints, weights)
    store = Path(plan.folder) / "mosaic.zarr"
    scratch = cog.scratch(store, plan.image.grid, ROWS)
    if groups.max() > 0:
        chunks = scratch["elevation"].chunks
        scratch.require_array("group", shape=plan.image.grid.shape, chunks=chunks, dtype="uint32", fill_value=0)
    blocks = run_stage(
        "block", blend_block, plan, range(plan.blocks), client, progress, levels, groups,
        after=lambda first: remove_strips(plan, first),
    )
    distance = float(np.median(np.concatenate([strip["distances"] for strip in strips])))
    lows = np.min([block["lows"] for block in blocks], axis=0)
    pixels, outside = (sum(block[name] for block in blocks) for name in ("pixels", "outside"))
    return _Mosaic(store, distance, tuple(lows.tolist()), outside / pixels)


@dataclass(frozen=True)
class _Finish:
    """The last step: rows of the mosaic in meters, with the fitted surface added, (3, rows, width) float32.

    Attributes:
        store: of the mosaic.
        amplitude: factor on its heights.
        unit: factor on its intervals.
        fit: surface to add.
    """

    store: str
    amplitude: float
    unit: float
    fit: Fit

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        store = zarr.open_group(self.store, mode="r")
        elevation, interval, distance = (store[name][top:bottom] for name in cog.BANDS)
        groups = store["group"][top:bottom] if "group" in store else None
        elevation = elevation * self.amplitude + self.fit.surface(top, bottom, groups)
        return np.stack([elevation, interval * self.unit, distance]).astype(np.float32)


def _warn_of_support(support: Support, plan: Plan) -> None:
    width = f"{plan.tile * plan.image.gsd / 1000:.3g} km"
    if support.relative:
        warnings.warn(
            f"{support.relative} of {support.groups} areas that nothing connects hold no anchor: they stay relative, "
            "their lowest points at 0 m", stacklevel=3,
        )
    if support.heights() != "absolute":
        warnings.warn(
            f"heights are {support.heights()} of the area: the rest has no anchor within one tile ({width}), so that "
            "only its form is predicted; give anchors there, too", stacklevel=3,
        )


def _tags(
    plan: Plan, members: list[Weights], fit: Fit, support: Support | None, lowered: float
) -> dict[str, str]:
    """Tags of the file: how it was made, and how to read it."""
    first = members[0]
    heights = support.heights() if support else "relative" if first.relative else "absolute"
    surroundings = f" of heights about their surroundings, {plan.tile * plan.image.gsd / 1000:.3g} km"
    tags = {
        "MODEL": ", ".join(str(member.card.get("name")) for member in members),
        "WEIGHTS_SHA256": ", ".join(member.sha256 for member in members),
        "TRAINING_DATA": str(first.card.get("data")), "DATE": pd.Timestamp.now("UTC").strftime("%Y-%m-%d"),
        "HEIGHTS": heights,
        "BANDS_USED": ", ".join(map(str, plan.image.bands)),
        "GROUND_SAMPLING_DISTANCE": f"{plan.image.gsd:.6g} m",
        "INTERVAL": f"{first.interval.share:.0%}" + surroundings * first.relative,
        "RELIEF_LOWERED_TO": f"{lowered:.0%}",
        "MIRRORED_FOR_SUN": {(): "no", (-2,): "up-down", (-1,): "left-right"}.get(plan.mirrored, "both ways"),
        "AREA_OR_POINT": "Area",
    }
    return tags | (fit.tags() if support else {})
