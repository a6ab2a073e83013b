"""Files that are whole or absent, because they are written under another name and renamed; folders for one process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sat2dem_core.errors import CannotWrite, RunBusy

PATIENCE = 5.0  # seconds to wait for a folder: a process that only checks whether a run is finished leaves it soon


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under the temporary name that the context gives, then rename it to ``path``.

    Other processes see the old file or the new one, never a part of it.

    Raises:
        CannotWrite: the disk is full or the folder not writable; ``path`` is unchanged and no part remains.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def cannot_write(path: Path, error: OSError) -> CannotWrite:
    """The error for a full disk or a folder that is not writable."""
    return CannotWrite(
        f"cannot write {path} ({error.strerror or error}): what was there is unchanged; make room or "
        "choose another folder, and start again"
    )


def part_of(path: Path) -> Path:
    """The name under which a file or folder is collected until it is whole."""
    return path.with_name(f"{path.name}.part")


@contextmanager
def locked(path: Path, patience: float = -1) -> Iterator[None]:
    """Hold a lock on a path, which need not exist, during the context; others wait for it.

    The operating system holds the lock, on a file next to the path, and releases it when the process ends, even if it
    is killed. Where no lock can be had (on some network drives, or if the parent folder is not writable), the context
    locks nothing.

    Args:
        patience: seconds to wait; -1 for any time.

    Raises:
        RunBusy: another process still has the lock.
    """
    from filelock import FileLock, Timeout  # its import takes a tenth of a second, for which --help need not wait

    # Not filelock's own way out where the system has no locks: a marker, which a killed process would leave for ever.
    lock = FileLock(f"{path.resolve()}.lock", timeout=patience, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunBusy(f"another process is at work in {path}: wait until it ends, or choose another folder") from None
    except OSError:
        pass  # no lock to be had
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows removes no open file
                os.unlink(lock.lock_file)  # before the release: a waiting process notices, and makes a new one
            lock.release()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a folder that no other process writes in during the context; remove the half-written files of a killed one.

    Raises:
        RunBusy: another process still has the folder after ``PATIENCE`` seconds; see :func:`locked`.
        CannotWrite: the folder cannot be made.
    """
    with locked(folder, PATIENCE):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from error
        for leftover in folder.glob(".*.[0-9]*"):
            leftover.unlink(missing_ok=True)
        yield
