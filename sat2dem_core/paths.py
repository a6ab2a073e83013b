"""Where the package and its data lie: in a clone of the repository, in an installed wheel, and in the user's cache."""

import os
from pathlib import Path

PACKAGE = Path(__file__).parent


def repository() -> Path | None:
    """The clone that the package is run from; None for an installed wheel."""
    root = PACKAGE.parent
    return root if (root / "notebooks").is_dir() else None


def data_folder(name: str) -> Path:
    """A folder of the data that comes with the package: inside the wheel, or under ``data/`` of a clone."""
    inside = PACKAGE / "data" / name
    return inside if inside.is_dir() else PACKAGE.parent / "data" / name


def downloads(name: str) -> Path:
    """The folder where a data set is looked for and downloaded to.

    ``$SAT2DEM_DATA`` where it is set (a folder on a mounted Drive, for example), else ``data/`` of a clone, else
    ``~/.cache/sat2dem/data``.
    """
    root = repository()
    default = root / "data" if root else Path.home() / ".cache" / "sat2dem" / "data"
    return Path(os.environ.get("SAT2DEM_DATA") or default) / name


def cache_folder() -> Path:
    """The folder of runs that were given no folder of their own: ``$SAT2DEM_CACHE``, else ``~/.cache/sat2dem``."""
    return Path(os.environ.get("SAT2DEM_CACHE") or Path.home() / ".cache" / "sat2dem")
