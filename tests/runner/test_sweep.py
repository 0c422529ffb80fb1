"""The sweep end to end on a small real task: same rows however it is cut, killed, resumed, extended or sharded."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from subprocess import DEVNULL

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

from itd import plan, sweep
from itd.data.digits import digits_images
from itd.engine.plain import PlainExecutor
from itd.errors import (
    DataError,
    ItdError,
    ItdWarning,
    NotFiniteError,
    ResultError,
    SetAsideWarning,
    SpaceError,
    TraceError,
)
from itd.patcher import Conventions
from itd.runner.request import SweepRequest, varied
from itd.runner.run import unit_size
from itd.space import Setting, SpaceList, write_space
from itd.store import open_result, verify
from itd_cli.plan import start_notes
from support import synthetic
from support.forked import Forked


@pytest.fixture
def request_(tmp_path):
    return SweepRequest(
        "support.small:ten_classes", "dilation", sites="C=stem,D=body", options=("1,2",), data="digits",
        weights="none", num_classes=10, crop_px=32, limit=10, batch_size=4, device="cpu",
        out=str(tmp_path / "r.parquet"), images_per_unit=4,
    )  # fmt: skip


@pytest.fixture
def resnet18(request_):
    """The same of ResNet-18."""
    return replace(request_, model="resnet18", sites="CD")


def rows(path):
    return pd.read_parquet(path).sort_values(["config", "sample"]).reset_index(drop=True)


def test_rows_equal_scores_of_plain_forwards(resnet18):
    report = sweep(resnet18, quiet=True)
    assert (report.done, report.already, report.left, report.configs) == (10, 0, 0, 4)
    job = resnet18.job()
    table = rows(resnet18.out)
    assert len(table) == 40 and not table.duplicated(["config", "sample"]).any()
    pixels = torch.stack([job.images.pixels[int(i)] for i in np.sort(job.images.samples)])  # as `rows` has them
    logits = {}
    PlainExecutor(job.model, job.space).run(pixels, lambda c, i, x: logits.__setitem__(int(c[0]), x))
    for number, expected in logits.items():
        part = table[table.config == number]
        p = torch.softmax(expected.double(), 1)
        label = torch.from_numpy(part.label.to_numpy().astype(np.int64))
        assert (part.pred.to_numpy() == expected.argmax(1).numpy()).all()
        own = p.gather(1, label[:, None])[:, 0] + (expected.argmax(1) == label)
        np.testing.assert_allclose(part.quality, own, atol=1e-5)
        np.testing.assert_allclose(part.confidence, p.amax(1), atol=1e-5)
    settings = [tuple(s.dilation for s in c) for c in job.space.configs]
    columns = table[[f"dilation_{s}" for s in "ABCD"]].to_numpy()
    assert [tuple(c) for c in columns] == [settings[c] for c in table.config]


def test_the_images_are_spread_over_the_classes_and_a_result_by_path_goes_on_by_path(request_, tmp_path):
    spread = replace(request_, limit=3)
    sweep(spread, quiet=True)
    labels = digits_images("eval").labels
    result = open_result(spread.out)
    assert result.samples.tolist() == [int(np.flatnonzero(labels == c)[0]) for c in range(3)]
    assert result.manifest["order"] == "class-spread" and result.labels.tolist() == [0, 1, 2]
    by_path = replace(spread, order="path", out=str(tmp_path / "p.parquet"))
    sweep(by_path, quiet=True)
    assert synthetic.without(by_path.out, "order") == "path"  # as no older result has it
    begun = []
    more = replace(by_path, order="class-spread", limit=6)
    assert plan(more).order == "path" and plan(more).already == 3
    report = sweep(more, quiet=True, on_start=begun.append)
    assert (report.already, report.done) == (3, 3) and open_result(more.out).samples.tolist() == [0, 1, 2, 3, 4, 5]
    assert "in the order by path, as the result was begun" in " ".join(start_notes(begun[0]))
    assert sweep(more, quiet=True).done == 0  # finished, it stays so
    assert replace(spread, limit=12).job().images.classes == 10


def test_overwrite_throws_away_another_run_and_goes_on_with_the_same(request_, tmp_path):
    first = replace(request_, limit=4)
    sweep(first, quiet=True)
    before = {path.name: path.stat().st_mtime_ns for path in Path(first.out).glob("part-*")}
    other = replace(first, every=2)
    with pytest.raises(ResultError, match="every is 1, given 2"):
        sweep(other, quiet=True)
    assert sweep(replace(first, limit=6, overwrite=True), quiet=True).already == 4
    assert before.items() <= {p.name: p.stat().st_mtime_ns for p in Path(first.out).glob("part-*")}.items()
    assert plan(replace(other, overwrite=True)).already == 0 and open_result(first.out).n == 6
    assert sweep(replace(other, overwrite=True), quiet=True).done == 4
    assert (open_result(other.out).samples % 2 == 0).all() and verify(other.out).ok
    assert sweep(other, quiet=True).already == 4
    Path(other.out, "_itd", "manifest.json").unlink()
    with pytest.raises(ResultError, match=r"no _itd/manifest\.json"):
        sweep(first, quiet=True)
    assert sweep(replace(first, overwrite=True), quiet=True).done == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ResultError, match="other things in it"):
        sweep(replace(first, out=str(tmp_path / "mine"), overwrite=True), quiet=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_batch_size_units_shards_and_extension_give_the_same_rows(resnet18, tmp_path):
    sweep(resnet18, quiet=True)
    whole = rows(resnet18.out)

    def same(request):
        other = rows(request.out)
        exact = ["sample", "label", "config", "pred", "rank"]
        pd.testing.assert_frame_equal(other[exact], whole[exact])
        pd.testing.assert_frame_equal(other, whole, check_exact=False, rtol=1e-4, atol=1e-6)

    other = replace(resnet18, batch_size=3, images_per_unit=5, workers=1, out=str(tmp_path / "b.parquet"))
    sweep(other, quiet=True)
    same(other)
    sharded = replace(resnet18, out=str(tmp_path / "s.parquet"))
    assert sweep(replace(sharded, shard=(2, 2)), quiet=True).left == 4
    assert sweep(replace(sharded, shard=(1, 2)), quiet=True).left == 0
    same(sharded)
    grown = replace(resnet18, out=str(tmp_path / "g.parquet"))
    assert sweep(replace(grown, limit=3), quiet=True).done == 3
    report = sweep(grown, quiet=True)
    assert (report.already, report.done) == (3, 7)
    same(grown)
    assert sweep(grown, quiet=True).done == 0
    assert verify(grown.out).ok


def test_a_listed_space_gives_the_rows_of_the_product_it_is_a_part_of(request_, tmp_path):
    crossed = replace(request_, attributes="dilation,size", options=("dilation:1,2", "size:1,3"))
    sweep(crossed, quiet=True)
    whole = open_result(crossed.out)
    chosen = [14, 3, 0, 9, 3]
    configs = tuple({site: Setting(**v) for site, v in whole.setting(i).items()} for i in chosen)
    write_space(tmp_path / "s.json", SpaceList(("dilation", "size"), configs))
    listed = replace(
        request_, attributes=None, options=(), space_file=str(tmp_path / "s.json"), out=str(tmp_path / "l.parquet")
    )
    sweep(listed, quiet=True)
    part = open_result(listed.out)
    assert part.configs == 4 and verify(listed.out).ok
    found = [part.setting(i) for i in range(4)]
    assert found == [whole.setting(i) for i in sorted(set(chosen))]
    np.testing.assert_array_equal(part.matrix("pred"), whole.matrix("pred")[sorted(set(chosen))])
    np.testing.assert_allclose(part.matrix("nll"), whole.matrix("nll")[sorted(set(chosen))], rtol=1e-4)
    write_space(tmp_path / "s.json", SpaceList(("dilation", "size"), configs[:1]))
    with pytest.raises(ResultError, match="space"):
        sweep(listed, quiet=True)


def test_each_variation_is_a_result_of_its_own(request_):
    requests = varied(request_, scales=[0.5, 2.0])
    for request in requests:
        sweep(request, quiet=True)
        job = request.job()
        result = open_result(request.out_path())
        assert result.manifest["identity"]["variation"] == {"scale": request.scale}
        pixels = torch.stack([job.images.pixels[int(i)] for i in job.images.samples])
        assert pixels.shape[2] == 32 * request.scale
        found = []
        PlainExecutor(job.model, job.space).run(pixels, lambda c, i, x, f=found: f.append(x.argmax(1)), [1])
        assert (result.matrix("pred")[1] == found[0].numpy()).all()
    assert [Path(r.out_path()).name for r in requests] == ["r-scale0.5.parquet", "r-scale2.parquet"]
    assert open_result(requests[0].out_path()).macs[0] < open_result(requests[1].out_path()).macs[0]


def test_all_variations_are_checked_before_the_first_is_run(request_):
    with pytest.raises(DataError, match="`context_px=33`"):
        varied(request_, contexts_px=[16, 33])


def test_what_says_what_varies_is_given_once(request_):
    with pytest.raises(SpaceError, match="leave out `attributes` and `options`"):
        replace(request_, space_file="s.json").job()
    with pytest.raises(SpaceError, match="nothing says what varies"):
        replace(request_, attributes=None).job()


def test_every_keeps_the_index_of_the_full_set(request_):
    sweep(replace(request_, every=7, limit=3, order="path"), quiet=True)
    assert open_result(request_.out).samples.tolist() == [0, 7, 14]
    spread = replace(request_, every=7, limit=10).job().images
    assert (spread.samples % 7 == 0).all() and spread.classes == 10


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"options": ("1,3",)}, "space.options"),
        ({"every": 2}, "every"),
        ({"crop_px": 48}, "preprocess.crop_px"),
        ({"precision": "bf16"}, "precision"),
        ({"conventions": Conventions("side")}, "choices.size_scale"),
        ({"scale": 1.0}, "variation"),
        ({"context_px": 32}, "variation"),
    ],
)
def test_a_changed_identity_is_refused_by_field_name(request_, change, field, monkeypatch):
    sweep(request_, quiet=True)
    before = rows(request_.out)
    monkeypatch.setattr(SweepRequest, "out_path", lambda request: request.out)  # whatever its name says
    with pytest.raises(ResultError, match=field):
        sweep(replace(request_, **change), quiet=True)
    pd.testing.assert_frame_equal(rows(request_.out), before)


CHILD = """
import sys
from itd import sweep
from itd.runner.request import SweepRequest
sweep(SweepRequest("resnet18", "dilation", sites="CD", options=("1,2",), data="digits", weights="none", num_classes=10,
    crop_px=32, limit=10, batch_size=4, device="cpu", out=sys.argv[1], images_per_unit=1), quiet=True)
