"""Statistics of normalisation re-estimated for each configuration, against torch's own update_bn."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import update_bn

from itd import sweep
from itd.errors import DataError, ModelError
from itd.patcher import build_model, patch
from itd.runner.request import SweepRequest
from itd.store import open_result
from itd.training.recalibrate import RecalibratedExecutor, RecalibrateRequest, batch_of, recalibrate


@pytest.fixture
def request_(tmp_path, random_network):
    save_file(random_network("resnet18").state_dict(), tmp_path / "w.safetensors")
    swept = SweepRequest(
        "resnet18", "dilation", sites="CD", options=("1,2",), data="digits", limit=6, device="cpu",
        weights=str(tmp_path / "w.safetensors"), resize_px=64, crop_px=64, out=str(tmp_path / "r.parquet"),
    )  # fmt: skip
    return RecalibrateRequest(swept, images=12)


def test_each_configurations_statistics_are_those_of_update_bn(random_network):
    request = SweepRequest("resnet18", "stride", sites="BCD", options=("1,2",))
    swept = request.sites_asked()[1]
    model = patch(copy.deepcopy(random_network("resnet18")), "resnet18")
    space = request.space_of(model, swept)
    pixels, seen = torch.randn(12, 3, 64, 64), torch.randn(5, 3, 64, 64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = {}
    executor = RecalibratedExecutor(model, space, pixels, batch_size=4)
    for _ in range(2):  # the second time from what was kept
        executor.run(seen, lambda c, i, logits: found.__setitem__(int(c[0]), logits))
        for number in (0, len(space) // 2, len(space) - 1):
            reference = copy.deepcopy(model)
            with reference.configured(space.configs[number]), torch.no_grad():
                update_bn(pixels.split(4), reference)
                expected = reference.eval()(seen)
            torch.testing.assert_close(found[number], expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_result_is_one_of_its_own_that_resumes_and_says_what_it_is(request_):
    from dataclasses import replace

    sweep(request_.sweep, quiet=True)
    again = replace(request_, sweep=replace(request_.sweep, out=request_.sweep.out.replace("r.", "again.")))
    assert recalibrate(again, quiet=True).done == 6
    plain, other = open_result(request_.sweep.out), open_result(again.sweep.out)
    identity = dict(other.manifest["identity"])
    assert identity.pop("recalibration")["images"] == 12 and identity == plain.manifest["identity"]
    assert not np.allclose(plain.matrix("nll"), other.matrix("nll"), atol=0.01)
    assert recalibrate(again, quiet=True).done == 0
    more = replace(again, sweep=replace(again.sweep, limit=8))
    assert recalibrate(more, quiet=True).done == 2
    np.testing.assert_array_equal(open_result(again.sweep.out).matrix("nll")[:, :6], other.matrix("nll"))


def test_the_batch_size_divides_the_images():
    for images in range(2, 300):
        assert images % batch_of(images) == 0 and batch_of(images) <= 64


def test_what_has_nothing_to_re_estimate_is_one_line(request_, tmp_path):
    from dataclasses import replace

    save_file(build_model("resnet18", 10).state_dict(), tmp_path / "folded.safetensors")
    folded = replace(request_, sweep=replace(request_.sweep, weights=str(tmp_path / "folded.safetensors")))
    with pytest.raises(ModelError, match="folded into the convolutions"):
        recalibrate(folded)
    plain = {"model": "vgg11", "weights": "none", "num_classes": 10, "sites": "C=features.8,D=features.11"}
    without = replace(request_, sweep=replace(request_.sweep, **plain))
    with pytest.raises(ModelError, match="no batch normalisation"):
        recalibrate(without)
    with pytest.raises(DataError, match="`images=1`"):
        recalibrate(replace(request_, images=1))
