"""ReaL labels: every accuracy against loops over rows, images without a label left out, nothing said of guesses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import itd
from itd.errors import ResultError
from itd.store import ResultWriter
from itd.store.samples import ImageNames
from support import synthetic
from support.commands import one_line, run

N, CONFIGS = 40, 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, np.ndarray], list[list[int]]]:
    """A result of 40 images of few classes, real.json, the scores, and the sets of the 40 images."""
    folder = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    scores = synthetic.make_scores(CONFIGS, N, seed=1)
    scores["labels"] = rng.integers(0, 12, N).astype(np.int16)
    scores["pred"] = rng.integers(0, 12, (CONFIGS, N)).astype(np.int16)
    scores["pred"][:, :10] = scores["labels"][:10]  # or too few would be right
    right = scores["pred"] == scores["labels"]
    p = rng.integers(1, 60, (CONFIGS, N)) / 64
    scores |= {"quality": (p + right).astype(np.float32), "nll": -np.log(p).astype(np.float32),
               "rank": np.where(right, 0, 3).astype(np.int16)}  # fmt: skip
    numbers = rng.permutation(50_000)[:N] + 1
    sets = [sorted({int(c) for c in rng.integers(0, 12, rng.integers(0, 4))} | ({int(label)} if i % 3 else set()))
            for i, label in enumerate(scores["labels"])]  # fmt: skip
    sets[4] = []
    real: list[list[int]] = [[] for _ in range(50_000)]
    for number, labels in zip(numbers, sets, strict=True):
        real[number - 1] = labels
    (folder / "real.json").write_text(json.dumps(real))
    names = ImageNames([f"n0/ILSVRC2012_val_{number:08d}.JPEG" for number in numbers], scores["labels"])
    space = synthetic.make_space(CONFIGS)
    writer = ResultWriter.open(
        folder / "r.parquet", identity={"model": "m", "space": space.identity()}, space=space, macs=[1] * CONFIGS,
        samples=np.arange(N, dtype=np.int32), images_per_unit=16, provenance={"tool": "tests"}, names=names,
    )  # fmt: skip
    synthetic.write_units(writer, scores)
    return folder / "r.parquet", folder / "real.json", scores, sets


def test_every_accuracy_is_that_of_a_loop(made) -> None:
    path, real, scores, sets = made
    result = itd.with_real_labels(itd.open_result(path), real)
    kept = [i for i in range(N) if sets[i]]
    assert result.samples.tolist() == kept and 20 < len(kept) < N
    right = np.array([[scores["pred"][c, i] in sets[i] for i in kept] for c in range(CONFIGS)])
    p = np.array([[scores["quality"][c, i] - (scores["pred"][c, i] == scores["labels"][i]) for i in kept]
                  for c in range(CONFIGS)])  # fmt: skip
    assert (right != (scores["pred"] == scores["labels"])[:, kept]).any()
    np.testing.assert_allclose(result.matrix("quality"), p + right, atol=1e-6)
    assert ((result.matrix("pred") == result.labels) == right).all()
    found = itd.oracle(result, resamples=20)
    assert (found.n, found.static, found.best) == (len(kept), right[0].mean(), right.any(0).mean())
    assert found.worst == right.all(0).mean() and found.baselines.matched_topk is None
    votes = []
    for i in kept:
        said = scores["pred"][:, i].tolist()
        counted = ["right" if c in sets[i] else c for c in said]
        most = max(counted.count(c) for c in counted)
        first = [c for c in (counted[0], *counted) if counted.count(c) == most]
        votes.append(first[0] == "right")
    assert found.baselines.vote_all.value == pytest.approx(np.mean(votes))
    steps = itd.greedy(result, resamples=20, folds=0).steps
    assert steps[-1].accuracy == pytest.approx(right.any(0).mean()) and steps[0].matched_topk is None


def test_the_commands_say_so(made) -> None:
    path, real, _, _ = made
    said = run("oracle", path, "--real-labels", real, "--resamples", 20)
    assert said.exit_code == 0 and "by ReaL labels the oracle is" in " ".join(said.stdout.split())
    told = json.loads(run("oracle", path, "--real-labels", real, "--resamples", 20, "--json").stdout)[0]
    assert told["best"] == itd.oracle(itd.with_real_labels(itd.open_result(path), real), resamples=20).best
    for command in ("baselines", "greedy"):
        assert run(command, path, "--real-labels", real, "--resamples", 20).exit_code == 0
    one_line(run("oracle", path, "--real-labels", real, "--by-class"), "--real-labels goes without --by-class")
    with pytest.raises(ResultError, match="rank of one label"):
        itd.gain([itd.with_real_labels(itd.open_result(path), real)], resamples=20)


@pytest.mark.parametrize(
    ("text", "said"),
    [("[[1]]", "images is a list of 1, not a list of 50000"), ("{", "it is not JSON"),
     (json.dumps([[1]] * 49_999 + [[1000]]), "images[49999][0] is 1000, not a whole number from 0 to 999"),
     (json.dumps([[True]] * 50_000), "images[0][0] is true, not"), ("[" * 100_000, "32 levels deep"),
     (" " * 20_000_001, "it has 20,000,001 bytes; allowed are 20,000,000")],
    ids=["short", "no JSON", "no class", "no number", "deep", "long"],
)  # fmt: skip
def test_another_file_is_one_line(made, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "real.json").write_text(text)
    one_line(
        run("oracle", made[0], "--real-labels", tmp_path / "real.json"), "cannot read", said, "the published real.json"
    )
    one_line(run("oracle", made[0], "--real-labels", tmp_path / "gone.json"), "cannot read --real-labels", "gone.json")


def test_a_result_of_other_images_or_of_none_that_it_names_is_one_line(made, tmp_path: Path) -> None:
    path = synthetic.make_result(tmp_path / "r", synthetic.make_scores(6, 4))
    one_line(run("oracle", path, "--real-labels", made[1]), "does not say which images it is of")
    request = itd.SweepRequest("resnet18", "dilation", sites="D", options=("1,2",), data="digits", weights="none",
                               limit=2, crop_px=32, device="cpu", out=str(tmp_path / "d.parquet"))  # fmt: skip
    itd.sweep(request, quiet=True)
    one_line(run("oracle", request.out, "--real-labels", made[1]), "not named as ImageNet's validation images are")