"""


def test_killed_again_and_again_the_rerun_gives_the_rows_of_an_uninterrupted_run(resnet18, tmp_path):
    whole = replace(resnet18, images_per_unit=1, out=str(tmp_path / "whole.parquet"))
    sweep(whole, quiet=True)
    out, kills = tmp_path / "killed.parquet", 0
    while kills < 4:
        child = Forked(CHILD, out, stdout=DEVNULL, stderr=DEVNULL)
        wanted = len(list(out.glob("part-*"))) + 2
        while child.poll() is None and len(list(out.glob("part-*"))) < wanted:
            time.sleep(0.002)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        child.wait()
        if len(list(out.glob("part-*"))) == 10:
            break
    assert kills >= 3
    resumed = replace(whole, out=str(out))
    sweep(resumed, quiet=True)
    pd.testing.assert_frame_equal(rows(out), rows(whole.out))
    assert verify(out).ok and not list(out.glob("_itd/*.tmp*"))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(tmp_path / "data" / name / f"{i}.jpg")
    return tmp_path / "data"


def test_an_image_that_cannot_be_decoded_stops_by_name_or_becomes_null_rows(request_, folder):
    broken = folder / "dog" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    request = replace(
        request_, data=str(folder), model="support.small:two_classes", num_classes=2, crop_px=32, resize_px=32,
        images_per_unit=2, order="path",
    )  # fmt: skip
    with pytest.raises(DataError, match=r"dog/1\.jpg"):
        sweep(request, quiet=True, fail_fast=True)
    assert open_result(request.out).images_done == 4
    report = sweep(replace(request, allow_missing=True), quiet=True)
    assert report.done == 2 and report.nulls == 1 and not report.failed
    table = rows(request.out)
    assert table[table["sample"] == 4].pred.isna().all() and table[table["sample"] != 4].pred.notna().all()
    result = open_result(request.out)
    assert result.nulls == 1 and result.n == 5


def test_logits_that_are_not_finite_stop_the_run_by_configuration_and_image(resnet18, tmp_path, random_network):
    state = random_network("resnet18").state_dict()
    state["fc.weight"] = torch.full_like(state["fc.weight"], 3e38)
    torch.save(state, tmp_path / "w.pth")
    request = replace(resnet18, weights=str(tmp_path / "w.pth"), order="path")
    with pytest.raises(NotFiniteError, match=r"configuration 0, A\(dilation=1\).*image 0 .*fp32"):
        sweep(request, quiet=True, fail_fast=True)


def test_configurations_whose_window_exceeds_the_input_are_left_out_and_counted(request_):
    request = replace(request_, model="densenet121", attributes="stride", sites=None, options=())
    job = request.job()
    assert job.space.removed["a window exceeds its input at 32 px"] > 0
    assert len(job.space) + sum(job.space.removed.values()) == 400
    assert all(m > 0 for m in job.macs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "resnet5"}, "no such model"),
        ({"model": "vgg11"}, "no registered sites"),
        ({"attributes": "strid"}, "no such attribute"),
        ({"sites": "AE"}, "no such sites"),
        ({"sites": "A=layer1.0.nowhere"}, "no module"),
        ({"options": ("0",)}, "no such dilation option"),
        ({"weights": "nowhere.pth"}, "nowhere.pth"),
        ({"data": "/nonexistent"}, "no such data folder"),
        ({"precision": "tf32"}, "tf32"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "abacus"}, "no such device"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_anything_is_written(resnet18, change, words, tmp_path):
    with pytest.raises(ItdError, match=words) as caught:
        sweep(replace(resnet18, **change), quiet=True)
    assert "\n" not in str(caught.value)
    assert not os.path.exists(resnet18.out)


def test_a_network_that_torch_fx_traces_wrongly_is_run_by_plain_forwards_or_refused(resnet18, monkeypatch):
    original = torch.nn.functional.relu

    class Aliasing(torchvision.models.ResNet):
        def forward(self, x):
            x = self.bn1(self.conv1(x))
            view = x[:, :]
            original(view, inplace=True)
            return super().forward(x[:, :3])

    monkeypatch.setattr("itd.weights.state.build_model", lambda name, classes=1000: Aliasing(
        torchvision.models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=classes).eval())  # fmt: skip
    with pytest.raises(TraceError, match=r"`executor=tree` cannot run resnet18: .*not the same network"):
        sweep(resnet18, quiet=True, executor="tree")
    assert not os.path.exists(resnet18.out)
    with pytest.warns(ItdWarning, match=r"no work is shared.*not the same network"):
        assert sweep(resnet18, quiet=True).executor == "plain"


def test_nothing_is_trained_for_a_plan_nor_before_a_cheap_refusal(resnet18, monkeypatch, tmp_path):
    def forbidden(*_, **__):
        raise AssertionError("trained")

    monkeypatch.setattr("itd.weights.resolve.train_on_digits", forbidden)
    bare = replace(resnet18, weights=None, num_classes=None)
    assert plan(bare).configs == 4
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    for change, words in (
        ({"precision": "fp8"}, "no such precision"),
        ({"out": str(tmp_path / "full")}, "thesis.tex"),
        ({"options": ("1,2", "1,3")}, "twice"),
        ({"sites": "A=maxpool"}, "no swept site takes dilation"),
        ({"num_classes": 9}, "10 classes"),
    ):
        with pytest.raises(ItdError, match=words):
            sweep(replace(bare, **change), quiet=True)


def test_a_first_run_that_wrote_nothing_does_not_block_the_next(request_, folder):
    broken = folder / "cat" / "0.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:400])
    request = replace(
        request_, data=str(folder), model="support.small:two_classes", num_classes=2, crop_px=32, resize_px=32
    )
    with pytest.warns(SetAsideWarning, match=r"images 0 to 3 .*cat/0\.jpg"):
        assert sweep(replace(request, limit=4), quiet=True).left == 4
    broken.write_bytes(whole)
    assert sweep(request, quiet=True).done == 6
    assert verify(request.out).ok


def test_a_rerun_that_adds_nothing_leaves_the_result_untouched(request_):
    sweep(request_, quiet=True)
    before = {f: f.read_bytes() for f in Path(request_.out).rglob("*") if f.is_file()}
    sweep(request_, quiet=True)
    assert {f: f.read_bytes() for f in Path(request_.out).rglob("*") if f.is_file()} == before


def test_a_part_that_was_cut_short_is_put_aside_and_computed_again(request_):
    sweep(request_, quiet=True)
    part = sorted(Path(request_.out).glob("part-*"))[1]
    whole = part.read_bytes()
    part.write_bytes(whole[:500])
    assert plan(request_).already == 10 - 4
    with pytest.warns(ItdWarning, match=rf"{part.name} is damaged: 500 bytes .*moved to _itd/bad/{part.name}, and its"):
        assert sweep(request_, quiet=True).done == 4
    assert verify(request_.out).complete and part.read_bytes() == whole
    assert (Path(request_.out) / "_itd/bad" / part.name).read_bytes() == whole[:500]


def test_a_network_whose_layers_ask_for_their_version_takes_weights(request_):
    request = replace(request_, model="mnasnet0_5", sites="A=layers.8.0.layers.3", crop_px=64, limit=2)
    assert sweep(request, quiet=True).done == 2


def test_a_result_inside_the_data_is_refused(request_, folder):
    request = replace(request_, data=str(folder), num_classes=2, out=str(folder / "r.parquet"))
    with pytest.raises(ResultError, match="inside `data="):
        sweep(request, quiet=True)


def test_a_checkpoint_of_another_architecture_is_refused(resnet18, tmp_path, random_network):
    torch.save(random_network("mobilenet_v2").state_dict(), tmp_path / "m.pth")
    with pytest.raises(ItdError, match="resnet18"):
        sweep(replace(resnet18, weights=str(tmp_path / "m.pth")), quiet=True)


def test_units_are_small_on_a_cpu_and_grow_on_a_gpu():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [unit_size(n, cpu) for n in (1, 100, 1000, 50_000)] == [8, 8, 16, 16]
    assert unit_size(50_000, gpu) == 256
