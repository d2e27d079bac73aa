"""Nested inputs have readable paths, and are rebuilt with other leaves as what they were."""

from __future__ import annotations

import collections
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gradvitals.frameworks.tree import leaves, rebuilt, short_names


class Pair(NamedTuple):
    left: object
    right: object


nests = st.recursive(
    st.integers() | st.none() | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
        | st.tuples(inner, inner).map(lambda both: Pair(*both))
    ),
    max_leaves=10,
)


def test_paths_read_like_the_code_that_reaches_the_leaf():
    tree = {"W": [1, 2], "deep": {"er": (3, {"est": 4})}}
    assert dict(leaves(tree, "params")) == {
        "params.W[0]": 1,
        "params.W[1]": 2,
        "params.deep.er[0]": 3,
        "params.deep.er[1].est": 4,
    }
    assert list(leaves(7, "x")) == [("x", 7)]
    assert list(leaves({"a": 1}, "")) == [("a", 1)]


@given(nests)
def test_rebuilding_with_the_same_leaves_gives_an_equal_nest_of_the_same_types(tree):
    again = rebuilt(tree, "x", lambda _, value: value)
    assert again == tree
    assert type(again) is type(tree)


@given(nests)
def test_every_leaf_is_visited_once_in_order_under_its_path(tree):
    seen = []
    rebuilt(tree, "x", lambda path, value: seen.append((path, value)))
    assert seen == list(leaves(tree, "x"))
    assert len({path for path, _ in seen}) == len(seen)


def test_containers_are_fresh_so_that_a_function_may_change_them():
    tree = {"list": [1], "dict": {}}
    again = rebuilt(tree, "x", lambda _, value: value)
    again["list"].append(2)
    again["dict"]["new"] = 3
    again["more"] = 4
    assert tree == {"list": [1], "dict": {}}


class Settings(dict):
    """A mapping with attributes, as configurations often are."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Stubborn(dict):
    """A mapping that isn't made from a mapping."""

    def __init__(self):
        super().__init__(a=1)


@pytest.mark.parametrize(
    "tree", [Settings(a=1), collections.OrderedDict(a=1), Pair(1, [2])], ids=["own", "ordered", "named"]
)
def test_special_containers_stay_what_they_are(tree):
    assert type(rebuilt(tree, "x", lambda _, value: value)) is type(tree)


def test_a_mapping_that_cannot_be_rebuilt_becomes_a_dict():
    assert rebuilt(Stubborn(), "x", lambda _, value: value + 1) == {"a": 2}


@example(["x.a.b", "a.b", "x.b"])
@given(st.lists(st.text("ab.", min_size=1, max_size=4), unique=True, max_size=6))
def test_short_names_are_unique_and_ends_of_the_paths(paths):
    short = short_names(paths)
    assert list(short) == paths
    assert all(path.endswith(name) for path, name in short.items())
    assert len(set(short.values())) == len(paths)


def test_names_that_would_be_ambiguous_stay_long():
    assert short_names(["old.W", "new.W", "new.b"]) == {"old.W": "old.W", "new.W": "new.W", "new.b": "b"}
