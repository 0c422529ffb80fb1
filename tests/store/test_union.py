"""A union against its sources' own files, read by pandas: every row, what is refused, and that no half is whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import itd
from itd.errors import ResultError
from itd.space import SITES, Setting, SiteSpec, build_space
from itd.store import check_target, open_result, verify
from support import synthetic

SCORES = ["pred", "quality", "nll", "rank", "confidence"]
IMAGES = 22
LABELS = synthetic.make_scores(1, IMAGES, seed=99)["labels"]


def make(
    path: Path,
    attribute: str,
    seed: int,
    *,
    sites: str = "ABCD",
    images: int = IMAGES,
    images_per_unit: int = 4,
    gone: tuple[int, ...] = (),
    labels: np.ndarray = LABELS,
    samples: np.ndarray | None = None,
    done: int | None = None,
    more_macs: int = 0,
    **identity: object,
) -> Path:
    """A result of two options at each site, default included; `done` of its images are written."""
    specs = [SiteSpec(s, Setting(stride=1, dilation=1, size=3), {attribute: (1, 3)}) for s in sites]
    space = build_space([attribute], specs, stem_stride=1, stride_range=(1, 999))
    writer = synthetic.open_writer(
        path,
        images,
        space=space,
        images_per_unit=images_per_unit,
        identity={"model": f"net{seed}", "data": "d", **identity},
        samples=samples,
        macs=[1000 * seed + more_macs + i for i in range(len(space))],
        macs_unknown=[f"op{seed}"],
        provenance={"tool": "tests", "classes": 1000},
    )
    scores = synthetic.make_scores(len(space), images, seed=seed, accuracy=0.6)
    rank = scores["rank"]
    scores["pred"] = np.where(rank == 0, labels[:images], (labels[:images] + 1 + rank % 5) % 1000).astype(np.int16)
    missing = np.isin(np.arange(images), gone)
    for unit in writer.todo()[:done]:
        here = slice(unit.first, unit.last + 1)
        parts = {name: scores[name][:, here] for name in SCORES}
        writer.write(unit, labels=labels[here], missing=missing[here], **parts)
    return path


@pytest.fixture
def sources(tmp_path):
    """Of other attributes, sites, networks, partitions and images that could not be decoded."""
    return [
        make(tmp_path / "stride.parquet", "stride", 1, sites="AB", images_per_unit=5, gone=(3,)),
        make(tmp_path / "size.parquet", "size", 2, images_per_unit=8, gone=(20,)),
        make(tmp_path / "again.parquet", "stride", 3, images_per_unit=3),
    ]


@pytest.fixture
def united(sources, tmp_path):
    itd.union([open_result(path) for path in sources], tmp_path / "u.parquet")
    return tmp_path / "u.parquet"


def expected(sources: list[Path]) -> pd.DataFrame:
    """The sources' rows one under another, configurations counted on."""
    frames, first = [], 0
    for path in sources:
        frame = pd.read_parquet(path)
        frames.append(frame.assign(config=frame["config"] + first))
        first += frame["config"].max() + 1
    return pd.concat(frames).sort_values(["config", "sample"], ignore_index=True)


def test_every_row_of_every_source_is_there_and_the_settings_it_lacks_are_null(sources, united):
    settings = [f"{attribute}_{site}" for attribute in ("stride", "size") for site in SITES]
    found = pd.read_parquet(united)
    assert list(found.columns) == ["sample", "label", "config", *settings, *SCORES]
    assert len(found) == (4 + 16 + 16) * IMAGES
    found = found.sort_values(["config", "sample"], ignore_index=True)
    for name, values in expected(sources).items():
        assert np.array_equal(values.to_numpy(float), found[name].to_numpy(float), equal_nan=True), name
    of_stride = found[found["config"] < 4]
    assert of_stride["size_A"].isna().all() and of_stride["stride_C"].isna().all()
    assert of_stride["quality"].isna().groupby(of_stride["sample"]).all().loc[[3, 20]].tolist() == [True, False]


def test_types_are_those_of_any_result(united):
    (part, *_) = sorted(united.glob("part-*.parquet"))
    kinds = {f.name: str(f.type) for f in pq.read_schema(part)}
    assert kinds["config"] == "int16" and kinds["stride_C"] == "float" and kinds["size_A"] == "int8"
    assert kinds["pred"] == "int16" and kinds["quality"] == "float"
    assert part.name == "part-00000000-00000002.parquet"  # the smallest partition of the sources


