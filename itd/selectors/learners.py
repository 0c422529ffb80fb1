"""What learns from an image's inputs which configurations will be right there: fitted by scikit-learn or torch, kept as
plain arrays.

Each predicts, for each of k configurations on its own, how likely it is to be right; the likeliest is chosen. Arrays,
because a saved selector must not be a pickle: opening one would run whatever it holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from itd.errors import ItdError

_SURE = 20.0
"""The log-odds of a configuration that was always right, or never."""


@dataclass(frozen=True, eq=False)
class Learned:
    """A fitted learner. kind: a name of `LEARNERS`. arrays: its parameters, as a .safetensors file keeps them."""

    kind: str
    arrays: Mapping[str, np.ndarray]

    def scores(self, inputs: np.ndarray) -> np.ndarray:
        """(n, k) log-odds that each configuration is right. inputs: (n, F); ItdError for another F than it learnt."""
        if not self._takes(inputs.shape[1]):
            raise ItdError(
                f"the selector's learner was fitted on other inputs than the {inputs.shape[1]} of this network; make "
                "it again with `itd select --save`"
            )
        return _SCORES[self.kind](self.arrays, np.asarray(inputs, np.float32))

    def _takes(self, count: int) -> bool:
        if self.kind == "boosting":
            return bool(self.arrays["feature"].max(initial=0) < count)
        return bool(self.arrays["weight"].shape[1] == count)

    def choose(self, inputs: np.ndarray) -> np.ndarray:
        """(n,) the place of the likeliest configuration; ties, up to rounding, go to the earliest. inputs: (n, F)."""
        return self.scores(inputs).round(6).argmax(1)

    def macs(self) -> int:
        """Of one image; a comparison in a tree counts as one."""
        return _MACS[self.kind](self.arrays)


def fault_of(learned: Learned, configs: int) -> str | None:
    """What is wrong with the arrays of a learner from a file, for `configs` configurations; None where nothing is."""
    wanted, arrays = _ARRAYS[learned.kind], learned.arrays
    absent = [name for name in wanted if name not in arrays]
    if absent:
        return f"its learner has no array {absent[0]}"
    sizes: dict[str, int] = {"k": configs}
    for name, axes in wanted.items():
        array = arrays[name]
        whole = name in _WHOLE
        if array.ndim != len(axes) or array.dtype.kind != ("i" if whole else "f") or not array.size:
            return f"its array {name} is {array.ndim}-dimensional of {array.dtype}"
        if any(sizes.setdefault(axis, size) != size for axis, size in zip(axes, array.shape, strict=True)):
            return f"its array {name} has the shape {array.shape}, which does not fit {configs} configurations"
        if not whole and not np.isfinite(array).all():
            return f"its array {name} has values that are not finite"
        if whole and (array.min() < 0 or (name != "feature" and array.max() >= sizes["n"])):
            return f"its array {name} has places that are not there"
    return None


def fit(kind: str, inputs: np.ndarray, right: np.ndarray, seed: int = 0) -> Learned:
    """Fits a learner.

    kind: a name of `LEARNERS`. inputs: (n, F). right: (k, n) bool, whether each configuration was right.

    >>> inputs, right = np.arange(8.0)[:, None], np.array([[True] * 4 + [False] * 4, [False] * 4 + [True] * 4])
    >>> fit("boosting", inputs, right).choose(inputs).tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    return Learned(kind, LEARNERS[kind](np.asarray(inputs, np.float32), right, seed))


