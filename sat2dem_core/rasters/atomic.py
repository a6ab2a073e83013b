"""Files that are whole or not there: written beside and renamed; fetched from the net, resumed and verified.

Neither pooch nor requests resumes a broken transfer, and the paper's data set is gigabytes: hence :func:`fetch`.
"""

import gzip
import hashlib
import os
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests
from tqdm import tqdm

from sat2dem_core.errors import CannotWrite, DamagedDownload, Unreachable

ZENODO = "https://zenodo.org/api/records/14647632"  # the paper's data set, doi 10.5281/zenodo.14647632
ATTEMPTS, TIMEOUT, LONGEST_WAIT = 5, 60.0, 120.0  # tries a transfer; seconds without a byte; seconds between tries

# The band files of spDataLarge, each at the commit that holds it; origin and terms: data/README.md.
_SPDATA = "https://raw.githubusercontent.com/Nowosad/spDataLarge/{}/inst/raster/{}"
_BANDS, _SRTM = "cde9a48445ffb03ccb69fb1341bf683fd950f7bd", "4c2d08a97a0acea98a17ceb168df048df4bf00f2"
ZION = {
    "landsat_b2.tif": (_BANDS, "0f4ac0798411c99187b4595bd2068ed9d85f82f75d9ee3dc3c8a5191c7c8bea6"),
    "landsat_b3.tif": (_BANDS, "88751ab9faa4b025bc25fb953abea70bd5a13fa18d5f13e19a693f69bd8b80dd"),
    "landsat_b4.tif": (_BANDS, "7b7b1954d756a1af412bdaa4dad387c2088f83a5940faa6a80378cd9cf4f025a"),
    "landsat_b5.tif": (_BANDS, "ed18c36c1c24f7abb7220532d3678b53ef4c0a60b590eaccf0b2a7d8b60c14b8"),
    "srtm.tif": (_SRTM, "80452bc70c5f7a888a2ecae45f7c6857e0fc8ed5fe1a6f66767faa6580d84d1e"),
}


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


def downloads(name: str) -> Path:
    """Where a data set's files are looked for and land.

    ``$SAT2DEM_DATA`` where it is set (a folder on a mounted Drive, say), else ``data/`` of a clone, else
    ``~/.cache/sat2dem/data``.
    """
    clone = Path(__file__).parents[2]
    default = clone / "data" if (clone / "notebooks").is_dir() else Path.home() / ".cache" / "sat2dem" / "data"
    return Path(os.environ.get("SAT2DEM_DATA") or default) / name


def zion(address: str = _SPDATA, progress: bool = True) -> Path:
    """The folder with Landsat 8 bands and SRTM elevation of Zion National Park, downloaded where they are missing.

    The elevation is CGIAR-CSI SRTM v4.1, whose terms forbid redistribution: it is fetched for you, never shipped.

    Raises:
        Unreachable, DamagedDownload: see :func:`fetch`.
    """
    folder = downloads("zion")
    for name, (commit, sha256) in ZION.items():
        fetch(address.format(commit, name), folder / name, f"sha256:{sha256}", progress=progress)
    return folder


def iberia(record: str = ZENODO, progress: bool = True) -> tuple[Path, str]:
    """The folder with the paper's data set, downloaded and unpacked as its record lists it, and its license.

    Raises:
        Unreachable, DamagedDownload: see :func:`fetch` and :func:`unpack`.
    """
    folder = downloads("iberia")
    files, license = listing(record)
    for file in files:
        archive = fetch(file["url"], folder / file["name"], file["checksum"], size=file["size"], progress=progress)
        if archive.name.endswith((".zip", ".tar", ".tar.gz", ".tgz")):
            unpack(archive, folder / archive.name.split(".")[0])
    return folder, license


def listing(record: str) -> tuple[list[dict], str]:
    """Names, sizes in bytes, checksums and addresses of a Zenodo record's files, as its own API lists them; its license.

    Raises:
        Unreachable: the record does not answer, or not as a Zenodo record does.
    """
    response = _ask(record)
    try:
        told = response.json()
        files = [
            {"name": Path(file["key"]).name, "size": file["size"], "checksum": file["checksum"], "url": file["links"]["self"]}
            for file in told["files"]
        ]
        license = told.get("metadata", {}).get("license", {}).get("id", "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreachable(f"{record} does not list files as a Zenodo record does ({error!r}): check the address") from error
    if not files:
        raise Unreachable(f"{record} lists no files: is the record open?")
    return files, license


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


def _ask(url: str) -> requests.Response:
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
