"""Files that are whole or absent, because they are written under another name and renamed; folders for one process."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sat2dem_core.errors import CannotWrite, RunBusy

MOUNTS = Path("/proc/self/mounts")  # Linux's table of mounted drives: device, folder, kind, options
USER_SPACE = {
    "sshfs", "gcsfuse", "rclone", "s3fs", "goofys", "mount-s3", "blobfuse", "blobfuse2", "drive",
    "google-drive-ocamlfuse",
}
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST}
LOCAL_LOCKS = {"nolock", "local_lock=all", "local_lock=flock", "localflock", "nobrl"}  # options of NFS, Lustre, SMB
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
    is killed. Where it cannot, or where other computers on a network drive do not see it, a warning says so. In a
    folder that is not writable the context locks nothing, since nobody writes there.

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
        fault = _unseen(path)
    except Timeout:
        raise RunBusy(f"another process is at work in {path}: wait until it ends, or choose another folder") from None
    except OSError as error:
        fault = None if error.errno in UNWRITABLE else f"no lock can be had there ({error.strerror or error})"
    if fault:
        warnings.warn(f"{path.parent}: {fault}: start no second command on the same files", stacklevel=3)
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows removes no open file
                os.unlink(lock.lock_file)  # before the release: a waiting process notices, and makes a new one
            lock.release()


def _unseen(path: Path) -> str | None:
    """Why other computers do not see a lock on a path, if it lies on a drive that they share and that keeps locks here.

    NFS (from Linux 2.6.12 on), SMB, Lustre and GPFS hand locks on, unless they are mounted without; drives in user
    space that stand for another computer or a cloud do not.
    """
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None  # not Linux
    place, deepest, kind, options = path.resolve(), -1, "", ""
    for line in lines:
        _, mount, *more = [*line.split(), "", "", ""]
        folder = Path(mount.replace("\\040", " "))
        if mount and place.is_relative_to(folder) and len(folder.parts) > deepest:
            deepest, (kind, options) = len(folder.parts), more[:2]
    in_user_space = kind.startswith("fuse.") and kind.removeprefix("fuse.") in USER_SPACE
    if in_user_space or LOCAL_LOCKS & set(options.split(",")):
        return f"locks on this drive ({kind}) hold on this computer alone"
    return None


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
