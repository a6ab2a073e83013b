"""What can go wrong for a user, each error named after the fault and saying what to do about it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Sat2DEMError(Exception):
    """Base of every error that this package raises on purpose."""


class UnreadableRaster(Sat2DEMError):
    """A raster file is missing, cut short or not a raster."""


class MissingCRS(Sat2DEMError):
    """A raster does not say where on Earth it lies."""


class UnsupportedImagery(Sat2DEMError):
    """The image's bands or numbers are not what a network can be fed with."""


class NoOverlap(Sat2DEMError):
    """Image and DEM lie on different ground."""


class NoElevation(Sat2DEMError):
    """A DEM holds no usable elevation: all nodata, or values that are no heights."""


class FlatElevation(Sat2DEMError):
    """Every elevation is the same, so there is no range to normalize by."""


class NoTiles(Sat2DEMError):
    """A scene or a split leaves no tile to work on."""


class WrongShape(Sat2DEMError):
    """A tensor, a tile size or a width does not fit a network."""


class UnknownName(Sat2DEMError, KeyError):
    """A name that is not in a registry."""

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0])


class InvalidConfig(Sat2DEMError):
    """A setting that no run can be made with."""


class DamagedCheckpoint(Sat2DEMError):
    """A checkpoint is missing, cut short, or of another architecture."""


class InvalidAnchors(Sat2DEMError):
    """Known heights that cannot be read, lie elsewhere, or are too few."""


class UnsafeWeights(Sat2DEMError):
    """Weights that could run code when opened, or that nothing vouches for."""


class OutputExists(Sat2DEMError):
    """A file already stands where a result is to go."""


class CannotWrite(Sat2DEMError):
    """A file could not be written; what stood there before is untouched."""


class RunExists(Sat2DEMError):
    """A run folder already holds a run of other settings or other data."""


class RunBusy(Sat2DEMError):
    """Another process is at work in the folder of a run or a prediction."""


class LostProcess(Sat2DEMError):
    """One of several processes of a run is gone."""


class OutOfMemory(Sat2DEMError):
    """A batch does not fit into the device's memory."""


class NonFiniteLoss(Sat2DEMError):
    """Training produced NaN or infinity."""


class InvalidRegion(Sat2DEMError):
    """A region, a period or a grid that no tiles can be built for."""


class EmptySearch(Sat2DEMError):
    """A catalog has nothing for a region, a period and the filters."""


class MissingAsset(Sat2DEMError):
    """An item of a catalog lacks what is needed to use it."""


class Unreachable(Sat2DEMError):
    """A server did not answer, or not with what it announced, however often it was asked."""


class DamagedStore(Sat2DEMError):
    """A tile store or a folder of tiles is missing, unfinished, of another version, or does not pair up."""


class DamagedDownload(Sat2DEMError):
    """A file from the net is not what its checksum says, or an archive would write outside its folder."""


class MissingExtra(Sat2DEMError):
    """An optional package is needed and not installed."""


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Import optional packages within this context: if one is missing, the error names the extra to install.

    Raises:
        MissingExtra: a package of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed: pip install 'sat2dem-core[{extra}]'") from error


def choose(kind: str, name: str, valid: Iterable[str]) -> str:
    """Return ``name`` if it is among ``valid``.

    Raises:
        UnknownName: it is not; the message lists the valid names.
    """
    valid = list(valid)
    if name not in valid:
        raise UnknownName(f"unknown {kind} {name!r}: choose one of {', '.join(valid)}")
    return name
