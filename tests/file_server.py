"""A file server with byte ranges on localhost that can be told to misbehave: what the net does to a download."""

import gzip
import mimetypes
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


@dataclass
class FileServer:
    """Files of a folder over HTTP.

    Attributes:
        url: address of the folder.
        faults: for a file's name, what happens to its next requests, one after the other: a status code, a pair of a
            status code and headers, ``"cut"`` (the connection ends half way) or ``"stall"`` (no byte for 30 s).
        requests: every request that came, as (name, Range header or None).
        ranges: whether byte ranges are honored.
        compress: whether files go out compressed to clients that accept it.
    """

    folder: Path
    url: str = ""
    faults: dict[str, list] = field(default_factory=lambda: defaultdict(list))
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    ranges: bool = True
    compress: bool = False


@contextmanager
def file_server(folder: Path):
    """Serve a folder while the context lasts."""
    server = FileServer(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool):
            name = self.path.split("?")[0].lstrip("/")
            wanted = self.headers.get("Range")
            server.requests.append((name, wanted))
            waiting = server.faults[name.rsplit("/", 1)[-1]]
            fault = waiting.pop(0) if waiting else None
            file = folder / name
            if isinstance(fault, int | tuple) or not file.is_file():
                code, headers = fault if isinstance(fault, tuple) else (fault or 404, {})
                return self.head(code, {"Content-Length": 0} | headers)
            if fault == "stall":
                time.sleep(30)
            data, first, encoding = file.read_bytes(), 0, {}
            if server.compress and "gzip" in self.headers.get("Accept-Encoding", ""):
                data, encoding = gzip.compress(data), {"Content-Encoding": "gzip"}
            total = len(data)
            kind = {"Content-Type": mimetypes.guess_type(name)[0] or "application/octet-stream"}
            if wanted and server.ranges:
                start, end = wanted.removeprefix("bytes=").split("-")
                first = int(start)
                if first >= total:
                    return self.head(416, {"Content-Length": 0, "Content-Range": f"bytes */{total}"})
                data = data[first : int(end) + 1 if end else None]
                place = f"bytes {first}-{first + len(data) - 1}/{total}"
                self.head(206, {"Content-Length": len(data), "Content-Range": place} | encoding | kind)
            else:
                offer = {"Accept-Ranges": "bytes"} if server.ranges else {}
                self.head(200, {"Content-Length": len(data)} | offer | encoding | kind)
            if body:
                try:
                    self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
                except OSError:  # the client went away
                    pass
            if fault == "cut":
                self.close_connection = True

        def head(self, code: int, headers: dict):
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key, str(value))
            self.end_headers()

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
