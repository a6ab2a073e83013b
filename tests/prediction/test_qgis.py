"""A predicted DEM in a real GIS."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SYSTEM_PYTHON = "/usr/bin/python3"  # to which Debian's python3-qgis belongs


@pytest.fixture
def drawn(require_system, tmp_path):
    """``drawn(path, …)``: what QGIS says of each raster, and its picture of it, (H, W, 3)."""
    check = [SYSTEM_PYTHON, "-c", "import qgis.core"]
    if not os.path.exists(SYSTEM_PYTHON) or subprocess.run(check, capture_output=True).returncode:
        require_system("QGIS (python3-qgis and qgis-providers)")

    def draw(*paths: Path) -> list[tuple[dict, np.ndarray]]:
        script = Path(__file__).resolve().parents[2] / "tools/qgis_draw.py"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PROJ"))}
        done = subprocess.run(
            [SYSTEM_PYTHON, script, *paths], capture_output=True, text=True, encoding="utf-8",
            env=environment | {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        facts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return [
            (fact, np.asarray(Image.open(f"{path}.png").convert("RGB")).astype(int))
            for fact, path in zip(facts, paths, strict=True)
        ]

    return draw


def test_qgis_opens_a_dem_in_gray_and_with_its_style_in_color(made, drawn):
    plain, styled = made("plain.tif").path, made("styled.tif", style=True).path
    assert styled.with_suffix(".qml").exists() and not plain.with_suffix(".qml").exists()
    (gray, gray_picture), (color, color_picture) = drawn(plain, styled)
    for facts in (gray, color):
        assert facts["valid"] and facts["bands"] == 1 and facts["crs"] == "EPSG:32613"
        assert not facts["errors"] and not facts["messages"]
    assert gray["renderer"] == "singlebandgray" and color["renderer"] == "singlebandpseudocolor"
    assert np.ptp(gray_picture, axis=2).max() == 0 and np.ptp(gray_picture) > 150
    assert (np.ptp(color_picture, axis=2) > 60).mean() > 0.9
