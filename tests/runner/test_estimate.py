"""The estimate of a sweep's time, on a clock that passes as a test says: what is run, and that the budget is kept."""

import pytest
import torch

import itd
from itd.engine.precision import Precision
from itd.errors import ItdError
from itd.runner.estimate import BUDGET_S, TimeEstimate, estimate_time, plain_work, tree_work
from support.networks import SITES, MyNet

SHAPE = (3, 20, 24)


@pytest.fixture(scope="module")
def job():
    net = itd.patch(MyNet().eval(), SITES)
    space = itd.model_space(net, ["dilation"], input_shape=SHAPE)
    images = torch.utils.data.TensorDataset(torch.zeros(6, *SHAPE), torch.zeros(6, dtype=torch.int64))
    return itd.SweepJob(net, space, images, name="mynet")


class Machine:
    """An executor that takes as long as a rate says, and whose first run takes a while more.

    rate: multiply-accumulates per second, or what gives it for the number of images and configurations.
    """

    device, precision = torch.device("cpu"), Precision()

    def __init__(self, job, rate, warm_up_s=0.0):
        self.job, self.space, self.rate, self.warm_up_s, self.now, self.ran = job, job.space, rate, warm_up_s, 0.0, []

    def run(self, pixels, sink, configs=None):
        configs = range(len(self.space)) if configs is None else configs
        self.ran.append((len(pixels), len(configs)))
        self.now += self.warm_up_s if len(self.ran) == 1 else 0.0
        rate = self.rate if isinstance(self.rate, (int, float)) else self.rate(len(pixels), len(configs))
        for number in configs:
            self.now += len(pixels) * self.job.macs[number] / rate
            images = torch.arange(len(pixels)).numpy()
            sink(0 * images + number, images, torch.zeros(len(pixels), 5))

    def estimate(self, todo=1000, batch_size=8, budget_s=BUDGET_S):
        return estimate_time(
            lambda: self, self.job, plain_work(self.job),
            todo=todo, batch_size=batch_size, budget_s=budget_s, clock=lambda: self.now,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("whole_s", "images", "configs"),
    [(0.01, 8, 25), (0.5, 8, 25), (1.1, 8, 25), (2.5, 4, 25), (11.0, 1, 25), (30.0, 1, 6), (200.0, 1, 1)],
)
def test_the_largest_piece_that_fits_is_measured_and_the_budget_kept(job, whole_s, images, configs):
    """whole_s: what all configurations of one image take."""
    machine = Machine(job, sum(job.macs) / whole_s)
    found = machine.estimate()
    assert found.seconds == pytest.approx(1000 * whole_s, rel=1e-9)
    assert found.configs == configs and found.images % images == 0 and machine.ran[-1] == (images, configs)
    assert found.measured_s == machine.now <= BUDGET_S


def test_the_first_run_is_in_no_rate(job):
    for whole_s in (0.5, 200.0):
        found = Machine(job, sum(job.macs) / whole_s, warm_up_s=3.0).estimate()
        assert found.seconds == pytest.approx(1000 * whole_s)


def test_the_first_of_several_batches_is_in_no_rate(job):
    rates = iter([1e3, 1e3, 400.0])
    machine = Machine(job, lambda *_: next(rates, 1e3) * sum(job.macs) / 100)
    assert machine.estimate().seconds == pytest.approx(100)


def test_a_piece_that_takes_longer_than_expected_ends_with_the_budget(job):
    machine = Machine(job, lambda images, configs: sum(job.macs) * (10 if configs == 1 else 0.1))
    found = machine.estimate()
    assert BUDGET_S <= machine.now <= BUDGET_S + 8 * 10 / 25 * 1.5  # and the rows that were being computed
    assert found.seconds == pytest.approx(1000 * 10, rel=1e-6)


def test_a_single_row_that_takes_longer_than_the_budget_is_all_that_is_run(job):
    machine = Machine(job, min(job.macs) / 100)
    assert machine.estimate().images == 1 and machine.ran == [(1, 1)]


def test_no_more_images_are_run_than_there_are_to_do(job):
    machine = Machine(job, sum(job.macs) * 1e3)
    found = machine.estimate(todo=3)
    assert max(images for images, _ in machine.ran) == 3 and found.seconds == pytest.approx(0.003)


def test_nothing_is_run_where_nothing_is_left(job):
    machine = Machine(job, 1.0)
    assert machine.estimate(todo=0) == TimeEstimate(0.0, 0, 25, 0.0) and machine.ran == []


def test_the_work_of_the_tree_is_what_the_tree_runs(job):
    program = job.program()
    costs, work = program.prefix_costs(job.input_shape), tree_work(job, program)
    assert work(tuple(range(25))) == costs.macs
    assert [work((number,)) for number in range(25)] == list(costs.per_config)
    assert max(costs.per_config) < work((0, 24)) < work((0, 12, 24)) < costs.macs


def test_both_executors_are_timed_by_the_plan_that_asks(job):
    told = []
    for executor in ("tree", "plain"):
        found = itd.plan(job, estimate=True, budget_s=1, on_estimate=told.append, device="cpu", executor=executor)
        assert found.estimate.seconds > 0 and found.estimate.configs == 25 and found.executor == executor
    assert told == [1, 1] and itd.plan(job, device="cpu").estimate is None


@pytest.mark.parametrize("budget_s", [0, -1, "20", True, float("nan")])
def test_a_budget_that_is_none_is_refused(job, budget_s):
    with pytest.raises(ItdError, match=r"budget_s is .*seconds"):
        itd.plan(job, estimate=True, budget_s=budget_s)
