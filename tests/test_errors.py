"""Errors in one sentence, and names that load when they are used."""

import pytest

from sat2dem_core.errors import MissingExtra, Sat2DEMError, UnknownName, choose, needs
from sat2dem_core.lazy import lazy


def test_a_name_is_returned_or_refused_with_the_valid_ones():
    assert choose("fruit", "pear", {"apple": 1, "pear": 2}) == "pear"
    with pytest.raises(UnknownName) as caught:
        choose("fruit", "plum", ("apple", "pear"))
    assert str(caught.value) == "unknown fruit 'plum': choose one of apple, pear"  # without KeyError's quotes
    assert isinstance(caught.value, KeyError) and isinstance(caught.value, Sat2DEMError)


def test_a_missing_package_is_named_with_its_extra():
    message = r"no_such_library is not installed: pip install 'sat2dem-core\[cluster\]'"
    with pytest.raises(MissingExtra, match=message), needs("cluster"):
        import no_such_library


def test_a_name_is_loaded_when_it_is_used():
    load = lazy("house", {"sqrt": "math", "room": "no_such_module"})
    assert load("sqrt")(9) == 3
    with pytest.raises(AttributeError, match="module 'house' has no attribute 'window'"):
        load("window")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load("room")
