"""Errors that users meet, each named after the fault; their messages say what to do about it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Sat2DEMError(Exception):
    """Base of every error that this package raises on purpose."""


class UnreadableRaster(Sat2DEMError):
    """A raster file is missing, truncated or not a raster."""


class MissingCRS(Sat2DEMError):
    """A raster has no coordinate reference system or no geotransform."""


class UnsupportedImagery(Sat2DEMError):
    """An image's bands or values do not suit a network."""


class NoOverlap(Sat2DEMError):
    """Image and DEM cover different areas."""


class NoElevation(Sat2DEMError):
    """A DEM has no usable elevation: all of it is nodata, or its values are not heights."""


class FlatElevation(Sat2DEMError):
    """Every elevation is the same, so there is no range to normalize by."""


class NoTiles(Sat2DEMError):
    """A scene or a split leaves no tile."""


class WrongShape(Sat2DEMError):
    """A tensor, a tile size or a width does not fit a network."""


class UnknownName(Sat2DEMError, KeyError):
    """A name that is not in a registry."""

    def __str__(self) -> str:  # that of KeyError is the repr
        return str(self.args[0])


class InvalidConfig(Sat2DEMError):
    """A setting has a value that no run can use."""


class DamagedCheckpoint(Sat2DEMError):
    """A checkpoint is missing, truncated, or of another architecture."""


class InvalidAnchors(Sat2DEMError):
    """Known heights cannot be read, lie elsewhere, or are too few."""


class UnsafeWeights(Sat2DEMError):
    """Weights could run code when opened, or come without a checksum."""


class OutputExists(Sat2DEMError):
    """The output file exists already."""


class CannotWrite(Sat2DEMError):
    """A file could not be written; a file that was there before is unchanged."""


class RunExists(Sat2DEMError):
    """A run folder already holds a run with other settings, data or code."""


class RunBusy(Sat2DEMError):
    """Another process is at work in the folder of a run or a prediction."""


class LostProcess(Sat2DEMError):
    """One of several processes of a run has ended."""


class Terminated(SystemExit):
    """SIGTERM has ended a training, after its state was saved; a program that does not catch this ends with 143."""

    status = 143  # as a shell reports a program that SIGTERM has ended: 128 + 15

    def __init__(self, message: str):
        super().__init__(message)
        self.code = self.status


class OutOfMemory(Sat2DEMError):
    """A batch does not fit into the device's memory."""


class NonFiniteLoss(Sat2DEMError):
    """Training produced NaN or infinity."""


class InvalidRegion(Sat2DEMError):
    """No tiles can be built for a region, a period or a grid."""


class EmptySearch(Sat2DEMError):
    """A catalog has no item for a region, a period and the filters."""


class InvalidItem(Sat2DEMError):
    """A file or an address holds no STAC item."""


class MissingAsset(Sat2DEMError):
    """An item of a catalog lacks a file or a property that is needed."""


class Unreachable(Sat2DEMError):
    """A server did not answer, or not as announced, in all attempts."""


class DamagedStore(Sat2DEMError):
    """A tile store or a folder of tiles is missing, unfinished or of another version, or lacks pairs."""


class DamagedDownload(Sat2DEMError):
    """A downloaded file does not have its checksum, or an archive would write outside its folder."""


class MissingExtra(Sat2DEMError):
    """An optional package is needed but not installed."""


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """A context for imports of optional packages; if one is missing, the error names the extra to install.

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
