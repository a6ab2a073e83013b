"""Draw _static/qgis.jpg, a figure of chapter 10: the embedded scene's predicted DEM in QGIS, plain and with its style.

    python tools/qgis_figure.py

QGIS and its Python are the system's (Debian: python3-qgis, qgis-providers).
"""

import os
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from sat2dem_core import predict
from sat2dem_core.paths import data_folder
from sat2dem_core.rasters.atomic import replacing

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        plain, styled = Path(name) / "plain.tif", Path(name) / "styled.tif"
        for path in (plain, styled):
            predict(data_folder("rocky-mountain") / "rmnp-rgb.tif", path, style=path == styled, progress=False)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        draw = ["/usr/bin/python3", ROOT / "tools/qgis_draw.py", plain, styled]
        subprocess.run(draw, check=True, env=environment)
        left, right = (Image.open(f"{path}.png").convert("RGB") for path in (plain, styled))
        both = Image.new("RGB", (left.width + 20 + right.width, left.height), "white")
        both.paste(left, (0, 0))
        both.paste(right, (left.width + 20, 0))
        with replacing(ROOT / "_static/qgis.jpg") as temporary:
            both.save(temporary, format="JPEG", quality=88)


if __name__ == "__main__":
    main()
