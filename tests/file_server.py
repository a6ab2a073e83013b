"""A file server with byte ranges on localhost that can be told to misbehave: what the network does to a download.

The server is a process of its own: GDAL may hold the interpreter while it waits for an answer, and a thread of the
same process could not give it. The test writes settings to the server's standard input, one JSON object a line; the
server answers each with its state, and ends with the input, that is with the test, however that ends.
"""

import gzip
import json
import mimetypes
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


@dataclass
class State:
    """What the test sets and reads.

    Attributes:
        faults: for a file's name, what happens to its next requests, one after the other: a status code, a pair of a
            status code and headers, ``"cut"`` (the connection ends half way), ``"stall"`` (no byte for 30 s),
            ``"endless"`` (the file again and again, without a length), ``{"length": text}`` (that as the length) or
            None.
        requests: every request that came, as (name, Range header or None).
        ranges: whether byte ranges are honored.
        compress: whether files go out compressed to clients that accept it.
    """

    faults: dict[str, list] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    ranges: bool = True
    compress: bool = False


class FileServer:
    """The test's end: the server's ``url`` and ``folder``, and its state."""

    def __init__(self, process: subprocess.Popen, folder: Path):
        self._process, self.folder = process, folder
        self.url: str = process.stdout.readline().strip()

    def set(self, **settings: Any) -> dict[str, Any]:
        """Change attributes of the server's :class:`State`; returns all of them."""
        print(json.dumps(settings), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    @property
    def faults(self) -> dict[str, list]:
        """The faults that have not happened yet."""
        return {name: waiting for name, waiting in self.set()["faults"].items() if waiting}

    @property
    def requests(self) -> list[tuple[str, str | None]]:
        """Every request that came, as (name, Range header or None)."""
        return [(name, wanted) for name, wanted in self.set()["requests"]]


@contextmanager
def file_server(folder: Path) -> Iterator[FileServer]:
    """Serve a folder over HTTP while the context lasts."""
    command, pipe = [sys.executable, __file__, str(folder)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8") as process:
        try:
            yield FileServer(process, folder)
        finally:
            process.kill()  # it has nothing to save


def serve(folder: Path) -> None:
    """Print the address, and serve until standard input ends."""
    state = State()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool):
            name = self.path.split("?")[0].lstrip("/")
            wanted = self.headers.get("Range")
            state.requests.append((name, wanted))
            waiting = state.faults.get(name.rsplit("/", 1)[-1])
            fault = waiting.pop(0) if waiting else None
            file = folder / name
            if isinstance(fault, int | list) or not file.is_file():
                code, headers = fault if isinstance(fault, list) else (fault or 404, {})
                return self.head(code, {"Content-Length": 0} | headers)
            if fault == "stall":
                time.sleep(30)
            data, first, encoding = file.read_bytes(), 0, {}
            if state.compress and "gzip" in self.headers.get("Accept-Encoding", ""):
                data, encoding = gzip.compress(data), {"Content-Encoding": "gzip"}
            total = len(data)
            kind = {"Content-Type": mimetypes.guess_type(name)[0] or "application/octet-stream"}
            if wanted and state.ranges:
                start, end = wanted.removeprefix("bytes=").split("-")
                first = int(start)
                if first >= total:
                    return self.head(416, {"Content-Length": 0, "Content-Range": f"bytes */{total}"})
                data = data[first : int(end) + 1 if end else None]
                place = f"bytes {first}-{first + len(data) - 1}/{total}"
                self.head(206, {"Content-Length": len(data), "Content-Range": place} | encoding | kind)
            else:
                offer = {"Accept-Ranges": "bytes"} if state.ranges else {}
                length = {} if fault == "endless" else {"Content-Length": len(data)}
                if isinstance(fault, dict):
                    length = {"Content-Length": fault["length"]}
                self.head(200, length | offer | encoding | kind)
            if body:
                try:
                    self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
                    while fault == "endless":
                        self.wfile.write(data)
                except OSError:  # the client went away
                    pass
            if fault in ("cut", "endless") or isinstance(fault, dict):
                self.close_connection = True

        def head(self, code: int, headers: dict):
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key, str(value))
            self.end_headers()

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)  # the system chooses a free port
    http.daemon_threads = True
    Thread(target=http.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{http.server_port}", flush=True)
    for line in sys.stdin:
        for name, value in json.loads(line).items():
            setattr(state, name, value)
        print(json.dumps(asdict(state)), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
