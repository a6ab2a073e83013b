"""Files that are whole or not there: written beside their place and renamed."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sat2dem_core.errors import CannotWrite, RunBusy


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside ``path``, then rename it there: readers see the old file or the new, never a part.

    Raises:
        CannotWrite: the disk is full or the folder not writable; ``path`` is untouched and no part is left.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            beside.unlink()


def cannot_write(path: Path, error: OSError) -> CannotWrite:
    """What to tell a user whose disk is full or whose folder cannot be written."""
    return CannotWrite(
        f"cannot write {path} ({error.strerror or error}): what stood there is untouched; make room or "
        "choose another folder, and start again"
    )


def part_of(path: Path) -> Path:
    """Where what will be ``path`` collects until it is whole."""
    return path.with_name(f"{path.name}.part")


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Let no other process write into the folder meanwhile, and clear what a killed one left half-written.

    The lock is the operating system's, on the folder itself: it ends with the process, however that ends. Where there
    is none (Windows, a mounted Drive) nothing is locked.

    Raises:
        RunBusy: another process has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    handle, patience = None, time.monotonic() + 5  # who only looks whether a run is finished is soon gone again
    with suppress(ImportError, OSError):
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > patience:
                    os.close(handle)
                    said = f"another process is at work in {folder}: wait for it, or choose another folder"
                    raise RunBusy(said) from None
                time.sleep(0.1)
    try:
        for part in folder.glob(".*.[0-9]*"):
            part.unlink(missing_ok=True)
        yield
    finally:
        if handle is not None:
            os.close(handle)
