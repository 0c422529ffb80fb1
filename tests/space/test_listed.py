"""A space that is a list in a file: what it becomes, what it refuses, and what tells two of them apart."""

from __future__ import annotations

import json

import pytest

from itd.errors import SpaceError
from itd.space import Setting, SiteSpec, SpaceList, listed_space, read_space, write_space

SITES = (
    SiteSpec("A", Setting(stride=1, size=3), {"size": (1, 3)}, {"stride": "it has no projection"}),
    SiteSpec("B", Setting(stride=2, size=3), {"stride": (1, 2), "size": (1, 3)}),
)


def listed(*configs: dict) -> SpaceList:
    return SpaceList(("stride", "size"), tuple({s: Setting(**v) for s, v in c.items()} for c in configs))


def test_configurations_are_filled_sorted_and_each_there_once():
    given = listed({"B": {"stride": 4}}, {"A": {"size": 1}}, {}, {"B": {"stride": 4, "size": 3}})
    space = listed_space(given, SITES)
    assert space.columns() == {
        "stride_A": [1, 1, 1],
        "stride_B": [2, 2, 4],
        "stride_C": [None] * 3,
        "stride_D": [None] * 3,
        "size_A": [1, 3, 3],
        "size_B": [3, 3, 3],
        "size_C": [None] * 3,
        "size_D": [None] * 3,
    }
    assert space.default == 1 and space.swept == ("A", "B")


def test_without_the_default_there_is_none():
    assert listed_space(listed({"B": {"stride": 4}}), SITES).default is None


def test_lists_of_the_same_values_in_other_pairs_are_told_apart():
    one = listed_space(listed({"A": {"size": 1}, "B": {"stride": 1}}, {}), SITES)
    two = listed_space(listed({"A": {"size": 1}}, {"B": {"stride": 1}}), SITES)
    assert one.options == two.options and len(one) == len(two)
    assert one.identity() != two.identity()
    assert one.identity()["stride_range"] is None


def test_a_file_gives_back_what_was_written(tmp_path):
    given = SpaceList(("stride",), ({"A": Setting(stride=0.5)}, {}), {"budget": 625})
    write_space(tmp_path / "s.json", given)
    assert read_space(tmp_path / "s.json") == given


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read"),
        ("{", "not JSON"),
        ("[]", "not a space"),
        ('{"configs": []}', "not a space"),
        ({"attributes": ["stride"]}, "damaged"),
        ({"attributes": ["speed"], "configs": []}, 'attributes.0. is "speed"'),
        ({"attributes": ["stride"], "configs": [{"A": {"stride": 0}}]}, "no such stride option"),
        ({"attributes": ["stride"], "configs": [{"A": {"size": 3}}]}, "configuration 0 names size"),
        ({"attributes": ["stride"], "configs": [{}, {"E": {"stride": 1}}]}, "configs.1. has the field 'E'"),
        ({"attributes": ["stride"], "configs": [[1]]}, "damaged"),
    ],
)
@pytest.mark.filterwarnings("ignore:.* has no sha256")
def test_a_file_that_is_no_space_is_one_line(tmp_path, text, words):
    path = tmp_path / "s.json"
    if text is not None:
        path.write_text(text if isinstance(text, str) else json.dumps({"format": "itd-space-1", **text}))
    with pytest.raises(SpaceError, match=words) as error:
        read_space(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (listed({"C": {"stride": 1}}), "configuration 0 .* names site C; the network's sites are A, B"),
        (listed({"A": {"stride": 2}}), "site A cannot take stride 2: it has no projection"),
        (listed(), "lists 0 configurations"),
    ],
)
def test_what_the_network_cannot_take_is_named(given, words):
    with pytest.raises(SpaceError, match=words):
        listed_space(given, SITES)


def test_a_site_that_cannot_vary_may_be_listed_at_its_own_value():
    assert len(listed_space(listed({"A": {"stride": 1}}), SITES)) == 1
