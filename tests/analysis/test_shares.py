"""Intervals of shares of the images and of their differences, against scipy and by exact sums."""

import math

import numpy as np
import pytest
from scipy import stats

from itd.analysis.sampling import mcnemar, paired, paired_counts, proportion, wilson


@pytest.mark.parametrize(
    ("count", "n"), [(0, 130), (1, 130), (65, 130), (129, 130), (130, 130), (0, 1), (1, 1), (970, 1000)]
)
def test_the_interval_of_a_share_is_wilsons(count, n):
    found = wilson(count, n)
    expected = stats.binomtest(count, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert (found.value, found.n) == (count / n, n)
    right = np.arange(n) < count
    assert proportion(right) == found


def test_none_of_130_reads_0_to_2_9_percent():
    found = wilson(0, 130)
    assert (found.low, f"{100 * found.high:.1f}") == (0.0, "2.9")
    assert wilson(130, 130).high == 1.0 and f"{100 * wilson(130, 130).low:.1f}" == "97.1"


@pytest.mark.parametrize("n", [32, 130, 1000])
@pytest.mark.parametrize("p", [0.01, 0.03, 0.5, 0.97])
def test_the_interval_of_a_share_holds_it_in_at_least_925_of_1000(p, n):
    covered = 0.0
    for count in range(n + 1):
        found = wilson(count, n)
        if found.low <= p <= found.high:
            covered += stats.binom.pmf(count, n, p)
    assert covered >= 0.925


@pytest.mark.parametrize(("n", "up", "down"), [(32, 0.0, 0.0), (32, 0.1, 0.02), (32, 0.3, 0.3), (130, 0.01, 0.01),
                                               (130, 0.15, 0.02), (130, 0.0, 0.2)])  # fmt: skip
def test_the_interval_of_a_difference_holds_it_in_at_least_925_of_1000(n, up, down):
    covered = 0.0
    for wins in range(n + 1):
        for losses in range(n + 1 - wins):
            chance = stats.multinomial.pmf([wins, losses, n - wins - losses], n, [up, down, 1 - up - down])
            found = paired_counts(wins, losses, n)
            if chance > 0 and found.low <= up - down <= found.high:
                covered += chance
    assert covered >= 0.925


def test_the_interval_of_a_difference_is_that_of_bonett_and_price():
    # written out: 24 and 10 of 130, one more of each, then Wald's
    wins, losses, n = 24, 10, 130
    up, down = 25 / 132, 11 / 132
    half = stats.norm.ppf(0.975) * math.sqrt((up + down - (up - down) ** 2) / 132)
    found = paired_counts(wins, losses, n)
    assert (found.low, found.high) == pytest.approx((up - down - half, up - down + half), abs=1e-12)
    assert found.value == pytest.approx(14 / 130)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (0, 1), (5, 0), (3, 4), (19, 0), (40, 90), (1, 2500)])
def test_p_is_mcnemars_exact_two_sided_one(wins, losses):
    expected = stats.binomtest(wins, wins + losses, 0.5).pvalue if wins + losses else 1.0
    assert mcnemar(wins, losses) == pytest.approx(expected, abs=1e-11)
    assert mcnemar(losses, wins) == mcnemar(wins, losses)


def test_a_difference_counts_the_images_on_which_two_rules_differ():
    first = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    second = np.array([1, 0, 0, 0, 1, 0, 0, 0], bool)
    found = paired(first, second)
    assert (found.value, found.n, found.p) == (0.25, 8, mcnemar(3, 1))
    same = paired_counts(3, 1, 8)
    assert (found.low, found.high) == (same.low, same.high)
    assert set(found.as_dict()) == {"value", "low", "high", "n", "p"}


def test_two_rules_that_never_differ_still_have_an_interval():
    same = np.ones(130, bool)
    found = paired(same, same)
    assert (found.value, found.p) == (0.0, 1.0) and found.low < -0.02 and found.high > 0.02
