"""Training on the embedded digits: cached by content, whole or absent, and it learns."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from itd.data.preprocess import DIGITS_PREPROCESS
from itd.errors import ModelError
from itd.patcher.registry import build_model
from itd.weights import digits
from itd.weights.digits import RECIPES, TRAINED_KEY, Recipe, accuracy, train_on_digits
from itd.weights.files import read_header
from itd.weights.load import apply_weights, load_weights

SMALL = "shufflenet_v2_x0_5"  # the quickest of torchvision's
TINY = Recipe(steps=2, batch_size=8, enough=0.0)


@pytest.fixture(autouse=True, scope="module")
def _prepared_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(digits, "_tensors", functools.cache(digits._tensors))
        yield


def test_the_trained_file_is_weights_for_ten_classes(tmp_path: Path) -> None:
    path = train_on_digits(SMALL, cache_dir=tmp_path, recipe=TINY, on_prepare=None)
    weights = load_weights(SMALL, path)
    assert (weights.num_classes, weights.preprocess) == (10, DIGITS_PREPROCESS)
    model = build_model(SMALL, 10)
    apply_weights(model, weights)
    facts = json.loads(read_header(path)[TRAINED_KEY])
    assert facts["accuracy_train_scale"] == accuracy(model, "train-scale-eval")
    assert facts["accuracy_varying_scale"] == accuracy(model, "eval")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_cache_goes_by_content(tmp_path: Path) -> None:
    first = train_on_digits(SMALL, cache_dir=tmp_path, recipe=TINY, on_prepare=None)
    before = first.stat().st_mtime_ns
    assert train_on_digits(SMALL, cache_dir=tmp_path, recipe=TINY, on_prepare=None) == first
    assert first.stat().st_mtime_ns == before
    other = train_on_digits(SMALL, cache_dir=tmp_path, recipe=Recipe(1, 8, enough=0.0), on_prepare=None)
    assert other != first
    content = load_weights(SMALL, first).sha256
    first.write_bytes(first.read_bytes()[:5000])
    assert train_on_digits(SMALL, cache_dir=tmp_path, recipe=TINY, on_prepare=None) == first
    assert load_weights(SMALL, first).sha256 == content


def test_training_is_deterministic_and_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    sums = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        path = train_on_digits(SMALL, cache_dir=tmp_path / str(seed), recipe=TINY, on_prepare=None)
        sums.append(load_weights(SMALL, path).sha256)
        after = torch.rand(2)
        torch.manual_seed(seed)
        assert torch.equal(torch.rand(2), after)
    assert sums[0] == sums[1]


def test_a_network_that_has_not_learnt_is_trained_longer(tmp_path: Path) -> None:
    once = train_on_digits(SMALL, cache_dir=tmp_path, recipe=TINY, on_prepare=None)
    hard = Recipe(steps=2, batch_size=8, enough=1.1)
    longer = train_on_digits(SMALL, cache_dir=tmp_path, recipe=hard, on_prepare=None)
    direct = train_on_digits(SMALL, cache_dir=tmp_path, recipe=Recipe(8, 8, enough=0.0), on_prepare=None)
    sums = [load_weights(SMALL, path).sha256 for path in (once, longer, direct)]
    assert sums[0] != sums[1] == sums[2]


def test_progress_is_on_stderr_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_on_digits(SMALL, cache_dir=tmp_path, recipe=TINY)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "training shufflenet_v2_x0_5 on the embedded digits" in captured.err


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITD_CACHE", str(tmp_path / "own"))
    assert train_on_digits(SMALL, recipe=TINY, on_prepare=None).parent == tmp_path / "own"
    monkeypatch.delenv("ITD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert train_on_digits(SMALL, recipe=TINY, on_prepare=None).parent == tmp_path / "xdg" / "itd"


def test_what_cannot_be_trained_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model: 'resnet19'"):
        train_on_digits("resnet19", cache_dir=tmp_path, on_prepare=None)
    with pytest.raises(ModelError, match=r"inception_v3 cannot take the 64 x 64 images[^\n]*`data=DIR`"):
        train_on_digits("inception_v3", cache_dir=tmp_path, on_prepare=None)
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"cannot write the trained weights into .*file/cache: [^\n]*set ITD_CACHE"):
        train_on_digits(SMALL, cache_dir=tmp_path / "file" / "cache", on_prepare=None)


@pytest.mark.skipif("ITD_SLOW" not in os.environ, reason="trains whole networks for minutes: set ITD_SLOW=1")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "resnet50"])
def test_the_full_recipes_learn_one_scale_only(name: str, tmp_path: Path) -> None:
    path = train_on_digits(name, cache_dir=tmp_path, recipe=RECIPES.get(name), on_prepare=None)
    facts = json.loads(read_header(path)[TRAINED_KEY])
    assert facts["accuracy_train_scale"] >= 0.93
    assert 0.5 <= facts["accuracy_varying_scale"] <= 0.85
