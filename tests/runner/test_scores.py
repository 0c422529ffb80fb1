"""Scores against plain numpy, ties included."""

import numpy as np
import torch

from itd.runner.scores import COLUMNS, ScoreBuffer, score


def reference(logits, label):
    logits = logits.astype(np.float64)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    pred = int(np.flatnonzero(logits == logits.max())[0])
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    return pred, p[label] + (pred == label), -np.log(p[label]), order.index(label), p.max()


def test_every_column_equals_plain_numpy_with_ties():
    rng = np.random.default_rng(0)
    logits = rng.integers(-3, 4, (200, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 200)
    got = score(torch.from_numpy(logits), torch.from_numpy(labels))
    expected = np.array([reference(row, label) for row, label in zip(logits, labels, strict=True)])
    for i, name in enumerate(COLUMNS):
        np.testing.assert_allclose(getattr(got, name).numpy(), expected[:, i], rtol=1e-5, atol=1e-6)
    assert ((got.rank == 0) == (got.pred == torch.from_numpy(labels))).all()


def test_nll_keeps_the_order_where_the_probability_rounds_to_one():
    got = score(torch.tensor([[30.0, 0.0], [40.0, 0.0]]), torch.tensor([0, 0]))
    assert got.quality[0] == got.quality[1] == 2.0
    assert got.nll[0] > got.nll[1] > 0


def test_half_precision_logits_are_scored_in_float32():
    logits = torch.randn(5, 9)
    half = logits.bfloat16()
    assert torch.equal(score(half, torch.zeros(5)).quality, score(half.float(), torch.zeros(5)).quality)


def test_the_buffer_puts_each_row_where_it_belongs():
    labels = np.array([2, 0], np.int16)
    logits = torch.randn(3, 2, 4)
    buffer = ScoreBuffer(3, labels, "cpu")
    rows = [(c, i) for c in range(3) for i in range(2)]
    for c, i in rows[::-1]:
        buffer.add(np.array([c]), np.array([i]), logits[c, i][None])
    got = buffer.on_host()
    for c, i in rows:
        np.testing.assert_allclose(got["nll"][c, i], reference(logits[c, i].numpy(), labels[i])[2], rtol=1e-5)


def test_a_logit_that_is_not_finite_is_marked():
    logits = torch.zeros(3, 4)
    logits[1, 2], logits[2, 0] = torch.nan, torch.inf
    assert score(logits, torch.zeros(3)).finite.tolist() == [True, False, False]


def test_a_row_that_is_never_added_is_not_what_the_unit_before_had():
    buffer = ScoreBuffer(1, np.array([0, 1]), "cpu")
    for images in ([0, 1], [1]):
        buffer.begin(np.array([1, 1]))
        buffer.add(np.zeros(len(images), int), np.array(images), torch.tensor([[0.0, 1.0]] * len(images)))
    assert buffer.on_host()["finite"].tolist() == [[False, True]] and buffer.on_host()["rank"][0, 1] == 0
