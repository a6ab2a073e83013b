"""Files from the net: transfers that resume, checksums, archives.

Neither pooch nor requests resumes a broken transfer, and the paper's data set is gigabytes: hence :func:`fetch`.
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
from sat2dem_core.rasters.atomic import cannot_write, part_of

ATTEMPTS, TIMEOUT, LONGEST_WAIT = 5, 60.0, 120.0  # tries a transfer; seconds without a byte; seconds between tries


def fetch(url: str, path: Path, checksum: str, *, size: int | None = None, progress: bool = True) -> Path:
    """Download a file unless it is there, whole and verified.

    The bytes collect in a part file beside ``path``; a broken transfer goes on from there, within a call and
    in the next one, where the server allows ranges. Only a verified file gets its name.

    Args:
        checksum: ``sha256:…`` or ``md5:…``.
        size: bytes expected, for the progress bar; the server's word when not given.

    Raises:
        Unreachable: the server fails five times in a row; what came so far is kept.
        DamagedDownload: the bytes are not those of the checksum; they are removed.
    """
    part = part_of(path)
    if path.is_file():
        if _digest(path, checksum) == checksum:
            return path
        raise DamagedDownload(f"{path} is not the file that {url} offers (its {checksum.split(':')[0]} differs): remove it to fetch it again")
    tries, most = 0, _size(part)
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _transfer(url, part, size, progress)
            break
        except requests.RequestException as error:
            if isinstance(error, requests.HTTPError) and not _passing(error.response):
                raise Unreachable(f"{url} answers {error.response.status_code} {error.response.reason}: check the address") from error
            after = _size(part)
            tries = 1 if after > most else tries + 1
            most = max(most, after)
            if tries >= ATTEMPTS:
                raise Unreachable(
                    f"{url} failed {ATTEMPTS} times in a row ({error}): try later; the {after:,} bytes that came are kept, "
                    "and the same command goes on from there"
                ) from error
            time.sleep(_wait(error, tries))
        except OSError as error:
            raise CannotWrite(f"cannot write {part} ({error.strerror or error}): make room, or set SAT2DEM_DATA to another folder") from error
    if _digest(part, checksum) != checksum:
        part.unlink()
        raise DamagedDownload(f"{url}: what came is not what its checksum says ({checksum}); it was removed: fetch it again")
    part.replace(path)
    return path


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip or tar file into a folder that appears only when it is complete.

    Raises:
        DamagedDownload: the archive is damaged, or a member would land outside the folder.
        CannotWrite: the disk is full or the folder not writable.
    """
    if folder.is_dir():
        return folder
    beside = part_of(folder)
    shutil.rmtree(beside, ignore_errors=True)
    root = beside.resolve()
    try:
        beside.mkdir(parents=True)
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                for member in tqdm(file.infolist(), desc=f"unpacking {archive.name}", unit="file", leave=False):
                    if not (root / member.filename).resolve().is_relative_to(root):
                        raise DamagedDownload(f"{archive}: the member {member.filename!r} would land outside {folder}: do not trust it")
                    file.extract(member, beside)
        else:
            with tarfile.open(archive) as file:
                file.extractall(beside, filter="data")
        beside.replace(folder)
    except tarfile.FilterError as error:
        raise DamagedDownload(f"{archive}: {error}, outside {folder}: do not trust it") from error
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DamagedDownload(f"{archive} cannot be unpacked ({error}): remove it and fetch it again") from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _transfer(url: str, part: Path, size: int | None, progress: bool) -> None:
    """One try: go on where the part file ends, or from the start where the server sends the whole file."""
    have = _size(part)
    if size is not None and have >= size:
        return
    headers = {"Accept-Encoding": "identity"}  # ranges of a compressed answer would count other bytes than the file's
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # nothing after the last byte: the file is whole, the checksum will tell
            return
        response.raise_for_status()
        resumed = response.status_code == 206
        announced = int(response.headers.get("Content-Length", 0))
        total = size or (announced + have * resumed) or None
        bar = tqdm(total=total, initial=have * resumed, unit="B", unit_scale=True, desc=part.stem, disable=not progress)
        with bar, part.open("ab" if resumed else "wb") as file:
            for block in response.iter_content(1 << 16):  # what a break loses
                file.write(block)
                bar.update(len(block))
            got = file.tell()
        if announced and got < announced + have * resumed:
            raise requests.ConnectionError(f"the connection ended after {got:,} bytes")


def ask(url: str) -> requests.Response:
    for tries in range(1, ATTEMPTS + 1):
        try:
            response = requests.get(url, timeout=TIMEOUT)
            response.raise_for_status()
            return response
        except requests.RequestException as error:
            if (isinstance(error, requests.HTTPError) and not _passing(error.response)) or tries == ATTEMPTS:
                raise Unreachable(f"{url} does not answer ({error}): check the address, or try later") from error
            time.sleep(_wait(error, tries))
    raise AssertionError("unreachable")


def _passing(response: requests.Response) -> bool:
    """Whether a refusal is one that passes: too many requests, or trouble at the server."""
    return response.status_code == 429 or response.status_code >= 500


def _wait(error: Exception, tries: int) -> float:
    """Seconds until the next try: what the server asks for, else doubling."""
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    if asked.isdigit():
        return min(float(asked), LONGEST_WAIT)
    if asked:
        try:
            return min(max(parsedate_to_datetime(asked).timestamp() - time.time(), 0.0), LONGEST_WAIT)
        except ValueError:
            pass
    return min(2.0 ** (tries - 1), LONGEST_WAIT)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path, checksum: str) -> str:
    algorithm = checksum.split(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
