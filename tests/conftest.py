"""Fixtures for all tests: real data where it is, a cache of the tests' own, and the CUDA device where there is one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Signals that whoever started the tests ignores, as nohup does, are as in a terminal: tests send them."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and weights: $ITD_TEST_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("ITD_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "weights").is_dir():
        pytest.skip(f"no real images and weights at {folder}: set ITD_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return ROOT


@pytest.fixture(scope="session")
def cuda() -> str:
    """The CUDA device's name."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cuda"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Networks trained by tests go to a folder of the session, unless $ITD_CACHE says where."""
    os.environ.setdefault("ITD_CACHE", str(tmp_path_factory.mktemp("itd-cache")))


@pytest.fixture(autouse=True)
def _no_data_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """$ITD_DATA would change what a bare command reads."""
    monkeypatch.delenv("ITD_DATA", raising=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` run where there is one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def random_network():
    """name -> a torchvision network of 10 classes: seeded random weights, normalisation statistics other than 0, 1."""
    import torch
    from torch import nn

    from itd.patcher import build_model

    made = {}

    def make(name: str) -> nn.Module:
        if name not in made:
            torch.manual_seed(0)
            network = build_model(name, 10)
            for module in network.modules():
                if isinstance(module, nn.Conv2d) and module.bias is not None:
                    nn.init.normal_(module.bias, 0, 0.3)
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.5, 1.5)
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, 0, 0.1)
            made[name] = network
        return made[name]

    return make
