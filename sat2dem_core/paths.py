"""Folders of the package, of its data and of the user's cache, in a clone of the repository and in a wheel."""

import os
from pathlib import Path

PACKAGE = Path(__file__).parent


def repository() -> Path | None:
    """The clone that contains the package; None for an installed wheel."""
    root = PACKAGE.parent
    return root if (root / "notebooks").is_dir() else None


def data_folder(name: str) -> Path:
    """A folder of the data that comes with the package: in a wheel inside the package, in a clone under ``data/``."""
    inside = PACKAGE / "data" / name
    return inside if inside.is_dir() else PACKAGE.parent / "data" / name


def data_file(name: str) -> Path:
    """A file that lies beside these folders, such as ``scenes.toml``."""
    return data_folder("rocky-mountain").parent / name


def downloads(name: str) -> Path:
    """The folder that a data set is read from and downloaded to.

    It lies in ``$SAT2DEM_DATA`` if that is set (to a folder on a mounted Drive, for example), else in ``data/`` of a
    clone, else in ``~/.cache/sat2dem/data``.
    """
    root = repository()
    default = root / "data" if root else Path.home() / ".cache" / "sat2dem" / "data"
    return Path(os.environ.get("SAT2DEM_DATA") or default) / name


def cache_folder() -> Path:
    """The folder for runs without a folder of their own: ``$SAT2DEM_CACHE``, else ``~/.cache/sat2dem``."""
    return Path(os.environ.get("SAT2DEM_CACHE") or Path.home() / ".cache" / "sat2dem")
