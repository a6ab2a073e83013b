"""Copy the repository's address from ``_config.yml`` to the other files that contain it.

Usage: python tools/address.py
"""

import re
from pathlib import Path

ADDRESS = re.compile(r"https://github\.com/[\w.-]+/sat2dem-book|(?<=url: )https://\S+")
FILES = ("pyproject.toml", "CITATION.cff", "README.md", "notebooks/*.ipynb")


def configured(root: Path) -> str:
    """The address in ``_config.yml``."""
    text = (root / "_config.yml").read_text(encoding="utf-8")
    match = re.search(r"^repository:\n\s+url:\s*(\S+)", text, re.MULTILINE)
    if match is None:
        raise SystemExit("_config.yml has no repository.url: write the address there")
    return match[1]


def places(root: Path) -> list[Path]:
    """The files that contain a copy of the address."""
    return sorted(path for pattern in FILES for path in root.glob(pattern))


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    address = configured(root)
    for path in places(root):
        text = path.read_text(encoding="utf-8")
        changed = ADDRESS.sub(address, text)
        if changed != text:
            path.write_text(changed, encoding="utf-8")
            print(f"{path.relative_to(root)}: {address}")


if __name__ == "__main__":
    main()
