"""benchmarks/gpu.py on the CPU at tiny sizes: every part measures what it says, and keeps what it has."""

import importlib
import json
import subprocess
import sys

import pytest
import torch


@pytest.fixture
def benchmark(repository, monkeypatch):
    """name -> a module of benchmarks/."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    return importlib.import_module


@pytest.fixture
def rows(benchmark):
    """name -> the rows of a part."""

    def measured(name):
        found = list(benchmark("gpu").parts()[name](benchmark("gpu_sweeps").Run("cpu", small=True)))
        json.dumps(found)
        return found

    return measured


def test_sweeps_are_compared_and_their_kernels_named(rows):
    compared, profiled = rows("sweeps")
    assert "error" not in compared | profiled
    assert compared["precision"] == "bf16" and compared["top1_agreement"] >= 0.99
    assert {"images_per_s", "share", "ratio", "ratio_low", "ratio_high", "peak_bytes", "plain_compiled"} <= set(
        compared
    )
    assert 1 <= len(profiled["heaviest"]) <= 10 and profiled["launches"] > 10
    shares = [kernel["share"] for kernel in profiled["heaviest"]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
    assert any("conv" in kernel["name"] for kernel in profiled["heaviest"])


def test_the_heaviest_convolutions_run_in_each_way(rows, benchmark):
    layers, run = benchmark("gpu_layers"), benchmark("gpu_sweeps").Run("cpu", small=True)
    found = rows("convolutions")
    assert len(found) == 3
    weights = [row["calls"] * row["bound_s"] for row in found]
    assert weights == sorted(weights, reverse=True)
    for row in found:
        assert row["as_now_s"] > 0 and row["without_bias_s"] > 0 and row["tuned_s"] > 0
        assert row["cudnn_fused_s"] is None and row["cudnn_fused_error"]
    assert any(row.get("product_s") and row["product_fused_s"] for row in found)
    conv = next(c for c, *_ in layers.heaviest(run) if c.weight[2:] == (1, 1) and c.groups == 1)
    with torch.inference_mode():
        made = {name: work() for name, work in layers.ways_of(run, conv).items() if name != "cudnn_fused"}
    as_maps = conv.x[0], *conv.x[2:], conv.weight[0]
    assert torch.allclose(made["without_bias"].relu(), made["as_now"], rtol=0.02, atol=0.02)
    assert torch.allclose(made["product"].view(as_maps).permute(0, 3, 1, 2), made["without_bias"], rtol=0.02, atol=0.1)
    assert torch.allclose(made["one_kernel"], made["as_now"], rtol=0.02, atol=0.02)
    assert torch.allclose(made["product_fused"], made["product"].relu(), rtol=0.02, atol=0.02)


def test_special_layers_run_in_ways_that_are_the_same(rows, benchmark, monkeypatch):
    layers = benchmark("gpu_layers")
    made = {}

    def kept(run, ways):
        with torch.inference_mode():
            made[len(made)] = {name: work() for name, work in ways.items()}
        return {}

    monkeypatch.setattr(layers, "seconds", kept)
    found = rows("special")
    assert not [row["error"] for row in found if "error" in row]
    whats = [row["what"] for row in found]
    assert set(whats) == {"depthwise", "grouped", "resized"}
    compared = [list(results.values()) for results in made.values() if len(results) == 2]
    assert len(compared) == 3
    for one, other in compared:
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 0.05 * other.abs().max()
    for row, results in zip(found, made.values(), strict=True):
        out = next(iter(results.values()))
        assert row["bound_s"] >= 2 * (torch.Size(row["x"]).numel() + out.numel()) / 4.3e12


def test_twelve_sweeps_are_extrapolated(rows):
    *each, total = rows("twelve")
    assert not [row for row in each if "error" in row]
    for row in each:
        assert row["minutes"] == pytest.approx(50_000 / row["images_per_s"] / 60) and row["images"] == 4
    assert total["minutes"] == pytest.approx(sum(row["minutes"] for row in each))


def test_no_total_is_told_where_a_sweep_failed(rows, benchmark, monkeypatch):
    sweeps = benchmark("gpu_sweeps")
    monkeypatch.setattr(sweeps, "_of_noise", lambda run, name, attribute: {"minutes": {"dilation": 1.0}[attribute]})
    assert [row.get("error", row.get("minutes")) for row in rows("twelve")] == ["KeyError: 'size'", 1.0]


def test_a_sweep_of_jpegs_says_how_long_the_device_worked(rows):
    made, swept = rows("jpegs")
    assert made["images"] == 6 and "error" not in swept
    assert swept["images"] == 6 and swept["configs"] == 16
    assert 0 < swept["of_sweep"] < swept["of_steady"] <= 1


def test_only_a_sweeps_own_batches_are_working_time(benchmark, monkeypatch):
    sweeps, now = benchmark("gpu_sweeps"), iter([0.0, 5.0, 10.0, 12.0, 13.0, 14.0, 18.0, 20.0])
    monkeypatch.setattr(sweeps.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(sweeps.TreeExecutor, "run", lambda tree: None)
    before = sweeps.TreeExecutor.run
    with sweeps.WorkingTime(torch.device("cpu")) as worked:
        sweeps.TreeExecutor.run(None)  # the check, of 5 s
        worked.begin(None)
        sweeps.TreeExecutor.run(None)  # from 12 to 13
        sweeps.TreeExecutor.run(None)  # from 14 to 18
    assert worked.shares() == {"of_sweep": 0.5, "of_steady": 5 / 6}
    assert sweeps.TreeExecutor.run is before


def test_jpegs_are_seeded_and_of_imagenets_size(benchmark, tmp_path):
    from PIL import Image

    make = benchmark("gpu_sweeps").make_jpegs
    make(tmp_path / "a", 5)
    make(tmp_path / "b", 5)
    files = sorted((tmp_path / "a").rglob("*.jpeg"))
    assert len(files) == 5 and len({path.parent for path in files}) == 4
    assert [path.read_bytes() for path in files] == [
        path.read_bytes() for path in sorted((tmp_path / "b").rglob("*.jpeg"))
    ]
    with Image.open(files[0]) as image:
        assert image.size == (500, 375)


# -- time limits ------------------------------------------------------------------------------------------------------


def test_a_part_ends_after_the_row_in_which_its_time_was_over(benchmark, tmp_path):
    gpu, now = benchmark("gpu"), iter([0.0, 3.0, 9.0, 11.0, 12.0])
    assert not gpu.collect(iter([{"row": i} for i in range(9)]), tmp_path / "rows", 10.0, lambda: next(now))
    assert (tmp_path / "rows").read_text().splitlines() == ['{"row": 0}', '{"row": 1}', '{"row": 2}']
    assert gpu.collect(iter([{"row": 0}]), tmp_path / "all", 10.0)


@pytest.mark.parametrize(
    ("ending", "limit_s", "state"),
    [
        ("sys.exit(0)", 60, "done"),
        ("sys.exit(3)", 60, "out of time"),
        ("raise RuntimeError('CUDA error: an illegal memory access')", 60, "failed: RuntimeError: CUDA error: an ill"),
        ("import signal; signal.pause()", 1, "out of time"),
        ("out.write('{\"row'); out.flush(); sys.exit(1)", 60, "failed: exit status 1; a row was not whole"),
    ],
)
def test_what_a_part_measured_stays_however_it_ends(benchmark, tmp_path, ending, limit_s, state):
    path = tmp_path / "rows"
    code = f"import sys; out = open({str(path)!r}, 'a'); out.write('{{\"row\": 1}}\\n'); out.flush(); {ending}"
    part = benchmark("gpu").supervised([sys.executable, "-c", code], path, limit_s)
    assert part["state"].startswith(state) and part["rows"] == [{"row": 1}]


def test_the_command_writes_every_part_and_leaves_others(repository, tmp_path):
    out = tmp_path / "folder" / "gpu.json"
    out.parent.mkdir()
    out.write_text(json.dumps({"parts": {"jpegs": {"state": "done", "seconds": 1, "rows": []}}}))
    command = [
        sys.executable,
        str(repository / "benchmarks" / "gpu.py"),
        "--device",
        "cpu",
        "--small",
        "--out",
        str(out),
    ]
    done = subprocess.run([*command, "--only", "rates", "large"], capture_output=True, text=True, check=True)
    written = json.loads(out.read_text())
    assert set(written["parts"]) == {"rates", "large", "jpegs"} and written["small"] and written["date"]
    rates, large = written["parts"]["rates"], written["parts"]["large"]
    assert rates["state"] == large["state"] == "done"
    assert [row.get("precision", row["what"]) for row in rates["rows"]] == ["fp32", "tf32", "bf16", "copy"]
    assert all(
        row.get("flops", row.get("bytes_per_s", 0)) > 0 for row in rates["rows"] if row.get("precision") != "tf32"
    )
    assert "a GPU's format" in rates["rows"][1]["error"]
    assert all(row["right"] for row in large["rows"]) and len(large["rows"]) == 2
    assert "rates: done" in done.stdout and "1 of them errors" in done.stdout


@pytest.mark.gpu
def test_every_part_works_on_a_gpu(cuda, repository, tmp_path):
    out = tmp_path / "gpu.json"
    command = [
        sys.executable,
        str(repository / "benchmarks" / "gpu.py"),
        "--device",
        cuda,
        "--small",
        "--out",
        str(out),
    ]
    subprocess.run(command, check=True)
    for name, part in json.loads(out.read_text())["parts"].items():
        assert part["state"] == "done" and part["rows"], name
        assert not [value for row in part["rows"] for key, value in row.items() if key.endswith("error")], name


def test_a_limit_of_no_part_is_refused(benchmark):
    gpu = benchmark("gpu")
    assert gpu.limits(["twelve=5"])["twelve"] == 5 and gpu.limits([]) == gpu.LIMITS_S
    with pytest.raises(SystemExit, match="no part thirteen"):
        gpu.limits(["thirteen=5"])
    assert set(gpu.parts()) == set(gpu.LIMITS_S)


def test_what_twelve_sweeps_took_stands_beside_what_bounds_them(benchmark, repository, tmp_path):
    roofline = benchmark("roofline")
    lines = [json.loads(line) for line in roofline.OUT.read_text(encoding="utf-8").splitlines()]
    assert roofline.table(lines).count("| not measured |") == 13
    rows = [{"model": line["model"], "attr": line["attr"], "images_per_s": 500.0} for line in lines]
    report = {"device": "a GPU", "parts": {"twelve": {"rows": [*rows, {"model": "all", "minutes": 20.0}]}}}
    (tmp_path / "gpu.json").write_text(json.dumps(report))
    found = roofline.measurements(str(tmp_path / "gpu.json"))
    assert set(found) == set(benchmark("counts").SWEEPS) and found["resnet50", "size"]["device"] == "a GPU"
    table = roofline.table([{**line, "measured_images_per_s": 500.0} for line in lines]).splitlines()
    assert [line.split("|")[-2].strip() for line in table[2:]] == ["1.67"] * 12 + ["20.00"]
    assert roofline.changed(lines, [{**lines[0], "macs": 1}, *lines[1:]]) == [
        f"resnet50 stride: macs is {lines[0]['macs']}, 1 is stored"
    ]
