"""One image after the other, as a shell's pipe or a list in a file names them; a failure does not stop the rest."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from sat2dem_core.errors import InvalidConfig, OutputExists, Sat2DEMError


class Outcome(NamedTuple):
    """What became of one image: its result, or the sentence that says why there is none."""

    image: str
    result: Any = None
    failure: str | None = None


def listed(source: str | os.PathLike) -> Iterator[str]:
    """The images of a list, one a line, as they come; empty lines count for nothing.

    Args:
        source: a file, or ``-`` for standard input.

    Raises:
        InvalidConfig: the file cannot be read.
    """
    if os.fspath(source) == "-":
        yield from _lines(sys.stdin)
        return
    try:
        with open(source, encoding="utf-8") as file:
            yield from _lines(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise InvalidConfig(f"the list {source} cannot be read ({reason}): give a file of one path a line") from error


def _lines(file: Iterable[str]) -> Iterator[str]:
    return (line.rstrip("\r\n") for line in file if line.strip())


def stem_of(image: str) -> str:
    """The name of an image without folder and ending: of a file, an address, or a member of an archive or container.

    >>> stem_of("scenes/valley.tif"), stem_of("https://a.org/b.tif?token=1"), stem_of("zip://a.zip!b/c.tif")
    ('valley', 'b', 'c')
    """
    name = image.partition("?")[0] if re.search(r"https?://", image) else image
    container = re.match(r'[A-Za-z]\w+:(?!//)"?([^":]+)', name)
    last = re.split(r"[/\\!]", container[1] if container else name)[-1]
    return Path(unquote(last) if "://" in image else last).stem


def each_image(
    images: Iterable[str], folder: str | os.PathLike, make: Callable[[str, Path], Any]
) -> Iterator[Outcome]:
    """Make a DEM of each image: ``make(image, folder/<image's name>.tif)``.

    Whatever goes wrong with one image is its outcome, and the next one follows; an interruption ends the work.

    Args:
        images: paths or addresses.
        make: such as a call of :func:`sat2dem_core.predict` with settings.
    """
    taken: dict[str, str] = {}
    for image in images:
        first = taken.setdefault(stem_of(image).lower(), image)  # of some file systems, upper and lower case are one
        yield _outcome(image, first, Path(folder), make)


def _outcome(image: str, first: str, folder: Path, make: Callable[[str, Path], Any]) -> Outcome:
    """Args: ``first`` is the first image of the same name."""
    name = stem_of(image)
    try:
        if not name:
            raise InvalidConfig(f"{image} has no name to call a DEM by: give the path of a file")
        if first != image:
            raise OutputExists(f"{image} and {first} would both become {name}.tif: predict one of them on its own")
        return Outcome(image, make(image, folder / f"{name}.tif"))
    except Sat2DEMError as error:
        text = str(error)
        return Outcome(image, failure=text if image in text else f"{image}: {text}")
    except Exception as error:  # a fault of the program, which other images need not meet
        return Outcome(image, failure=f"{image}: unexpected {type(error).__name__}: {' '.join(str(error).split())}")
