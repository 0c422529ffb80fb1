"""Shares of preferred configurations and options, with intervals, in spaces of one and of two attributes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from itd.analysis import preferences
from itd.analysis.scores import preferred
from itd.errors import EmptyResultError
from itd.space import Setting, SiteSpec, Space, build_space
from itd.store import Result, open_result
from support import intervals, synthetic

TWO = build_space(
    ["stride", "size"],
    [SiteSpec(s, Setting(stride=1, dilation=1, size=3), {"stride": (0.5, 1, 2), "size": (1, 3)}) for s in "AB"],
    stem_stride=2,
    stride_range=(1, 4),
)
"""28 of 36 configurations: A and B together between a half and twofold."""


def written(path: Path, space: Space, scores: dict[str, np.ndarray], **more) -> Result:
    synthetic.write_units(synthetic.open_writer(path, len(scores["labels"]), space=space, **more), scores)
    return open_result(path)


def by_sorting(scores: dict[str, np.ndarray], default: int | None) -> list[int]:
    """Each sample's configurations sorted by every rule in turn, the last rule first; the first of them."""
    found = []
    for i in range(len(scores["labels"])):
        rows = list(range(len(scores["quality"])))
        rows.sort(key=lambda c: c != default)
        rows.sort(key=lambda c, i=i: scores["nll"][c, i])
        rows.sort(key=lambda c, i=i: -scores["quality"][c, i])
        found.append(rows[0])
    return found


@pytest.mark.parametrize(("space", "n"), [
    (synthetic.make_space(1), 1), (synthetic.make_space(1), 6), (synthetic.make_space(5), 1),
    (synthetic.make_space(16, default=3), 20), (synthetic.make_space(6, default=None), 20), (TWO, 20),
])  # fmt: skip
def test_every_share_and_its_interval(tmp_path, space, n):
    scores = synthetic.make_ties(len(space), n, seed=n)
    found = preferences(written(tmp_path / "r", space, scores))
    rows = by_sorting(scores, space.default)

    solved = [any(float(q) >= 1 for q in scores["quality"][:, i]) for i in range(n)]
    assert found.solved == sum(solved)

    def check(one, has: list[bool]) -> None:
        among = [h for h, s in zip(has, solved, strict=True) if s]
        for share, values in ((one.share, has), (one.share_of_solved, among)):
            if not values:
                assert share is None
                continue
            assert (share.value, share.n) == (pytest.approx(np.mean(values)), len(values))
            assert (share.low, share.high) == pytest.approx(intervals.of_share(values), abs=1e-9)

    assert [c.config for c in found.configs] == sorted(set(rows), key=lambda r: (-rows.count(r), r))
    for c in found.configs:
        check(c, [r == c.config for r in rows])
        settings = zip(space.sites, space.configs[c.config], strict=True)
        assert c.settings == {site.name: setting.values() for site, setting in settings}
    seen = []
    for o in found.options:
        at = [site.name for site in space.sites].index(o.site)
        check(o, [getattr(space.configs[r][at], o.attribute) == o.value for r in rows])
        seen.append((o.site, o.attribute, o.value))
    assert seen == [
        (site.name, attribute, value)
        for at, site in enumerate(space.sites)
        for attribute in space.attributes
        for value in sorted({getattr(config[at], attribute) for config in space.configs})
    ]
    for site in space.sites:
        for attribute in space.attributes:
            of_site = [o.share.value for o in found.options if (o.site, o.attribute) == (site.name, attribute)]
            assert sum(of_site) == pytest.approx(1)


@pytest.mark.parametrize(("configs", "default"), [(1, None), (2, 1), (7, None), (7, 0), (7, 5)])
def test_preferred_by_sorting(configs, default):
    for seed in range(5):
        scores = synthetic.make_ties(configs, 40, seed=seed, classes=2)
        assert preferred(scores["quality"], scores["nll"], default).tolist() == by_sorting(scores, default)


