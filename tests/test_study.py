import pandas as pd
import pytest

from sat2dem_core import study
from sat2dem_core.errors import InvalidConfig, UnknownName

SMALL = "tile = 32\nstride = 96\nfeatures = 4\nsteps = 2\nbatch = 2\n"


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(f'preset = "cpu"\n[[grid]]\nseed = [0, 1]\n{SMALL}\n[[grid]]\nnormalization = "global"\n{SMALL}')
    return path


def test_lists_are_axes_and_everything_else_is_fixed(small):
    runs = study.read_study(small)
    assert [(run.get("seed"), run.get("normalization")) for run in runs] == [(0, None), (1, None), (None, "global")]


def test_study_makes_a_row_a_run_that_says_where_it_comes_from(small, tmp_path):
    table = study.run_study(small, tmp_path / "table.csv")
    assert len(table) == 3 and (table["above minimum MAE"] > 0).all()
    assert (table["relief MAE"] != table["tile mean: relief MAE"]).all()
    assert table.code.nunique() == 1 and table.machine.str.contains("torch").all()
    assert table["relief SSIM"].isna().all()  # not defined, so blank


def test_search_scores_on_validation_tiles_and_never_sees_the_held_out_ones(small, tmp_path, monkeypatch):
    small.write_text('part = "validation"\n' + small.read_text())
    seen, evaluate = [], study.evaluate
    noting = lambda model, tiles, train: seen.append(tiles.ids) or evaluate(model, tiles, train)
    monkeypatch.setattr(study, "evaluate", noting)
    table = study.run_study(small, tmp_path / "table.csv")
    data = study.train(study.settings(study.read_study(small)[0]), progress=False).data
    assert seen == [data.validation.ids] * 3 and not set(seen[0]) & set(data.test.ids)
    assert (table["validation tiles"] == len(data.validation)).all() and "test tiles" not in table


def test_interrupted_study_keeps_the_rows_it_has(small, tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    study.run_study(small, path)
    whole = pd.read_csv(path)
    whole.iloc[:2].assign(seconds=123.0).to_csv(path, index=False)
    trained = []
    original = study.train
    monkeypatch.setattr(study, "train", lambda config, **options: trained.append(config) or original(config, **options))
    again = study.run_study(small, path)
    assert [config.normalization for config in trained] == ["global"]
    assert list(again.seconds[:2]) == [123.0, 123.0]
    pd.testing.assert_frame_equal(pd.read_csv(path).drop(columns="seconds"), whole.drop(columns="seconds"))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("preset = ", InvalidConfig, "cannot be read as a study"),
        ('presets = "cpu"\n[[grid]]', InvalidConfig, "holds presets"),
        ('preset = "cpu"', InvalidConfig, "no grid"),
        ("[[grid]]\nseeds = [1]", UnknownName, "unknown setting 'seeds': choose one of scene"),
        ('part = "train"\n[[grid]]\nseed = 1', UnknownName, "unknown part 'train': choose one of validation, test"),
        ('preset = "fast"\n[[grid]]\nseed = 1', UnknownName, "choose one of cpu, gpu, zion, paper"),
    ],
)
def test_study_that_cannot_be_run_says_why_before_it_starts(tmp_path, text, error, message):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(error, match=message):
        study.run_study(tmp_path / "bad.toml", tmp_path / "table.csv")
    assert not (tmp_path / "table.csv").exists()