def test_configurations_say_where_they_come_from_and_what_they_cost(sources, united):
    table = pd.read_parquet(united / "_itd" / "configs.parquet")
    assert table["config"].tolist() == list(range(36))
    assert table["source"].tolist() == [
        str(path) for path, c in zip(sources, (4, 16, 16), strict=True) for _ in range(c)
    ]
    assert table["source_config"].tolist() == [*range(4), *range(16), *range(16)]
    assert table["macs"].tolist() == [*range(1000, 1004), *range(2000, 2016), *range(3000, 3016)]
    # the default of stride is configuration 0, all ones; that of size is number 15, all threes
    assert np.flatnonzero(table["is_default"]).tolist() == [0]
    assert table["source_default"].tolist() == [0] * 4 + [4 + 15] * 16 + [20] * 16


def test_it_opens_as_a_result_whose_default_is_the_first_ones(sources, united):
    result = open_result(united)
    assert result.attributes == ("stride", "size") and result.sites == SITES and result.default == 0
    assert result.nulls == 2 and result.n == IMAGES - 2 and not result.partial
    assert result.macs_unknown == ("op1", "op2", "op3") and result.num_classes == 1000
    assert result.setting(1) == {"A": {"stride": 1}, "B": {"stride": 3}, "C": {}, "D": {}}
    assert result.setting(19)["D"] == {"size": 3}
    assert result.origins[7].source == str(sources[1]) and result.origins[7].config == 3
    report = verify(united)
    assert report.ok and report.images == IMAGES and report.rows == 36 * IMAGES


def test_answers_are_those_of_the_stacked_sources(sources, united):
    whole = expected(sources)
    left = whole[~whole["sample"].isin([3, 20])]
    right = left.assign(right=left["pred"] == left["label"]).groupby("sample")["right"]
    guesses = left.groupby("sample")["pred"].nunique()
    rank = left[left["config"] == 0].set_index("sample")["rank"]
    found = itd.oracle(open_result(united), resamples=20)
    assert found.best == right.any().mean() and found.worst == right.all().mean()
    assert found.static == (rank == 0).mean()
    assert found.baselines.matched_topk.value == (rank < guesses).mean()
    assert itd.unique(open_result(united)).mean.value == pytest.approx(guesses.mean())


def test_the_report_names_each_source(sources, tmp_path):
    found = itd.union([open_result(path) for path in sources], tmp_path / "u.parquet")
    assert [(row["source"], row["first"], row["last"], row["default"]) for row in found.rows()] == [
        (str(sources[0]), 0, 3, 0),
        (str(sources[1]), 4, 19, 19),
        (str(sources[2]), 20, 35, 20),
    ]
    assert found.configs == 36 and found.n == IMAGES and found.already == 0
    assert json.loads(json.dumps(found.as_dict()))["sources"][1]["model"] == "net2"


def test_only_the_defaults(sources, tmp_path):
    itd.union([open_result(path) for path in sources], tmp_path / "u.parquet", defaults=True)
    whole, result = expected(sources), open_result(tmp_path / "u.parquet")
    frame = whole[whole["config"].isin([0, 19, 20]) & ~whole["sample"].isin([3, 20])]
    assert result.configs == 3 and [(o.config, o.default) for o in result.origins] == [(0, 0), (15, 1), (0, 2)]
    assert np.array_equal(result.matrix("nll"), frame["nll"].to_numpy().reshape(3, -1))


def test_a_union_of_unions_names_the_paths_given_and_keeps_each_default(sources, united, tmp_path):
    other = make(tmp_path / "other.parquet", "size", 4)
    itd.union([open_result(other), open_result(united)], tmp_path / "both.parquet")
    result = open_result(tmp_path / "both.parquet")
    assert result.configs == 52 and result.default == 15 and verify(tmp_path / "both.parquet").ok
    assert {o.source for o in result.origins} == {str(other), str(united)}
    assert result.origins[16 + 7].config == 7 and result.origins[16 + 7].default == 16 + 19
    frame = expected([other, *sources])
    frame = frame[~frame["sample"].isin([3, 20])]
    assert np.array_equal(result.matrix("quality"), frame["quality"].to_numpy().reshape(52, -1))
    itd.union([open_result(other), open_result(united)], tmp_path / "static.parquet", defaults=True)
    assert [o.config for o in open_result(tmp_path / "static.parquet").origins] == [15, 0, 19, 20]


def test_fewer_sites_are_those_at_the_default_of_their_own_source(sources, united):
    counts = {one.sites: one.configs for one in itd.by_sites(open_result(united)).subsets}
    assert counts["A"] == 2 + 2 + 2 and counts["AB"] == 4 + 4 + 4 and counts["C"] == 1 + 2 + 2
    assert counts["ABCD"] == 36


def refused(results: list[Path], out: Path, match: str, **how: object) -> None:
    with pytest.raises(ResultError, match=match) as caught:
        itd.union([open_result(path) for path in results], out, **how)
    assert "\n" not in str(caught.value)


