"""The space: exactly the configurations that the rules allow, in order, the default named."""

import itertools
from math import prod

import pytest

from itd.errors import SpaceError
from itd.patcher import MODELS, build_model, model_space, patch
from itd.runner.request import parse_options
from itd.space import Setting, SiteSpec, build_space, parse_attributes, parse_value

STRIDES = ([1, 2, 3, 4], [1, 2, 3, 4], [0.5, 1, 2, 3, 4], [0.5, 1, 2, 3, 4])


def specs(default=(1, 2, 2, 2)):
    return [
        SiteSpec(
            name,
            Setting(stride, 1, 3),
            {"stride": tuple(values), "dilation": (1, 2, 3, 4, 5), "size": (1, 3, 5, 7, 9)},
        )
        for name, values, stride in zip("ABCD", STRIDES, default, strict=True)
    ]


@pytest.mark.parametrize(("stem", "count"), [(4, 361), (2, 370)])
def test_stride_space_is_the_product_within_the_range(stem, count):
    space = build_space(["stride"], specs(), stem_stride=stem)
    expected = [c for c in itertools.product(*STRIDES) if 4 <= stem * prod(c) <= 288]
    assert [tuple(s.stride for s in c) for c in space.configs] == expected
    assert len(space) == count
    assert sum(space.removed.values()) == 400 - count


def test_default_is_named_and_numbered():
    space = build_space(["stride"], specs(), stem_stride=4)
    assert tuple(s.stride for s in space.configs[space.default]) == (1, 2, 2, 2)
    assert build_space(["size"], specs()).default == (1 * 125 + 1 * 25 + 1 * 5 + 1)


@pytest.mark.parametrize("attribute", ["dilation", "size"])
def test_dilation_and_size_are_full_products(attribute):
    assert len(build_space([attribute], specs())) == 625


def test_several_attributes_are_crossed_within_a_site_first():
    options = {(s, a): v for s in "ABCD" for a, v in (("stride", (1, 2)), ("size", (1, 3)))}
    space = build_space(["size", "stride"], specs(), options=options, stem_stride=4)
    assert space.attributes == ("stride", "size")
    assert len(space) == 4**4
    assert space.configs[1][3] == Setting(stride=1, size=3)
    assert space.configs[2][3] == Setting(stride=2, size=1)


def test_fixed_sites_hold_their_default_in_every_column():
    space = build_space(["dilation"], specs(), swept=["B"])
    columns = space.columns()
    assert columns["dilation_B"] == [1, 2, 3, 4, 5]
    assert all(set(columns[f"dilation_{s}"]) == {1} for s in "ACD")


def test_a_site_that_the_model_lacks_has_null_columns():
    columns = build_space(["dilation"], specs()[:2]).columns()
    assert columns["dilation_C"] == [None] * 25


def test_options_replace_the_list_and_drop_the_default():
    space = build_space(["stride"], specs(), options={("D", "stride"): (4, 4, 0.5)}, stem_stride=4)
    assert {c[3].stride for c in space.configs} == {0.5, 4}
    assert space.default is None


def test_without_renumbers_the_default():
    space = build_space(["dilation"], specs(), swept=["D"])
    assert space.without([1, 2], "x").default == 0
    late = build_space(["size"], specs(), swept=["D"]).without([0], "x")
    assert late.default == 0 and len(late) == 4 and late.removed["x"] == 1
    assert build_space(["size"], specs(), swept=["D"]).without([1], "x").default is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: build_space(["stride"], specs(), options={("A", "stride"): (0.5,), ("B", "stride"): (1,)},
                             stride_range=(1000, 2000)), "range rule removed all"),
        (lambda: build_space(["stride", "size"], specs()), "too many"),
        (lambda: build_space(["stride", "dilation", "size"], specs()), "too many"),
        (lambda: build_space(["stride"], specs(), swept=["A"], options={("B", "stride"): (1,)}), "not swept"),
        (lambda: parse_attributes("stride,speed"), "no such attribute: 'speed'"),
        (lambda: parse_value("size", "4"), "odd"),
        (lambda: parse_value("stride", "1.5"), "1/2 or a whole number"),
        (lambda: parse_value("dilation", "0"), "whole number from 1"),
        (lambda: parse_options(["Z=1"], ["stride"], ["A"]), "no such site"),
        (lambda: parse_options(["1,2"], ["stride", "size"], ["A"]), "of which attribute"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(call, words):
    with pytest.raises(SpaceError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_options_are_parsed_as_documented():
    both = ["stride:1,2", "size:A=1,3", "size:3"]
    found = parse_options(both, ["stride", "size"], ["A", "B"])
    assert found == {("A", "stride"): (1, 2), ("B", "stride"): (1, 2), ("B", "size"): (3,), ("A", "size"): (1, 3)}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("resnet18", (95, 625, 625)),
        ("resnet50", (361, 625, 625)),
        ("mobilenet_v2", (370, 625, 625)),
        ("densenet121", (370, 625, 625)),
    ],
)
def test_registered_models_have_the_papers_spaces(name, counts):
    model = patch(build_model(name, 10), name)
    found = tuple(len(model_space(model, [a], entry=MODELS[name])) for a in ("stride", "dilation", "size"))
    assert found == counts


def test_a_value_that_a_site_cannot_take_is_refused_by_name():
    model = patch(build_model("resnet18", 10), "resnet18")
    with pytest.raises(SpaceError, match="site A cannot take stride 2: its block has no projection"):
        model_space(model, ["stride"], entry=MODELS["resnet18"], options={("A", "stride"): (1, 2)})