@pytest.mark.parametrize(("default", "rows"), [(None, [1, 2, 0, 0]), (2, [1, 2, 2, 0]), (1, [1, 2, 1, 0])])
def test_preferred_rule_by_rule(tmp_path, default, rows):
    quality = np.array([[0.5, 1.25, 1.5, 1.75], [1.25, 1.25, 1.5, 0.75], [0.75, 1.25, 1.5, 1.5]])
    nll = np.array([[0.0, 1.0, 1.0, 2.0], [9.0, 1.0, 1.0, 0.0], [0.0, 0.5, 1.0, 1.0]], np.float32)
    scores = synthetic.from_quality(quality) | {"nll": nll}  # by quality; by nll; by the default, or order; by quality
    found = preferences(open_result(synthetic.make_result(tmp_path / "r", scores, default=default)))
    assert {c.config: round(4 * c.share.value) for c in found.configs} == {r: rows.count(r) for r in rows}
    assert found.default == default


def test_a_half_is_an_option_that_can_be_asked_for(tmp_path):
    best = next(i for i, (a, b) in enumerate(TWO.configs) if (a.stride, a.size, b.stride, b.size) == (0.5, 1, 2, 3))
    quality = np.full((len(TWO), 4), 0.25)
    quality[best, :3], quality[TWO.default, 3] = 1.5, 1.5
    found = preferences(written(tmp_path / "r", TWO, synthetic.from_quality(quality)))
    assert found.share("A", "stride", 0.5).value == found.share("B", "stride", 2).value == 0.75
    assert found.share("B", "size", 3).value == 1 and found.share("B", "stride", 0.5).value == 0
    assert found.share("C", "stride", 1) is None and found.share("A", "dilation", 1) is None
    assert [(c.config, c.share.value) for c in found.configs] == [(best, 0.75), (TWO.default, 0.25)]


def test_equally_preferred_configurations_are_in_order(tmp_path):
    quality = np.full((5, 4), 0.25)
    quality[[3, 1, 3, 1], range(4)] = 1.5
    result = open_result(synthetic.make_result(tmp_path / "r", synthetic.from_quality(quality)))
    assert [c.config for c in preferences(result).configs] == [1, 3]


def test_null_rows_prefer_nothing(tmp_path):
    scores, gone = synthetic.make_ties(6, 15), np.arange(15) % 4 == 2
    found = preferences(open_result(synthetic.make_result(tmp_path / "a", scores, missing=gone)))
    kept = {name: values[..., ~gone] for name, values in scores.items()}
    other = preferences(open_result(synthetic.make_result(tmp_path / "b", kept)))
    assert (found.n, found.configs, found.options) == (11, other.configs, other.options)
    synthetic.open_writer(tmp_path / "empty", 4)
    with pytest.raises(EmptyResultError, match="no images"):
        preferences(open_result(tmp_path / "empty"))


def test_a_single_file_says_the_same_but_not_of_which_network(tmp_path):
    identity = {"model": "resnet18", "variation": {"context_px": 50}}
    found = preferences(written(tmp_path / "r", TWO, synthetic.make_ties(len(TWO), 9), identity=identity))
    pd.read_parquet(tmp_path / "r").to_parquet(tmp_path / "one.parquet")
    other = preferences(open_result(tmp_path / "one.parquet"))
    assert (found.model, found.variation) == ("resnet18", {"context_px": 50})
    assert (other.model, other.variation) == (None, None)
    assert (other.options, other.sites, other.attributes) == (found.options, found.sites, found.attributes)


def test_preferences_as_json(tmp_path):
    identity = {"model": "resnet50", "variation": None}
    found = preferences(written(tmp_path / "r", TWO, synthetic.make_ties(len(TWO), 5), identity=identity))
    told = found.as_dict()
    assert {name: told[name] for name in ("result", "n", "model", "attributes", "variation", "default")} == {
        "result": str(tmp_path / "r"),
        "n": 5,
        "model": "resnet50",
        "attributes": ["stride", "size"],
        "variation": None,
        "default": TWO.default,
    }
    first, option = found.configs[0], found.options[0]
    assert told["solved"] == found.solved > 0
    shares = [
        {"share": one.share.as_dict(), "share_of_solved": one.share_of_solved.as_dict()} for one in (first, option)
    ]
    assert told["configs"][0] == {"config": first.config, "settings": first.settings, **shares[0]}
    assert told["options"][0] == {"site": "A", "attribute": "stride", "value": 0.5, **shares[1]}
