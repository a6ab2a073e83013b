"""The Dockerfile, which nothing here can build: its linter, and whether its context holds what the wheel needs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LET_IN = [
    line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
]


def test_the_linter_finds_no_fault(tmp_path, require_system):
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        hadolint = require_system("hadolint")
    checked = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace("--no-cache-dir ", ""), encoding="utf-8")
    assert "DL3042" in subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True, text=True).stdout


def test_the_context_is_what_the_wheel_is_built_from():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, wheel = settings["project"], settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {project["readme"], *project["license-files"], "constraints.txt", "pyproject.toml"}
    needed |= {*wheel["packages"], *wheel["force-include"]}
    assert set(LET_IN) == needed and all((ROOT / name).exists() for name in LET_IN)
    copied = set(" ".join(re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M)).split())
    assert copied == {Path(name).parts[0] for name in LET_IN}


def test_python_is_the_one_that_is_tested():
    version = re.search(r"^FROM python:(\S+)-slim", DOCKERFILE, re.M)[1]
    environment = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert f"- python={version}\n" in environment


def test_the_command_runs_without_the_rights_of_root():
    assert int(re.search(r"^USER (\d+):\d+$", DOCKERFILE, re.M)[1]) > 0
    assert re.search(r'^ENTRYPOINT \["sat2dem"\]$', DOCKERFILE, re.M)
