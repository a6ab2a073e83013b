"""Downloads are whole or absent, whatever happens on the disk and the network."""

import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
import time
import zipfile
from email.utils import formatdate
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sat2dem_core.errors import CannotWrite, DamagedDownload, Unreachable
from sat2dem_core.rasters import download
from sat2dem_core.rasters.atomic import part_of
from sat2dem_core.rasters.download import NOTE, fetch, origin, unpack

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def waits(monkeypatch):
    """The seconds of each wait; no test waits."""
    asked = []
    monkeypatch.setattr(download.time, "sleep", asked.append)
    return asked


@pytest.fixture
def get(server, tmp_path):
    """``get()``: fetch the big file."""
    target = tmp_path / "here" / "big.bin"
    address = f"{server.url}/big.bin"
    return lambda checksum=SHA256, **options: fetch(address, target, checksum, progress=False, **options)


def test_of_two_that_fetch_one_file_one_waits_for_the_other(get, server):
    with ThreadPoolExecutor(2) as pool:
        paths = [future.result() for future in [pool.submit(get), pool.submit(get)]]
    assert paths[0] == paths[1] and paths[0].read_bytes() == CONTENT
    assert len([name for name, _ in server.requests if name == "big.bin"]) == 1


def test_a_file_is_fetched_once(get, server):
    assert get().read_bytes() == CONTENT
    assert get().read_bytes() == CONTENT
    assert server.requests == [("big.bin", None)]


def test_a_checksum_may_be_md5_as_on_zenodo(get):
    assert get(f"md5:{hashlib.md5(CONTENT).hexdigest()}").read_bytes() == CONTENT


def test_an_interrupted_transfer_continues_where_it_stopped(get, server, waits):
    server.set(faults={"big.bin": ["cut", "cut"]})
    assert get().read_bytes() == CONTENT
    starts = [int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0 for _, wanted in server.requests]
    assert len(starts) == 3 and starts[0] == 0 and starts[1:] == pytest.approx([1_500_000, 2_250_000], abs=140_000)


def test_the_next_call_continues_where_the_last_stopped(get, server, waits, monkeypatch, tmp_path):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.set(faults={"big.bin": ["cut"]})
    with pytest.raises(Unreachable, match=r"failed 1 times in a row .*the first 1,4..,... bytes are kept"):
        get()
    part = tmp_path / "here/big.bin.part"
    size = part.stat().st_size
    assert os.listdir(part.parent) == ["big.bin.part"] and size > 1_400_000
    assert get().read_bytes() == CONTENT and server.requests[-1] == ("big.bin", f"bytes={size}-")


def test_a_server_without_ranges_starts_over(get, server, waits):
    server.set(ranges=False, faults={"big.bin": ["cut"]})
    assert get().read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("asked", "low", "high"), [("7", 7, 7), ("a date", 20, 31), ("soon", 1, 1), ("9999", 120, 120)]
)
def test_too_many_requests_wait_as_long_as_the_server_asks(get, server, waits, asked, low, high):
    asked = asked.replace("a date", formatdate(time.time() + 30, usegmt=True))
    server.set(faults={"big.bin": [(429, {"Retry-After": asked})]})
    assert get().read_bytes() == CONTENT
    assert len(waits) == 1 and low <= waits[0] <= high


def test_faults_of_the_server_are_waited_out_longer_each_time(get, server, waits):
    server.set(faults={"big.bin": [500, 502, 503]})
    assert get().read_bytes() == CONTENT and waits == [1, 2, 4]


def test_a_server_that_always_fails_ends_the_download(get, server, waits):
    server.set(faults={"big.bin": [500] * 20})
    with pytest.raises(Unreachable, match="failed 5 times in a row.*500.*try later"):
        get()
    assert len(server.requests) == 5


