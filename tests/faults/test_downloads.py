"""What is fetched: a killed run leaves nothing that looks whole, two do not share a file, hashes are checked."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import utils
from torchvision.models import resnet18

from itd.data.cifar import CIFAR100, fetched
from itd.data.open import open_images
from itd.errors import DataError, ModelError
from itd.weights.load import load_weights
from support.forked import Forked

LABELS = (3, 77, 99, 0)
NAME = CIFAR100.url.rsplit("/", 1)[-1]


@pytest.fixture
def archive(monkeypatch, tmp_path: Path) -> bytes:
    """CIFAR-100's archive with four images, which the tests' md5 is of; the cache is a folder of the test's."""
    rng = np.random.default_rng(0)
    records = b"".join(bytes([0, label]) + rng.bytes(3072) for label in LABELS)
    names = "\n".join(f"fine_{i:02d}" for i in range(100)).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in {"train.bin": records * 9, "test.bin": records, "fine_label_names.txt": names}.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    monkeypatch.setenv("ITD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(utils, "check_md5", lambda path, md5: Path(path).read_bytes() == packed.getvalue())
    return packed.getvalue()


@pytest.fixture
def downloads(archive: bytes, monkeypatch) -> list[str]:
    """Where downloads went; each writes the archive."""
    where: list[str] = []

    def download(url: str, root: str, filename: str, md5: str) -> None:
        where.append(str(Path(root, filename)))
        Path(root, filename).write_bytes(archive)

    monkeypatch.setattr(utils, "download_url", download)
    return where


def test_a_run_killed_while_unpacking_repairs_itself(downloads: list[str], tmp_path: Path, monkeypatch) -> None:
    cache = tmp_path / "cache"
    whole = utils.extract_archive

    def stopped(source: str, target: str) -> None:
        folder = Path(target, "cifar-100-binary")
        folder.mkdir()
        (folder / "train.bin").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "extract_archive", stopped)
    with pytest.raises(KeyboardInterrupt):
        open_images("cifar100")
    assert not (cache / "cifar-100-binary").exists()
    left = cache / "cifar-100-binary.tmp-killed" / "cifar-100-binary"  # as SIGKILL would leave it
    left.mkdir(parents=True)
    monkeypatch.setattr(utils, "extract_archive", whole)
    assert open_images("cifar100").labels.tolist() == list(LABELS)
    assert sorted(path.name for path in cache.iterdir()) == ["cifar-100-binary", "cifar-100-binary.lock", NAME]
    assert len(downloads) == 1 and Path(downloads[0]).parent != cache, (
        "the archive is kept, and shared when it is whole"
    )


def test_what_an_earlier_version_left_half_unpacked_is_unpacked_again(downloads: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "cifar-100-binary"
    folder.mkdir(parents=True)
    (folder / "test.bin").write_bytes(b"half")
    assert open_images("cifar100").labels.tolist() == list(LABELS)
    assert len(downloads) == 1 and open_images("cifar100", split="train").labels.tolist() == list(LABELS) * 9


def test_an_archive_that_is_cut_off_is_fetched_again(downloads: list[str], archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / NAME).write_bytes(archive[:100])
    assert open_images("cifar100").labels.tolist() == list(LABELS) and len(downloads) == 1


def test_without_network_what_is_there_is_taken_and_what_is_not_is_one_line(
    archive, tmp_path: Path, monkeypatch
) -> None:
    def no_network(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(utils, "download_url", no_network)
    with pytest.raises(DataError, match=r"CIFAR-100 cannot be fetched .*no network"):
        open_images("cifar100")
    folder = tmp_path / "cache" / "cifar-100-binary"
    folder.mkdir()
    assert fetched(CIFAR100) == folder
    (tmp_path / "cache" / NAME).write_bytes(archive)
    assert open_images("cifar100").labels.tolist() == list(LABELS), "the archive alone is enough"


TWO = """
import sys, time
from pathlib import Path
from torchvision.datasets import utils
from itd.data.cifar import CIFAR100, fetched
def download(url, root, filename, md5):
    with open(Path(root).parent.parent / "downloads", "a") as log:
        log.write("x")
    time.sleep(0.3)  # the other is to meet it half done
    Path(root, filename).write_bytes(Path(sys.argv[1]).read_bytes())
utils.download_url, utils.check_md5 = download, lambda path, md5: True
print((fetched(CIFAR100) / "test.bin").stat().st_size)
"""


def test_two_at_once_fetch_once(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(archive)
    runs = [Forked(TWO, tmp_path / "archive") for _ in range(2)]
    for run in runs:
        out, err = run.communicate(timeout=120)
        assert out.strip() == str(len(LABELS) * 3074), err[-500:]
    assert (tmp_path / "downloads").read_text() == "x"


def test_a_killed_holder_of_the_lock_stops_nobody(downloads: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom itd.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(100)\n"
    )
    holder = Forked(code, tmp_path / "cache" / "cifar-100-binary.lock")
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert open_images("cifar100").labels.tolist() == list(LABELS)


def test_cached_weights_are_checked_against_the_hash_in_their_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(resnet18().state_dict(), tmp_path / "w.pth")
    cached = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"  # torchvision's name: the file is another
    cached.write_bytes((tmp_path / "w.pth").read_bytes())
    with pytest.raises(ModelError, match=rf"cached weights {cached} .*the hash in its name.*delete that file"):
        load_weights("resnet18", "IMAGENET1K_V1", on_prepare=None)
    digest = hashlib.sha256(cached.read_bytes()).hexdigest()
    from itd.weights.load import _require_hash

    (tmp_path / f"resnet18-{digest[:8]}.pth").write_bytes(cached.read_bytes())
    _require_hash(tmp_path / f"resnet18-{digest[:8]}.pth")
    _require_hash(tmp_path / "w.pth")
