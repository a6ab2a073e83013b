"""Names from outside that become paths: files of a record, members of an archive, tiles of a table."""

import re


def name_fault(name: str) -> str:
    r"""Why a path from outside could lead out of the folder that it is relative to; empty if it cannot.

    The rule is the same on every system, so a name that is dangerous on Windows alone is refused everywhere.

    >>> name_fault("images/tile_1.tif")
    ''
    >>> name_fault("../tile_1.tif"), name_fault("C:tile_1.tif"), name_fault(r"..\tile_1.tif")
    ('leads to a parent folder', 'names a drive', 'contains a backslash')
    """
    if "\0" in name:
        return "contains a NUL byte"
    if "\\" in name:
        return "contains a backslash"
    if name.startswith("/"):
        return "is an absolute path"
    if re.match(r"[A-Za-z]:", name):
        return "names a drive"
    parts = name.split("/")
    # Windows drops dots and spaces at the end of a part, so that ".. " is its parent folder, too.
    if any(part.startswith("..") and not part.strip(". ") for part in parts):
        return "leads to a parent folder"
    return "" if any(part not in ("", ".") for part in parts) else "names no file"
