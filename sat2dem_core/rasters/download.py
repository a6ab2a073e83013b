"""Downloads that resume, checksums and archives.

Neither pooch nor requests resumes an interrupted transfer, and the paper's data set is gigabytes: hence :func:`fetch`.
"""

import gzip
import hashlib
import shutil
import tarfile
import time
import zipfile
import zlib
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests
from tqdm import tqdm

from sat2dem_core.errors import CannotWrite, DamagedDownload, Unreachable
from sat2dem_core.rasters.atomic import cannot_write, locked, part_of

ATTEMPTS = 5  # in a row without progress
TIMEOUT = 60.0  # seconds without a byte
LONGEST_WAIT = 120.0  # seconds between two attempts


def fetch(url: str, path: Path, checksum: str, *, size: int | None = None, progress: bool = True) -> Path:
    """Download a file and verify it, unless ``path`` already holds it.

    The bytes collect in a part file next to ``path``. After an interruption the transfer continues where it stopped,
    within a call and in the next one, if the server allows ranges. Only a verified file is renamed to ``path``. Of two
    processes that fetch one file, one waits for the other.

    Args:
        checksum: ``sha256:…`` or ``md5:…``.
        size: bytes expected, for the progress bar; by default the server's figure.

    Raises:
        Unreachable: the server does not have the file, or fails five times in a row; the bytes so far are kept.
        DamagedDownload: the checksum differs. A file just downloaded is removed; one found at ``path`` is kept.
        CannotWrite: the disk is full or the folder not writable.
    """
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(part):  # another process may be downloading the same file: then it is there afterwards
            if path.is_file():
                return _verified(path, url, checksum)
            _transfer_all(url, part, size, progress)
            if _digest(part, checksum) != checksum:
                part.unlink()
                raise DamagedDownload(
                    f"the download of {url} does not have the checksum {checksum}; it was removed: start again to "
                    "download it"
                )
            part.replace(path)
    except OSError as error:
        raise CannotWrite(
            f"cannot write {part} ({error.strerror or error}): make room, or set SAT2DEM_DATA to another folder"
        ) from error
    return path


def _verified(path: Path, url: str, checksum: str) -> Path:
    if _digest(path, checksum) == checksum:
        return path
    raise DamagedDownload(
        f"{path} is not the file that {url} offers (its {checksum.split(':')[0]} differs): remove it, and start again "
        "to download it"
    )


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip or tar file into a folder, which appears only when it is complete; do nothing if it exists.

    Raises:
        DamagedDownload: the archive is damaged, or a member would be written outside the folder.
        CannotWrite: the disk is full or the folder not writable.
    """
    if folder.is_dir():
        return folder
    part = part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        if archive.suffix == ".zip":
            _unpack_zip(archive, part)
        else:
            with tarfile.open(archive) as file:
                file.extractall(part, filter="data")
        part.replace(folder)
    except tarfile.FilterError as error:
        raise DamagedDownload(f"{archive}: {error}, outside {folder}: do not trust it") from error
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DamagedDownload(f"{archive} cannot be unpacked ({error}): remove it, and download it again") from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _unpack_zip(archive: Path, folder: Path) -> None:
    root = folder.resolve()
    with zipfile.ZipFile(archive) as file:
        for member in tqdm(file.infolist(), desc=f"unpacking {archive.name}", unit="file", leave=False):
            if not (root / member.filename).resolve().is_relative_to(root):
                raise DamagedDownload(
                    f"{archive}: the member {member.filename!r} would be written outside the folder: do not trust it"
                )
            file.extract(member, folder)


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
        announced = int(response.headers.get("Content-Length", 0))
        total = size or (announced + have * resumed) or None
        bar = tqdm(total=total, initial=have * resumed, unit="B", unit_scale=True, desc=part.stem, disable=not progress)
        with bar, part.open("ab" if resumed else "wb") as file:
            for block in response.iter_content(1 << 16):  # an interruption loses at most one block
                file.write(block)
                bar.update(len(block))
            received = file.tell()
        if announced and received < announced + have * resumed:
            raise requests.ConnectionError(f"the connection ended after {received:,} bytes")


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