def test_a_stalled_transfer_ends(get, server, waits, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    server.set(faults={"big.bin": ["stall"]})
    assert get().read_bytes() == CONTENT and len(waits) == 1


def test_more_bytes_than_announced_end_the_transfer(get, server, waits, tmp_path, monkeypatch):
    message = r"big\.bin sends more than the {} bytes that were announced; what came was removed"
    with monkeypatch.context() as patch, pytest.raises(DamagedDownload, match=message.format("2,000,000")):
        patch.setattr(download.requests.Response, "iter_content", lambda *args: 1 / 0)  # no byte is waited for
        get(size=2_000_000)  # the server announces more than the record
    assert not os.listdir(tmp_path / "here")
    server.set(faults={"big.bin": ["endless"]})
    with pytest.raises(DamagedDownload, match=message.format("3,000,000")):
        get(size=3_000_000)
    assert not os.listdir(tmp_path / "here") and not waits


def test_an_endless_transfer_ends_with_the_disk(get, server, waits, full_disk):
    """Where neither the record nor the server announces a size."""
    server.set(faults={"big.bin": ["endless"]})
    with full_disk(4_000_000), pytest.raises(CannotWrite, match="make room"):
        get()


@pytest.mark.parametrize("length", ["many", "-5", "3_000_000"])
def test_a_length_that_is_no_number_counts_as_none(get, server, waits, length):
    server.set(faults={"big.bin": [{"length": length}]})
    assert get().read_bytes() == CONTENT


def test_a_missing_file_is_an_error_at_once(server, tmp_path, waits):
    with pytest.raises(Unreachable, match="answers 404.*check the address"):
        fetch(f"{server.url}/none.bin", tmp_path / "none.bin", SHA256, progress=False)
    assert not waits


def test_a_download_with_another_checksum_is_removed(get, server, tmp_path):
    (server.folder / "big.bin").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DamagedDownload, match="does not have the checksum sha256:.*; it was removed"):
        get()
    assert not os.listdir(tmp_path / "here")


def test_a_truncated_file_on_the_server_is_noticed(get, server, waits):
    (server.folder / "big.bin").write_bytes(CONTENT[:1000])
    with pytest.raises(DamagedDownload, match="checksum"):
        get(size=len(CONTENT))


def test_a_file_of_the_user_with_another_checksum_is_named_and_kept(get):
    path = get()
    path.write_bytes(b"mine")
    with pytest.raises(DamagedDownload, match=r"big.bin is not the file that .* offers.*remove it"):
        get()
    assert path.read_bytes() == b"mine"


def test_a_full_disk_while_fetching(get, full_disk):
    with full_disk(1_000_000), pytest.raises(CannotWrite, match="set SAT2DEM_DATA to another folder"):
        get()


def test_no_answer_is_compressed(get, server, waits):
    """A range of a compressed answer would count other bytes than those in the part file."""
    server.set(compress=True, faults={"big.bin": ["cut"]})
    assert get().read_bytes() == CONTENT
    assert server.requests[1][1], "it started over"


def test_a_transfer_that_gets_no_further_than_before_ends(get, monkeypatch, waits):
    tries = []

    def break_off(url, part, *rest):
        tries.append(url)
        assert len(tries) < 50, "it never ends"
        part.write_bytes(CONTENT[: 1000 if len(tries) % 2 else 500])  # without ranges each try starts over
        raise download.requests.ConnectionError("broken")

    monkeypatch.setattr(download, "_transfer", break_off)
    with pytest.raises(Unreachable, match="failed 5 times in a row"):
        get()


# ---- unpacking

