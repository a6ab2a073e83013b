"""What one scored run adds to a study's tables: its scores in a row, and the errors of its tiles in rows of their own.

Nothing else belongs here: when this module's code changes, stored rows count as made by other code.
"""

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from sat2dem_core.dataset.tiles import Tiles
from sat2dem_core.evaluation.scoring import Evaluation


def score_columns(evaluation: Evaluation, method: str) -> dict[str, float]:
    """A run's scores by column: ``relief MAE`` of the model, ``constant: relief MAE`` of a baseline, and so on.

    The model has every measure that is defined, and its MAE of relief by slope; baselines have their MAE.
    """
    scores: dict[str, float] = {}
    for (question, predictor), row in evaluation.table.iterrows():
        if predictor == method:
            columns = {f"{question} {measure}": value for measure, value in row.dropna().items()}
        else:
            columns = {f"{predictor.removeprefix(f'{method}, ')}: {question} MAE": row.MAE}
        scores |= {name: round(float(value), 4) for name, value in columns.items()}
    by_slope = evaluation.classes.query("question == 'relief' and predictor == @method and by == 'slope'").MAE
    return scores | {f"relief MAE, slope {key[-1]} %": round(float(value), 2) for key, value in by_slope.items()}


def tile_rows(evaluation: Evaluation, tiles: Tiles, train: Tiles) -> pd.DataFrame:
    """A row for each scored tile: ``tile``, its ``row`` and ``column``, its ``pixels``, ``distance`` and errors.

    ``distance`` is from the tile's center to that of the closest training tile, meters. Errors are the MAE in meters of
    the model (``relief``) and of ``constant`` for each question, and of ``tile mean`` and ``coarse 1 km`` for relief.
    """
    method = evaluation.table.index[0][1]
    errors = {
        (f"{predictor}: {question}" if predictor == "constant" else question): f"{question}: {predictor}"
        for question, predictor in evaluation.table.index if predictor in (method, "constant")
    }
    errors |= {f"{predictor}: relief": f"relief: {predictor}" for predictor in ("tile mean", "coarse 1 km")}
    meters = np.array(tiles.gsd)
    distance = KDTree(train.corners * meters).query(tiles.corners * meters)[0]
    return pd.DataFrame({
        "tile": evaluation.tiles.index, "row": tiles.corners[:, 0], "column": tiles.corners[:, 1],
        "pixels": evaluation.tiles.pixels.values, "distance": distance.round(),
        **{name: evaluation.tiles[column].round(2).values for name, column in errors.items()},
    })
