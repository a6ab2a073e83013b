"""Downloads that resume, checksums and archives.

Neither pooch nor requests resumes an interrupted transfer, and the paper's data set is gigabytes: hence :func:`fetch`.
"""

import errno
import hashlib
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests
from tqdm import tqdm

from sat2dem_core.errors import CannotWrite, DamagedDownload, Unreachable
from sat2dem_core.rasters.atomic import cannot_write, locked, part_of
from sat2dem_core.rasters.names import name_fault

ATTEMPTS = 5  # in a row without progress
TIMEOUT = 60.0  # seconds without a byte
LONGEST_WAIT = 120.0  # seconds between two attempts
NOTE = ".unpacked-from"  # in an unpacked folder: the checksum of its archive


def fetch(url: str, path: Path, checksum: str, *, size: int | None = None, progress: bool = True) -> Path:
    """Download a file and verify it, unless ``path`` already holds it.

    The bytes collect in a part file next to ``path``. After an interruption the transfer continues where it stopped,
    within a call and in the next one, if the server allows ranges. Only a verified file is renamed to ``path``. Of two
    processes that fetch one file, one waits for the other.

    Args:
        checksum: ``sha256:…`` or ``md5:…``.
        size: bytes expected, at which a transfer stops; by default the server's figure.

    Raises:
        Unreachable: the server does not have the file, or fails five times in a row; the bytes so far are kept.
        DamagedDownload: the server sends more bytes than expected, or the checksum differs. What was downloaded is
            removed; a file found at ``path`` is kept.
        CannotWrite: the disk is full or the folder not writable.
    """
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(part):  # another process may be downloading the same file: then it is there afterwards
            if path.is_file():
                return _verified(path, url, checksum)
            try:
                _transfer_all(url, part, size, progress)
                _check_download(part, url, checksum)
            except DamagedDownload:
                part.unlink()
                raise
            part.replace(path)
    except OSError as error:
        raise CannotWrite(
            f"cannot write {part} ({error.strerror or error}): make room, or set SAT2DEM_DATA to another folder"
        ) from error
    return path


def _check_download(part: Path, url: str, checksum: str) -> None:
    if _digest(part, checksum) != checksum:
        raise DamagedDownload(
            f"the download of {url} does not have the checksum {checksum}; it was removed: start again to download it"
        )


def _verified(path: Path, url: str, checksum: str) -> Path:
    if _digest(path, checksum) == checksum:
        return path
    raise DamagedDownload(
        f"{path} is not the file that {url} offers (its {checksum.split(':')[0]} differs): remove it, and start again "
        "to download it"
    )


def unpack(archive: Path, folder: Path, checksum: str = "") -> Path:
    """Unpack a zip or tar file into a folder, which appears only when it is complete; do nothing if it exists.

    Nothing is written unless every member is a file or a folder that stays within ``folder``, and the disk has room for
    the sizes that the archive states; no member grows beyond its stated size. The folder keeps ``checksum`` in a hidden
    file. A folder without that file, as earlier versions made it, is taken for one of the same archive.

    Args:
        checksum: of the archive.

    Raises:
        DamagedDownload: the archive is damaged, a member is a link or leads outside the folder, or the folder was
            unpacked from an archive with another checksum.
        CannotWrite: the disk has too little room, or the folder is not writable.
    """
    part = part_of(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(part):
            if folder.is_dir():
                check_origin(folder, archive, checksum)
            else:
                _unpack_all(archive, part, folder, checksum)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def check_origin(folder: Path, archive: Path, checksum: str) -> None:
    """Check that an unpacked folder, if there is one, comes from the archive with this checksum.

    Raises:
        DamagedDownload: it comes from another one; the message names what to remove.
    """
    before = origin(folder)
    if checksum and before and before != checksum:
        old = " and ".join(str(path) for path in (folder, archive) if path.exists())
        raise DamagedDownload(
            f"{folder} was unpacked from another version of {archive.name} (then {before}, now {checksum}): remove "
            f"{old}, and start again"
        )


def origin(folder: Path) -> str:
    """The checksum of the archive that a folder was unpacked from; empty if the folder does not say."""
    note = folder / NOTE
    return note.read_text(encoding="utf-8").strip() if note.is_file() else ""


def check_room(folder: Path, size: int, purpose: str) -> None:
    """Check that the disk of a folder, which need not exist yet, has this many bytes free.

    Raises:
        CannotWrite: it has not; the message says how much is needed and where.
    """
    free = free_space(folder)
    if free is not None and free < size:
        raise CannotWrite(
            f"{purpose} needs {amount(size)} in {folder}, where {amount(free)} are free: make room, or set "
            "SAT2DEM_DATA to another folder"
        )


def free_space(folder: Path) -> int | None:
    """Bytes free on the disk of a folder, which need not exist yet; None if the system does not tell."""
    with suppress(OSError, StopIteration):
        return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.is_dir())).free
    return None


def amount(size: int) -> str:
    """A number of bytes as text.

    >>> amount(6_120_400_000)
    '6,120.4 MB'
    """
    return f"{size / 1e6:,.1f} MB"