def archive(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name.replace("\0", "{NUL}"), content)
        path.write_bytes(path.read_bytes().replace(b"{NUL}", b"\0" * 5))  # the standard library writes none
    else:
        with tarfile.open(path, "w:gz") as file:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                if "\0" in name:  # a name in a record of its own may hold it
                    info.name, info.pax_headers = "short", {"path": name}
                file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_an_archive_is_unpacked_once(tmp_path, kind):
    path = archive(tmp_path / kind, {"in/one.txt": b"1", "two.txt": b"2"})
    folder = unpack(path, tmp_path / "out")
    assert (folder / "in/one.txt").read_bytes() == b"1" and (folder / "two.txt").read_bytes() == b"2"
    (folder / "two.txt").write_bytes(b"mine")
    assert (unpack(path, folder) / "two.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize(("name", "fault"), [
    ("../outside.txt", "leads to a parent folder"), ("in/../../outside.txt", "leads to a parent folder"),
    ("/tmp/outside-sat2dem.txt", "is an absolute path"), ("C:outside.txt", "names a drive"),
    ("in\\..\\outside.txt", "contains a backslash"), ("in/one\0.txt", "contains a NUL byte"),
])
def test_members_outside_the_folder_are_refused(tmp_path, kind, name, fault):
    path = archive(tmp_path / kind, {"good.txt": b"1", name: b"evil"})
    with pytest.raises(DamagedDownload) as refused:
        unpack(path, tmp_path / "out")
    told = name.replace("\0", "\0" * 5) if kind == "a.zip" else name
    assert f"{path}: the member {told!r} {fault} and could be written outside" in str(refused.value)
    assert os.listdir(tmp_path) == [kind] and not Path("/tmp/outside-sat2dem.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "../../secret"
        file.addfile(info)
    with pytest.raises(DamagedDownload, match=r"a\.tar: the member 'link' is a link or a device .*do not trust it"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.tar"]


def test_links_in_a_zip_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "../../secret")
    with pytest.raises(DamagedDownload, match=r"a\.zip: the member 'link' is a link or a device"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.zip"]


def test_archives_of_a_folder_are_unpacked(tmp_path):
    """As ``tar -C folder .`` and most programs for zip files make them, with members for the folders."""
    source = tmp_path / "source"
    (source / "in").mkdir(parents=True)
    (source / "in/one.txt").write_bytes(b"1")
    for kind in ("zip", "gztar"):
        path = Path(shutil.make_archive(str(tmp_path / kind), kind, source))
        assert (unpack(path, tmp_path / f"out-{kind}") / "in/one.txt").read_bytes() == b"1"


def test_an_encrypted_archive_is_refused(tmp_path):
    path = archive(tmp_path / "a.zip", {"one.txt": b"1"})
    spoiled = bytearray(path.read_bytes())
    spoiled[spoiled.index(b"PK\1\2") + 8] |= 1  # the flag in the list of members
    path.write_bytes(spoiled)
    with pytest.raises(DamagedDownload, match="a.zip is encrypted"):
        unpack(path, tmp_path / "out")


# ---- sizes that archives state

def test_an_archive_that_needs_more_than_is_free_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=150_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    for kind in ("a.zip", "a.tar.gz"):
        path = archive(tmp_path / kind, {"one.txt": bytes(100_000), "two.txt": bytes(100_000)})
        message = rf"unpacking .*{kind} needs 0\.2 MB in {tmp_path}, where 0\.1 MB are free: make room"
        with pytest.raises(CannotWrite, match=message):
            unpack(path, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["a.tar.gz", "a.zip"]


def test_a_member_larger_than_its_stated_size_is_not_written_whole(tmp_path, full_disk):
    """A zip bomb that states 1000 bytes and would write 50 million; the disk ends after 2 million."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("one.txt", bytes(50_000_000))
    lying = (tmp_path / "a.zip").read_bytes().replace((50_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    (tmp_path / "a.zip").write_bytes(lying)
    with full_disk(2_000_000), pytest.raises(DamagedDownload, match=r"a\.zip cannot be unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_size_below_zero_cannot_make_up_for_another(tmp_path):
    content = bytearray(gzip.decompress(archive(tmp_path / "a.tar.gz", {"one.txt": b"", "two.txt": b""}).read_bytes()))
    content[124:136] = b"\xff" * 8 + (-10**6).to_bytes(4, "big", signed=True)
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DamagedDownload, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


# ---- what a folder was unpacked from

def test_a_folder_of_another_version_of_the_archive_is_noticed(tmp_path):
    path = archive(tmp_path / "a.zip", {"one.txt": b"1"})
    folder = unpack(path, tmp_path / "out", "md5:1")
    assert unpack(path, folder, "md5:1") == unpack(path, folder) == folder and origin(folder) == "md5:1"
    message = rf"out was unpacked from another version of a\.zip \(then md5:1, now md5:2\): remove {folder} and {path}"
    with pytest.raises(DamagedDownload, match=message):
        unpack(path, folder, "md5:2")
    shutil.rmtree(folder)
    assert origin(unpack(path, folder, "md5:2")) == "md5:2"


def test_a_folder_that_does_not_say_what_it_was_unpacked_from_is_used(tmp_path):
    path, folder = archive(tmp_path / "a.zip", {"one.txt": b"1"}), tmp_path / "out"
    folder.mkdir()
    assert os.listdir(unpack(path, folder, "md5:1")) == [] and origin(folder) == ""


def test_an_archive_cannot_say_what_it_is(tmp_path):
    path = archive(tmp_path / "a.zip", {NOTE: b"md5:2"})
    assert origin(unpack(path, tmp_path / "out", "md5:1")) == "md5:1"


@pytest.mark.parametrize("rest", [b"", bytes(100_500)], ids=["truncated", "spoiled"])
@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_a_damaged_archive_leaves_nothing(tmp_path, kind, rest):
    path = archive(tmp_path / kind, {"one.txt": CONTENT[:200_000]})
    path.write_bytes(path.read_bytes()[:100_000] + rest)
    with pytest.raises(DamagedDownload, match="cannot be unpacked.*download it again"):
        unpack(path, tmp_path / "out")
    assert os.listdir(tmp_path) == [kind]


def test_a_zip_whose_list_would_begin_before_the_file(tmp_path):
    path = archive(tmp_path / "a.zip", {"one.txt": b"1"})
    spoiled = bytearray(path.read_bytes())
    spoiled[-10:-6] = (10**6).to_bytes(4, "little")  # the size of the list
    path.write_bytes(spoiled)
    with pytest.raises(DamagedDownload, match="a.zip cannot be unpacked"):
        unpack(path, tmp_path / "out")


def test_an_archive_whose_second_half_is_something_else(tmp_path):
    plain = gzip.decompress(archive(tmp_path / "a.tar.gz", {"one.txt": CONTENT[:200_000]}).read_bytes())
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(plain[:100_000]) + b"<html>Too many requests</html>")
    with pytest.raises(DamagedDownload, match="a.tar.gz cannot be unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.tar.gz"]


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_a_flipped_bit_is_noticed_or_harmless(tmp_path, kind):
    path = archive(tmp_path / kind, {"one.txt": bytes(range(256)) * 20})
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, 8 * len(whole), 60):
        spoiled = bytearray(whole)
        spoiled[place // 8] ^= 1 << place % 8
        path.write_bytes(spoiled)
        try:
            shutil.rmtree(unpack(path, tmp_path / "out"))
        except DamagedDownload:
            assert os.listdir(tmp_path) == [kind]


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_a_full_disk_while_unpacking_is_one_sentence_and_leaves_nothing(tmp_path, kind, full_disk):
    path = archive(tmp_path / kind, {"one.txt": CONTENT[:200_000]})
    with full_disk(100_000) as reason, pytest.raises(CannotWrite, match=rf"cannot write .*out \({reason}\).*make room"):
        unpack(path, tmp_path / "out")
    assert os.listdir(tmp_path) == [kind]


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_an_archive_of_nothing_is_an_empty_folder(tmp_path, kind):
    assert os.listdir(unpack(archive(tmp_path / kind, {}), tmp_path / "out")) == []


def test_an_interrupted_unpacking_starts_over(tmp_path):
    path = archive(tmp_path / "a.zip", {"one.txt": b"1"})
    part = part_of(tmp_path / "out")
    part.mkdir()
    (part / "left.txt").write_text("half")
    assert os.listdir(unpack(path, tmp_path / "out")) == ["one.txt"]
