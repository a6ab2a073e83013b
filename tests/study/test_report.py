"""Summaries and reports of a study whose differences are known."""

import numpy as np
import pandas as pd
import pytest

from sat2dem_core.errors import InvalidConfig
from sat2dem_core.study.report import against_best, effects, summarize, write_report


@pytest.fixture
def study(tmp_path):
    """A study of 2 methods x 2 normalizations x 3 seeds on 4 x 4 tiles: Pix2Pix is 10 m worse, Global equally good."""
    rng, rows, tiles = np.random.default_rng(0), [], []
    difficulty = 100 + rng.normal(0, 30, 16)
    for method, worse in (("unet", 0), ("pix2pix", 10)):
        for kind in ("shift", "global"):
            for seed in range(3):
                name, errors = f"{method}{kind}{seed}", difficulty + worse + rng.normal(0, 0.5, 16)
                settings = {"preset": "zion", "method": method, "normalization": kind, "seed": seed}
                scores = {
                    "relief MAE": errors.mean(), "relief RMSE": 130.0, "relief R2": 0.3, "absolute MAE": 200.0 + seed,
                    "absolute RMSE": 250.0, "absolute SSIM": 0.6, "absolute R2": 0.5, "above minimum MAE": 120.0 + seed,
                    "above minimum RMSE": 150.0, "above minimum SSIM": 0.7, "above minimum R2": 0.2,
                    "constant: absolute MAE": 300.0, "constant: above minimum MAE": 140.0,
                    "constant: relief MAE": 125.0,
                }
                rows.append({"run": name} | settings | scores)
                tiles.append(pd.DataFrame({
                    "run": name, "tile": [f"t{n:02d}" for n in range(16)], "row": np.arange(16) // 4 * 128,
                    "column": np.arange(16) % 4 * 128, "pixels": 128**2, "relief": errors,
                }))
    pd.DataFrame(rows).to_csv(tmp_path / "study.csv", index=False)
    pd.concat(tiles).to_csv(tmp_path / "study-tiles.csv", index=False)
    return tmp_path / "study.csv"


def test_each_normalization_is_scored_on_the_question_that_it_trains_for(study):
    summary = summarize(pd.read_csv(study))
    assert summary.index.names == ["method", "normalization"] and (summary.runs == 3).all()
    assert summary.loc[("unet", "shift"), ["MAE", "MAE ± seeds", "constant"]].tolist() == [121, 1, 140]
    assert summary.loc[("unet", "global"), ["MAE", "SSIM", "constant"]].tolist() == [201, 0.6, 300]
    assert summary["MAE ± splits"].isna().all()


def test_spread_over_seeds_is_distinguished_from_that_over_splits():
    repeats = pd.DataFrame({"version": [1, 1, 2, 2, 3, 3], "seed": [0, 1, 0, 1, 0, 1]})
    rows = repeats.assign(preset="cpu", **{"above minimum MAE": 100 + 10 * repeats.version + repeats.seed})
    summary = summarize(rows).iloc[0]
    assert summary["MAE ± seeds"] == pytest.approx(np.std([0, 1], ddof=1))
    assert summary["MAE ± splits"] == pytest.approx(10) and np.isnan(summary["SSIM"])


def test_effects_show_which_differences_are_significant(study):
    result = effects(study)
    worse = result.loc[("method", "pix2pix", "unet")]
    assert worse.difference == pytest.approx(10, abs=0.5) and worse.low > 9 and worse.significant
    assert not result.loc[("normalization", "global", "shift"), "significant"]


def test_best_comes_first_and_settings_that_do_not_differ_from_it_are_marked(study):
    result = against_best(study)
    assert result.iloc[0].difference == 0 and list(result.MAE) == sorted(result.MAE)
    assert result.groupby("method").significant.any().to_dict() == {"unet": False, "pix2pix": True}


def test_report_is_a_table_in_two_languages_and_a_figure(study, tmp_path):
    markdown, latex, figure = write_report(study, tmp_path / "report")
    lines = markdown.read_text(encoding="utf-8").splitlines()
    assert [name.strip() for name in lines[0].split("|")[1:5]] == ["method", "normalization", "runs", "MAE, m"]
    assert len(lines) == 6 and "121.0 ± 1.0" in lines[2] and "*" in lines[2] and "*" not in lines[4]
    text = latex.read_text(encoding="utf-8")
    assert text.count(r"\\") == 5 and r"\toprule" in text
    assert figure.read_bytes()[:4] == b"\x89PNG"


def test_runs_on_different_tiles_are_not_compared(study):
    tiles = study.with_name("study-tiles.csv")
    pd.read_csv(tiles).iloc[1:].to_csv(tiles, index=False)
    with pytest.raises(InvalidConfig, match="were scored on different tiles: compare those of one split"):
        effects(study)
