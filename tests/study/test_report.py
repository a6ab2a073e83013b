"""Tables of studies whose answers are known."""

import numpy as np
import pandas as pd
import pytest

from sat2dem_core.errors import InvalidConfig
from sat2dem_core.study.report import against_best, effects, summarize, write_report


@pytest.fixture
def made(tmp_path):
    """A study of 2 methods x 2 normalizations x 3 seeds on 16 tiles of 4 x 4; Pix2Pix is 10 m worse, Global not a bit."""
    rng, rows, tiles = np.random.default_rng(0), [], []
    ground = 100 + rng.normal(0, 30, 16)
    for method, worse in (("unet", 0), ("pix2pix", 10)):
        for kind in ("shift", "global"):
            for seed in range(3):
                name, errors = f"{method}{kind}{seed}", ground + worse + rng.normal(0, 0.5, 16)
                scores = {f"relief {metric}": value for metric, value in {"MAE": errors.mean(), "RMSE": 130.0, "R2": 0.3}.items()}
                scores |= {f"absolute {m}": v for m, v in {"MAE": 200.0 + seed, "RMSE": 250.0, "SSIM": 0.6, "R2": 0.5}.items()}
                scores |= {f"above minimum {m}": v for m, v in {"MAE": 120.0 + seed, "RMSE": 150.0, "SSIM": 0.7, "R2": 0.2}.items()}
                baseline = {"constant: absolute MAE": 300.0, "constant: above minimum MAE": 140.0, "constant: relief MAE": 125.0}
                rows.append({"run": name, "preset": "zion", "method": method, "normalization": kind, "seed": seed} | scores | baseline)
                tiles.append(pd.DataFrame({
                    "run": name, "tile": [f"t{n:02d}" for n in range(16)], "row": np.arange(16) // 4 * 128,
                    "column": np.arange(16) % 4 * 128, "pixels": 128**2, "relief": errors,
                }))
    pd.DataFrame(rows).to_csv(tmp_path / "study.csv", index=False)
    pd.concat(tiles).to_csv(tmp_path / "study-tiles.csv", index=False)
    return tmp_path / "study.csv"


def test_each_normalization_is_scored_on_what_it_trains_for(made):
    found = summarize(pd.read_csv(made))
    assert found.index.names == ["method", "normalization"] and (found.runs == 3).all()
    assert found.loc[("unet", "shift"), ["MAE", "MAE ± seeds", "constant"]].tolist() == [121, 1, 140]
    assert found.loc[("unet", "global"), ["MAE", "SSIM", "constant"]].tolist() == [201, 0.6, 300]
    assert found["MAE ± splits"].isna().all()


def test_seeds_and_splits_are_told_apart():
    rows = [{"preset": "cpu", "version": v, "seed": s, "above minimum MAE": 100 + 10 * v + s} for v in (1, 2, 3) for s in (0, 1)]
    found = summarize(pd.DataFrame(rows)).iloc[0]
    assert found["MAE ± seeds"] == pytest.approx(np.std([0, 1], ddof=1)) and found["MAE ± splits"] == pytest.approx(10)
    assert np.isnan(found["SSIM"])


def test_effects_find_what_makes_a_difference_and_mark_what_does_not(made):
    found = effects(made)
    worse = found.loc[("method", "pix2pix", "unet")]
    assert worse.difference == pytest.approx(10, abs=0.5) and worse.low > 9 and not worse.noise
    assert found.loc[("normalization", "global", "shift"), "noise"]


def test_best_comes_first_and_its_equals_are_marked(made):
    found = against_best(made)
    assert found.iloc[0].difference == 0 and list(found.MAE) == sorted(found.MAE)
    assert found.groupby("method").noise.all().to_dict() == {"unet": True, "pix2pix": False}


def test_report_is_a_table_in_two_languages_and_a_figure(made, tmp_path):
    markdown, latex, figure = write_report(made, tmp_path / "report")
    lines = markdown.read_text().splitlines()
    assert [name.strip() for name in lines[0].split("|")[1:5]] == ["method", "normalization", "runs", "MAE, m"]
    assert len(lines) == 6 and "121.0 ± 1.0" in lines[2] and "*" in lines[2] and "*" not in lines[4]
    assert latex.read_text().count(r"\\") == 5 and r"\toprule" in latex.read_text()
    assert figure.read_bytes()[:4] == b"\x89PNG"


def test_runs_of_different_tiles_are_not_compared(made):
    tiles = made.with_name("study-tiles.csv")
    pd.read_csv(tiles).iloc[1:].to_csv(tiles, index=False)
    with pytest.raises(InvalidConfig, match="were scored on different tiles: compare those of one split"):
        effects(made)
