"""Leaving whole regions out: what a fold of the benchmark trains on, and which scenes it is scored on.

Scenes of one region share terrain, climate and often the satellite's pass, so a model that saw one knows too much of
the next. The registry divides the regions into folds. A run of a fold trains on open scenes of the other folds alone,
so that everybody can repeat it; scenes for development are scored, and marked.
"""

from collections.abc import Iterator
from functools import lru_cache

from sat2dem_core.dataset.normalize import Normalization
from sat2dem_core.dataset.parts import Data
from sat2dem_core.dataset.registry import Site, read_registry
from sat2dem_core.dataset.scenes import open_scene
from sat2dem_core.dataset.tiles import Tiles, cut, extremes_of, joined
from sat2dem_core.errors import InvalidConfig, NoTiles

PIXEL = 30.0  # meters: scenes of other pixel sizes are scored, but not trained on
TRAINING_GAPS, TEST_GAPS = 0.2, 0.5  # largest share of nodata in a tile
LARGE = 4  # tiles along the shorter side of a scene, from which they need not overlap
VALIDATION, INSTEAD = 5, 3  # the fold that chooses checkpoints, and the one that does where fold 5 is tested


def folds() -> list[int]:
    """The numbers of all folds."""
    return sorted({site.fold for site in read_registry().values()})


def check_fold(fold: int) -> None:
    """Raise InvalidConfig unless there is such a fold."""
    if fold not in folds():
        regions = {number: sorted({site.region for site in scored(number)}) for number in folds()}
        listed = "; ".join(f"{number} ({', '.join(names)})" for number, names in regions.items())
        raise InvalidConfig(f"there is no fold {fold}: give one of {listed}")


def scored(fold: int) -> list[Site]:
    """The scenes of a fold's regions, for which its models are scored."""
    return [site for site in read_registry().values() if site.fold == fold]


def trained_on(fold: int) -> list[Site]:
    """The open scenes of other folds that a fold's models are trained on."""
    return [site for site in _usable() if site.fold not in (fold, _validation(fold))]


def _validation(fold: int) -> int:
    return INSTEAD if fold == VALIDATION else VALIDATION


def _usable() -> list[Site]:
    sites = read_registry().values()
    return [site for site in sites if site.kind != "development" and abs(site.pixel - PIXEL) < 1]


@lru_cache(maxsize=1)
def leave_out(fold: int, tile: int, stride: int, normalization: str) -> Data:
    """The data of a run that has seen none of a fold's regions.

    Validation tiles come from another region still; the normalization knows the training tiles alone.

    Args:
        tile, stride: px; training tiles overlap by their difference, validation tiles do not.

    Raises:
        InvalidConfig: there is no such fold.
        NoTiles: no other fold has an open scene that holds a tile.
        Unreachable, DamagedDownload, CannotWrite: see :func:`sat2dem_core.rasters.download.fetch`.
    """
    check_fold(fold)
    train = _tiles(trained_on(fold), tile, stride, TRAINING_GAPS)
    if not train:
        raise NoTiles(f"fold {fold} has no training tile: no open scene of another fold holds one of {tile} px")
    chosen_by = [site for site in _usable() if site.fold == _validation(fold)]
    held_out = [site for site in _usable() if site.fold == fold]
    known = joined(train)
    validation, test = (joined(_tiles(group, tile, tile, TEST_GAPS)) for group in (chosen_by, held_out))
    scale = Normalization.fit(normalization, extremes_of(known.dem)[:, None])
    names = ", ".join(site.name for site in trained_on(fold))
    return Data(known, validation, test, scale, source=f"scenes {names}")


def _tiles(sites: list[Site], tile: int, stride: int, gaps: float) -> list[Tiles]:
    """The tiles of each scene that holds one."""
    found = []
    for site in sites:
        try:
            found.append(cut(open_scene(site.name), tile, stride, gaps))
        except NoTiles:
            continue
    return found


def scored_tiles(fold: int, tile: int, part: str) -> Iterator[tuple[Site, Tiles]]:
    """The scenes of a fold, or of its validation fold, that hold a tile, with their tiles.

    Those of small scenes overlap by half, so that there are several. Scenes for development count where they are.

    Args:
        part: ``test`` or ``validation``.
    """
    for site in scored(fold if part == "test" else _validation(fold)):
        if site.kind != "development" or site.here:
            stride = tile if min(site.width, site.height) >= LARGE * tile else tile // 2
            for tiles in _tiles([site], tile, stride, TEST_GAPS):
                yield site, tiles