def _logistic(inputs: np.ndarray, right: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Logistic regression on standardised inputs, L2-penalised; the standardisation is folded into the weights."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = _standard(inputs)
    standard = (inputs - mean) / scale
    weight = np.zeros((len(right), inputs.shape[1]))
    bias = np.zeros(len(right))
    for c, labels in enumerate(right):
        if (constant := _constant(labels)) is not None:
            bias[c] = constant
            continue
        model = LogisticRegression(C=0.01, max_iter=500).fit(standard, labels)
        weight[c], bias[c] = model.coef_[0] / scale, model.intercept_[0] - (model.coef_[0] / scale) @ mean
    return {"weight": weight, "bias": bias}


def _boosting(inputs: np.ndarray, right: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Gradient boosting: 60 trees of depth 3 for each configuration, each of half the samples and sqrt(F) inputs a
    split; the trees as arrays (k, trees, nodes)."""
    from sklearn.ensemble import GradientBoostingClassifier

    trees, nodes = 60, 15
    shape = (len(right), trees, nodes)
    arrays: dict[str, np.ndarray] = {
        "feature": np.zeros(shape, np.int32),
        "threshold": np.zeros(shape),
        "left": np.zeros(shape, np.int32),
        "right": np.zeros(shape, np.int32),
        "value": np.zeros(shape),
        "bias": np.zeros(len(right)),
    }
    for c, labels in enumerate(right):
        if (constant := _constant(labels)) is not None:
            arrays["bias"][c] = constant
            continue
        model = GradientBoostingClassifier(
            n_estimators=trees, max_depth=3, subsample=0.5, max_features="sqrt", random_state=seed
        ).fit(inputs, labels)
        share = labels.mean()
        arrays["bias"][c] = np.log(share / (1 - share))
        for t, estimator in enumerate(model.estimators_[:, 0]):
            tree = estimator.tree_
            leaf = tree.children_left < 0
            at = np.arange(tree.node_count)
            here = (c, t, slice(tree.node_count))
            arrays["feature"][here] = np.where(leaf, 0, tree.feature)
            arrays["threshold"][here] = np.where(leaf, 0, tree.threshold)
            arrays["left"][here] = np.where(leaf, at, tree.children_left)
            arrays["right"][here] = np.where(leaf, at, tree.children_right)
            arrays["value"][here] = model.learning_rate * tree.value[:, 0, 0]
    return arrays


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread inside the block: of so small products several threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _head(inputs: np.ndarray, right: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """A small network on standardised inputs: 64 hidden units with ReLU and dropout, one output a configuration.

    It sees 20,000 images in all, each at least 30 and at most 300 times.
    """
    import torch
    from torch import nn

    mean, scale = _standard(inputs)
    x = torch.from_numpy((inputs - mean) / scale).float()
    y = torch.from_numpy(right.T.astype(np.float32))
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        first, last = nn.Linear(x.shape[1], 64), nn.Linear(64, y.shape[1])
        network = nn.Sequential(nn.Dropout(0.2), first, nn.ReLU(), nn.Dropout(0.5), last)
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.1)
        size = min(256, len(x))
        for _ in range(min(max(30, 20_000 // len(x)), 300)):
            for chosen in torch.randperm(len(x)).split(size):
                loss = nn.functional.binary_cross_entropy_with_logits(network(x[chosen]), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    weight = first.weight.detach().double().numpy() / scale
    return {
        "weight": weight,
        "bias": first.bias.detach().double().numpy() - weight @ mean,
        "weight2": last.weight.detach().double().numpy(),
        "bias2": last.bias.detach().double().numpy(),
    }


LEARNERS = {"logistic": _logistic, "boosting": _boosting, "head": _head}
"""name -> what fits it."""


def _standard(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F,) mean and standard deviation, 1 where an input is constant."""
    scale = inputs.std(0, dtype=np.float64)
    return inputs.mean(0, dtype=np.float64), np.where(scale > 1e-8, scale, 1.0)


def _constant(labels: np.ndarray) -> float | None:
    """The log-odds where all labels are the same."""
    return (_SURE if labels[0] else -_SURE) if labels.all() or not labels.any() else None


def _linear_scores(arrays: Mapping[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    return inputs @ arrays["weight"].T + arrays["bias"]


def _head_scores(arrays: Mapping[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    return np.maximum(_linear_scores(arrays, inputs), 0) @ arrays["weight2"].T + arrays["bias2"]


def _tree_scores(arrays: Mapping[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    configs, trees, _ = arrays["value"].shape
    out = np.repeat(arrays["bias"][None].astype(np.float64), len(inputs), 0)
    samples = np.arange(len(inputs))
    for c in range(configs):
        for t in range(trees):
            at = np.zeros(len(inputs), np.int64)
            for _ in range(3):
                here = arrays["feature"][c, t, at]
                below = inputs[samples, here] <= arrays["threshold"][c, t, at]
                at = np.where(below, arrays["left"][c, t, at], arrays["right"][c, t, at])
            out[:, c] += arrays["value"][c, t, at]
    return out


_ARRAYS: dict[str, dict[str, str]] = {
    "logistic": {"weight": "kF", "bias": "k"},
    "boosting": {**dict.fromkeys(("feature", "threshold", "left", "right", "value"), "ktn"), "bias": "k"},
    "head": {"weight": "hF", "bias": "h", "weight2": "kh", "bias2": "k"},
}
"""kind -> array -> its axes: k configurations, F inputs, h hidden units, t trees, n nodes."""
_WHOLE = ("feature", "left", "right")
_SCORES: dict[str, Any] = {"logistic": _linear_scores, "boosting": _tree_scores, "head": _head_scores}
_MACS: dict[str, Any] = {
    "logistic": lambda a: a["weight"].size,
    "boosting": lambda a: 3 * a["value"].shape[0] * a["value"].shape[1],
    "head": lambda a: a["weight"].size + a["weight2"].size,
}
