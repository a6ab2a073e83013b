"""Long work on an image in pieces: the files it writes, the folder of its intermediate results, and its stages.

Intermediate results lie in a hidden folder next to the output until the end, so that the same command resumes an
interrupted one. A stage's pieces are computed in this process or on a cluster.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sat2dem_core.errors import InvalidConfig, OutputExists
from sat2dem_core.prediction.dem_items import Description
from sat2dem_core.rasters import cog
from sat2dem_core.rasters.atomic import cannot_write, claimed, replacing
from sat2dem_core.rasters.grids import Grid
from sat2dem_core.rasters.reader import local_file
from sat2dem_core.rasters.style import qgis_style

ROWS = 256  # of a block that is written, and of a chunk of the arrays
WRITTEN = "written.txt"  # lists the files of a result that is complete, in its folder
AHEAD = 4  # pieces for each thread of a cluster that are handed out before the first of them is done


def find_outputs(
    out: Path, more: Mapping[str, str | os.PathLike | None], style: bool, stac: bool = False
) -> dict[str, Path]:
    """The files to write, by the name of their band; a style is called "style", a STAC item "item".

    Args:
        more: GeoTIFFs to write besides, by the name of their band; None for one that is not asked for.

    Raises:
        InvalidConfig: a file has the wrong ending, or two have the same name.
    """
    if out.suffix not in (".tif", ".tiff", ".zarr"):
        raise InvalidConfig(f"{out} is neither a GeoTIFF nor a Zarr store: give a name that ends in .tif or .zarr")
    paths = {name: Path(path) for name, path in more.items() if path is not None}
    if out.suffix == ".zarr" and (paths or style):
        raise InvalidConfig(f"{out} is a store that holds {' and '.join(more)}, too: leave out the other files")
    for path in paths.values():
        if path.suffix not in (".tif", ".tiff"):
            raise InvalidConfig(f"{path} is no GeoTIFF: give a name that ends in .tif")
    outputs = {"elevation": out, **paths} | ({"style": out.with_suffix(".qml")} if style else {})
    outputs |= {"item": out.with_suffix(".json")} if stac else {}
    names = [path.absolute() for path in outputs.values()]
    for path in outputs.values():
        if names.count(path.absolute()) > 1:
            raise InvalidConfig(f"two files to write are both called {path}: give each a name of its own")
    return outputs


def check_outputs(outputs: Mapping[str, Path], inputs: Sequence[Any], overwrite: bool) -> None:
    """Check that no file to write is one to read, or exists without leave to replace it.

    Raises:
        OutputExists: one is, or does.
    """
    read = [file for source in inputs if source is not None and (file := local_file(source)) and file.exists()]
    for path in outputs.values():
        if any(path.exists() and path.samefile(file) for file in read):
            raise OutputExists(f"{path} is a file that the prediction reads: give another name to write to")
    out = outputs["elevation"]
    written = parts_folder(out) / WRITTEN  # by this command, just before it was interrupted
    own = written.read_text(encoding="utf-8").splitlines() if written.is_file() else []
    for path in outputs.values():
        if path.exists() and not overwrite and str(path.absolute()) not in own:
            raise OutputExists(f"{path} exists: give another name, or --overwrite to replace it")


def parts_folder(out: Path) -> Path:
    """The folder of the intermediate results, next to the DEM."""
    return out.absolute().with_name(f".{out.name}.parts")


def write_files(
    outputs: Mapping[str, Path], folder: Path, grid: Grid, finish: cog.Finish, tags: dict[str, str], progress: bool,
    units: cog.Bands = cog.BANDS, description: Description | None = None,
) -> None:
    """Write all files under temporary names, then rename them, the DEM last; see :func:`cog.write_cogs`.

    Args:
        description: for the STAC item among the files.
    """
    with ExitStack() as stack:  # which renames the last file first
        temporary = {name: stack.enter_context(replacing(path)) for name, path in outputs.items()}
        style, item = temporary.pop("style", None), temporary.pop("item", None)
        low, high = cog.write_cogs(temporary, folder, grid, finish, tags, ROWS, progress, units)
        if style:
            style.write_text(qgis_style(low, high), encoding="utf-8")
        if item and description:
            item.write_text(description.text(outputs, temporary, grid, tags, units), encoding="utf-8")
        names = "\n".join(str(path.absolute()) for path in outputs.values())
        (folder / WRITTEN).write_text(names, encoding="utf-8")


def write_item(
    outputs: Mapping[str, Path], grid: Grid, tags: dict[str, str], description: Description,
    units: cog.Bands = cog.BANDS,
) -> None:
    """Write the STAC item of a Zarr store, which exists."""
    with replacing(outputs["item"]) as temporary:
        temporary.write_text(description.text(outputs, {}, grid, tags, units), encoding="utf-8")


@contextmanager
def working_folder(
    folder: Path, identity: Mapping[str, Any], outputs: Mapping[str, Path], overwrite: bool, size: float, progress: bool
) -> Iterator[None]:
    """The folder of intermediate results, locked: kept after an interruption, removed at the end.

    Args:
        identity: of the work; results of any other that lie in the folder are removed.
        size: how large the results get at most, bytes.
    """
    text = json.dumps(identity, sort_keys=True, default=str)
    try:
        with claimed(folder):
            check_outputs(outputs, [], overwrite)  # another process may have written them in the meantime
            if progress:
                tqdm.write(f"intermediate results take up to {size / 1e6:,.0f} MB in {folder}", file=sys.stderr)
            path = folder / "plan.json"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                for old in folder.iterdir():
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
                with replacing(path) as temporary:
                    temporary.write_text(text, encoding="utf-8")
            try:
                yield
            except KeyboardInterrupt as interruption:
                message = f"the intermediate results are kept in {folder}; remove it if you do not go on"
                raise KeyboardInterrupt(message) from interruption
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def run_stage(
    name: str, work: Callable, plan: Any, numbers: Sequence[int], client: Any, progress: bool, *more: Any,
    after: Callable[[int], None] = lambda first: None,
) -> list[dict[str, Any]]:
    """Compute the pieces that are not done yet, in this process or on a cluster, and return the results of all.

    Args:
        work: computes one piece of a plan, given its number and ``more``; its result is kept in the plan's folder.
        after: called after each piece with the number of the first one that is not done.
    """
    files = [Path(plan.folder) / f"{name}-{number:05d}.json" for number in numbers]
    missing = [number for number, file in zip(numbers, files) if not file.exists()]
    if client is None:
        done: Any = ((number, work(plan, number, *more)) for number in missing)
    else:
        done = _on_cluster(client, work, plan, missing, more)
    bar = tqdm(done, f"{name}s", len(files), initial=len(files) - len(missing), disable=not progress)
    for number, result in bar:
        with replacing(Path(plan.folder) / f"{name}-{number:05d}.json") as temporary:
            temporary.write_text(json.dumps(result), encoding="utf-8")
        after(next((number for number, file in zip(numbers, files) if not file.exists()), len(files)))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _on_cluster(
    client: Any, work: Callable, plan: Any, numbers: Sequence[int], more: tuple
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers and results of pieces as they are done; a scheduler that gets thousands at once slows down."""
    from dask.distributed import as_completed

    shared = client.scatter(more, broadcast=True) if more else ()
    waiting = iter(numbers)
    futures: dict[Any, int] = {}

    def submit(number: int) -> Any:
        future = client.submit(work, plan, number, *shared, pure=False)
        futures[future] = number
        return future

    threads = sum(client.nthreads().values())
    running = as_completed([submit(number) for number, _ in zip(waiting, range(AHEAD * max(1, threads)))])
    for future in running:
        yield futures.pop(future), future.result()
        number = next(waiting, None)
        if number is not None:
            running.add(submit(number))