def _unpack_all(archive: Path, part: Path, folder: Path, checksum: str) -> None:
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        if archive.suffix == ".zip":
            _unpack_zip(archive, part)
        else:
            _unpack_tar(archive, part)
        if checksum:
            (part / NOTE).write_text(f"{checksum}\n", encoding="utf-8")
        part.replace(folder)
    except tarfile.FilterError as error:
        raise DamagedDownload(f"{archive}: {error}, outside {folder}: do not trust it") from error
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, OSError) as error:
        # A damaged gzip file is an OSError without a number, a place before the beginning an invalid argument.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DamagedDownload(f"{archive} cannot be unpacked ({error}): remove it, and download it again") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unpack_zip(archive: Path, folder: Path) -> None:
    """Unpack into an empty folder. ``zipfile`` itself reads no more of a member than its stated size."""
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was not made on Unix
            _check_member(archive, member.orig_filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            if member.flag_bits & 1:
                raise DamagedDownload(f"{archive} is encrypted: unpack it yourself, or ask for one that is not")
        check_room(folder.parent, sum(member.file_size for member in members), f"unpacking {archive}")
        for member in _bar(members, archive):
            file.extract(member, folder)


def _unpack_tar(archive: Path, folder: Path) -> None:
    """Unpack into an empty folder. ``tarfile`` itself reads no more of a member than its stated size."""
    with tarfile.open(archive) as file:
        members = []
        for member in file:  # reads the whole archive, but writes nothing
            _check_member(archive, member.name, member.isfile() or member.isdir())
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name!r} states a size of {member.size} bytes")
            members.append(member)
        check_room(folder.parent, sum(member.size for member in members), f"unpacking {archive}")
        file.extractall(folder, _bar(members, archive), filter="data")


def _check_member(archive: Path, name: str, plain: bool) -> None:
    """Check that a member of an archive can be unpacked without harm."""
    fault = name_fault(name) if plain else "is a link or a device"
    if fault and not (plain and fault == "names no file"):  # "./", which many tar files begin with
        raise DamagedDownload(
            f"{archive}: the member {name!r} {fault} and could be written outside the folder: do not trust it"
        )


def _bar(members: list, archive: Path) -> Iterable:
    return tqdm(members, desc=f"unpacking {archive.name}", unit="file", leave=False)


def ask(url: str) -> requests.Response:
    """The server's answer, asked again if the server is busy or fails.

    Raises:
        Unreachable: the server refuses, or fails five times.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            response = requests.get(url, timeout=TIMEOUT)
            response.raise_for_status()
            return response
        except requests.RequestException as error:
            if _refusal(error) is not None or attempt == ATTEMPTS:
                raise Unreachable(f"{url} does not answer ({error}): check the address, or try later") from error
            time.sleep(_wait(error, attempt))
    raise AssertionError("unreachable")


def _transfer_all(url: str, part: Path, size: int | None, progress: bool) -> None:
    """Transfer until the file is complete, or until ``ATTEMPTS`` attempts in a row bring nothing new."""
    failed, most = 0, _size(part)
    while True:
        try:
            _transfer(url, part, size, progress)
            return
        except requests.RequestException as error:
            answer = _refusal(error)
            if answer is not None:
                raise Unreachable(f"{url} answers {answer.status_code} {answer.reason}: check the address") from error
            bytes_now = _size(part)
            failed = 1 if bytes_now > most else failed + 1
            most = max(most, bytes_now)
            if failed >= ATTEMPTS:
                raise Unreachable(
                    f"{url} failed {ATTEMPTS} times in a row ({error}): try later; the first {bytes_now:,} bytes are "
                    "kept, and the same command continues from there"
                ) from error
            time.sleep(_wait(error, failed))


def _transfer(url: str, part: Path, size: int | None, progress: bool) -> None:
    """One attempt: continue where the part file ends, or start over if the server sends the whole file."""
    have = _size(part)
    if size is not None and have >= size:
        return
    headers = {"Accept-Encoding": "identity"}  # ranges of a compressed answer would count other bytes than the file's
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # no bytes after the last: the file is complete, or fails its checksum
            return
        response.raise_for_status()
        resumed = response.status_code == 206
        first = have if resumed else 0
        announced = response.headers.get("Content-Length", "")
        end = first + int(announced) if announced.isdecimal() else None
        most = size if size is not None else end
        bar = tqdm(total=most, initial=first, unit="B", unit_scale=True, desc=part.stem, disable=not progress)
        with bar, part.open("ab" if resumed else "wb") as file:
            _check_length(url, end or 0, most)
            for block in response.iter_content(1 << 16):  # an interruption loses at most one block
                _check_length(url, file.tell() + len(block), most)
                file.write(block)
                bar.update(len(block))
            received = file.tell()
        if end is not None and received < end:
            raise requests.ConnectionError(f"the connection ended after {received:,} bytes")


def _check_length(url: str, received: int, most: int | None) -> None:
    if most is not None and received > most:
        raise DamagedDownload(
            f"{url} sends more than the {most:,} bytes that were announced; what came was removed: check the address, "
            "or try later"
        )


def _refusal(error: requests.RequestException) -> requests.Response | None:
    """The server's answer if it is final: neither too many requests nor a fault of the server."""
    if isinstance(error, requests.HTTPError) and error.response.status_code != 429 and error.response.status_code < 500:
        return error.response
    return None


def _wait(error: requests.RequestException, failed: int) -> float:
    """Seconds until the next attempt: what the server asks for, else twice as long after each failure."""
    asked = error.response.headers.get("Retry-After", "") if error.response is not None else ""
    if asked.isdigit():
        return min(float(asked), LONGEST_WAIT)
    if asked:
        try:
            return min(max(parsedate_to_datetime(asked).timestamp() - time.time(), 0.0), LONGEST_WAIT)
        except ValueError:
            pass
    return min(2.0 ** (failed - 1), LONGEST_WAIT)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path, checksum: str) -> str:
    algorithm = checksum.split(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