def test_other_images_are_refused_by_field_and_value(sources, tmp_path):
    other = make(tmp_path / "other.parquet", "size", 4, data="another")
    refused([sources[0], other], tmp_path / "u", r"differ in data \(d and another\)")
    fewer = make(tmp_path / "fewer.parquet", "size", 4, images=12)
    refused([sources[0], fewer], tmp_path / "u", r"samples \(22: 0 to 21 and 12: 0 to 11\).*`limit`")
    every = make(
        tmp_path / "every.parquet",
        "size",
        4,
        samples=np.arange(IMAGES) * 2,
        labels=LABELS[np.arange(IMAGES) * 2 % IMAGES],
    )
    refused([sources[0], every], tmp_path / "u", r"samples \(22: 0 to 21 and 22: 0 to 42\).*`every`")
    for sample, match in ((3, rf"labels \(sample 3 has {LABELS[3]} and {LABELS[3] + 1}\)"), (5, "sample 5 has label")):
        changed = LABELS + (np.arange(IMAGES) == sample).astype(np.int16)  # sample 3 has null rows
        wrong = make(tmp_path / f"wrong{sample}.parquet", "size", 4, labels=changed)
        refused([sources[0], wrong], tmp_path / "u", match)
    assert not (tmp_path / "u").exists()


def test_what_is_no_whole_result_is_refused(sources, tmp_path):
    partial = make(tmp_path / "partial.parquet", "size", 4, done=2)
    refused([sources[0], partial], tmp_path / "u", r"partial.parquet is not finished: 8 of 22")
    pd.read_parquet(sources[1]).to_parquet(tmp_path / "one.parquet")
    refused([sources[0], tmp_path / "one.parquet"], tmp_path / "u", "does not say which images")
    refused(sources[:1], tmp_path / "u", "one result is nothing to unite")
    refused([sources[0], sources[0]], tmp_path / "u", "given twice")
    refused(sources[:2], sources[1], "is where the union is to be written")
    with pytest.raises(ResultError, match="open it with"):
        itd.union([str(sources[0])], tmp_path / "u")


def test_more_configurations_than_can_be_numbered_are_refused(sources, tmp_path, monkeypatch):
    monkeypatch.setattr("itd.store._union.MOST_CONFIGS", 35)
    refused(sources, tmp_path / "u", "36 configurations; a union has at most 35")


class Killed(BaseException):
    pass


def test_one_that_was_stopped_is_not_whole_and_the_same_again_goes_on(sources, united, tmp_path):
    opened, out, done = [open_result(path) for path in sources], tmp_path / "v.parquet", []

    def stop(count: int) -> None:
        done.append(count)
        if len(done) == 3:
            raise Killed

    with pytest.raises(Killed):
        itd.union(opened, out, progress=stop)
    half = open_result(out)
    assert half.partial and half.images_done == sum(done) == 9 and verify(out).missing == ((9, IMAGES - 1),)
    assert itd.union(opened, out).already == 9
    for path in sorted(united.glob("part-*.parquet")):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert len(list(out.glob("part-*"))) == len(list(united.glob("part-*"))) and verify(out).ok
    assert not list(out.rglob("*tmp-*"))
    assert itd.union(opened, out).already == IMAGES


def test_it_grows_with_its_sources(tmp_path):
    paths = [make(tmp_path / f"{seed}.parquet", "size", seed, images=8) for seed in (1, 2)]
    out = tmp_path / "u.parquet"
    itd.union([open_result(path) for path in paths], out)
    for seed, path in zip((1, 2), paths, strict=True):
        make(path, "size", seed)
    found = itd.union([open_result(path) for path in paths], out)
    assert found.already == 8 and found.n == IMAGES and open_result(out).n == IMAGES and verify(out).ok


def test_another_union_or_a_sweep_at_its_place_is_refused_by_field(sources, united, tmp_path):
    refused(sources[:2], united, r"holds another union: .*union.R3.*; give another `out`")
    refused([sources[1], sources[0], sources[2]], united, r"union\.R1\.model is \"net1\", given \"net2\"")
    refused(sources, united, r"configurations is 36, given 3", defaults=True)
    refused(sources[:2], sources[2], "holds a result of `itd sweep`")
    dearer = make(sources[2].parent / "dearer.parquet", "stride", 3, images_per_unit=3, more_macs=1)
    refused([*sources[:2], dearer], united, "their settings or MACs differ")
    assert verify(united).ok and verify(sources[2]).ok


def test_a_sweep_does_not_extend_it(united):
    with pytest.raises(ResultError, match=r"u.parquet is a union of results, which no sweep can extend"):
        check_target(united)
    with pytest.raises(ResultError, match="is a union of results"):
        synthetic.open_writer(united, IMAGES)


def test_a_damaged_part_is_found(united):
    part = sorted(united.glob("part-*.parquet"))[2]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    assert [damage.file for damage in verify(united).damaged] == [part.name]
    part.unlink()
    assert verify(united).missing == ((6, 8),)
