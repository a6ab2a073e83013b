"""A real STAC API on localhost: stac-fastapi-pgstac above a PostgreSQL cluster that lives as long as the test."""

import copy
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

USER = "postgres"  # the account of the database, and of its process where the test runs as root


def find_postgres() -> Path | None:
    """The folder with the programs of the newest PostgreSQL that has PostGIS; Debian keeps it away from PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    for folder in [*reversed(debian), Path(shutil.which("initdb") or "initdb").parent]:
        if (folder / "initdb").exists() and (folder / "pg_config").exists():
            share = subprocess.check_output([folder / "pg_config", "--sharedir"], text=True).strip()
            if Path(share, "extension/postgis.control").exists():
                return folder
    return None


def missing() -> str | None:
    """What this machine lacks to run the server."""
    try:
        import psycopg, pypgstac, stac_fastapi.pgstac, uvicorn  # noqa: E401
    except ImportError as error:
        return f"{error.name} (in the extra 'test')"
    return None if find_postgres() else "PostgreSQL with PostGIS (Debian: postgresql-postgis)"


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A cluster in ``folder`` that answers on a socket there and nowhere else; yields its address for libpq."""
    account = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
    if account:  # PostgreSQL refuses to run as root
        shutil.chown(folder, USER, USER)

    def call(program: str, *arguments: str) -> None:
        with open(folder / "postgres.log", "a", encoding="utf-8") as log:
            command = [find_postgres() / program, "--pgdata", folder / "data", *arguments]
            subprocess.run(command, check=True, cwd=folder, stdout=log, stderr=log, **account)

    # Trust is safe: mkdtemp lets nobody else into the folder, hence to the socket.
    call("initdb", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C", "--no-sync")
    settings = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off", "jit": "off"}
    try:
        call("pg_ctl", "start", "--options", " ".join(f"-c {name}={value}" for name, value in settings.items()))
        yield f"host={folder} user={USER} dbname={USER}"
    finally:
        if (folder / "data/postmaster.pid").exists():
            call("pg_ctl", "stop", "--mode=immediate")


@contextmanager
def serve(folder: Path, log: Path) -> Iterator[str]:
    """The API above the cluster in ``folder``, which logs every request; yields its address."""
    environment = dict(os.environ, PGHOST=quote(str(folder), safe=""), PGPORT="5432", PGDATABASE=USER, PGUSER=USER,
                       PGPASSWORD="")
    command = [sys.executable, "-m", "uvicorn", "stac_fastapi.pgstac.app:create_app", "--factory", "--fd"]
    # The server inherits an open socket: no other program takes the port, and requests wait until it is ready.
    with socket.create_server(("127.0.0.1", 0)) as door, open(log, "w", encoding="utf-8") as lines:
        url = "http://{}:{}".format(*door.getsockname())
        server = subprocess.Popen([*command, str(door.fileno())], pass_fds=[door.fileno()], cwd=folder,
                                  env=environment, stdout=lines, stderr=lines)
    try:
        urllib.request.urlopen(url, timeout=120).close()
        yield url
    finally:
        server.kill()  # it has nothing to save
        server.wait()


@contextmanager
def stac_api(collections: list[dict], items: list[dict], log: Path | None = None) -> Iterator[str]:
    """Run a STAC API that holds ``items``, each in one of ``collections``; yields its address.

    Its requests are logged in ``log``, a line each; an error carries the logs.
    """
    from pypgstac import db, load, migrate  # here, for they need the extra "test"
    with tempfile.TemporaryDirectory(prefix="stac") as name:
        folder = Path(name)
        try:
            with postgres(folder) as address:
                with db.PgstacDB(dsn=address) as database:
                    migrate.Migrate(database).run_migration()
                    loader = load.Loader(database)
                    loader.load_collections(iter(copy.deepcopy(collections)))
                    loader.load_items(iter(copy.deepcopy(items)))
                with serve(folder, log or folder / "api.log") as url:
                    yield url
        except BaseException as error:
            for log in sorted(folder.glob("*.log")):
                text = log.read_text(encoding="utf-8", errors="replace")
                error.add_note(f"{log.name}:\n{text[-4000:]}")
            raise
