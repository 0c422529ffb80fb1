"""The Triton kernel for what follows a convolution: interpreted on the CPU against its reference, and compiled."""

import importlib.util
import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from itd.engine import kernels
from itd.engine.ops import ConvOp, fused_finish

triton = pytest.importorskip("triton")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(1, 1, 1, 1), (2, 7, 3, 5), (1, 24, 1, 1), (3, 64, 7, 7), (2, 1500, 1, 2), (2, 1504, 1, 2), (1, 3, 40, 37)]
"""One value; odd channels; one row; several blocks; more channels than a block has, in eights or not; a block that ends
inside a row."""


def module(monkeypatch, **environment):
    """The module anew, as it is where these variables are set."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("kernels_anew", kernels.__file__)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def interpreted(monkeypatch):
    """The module with its kernel run by Triton's interpreter."""
    return module(monkeypatch, TRITON_INTERPRET="1")


def values(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = 4 * torch.randn(shape, generator=generator)
    return made.to(dtype).contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made.to(dtype)


def by_definition(out, bias, other, activation):
    """In float64, rounded once."""
    x = out.double()
    if bias is not None:
        x = x + bias.double()[None, :, None, None]
    if other is not None:
        x = x + other.double()
    x = {None: lambda: x, "relu": lambda: x.clamp(min=0), "relu6": lambda: x.clamp(0, 6)}[activation]()
    return x.to(out.dtype)


def assert_rounded_once(found, wanted, exact=True):
    """Equal, but for sums in float32 that lie between two values of fewer bits. Triton's interpreter cuts bf16 off."""
    step = torch.finfo(found.dtype).eps * wanted.float().abs() + 1e-6
    assert ((found.float() - wanted.float()).abs() <= step).all()
    if exact and found.dtype != torch.float32:
        assert (found == wanted).float().mean() > 0.99


@pytest.mark.parametrize(("shape", "dtype"), list(itertools.product(SHAPES, DTYPES)))
def test_triton_kernel_is_its_definition(interpreted, shape, dtype):
    for activation, with_bias, with_other in itertools.product((None, "relu", "relu6"), (True, False), (True, False)):
        out, bias = values(shape, dtype), values(shape[1:2], torch.float32, 1) if with_bias else None
        other = values(shape, dtype, 2) if with_other else None
        wanted = by_definition(out, bias, other, activation)
        beside = None if other is None else other.clone()
        assert interpreted.applies(out, other)
        found = interpreted.finish_in_one_pass(out, bias, other, activation)
        assert found is out and found.is_contiguous(memory_format=torch.channels_last)
        assert_rounded_once(found, wanted, exact=dtype != torch.bfloat16)
        assert other is None or torch.equal(other, beside)


def test_triton_kernel_is_the_plain_form_but_for_its_roundings(interpreted):
    for dtype, steps in ((torch.float32, 4), (torch.bfloat16, 3), (torch.float16, 3)):
        out, bias, other = (
            values((2, 33, 5, 5), dtype),
            values((33,), torch.float32, 1),
            values((2, 33, 5, 5), dtype, 2),
        )
        plain = kernels.finish_plain(out.clone(memory_format=torch.preserve_format), bias, other, "relu6")
        found = interpreted.finish_in_one_pass(out, bias, other, "relu6")
        assert (found.float() - plain.float()).abs().max() <= steps * torch.finfo(dtype).eps * 16


def test_triton_kernel_keeps_what_is_not_a_number(interpreted):
    for activation in (None, "relu", "relu6"):
        out = values((1, 4, 2, 2), torch.float32)
        out[0, 1, 0, 1], out[0, 2] = torch.nan, torch.inf
        found = interpreted.finish_in_one_pass(out, None, None, activation)
        assert found.isnan().sum() == 1 and found[0, 1, 0, 1].isnan()
        assert (found[0, 2] == (6.0 if activation == "relu6" else torch.inf)).all()


def test_triton_kernel_writes_nothing_beyond_its_map(interpreted):
    room = torch.full((4, 5, 5, 10), 7.0)
    maps = room[1:3].permute(0, 3, 1, 2)  # in the middle of a larger piece of memory
    assert interpreted.applies(maps, None)
    interpreted.finish_in_one_pass(maps, torch.ones(10), None, None)
    assert (room[1:3] == 8).all() and (room[0] == 7).all() and (room[3] == 7).all()


@pytest.mark.parametrize(
    ("out", "other"),
    [
        (torch.zeros(2, 3, 4, 4), None),
        (values((2, 3, 4, 4), torch.float32)[:, :2], None),
        (values((2, 3, 4, 4), torch.float32)[:, :, ::2], None),
        (values((2, 3, 4, 4), torch.float32).double(), None),
        (values((0, 3, 4, 4), torch.float32), None),
        (values((2, 3, 4, 4), torch.float32), values((2, 3, 1, 1), torch.float32)),
        (values((2, 3, 4, 4), torch.float32), torch.zeros(2, 3, 4, 4)),
        (values((2, 3, 4, 4), torch.float32), values((2, 3, 4, 4), torch.float32).int()),
    ],
    ids=[
        "contiguous",
        "channels left out",
        "rows left out",
        "double",
        "empty",
        "broadcast",
        "other contiguous",
        "integers",
    ],
)
def test_triton_kernel_is_not_asked_for_what_it_cannot(out, other):
    assert not kernels.applies(out, other)
    bias = torch.arange(out.shape[1], dtype=torch.float32)
    added = 0 if other is None else other
    wanted = torch.relu(out + bias.view(1, -1, 1, 1) + added)
    assert torch.equal(kernels.finish(out.clone(), bias, other, "relu"), wanted)


def test_triton_kernel_is_not_run_on_a_cpu_nor_where_nothing_follows(monkeypatch):
    monkeypatch.setattr(kernels, "finish_in_one_pass", None)
    out = values((2, 3, 4, 4), torch.float32)
    assert kernels.applies(out, None)
    assert torch.equal(kernels.finish(out.clone(), None, None, "relu"), out.relu())
    monkeypatch.setattr(kernels, "finish_plain", None)
    assert kernels.finish(out, None, None, None) is out


def test_a_larger_other_makes_a_new_map():
    out, other = values((1, 3, 1, 1), torch.float32), values((1, 3, 4, 4), torch.float32, 1)
    found = kernels.finish(out.clone(), None, other, "relu")
    assert torch.equal(found, torch.relu(out + other))


def test_without_triton_the_plain_form_is_run(monkeypatch):
    monkeypatch.setattr(kernels, "triton", None)
    assert not kernels.applies(values((2, 3, 4, 4), torch.float32), None)


def convolution(**device):
    weight, bias = values((6, 5, 3, 3), torch.float16).to(**device), values((6,), torch.float32, 1).to(**device)
    return ConvOp(weight, bias, (1, 1), (1, 1), (1, 1), 1, "relu6")


def test_triton_kernel_is_off_unless_it_is_asked_for_on_a_gpu(monkeypatch):
    with FakeTensorMode(allow_non_fake_inputs=True):
        monkeypatch.delenv("ITD_FUSED_EPILOGUE", raising=False)
        assert convolution(device="cuda").finish is None
        monkeypatch.setenv("ITD_FUSED_EPILOGUE", "0")
        assert convolution(device="cuda").finish is None
        monkeypatch.setenv("ITD_FUSED_EPILOGUE", "1")
        assert convolution(device="cuda").finish is kernels.finish
    assert convolution().finish is None and fused_finish(torch.empty(1, device="meta")) is None


def test_a_convolution_is_finished_by_the_triton_kernel(interpreted, monkeypatch):
    op, x, other = convolution(), values((2, 5, 4, 4), torch.float16, 2), values((2, 6, 4, 4), torch.float16, 3)
    calls = []

    def finish(*given):
        calls.append(given)
        return interpreted.finish_in_one_pass(*given)

    for added in (None, other):
        wanted = op(x, added)
        monkeypatch.setattr(op, "finish", finish)
        found = op(x, added)
        monkeypatch.setattr(op, "finish", None)
        assert (found - wanted).abs().max() <= 2**-6  # of fp16 near 6, rounded less often
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert [given[1:] for given in calls] == [(op.bias, None, "relu6"), (op.bias, other, "relu6")]


WIDER = [(1, 1, 1, 1), (2, 7, 3, 5), (3, 64, 7, 7), (2, 24, 1, 1), (1, 3, 40, 37), (2, 1504, 1, 2), (3, 8, 1, 4)]


@pytest.mark.parametrize(("shape", "dtype"), list(itertools.product(WIDER, DTYPES)))
@pytest.mark.parametrize("room", [0, 1, 8, 1000])
def test_triton_kernel_normalises_maps_and_parts_of_wider_ones(interpreted, shape, dtype, room):
    n, channels, h, w = shape
    wide = torch.empty(n, channels + room, h, w, dtype=dtype, memory_format=torch.channels_last)
    wide.copy_(values(wide.shape, dtype))
    x, before = wide[:, :channels], wide.clone()
    scale, shift = values((channels,), torch.float32, 1), values((channels,), torch.float32, 2)
    for activation in (None, "relu", "relu6"):
        wanted = by_definition(x.double() * scale.double()[None, :, None, None], shift, None, activation)
        found = interpreted.normalise_in_one_pass(x, scale, shift, activation)
        assert found.shape == shape and found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        step = torch.finfo(dtype).eps * wanted.abs() + 1e-5
        assert ((found.double() - wanted).abs() <= step).all()
        plain = kernels.normalise_plain(x, scale, shift, activation)
        assert ((found.double() - plain.double()).abs() <= 2 * step).all()
    assert torch.equal(wide, before)


@pytest.mark.parametrize(
    "maps",
    [
        torch.zeros(2, 3, 4, 4),
        values((2, 4, 4, 4), torch.float32)[:, ::2],
        values((2, 4, 4, 4), torch.float32)[:, :, ::2],
        values((2, 4, 4, 4), torch.float32)[:, :, :, 1:],
        torch.zeros(2, 3),
        torch.zeros(0, 3, 2, 2),
        torch.zeros(2, 3, 4, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last),
    ],
)
def test_triton_kernel_does_not_normalise_maps_that_lie_otherwise(maps):
    assert kernels._room(maps) is None


def test_triton_kernel_normalises_nothing_on_a_cpu(monkeypatch):
    monkeypatch.setattr(kernels, "normalise_in_one_pass", lambda *_: 1 / 0)
    x = values((2, 8, 3, 3), torch.bfloat16)
    found = kernels.normalise(x, torch.ones(8), torch.zeros(8), "relu6")
    assert torch.equal(found, x.clamp(0, 6)) and found.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("name", ["_finish", "_normalise"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_triton_kernel_compiles_for_an_h200_without_one(monkeypatch, tmp_path, dtype, name):
    """Sixteen bytes are read and written at once, and eight channels are found by one division."""
    from triton.compiler.errors import CompilationError

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    plain = module(monkeypatch, TRITON_CACHE_DIR=str(tmp_path))
    try:
        made = compiled(plain, dtype, name)
    except CompilationError:
        raise
    except Exception as error:  # another version of Triton, or no assembler
        pytest.skip(f"Triton cannot compile for a GPU here: {error}")
    ptx = made.asm["ptx"]
    assert ".target sm_90" in ptx and len(made.asm["cubin"]) > 1000
    assert "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx
    assert not {"ld.global.b16", "ld.global.b32", "st.global.b16", "st.global.b32"} & set(ptx.split())
    divisions = [ptx.count(f"div.s{bits}") + ptx.count(f"rem.s{bits}") for bits in (32, 64)]
    assert divisions[0] <= (2 if dtype == "fp32" else 1) and divisions[1] == 1
    assert dtype == "fp32" or "cvt.rn." in ptx, "rounded to the nearest"


def compiled(plain, dtype, name):
    """For tensors that begin at 16 bytes and channels in sixteens, as a network's are."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    chosen = {"ACTIVATION": 2, "VECTOR": plain.VECTOR, "BLOCK": plain.BLOCK}
    kinds = {"count": "i32", "channels": "i32"}
    if name == "_finish":
        chosen |= {"HAS_BIAS": True, "HAS_OTHER": True}
        kinds = {"out": f"*{dtype}", "bias": "*fp32", "other": f"*{dtype}", **kinds}
    else:
        kinds = {"x": f"*{dtype}", "scale": "*fp32", "shift": "*fp32", "out": f"*{dtype}", **kinds, "room": "i32"}
    aligned = {(place,): [["tt.divisibility", 16]] for place in range(len(kinds))}
    source = ASTSource(getattr(plain, name), {**kinds, **dict.fromkeys(chosen, "constexpr")}, chosen, aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_triton_kernel_is_its_definition_on_a_gpu(cuda, dtype):
    for shape in [*SHAPES, (512, 256, 14, 14)]:
        out, bias, other = values(shape, dtype), values(shape[1:2], torch.float32, 1), values(shape, dtype, 2)
        found = kernels.finish(out.to(cuda), bias.to(cuda), other.to(cuda), "relu6").cpu()
        assert_rounded_once(found, by_definition(out, bias, other, "relu6"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_triton_kernel_normalises_on_a_gpu(cuda, dtype):
    for (n, channels, h, w), room in itertools.product([*WIDER, (512, 256, 14, 14)], (0, 1, 8, 1000)):
        x = values((n, channels + room, h, w), dtype)[:, :channels]
        scale, shift = values((channels,), torch.float32, 1), values((channels,), torch.float32, 2)
        wide = torch.empty(n, channels + room, h, w, dtype=dtype, device=cuda, memory_format=torch.channels_last)
        wide[:, :channels] = x.to(cuda)
        found = kernels.normalise(wide[:, :channels], scale.to(cuda), shift.to(cuda), "relu").cpu()
        wanted = by_definition(x.double() * scale.double()[None, :, None, None], shift, None, "relu")
        assert ((found.double() - wanted).abs() <= torch.finfo(dtype).eps * wanted.abs() + 1e-5).all()
