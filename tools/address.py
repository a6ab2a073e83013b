"""Write the repository's address, which stands in ``_config.yml``, wherever else it is needed.

Usage: python tools/address.py
"""

import re
from pathlib import Path

ADDRESS = re.compile(r"https://github\.com/[\w.-]+/sat2dem-book|(?<=url: )https://\S+")
WHERE = ("pyproject.toml", "CITATION.cff", "README.md", "notebooks/*.ipynb")


def configured(root: Path) -> str:
    """The address in ``_config.yml``."""
    found = re.search(r"^repository:\n\s+url:\s*(\S+)", (root / "_config.yml").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit("_config.yml names no repository.url: write the address there")
    return found[1]


def places(root: Path) -> list[Path]:
    """The files that repeat the address."""
    return sorted(path for pattern in WHERE for path in root.glob(pattern))


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    address = configured(root)
    for path in places(root):
        text = path.read_text()
        changed = ADDRESS.sub(address, text)
        if changed != text:
            path.write_text(changed)
            print(f"{path.relative_to(root)}: {address}")


if __name__ == "__main__":
    main()
