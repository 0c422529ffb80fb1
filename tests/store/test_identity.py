"""What tells two results apart: a field that an older manifest lacks compares as its documented default."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from itd.analysis.scores import require_same_data
from itd.errors import ResultError
from itd.space import Conventions
from itd.store import ResultWriter, open_result, verify
from itd.store.identity import IDENTITY_DEFAULTS, identity_differences
from support import synthetic

STORED = "results/resnet18-dilation-digits.parquet"


@pytest.fixture
def older(repository, tmp_path) -> tuple[Path, dict]:
    """A copy of a stored result as a version before some fields of the identity would have written it, and its own."""
    folder = tmp_path / "older.parquet"
    shutil.copytree(repository / STORED, folder)
    path = folder / "_itd" / "manifest.json"
    manifest = json.loads(path.read_text())
    identity = json.loads(json.dumps(manifest["identity"]))
    for name in ("every", "variation"):
        del manifest["identity"][name]
    for name in ("size_scale", "align_corners", "pool_half"):
        del manifest["identity"]["choices"][name]
    assert manifest.pop("sha256") and "recalibration" not in manifest["identity"]
    path.write_text(json.dumps({**manifest, "format": 1}))
    return folder, identity


def go_on(folder: Path, identity: dict, images: int) -> ResultWriter:
    return ResultWriter.open(
        folder,
        identity=identity,
        space=synthetic.make_space(625),
        macs=[1] * 625,
        samples=np.arange(images),
        images_per_unit=8,
        provenance={"tool": "tests"},
    )


def test_an_older_result_is_extended_with_the_identity_of_today(repository, older):
    folder, identity = older
    before = open_result(repository / STORED)
    scores = synthetic.make_scores(625, 182)
    writer = go_on(folder, {**identity, "recalibration": None}, 182)
    assert [(unit.first, unit.last) for unit in writer.todo()] == [(180, 181)]
    synthetic.write_units(writer, scores)
    after = open_result(folder)
    assert verify(folder).ok and after.n == 182 and after.manifest["format"] == 2
    assert np.array_equal(after.matrix("quality")[:, :180], before.matrix("quality"))
    assert np.array_equal(after.matrix("quality")[:, 180:], scores["quality"][:, 180:])
    assert np.array_equal(after.macs, before.macs) and after.macs_unknown == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("every", 2),
        ("variation", {"scale": 0.5}),
        ("recalibration", {"seed": 0}),
        ("engine", 2),
        ("choices.size_scale", "side"),
        ("choices.align_corners", True),
        ("choices.pool_half", "zero"),
    ],
)
def test_another_value_than_the_default_is_still_another_run(older, name, value):
    folder, identity = older
    outer, _, inner = name.partition(".")
    identity[outer] = {**identity[outer], inner: value} if inner else value
    with pytest.raises(ResultError, match=rf"{name} is .*given") as error:
        go_on(folder, identity, 180)
    assert str(error.value).count(" is ") == 1, "only that field differs"


def test_what_the_given_identity_lacks_is_the_default_too():
    full = {"model": "m", "every": 1, "variation": None, "recalibration": None, "choices": Conventions().identity()}
    assert identity_differences(full, {"model": "m"}) == identity_differences({"model": "m"}, full) == []
    assert identity_differences(full, {"model": "n", "every": 3}) == [("model", '"m"', '"n"'), ("every", "1", "3")]
    assert IDENTITY_DEFAULTS["choices"] == Conventions().identity(), "the default is the reading that comes first"


def test_results_of_two_versions_are_of_the_same_network(repository, older):
    folder, _ = older
    results = [open_result(repository / STORED), open_result(folder)]
    require_same_data(results, "combine", model=True)
    results[1].manifest["identity"]["choices"]["pool_half"] = "zero"
    with pytest.raises(ResultError, match="choices"):
        require_same_data(results, "combine", model=True)


def test_operators_that_are_not_counted_are_kept_at_the_creation_of_a_result(tmp_path):
    writer = synthetic.open_writer(tmp_path / "r", 4, macs_unknown=["einsum", "Conv1d", "einsum"])
    synthetic.write_units(writer, synthetic.make_scores(6, 4))
    synthetic.open_writer(tmp_path / "r", 8)
    assert json.loads((tmp_path / "r/_itd/manifest.json").read_text())["macs_unknown"] == ["Conv1d", "einsum"]
    assert open_result(tmp_path / "r").macs_unknown == ("Conv1d", "einsum")
    assert open_result(synthetic.make_result(tmp_path / "all", synthetic.make_scores(6, 4))).macs_unknown == ()


def test_an_engine_that_follows_from_the_number_format_is_not_named_beside_it():
    fp32, bf16 = {"model": "a", "precision": "fp32"}, {"model": "a", "precision": "bf16", "engine": 3}
    assert identity_differences(fp32, bf16) == [("precision", '"fp32"', '"bf16"')]
    older = {"model": "a", "precision": "bf16"}
    assert identity_differences(older, bf16) == [("engine", "1", "3")]
