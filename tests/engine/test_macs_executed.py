"""How a network is executed to count it: what counts nothing, references, and networks that need values or kernels."""

import copy
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula
from torchvision.models import resnet18, vit_b_32

from itd.engine.macs import macs
from itd.errors import ModelError
from itd.layers import SqueezeExcitation

SHAPE = (8, 16, 16)


class Function(nn.Module):
    """A function of images (N, 8, 16, 16) as a network, behind layers that it may use."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def of(function, **layers):
    return macs(Function(lambda m, x: function(x), **layers), input_shape=SHAPE)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


FREE_MODULES = [
    nn.ELU(), nn.GELU(), nn.GLU(), nn.Hardshrink(), nn.Hardsigmoid(), nn.Hardswish(), nn.Hardtanh(), nn.LeakyReLU(),
    nn.LogSigmoid(), nn.Mish(), nn.PReLU(), nn.RReLU(), nn.ReLU(), nn.ReLU6(), nn.SELU(), nn.CELU(), nn.Sigmoid(),
    nn.SiLU(), nn.Softmax2d(), nn.Softplus(), nn.Softshrink(), nn.Softsign(), nn.Tanh(), nn.Tanhshrink(),
    nn.Identity(), nn.Flatten(), nn.Dropout(), nn.Dropout2d(),
    nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.LayerNorm([8, 16, 16]),
    nn.RMSNorm(16), nn.LocalResponseNorm(3), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.LPPool2d(2, 2), nn.MaxPool3d(2),
    nn.AdaptiveMaxPool2d(3), nn.AdaptiveAvgPool2d(3), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool3d(2),
    nn.FractionalMaxPool2d(2, output_ratio=0.5), nn.ZeroPad2d(1), nn.ReflectionPad2d(1), nn.ReflectionPad3d(1),
    nn.ReplicationPad2d(1), nn.ReplicationPad3d(1), nn.CircularPad2d(1), nn.PixelShuffle(2), nn.PixelUnshuffle(2),
    nn.ChannelShuffle(2), nn.Sequential(nn.Unfold(3), nn.Fold((16, 16), 3)), nn.Upsample(scale_factor=2),
    nn.Upsample(scale_factor=2, mode="nearest-exact"), nn.Upsample(scale_factor=2, mode="area"),
]  # fmt: skip


@pytest.mark.parametrize("module", FREE_MODULES, ids=lambda module: type(module).__name__)
def test_layers_that_normalise_pool_pad_or_activate_cost_nothing_and_are_not_reported(module):
    number = macs(module, input_shape=SHAPE)
    assert (number, number.unknown) == (0, ())


FREE_FUNCTIONS = {
    "views in place": lambda x: x.clone().squeeze_().unsqueeze_(0).transpose_(1, 2),
    "unsafe splits": lambda x: torch.cat([*x.unsafe_split(4, 1), *x.unsafe_split_with_sizes((2, 6), 1)], 1),
    "copies of views": lambda x: torch.view_copy(torch.permute_copy(x, (0, 2, 3, 1)), (1, -1)),
    "writes into views": lambda x: torch.slice_scatter(torch.select_scatter(x, x[:, 0], 1, 1), x[:, :2], 1, 0, 2),
    "assignment": lambda x: x.clone().__setitem__((slice(None), 0), 1.0),
    "indices": lambda x: x[:, [0, 1]].roll(1, 2).rot90(1, (2, 3)).take_along_dim(x.argmax(1, keepdim=True), 1),
    "order": lambda x: x.sort(1)[0] + x.cummax(1)[0] + x.topk(8, 1)[0] + x.kthvalue(1, 1, True)[0] + x.mode(1, True)[0],
    "statistics": lambda x: x.std((2, 3)) + x.mean((2, 3)) + x.flatten(2).quantile(0.5, 2) + x.logsumexp((2, 3)),
    "products by element": lambda x: torch.addcmul(x, x, x) * torch.lerp(x, x.sigmoid(), 0.5) / torch.dist(x, x),
    "outer products": lambda x: torch.outer(x[0, 0, 0], x[0, 0, 0]) + torch.addr(x[0, 0], x[0, 0, 0], x[0, 0, 0]),
    "similarity": lambda x: F.normalize(x) + F.cosine_similarity(x, x)[:, None] + F.pairwise_distance(x, x)[..., None],
    "masks": lambda x: torch.where(x > 0, x, -x).masked_fill(x > 1, 0.0).tril(),
    "noise": lambda x: F.gumbel_softmax(x, dim=1) + torch.rand_like(x) + x.sigmoid().bernoulli(),
    "types": lambda x: x.half().float().contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", FREE_FUNCTIONS)
def test_what_moves_sorts_or_works_by_element_costs_nothing_and_is_not_reported(name):
    number = of(FREE_FUNCTIONS[name])
    assert (number, number.unknown) == (0, ())


def test_products_by_hand():
    for network, expected in (
        (nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=2), 64 * 6 * 4 * 9),
        (nn.Conv2d(8, 4, (3, 5), padding=(1, 2), padding_mode="circular"), 256 * 4 * 8 * 15),
        (nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2), 256 * 8 * 3 * 9),
        (nn.Linear(16, 5), 8 * 16 * 16 * 5),
        (nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 3, 5)), 252 * 3 * 8 * 5),
        (nn.Sequential(nn.Flatten(2), nn.ConvTranspose1d(8, 3, 5)), 256 * 8 * 3 * 5),
        (nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv3d(1, 2, 3)), 6 * 14 * 14 * 2 * 27),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 4, 1)), 256 * 4 * 8),
        (Function(lambda m, x: torch.baddbmm(x[0], x[0], x[0])), 8 * 16**3),
        (Function(lambda m, x: torch.addbmm(x[0, 0], x[0], x[0])), 8 * 16**3),
        (Function(lambda m, x: torch.addmm(x[0, 0], x[0, 0], x[0, 1])), 16**3),
        (Function(lambda m, x: torch.addmv(x[0, 0, 0], x[0, 0], x[0, 0, 0])), 16**2),
        (Function(lambda m, x: torch.dot(x[0, 0, 0], x[0, 0, 0])), 16),
        (Function(lambda m, x: torch.tensordot(x, x, ([1, 2, 3], [1, 2, 3]))), 8 * 256),
        (Function(lambda m, x: tokens(x) @ tokens(x).mT), 256 * 8 * 256),
        (Function(lambda m, x: torch.einsum("bchw,bcij->bhwij", x, x)), 256 * 256 * 8),
    ):
        number = macs(network, input_shape=SHAPE)
        assert (number, number.unknown) == (expected, ()), network


@pytest.mark.parametrize("name", ["encoder", "lstm", "conv1d", "einsum", "vit_b_32"])
def test_flops_as_torch_counts_them_are_twice_as_many(name):
    encoder = nn.TransformerEncoderLayer(8, 2, 32, batch_first=True)
    network, shape = {
        "encoder": (Function(lambda m, x: m.layer(tokens(x)), layer=encoder), SHAPE),
        "lstm": (Function(lambda m, x: m.layer(tokens(x))[0], layer=nn.LSTM(8, 5, 2, bidirectional=True)), SHAPE),
        "conv1d": (nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 12, 3, 2, groups=4)), SHAPE),
        "einsum": (Function(lambda m, x: torch.einsum("nchw,nckw->nhk", x, x)), SHAPE),
        "vit_b_32": (vit_b_32(), (3, 224, 224)),
    }[name]
    reference = copy.deepcopy(network).to("meta").eval()
    for module in reference.modules():  # the fused layer of evaluation is one operator that torch does not count
        module.register_forward_hook(lambda *_: None)
    with FlopCounterMode(display=False) as counter:
        reference(torch.empty(1, *shape, device="meta"))
    number = macs(network, input_shape=shape)
    assert 2 * number == counter.get_total_flops() > 0 and number.unknown == ()


@torch.library.custom_op("itd_tests::opaque", mutates_args=())
def opaque(x: torch.Tensor) -> torch.Tensor:
    """An operator that knows no shapes: torch cannot execute it on the meta device."""
    return x.clone()


@torch.library.custom_op("itd_tests::shaped", mutates_args=())
def shaped(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


shaped.register_fake(torch.empty_like)


@pytest.mark.parametrize("operator", [shaped, opaque], ids=["shaped", "opaque"])
def test_an_operator_of_a_users_own_is_reported_until_it_has_a_formula(operator):
    network = Function(lambda m, x: operator(m.conv(x)), conv=nn.Conv2d(8, 4, 1))
    number = macs(network, input_shape=SHAPE)
    assert number == 256 * 4 * 8 and number.unknown == (f"Function: {operator._qualname}",)
    assert pickle.loads(pickle.dumps(number)).unknown == number.unknown
    packet = operator._opoverload.overloadpacket
    try:
        register_flop_formula(packet)(lambda x, *args, out_shape=None, **kwargs: 2 * 7)
        number = macs(network, input_shape=SHAPE)
    finally:
        flop_registry.pop(packet, None)
    assert (number, number.unknown) == (256 * 4 * 8 + 7, ())


def seen(x):
    """x, once a value was read, which no tensor of the meta device has."""
    return x + x.sum().item()


def test_a_network_that_reads_values_is_executed_on_zeros_and_counts_the_same():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 32, batch_first=True), 2)
    for work in (
        lambda m, x: F.scaled_dot_product_attention(x, x, x),
        lambda m, x: F.scaled_dot_product_attention(x, x[:, :, :9], x[:, :, :9]),
        lambda m, x: F.scaled_dot_product_attention(x, x, x[..., :4]),
        lambda m, x: m.attention(tokens(x), tokens(x), tokens(x), need_weights=False)[0],
        lambda m, x: m.encoder(tokens(x)),
        lambda m, x: m.layer(tokens(x))[0],
        lambda m, x: m.conv(x) @ x.mT[:, :4],
    ):
        layers = {"attention": attention, "encoder": encoder, "layer": nn.GRU(8, 5), "conv": nn.Conv2d(8, 4, 1)}
        plain = Function(work, **layers)
        reads = Function(lambda m, x, work=work: work(m, seen(x)), **layers)
        expected, number = macs(plain, input_shape=SHAPE), macs(reads, input_shape=SHAPE)
        assert number == expected > 0 and number.unknown == expected.unknown == ()
    chosen = of(lambda x: x[x > -1].unique().long().bincount() if x.sum() == 0 else x.cholesky())
    assert (chosen, chosen.unknown) == (0, ())


def test_counting_leaves_the_network_and_the_random_numbers_as_they_were():
    def work(m, x):
        assert not m.training
        m.norm.num_batches_tracked.add_(1)
        return m.norm(m.conv(seen(x))) * torch.rand(16, 16)

    network = Function(work, conv=nn.Conv2d(8, 4, 1), norm=nn.BatchNorm2d(4))
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    assert macs(network, input_shape=SHAPE) == 256 * 4 * 8
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training and network.conv.weight.device.type == "cpu" and not network.conv._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_inference_mode_changes_nothing():
    network = resnet18()
    expected = macs(network)
    with torch.inference_mode():
        inside = macs(network)
        made_inside = resnet18()
    decorated = Function(torch.inference_mode()(lambda m, x: m.network(x)), network=network)
    for number in (inside, macs(made_inside), macs(decorated)):
        assert number == expected == 1814073344 and number.unknown == ()


def test_scripted_wrapped_reduced_and_normalised_networks_count_as_the_plain_one():
    plain = nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    expected = 14 * 14 * (4 * 8 * 9 + 2 * 4)
    images = torch.zeros(1, *SHAPE)
    with pytest.warns(FutureWarning):  # both are deprecated, and networks that use them are many
        normalised = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(8, 4, 3)), nn.Conv2d(4, 2, 1))
        scripted, first = torch.jit.trace(plain, images), torch.jit.trace(plain[0], images)
    normalised(images)  # its weight is now a tensor with a history, which deepcopy refuses
    for network in (
        scripted,
        nn.Sequential(first, *plain[1:]),
        nn.DataParallel(plain),
        copy.deepcopy(plain).bfloat16(),
        copy.deepcopy(plain).to("meta"),
        normalised,
    ):
        number = macs(network, input_shape=SHAPE)
        assert (number, number.unknown) == (expected, ()), network
    assert macs(vit_b_32().bfloat16()).unknown == ()


def test_a_learned_layer_may_be_called_by_keyword():
    layer = SqueezeExcitation(8, 4)
    assert macs(Function(lambda m, x: m.layer(x=x), layer=layer), input_shape=SHAPE) == 2 * 8 * (8 // 4)


def test_whatever_a_network_raises_is_one_line():
    def refuses(x):
        raise AssertionError

    for function, words in (
        (refuses, "does not take an image of 16 x 16 with 8 channels: AssertionError"),
        (lambda x: x["logits"], "does not take an image"),
        (lambda x: F.conv2d(x, x[:, :3, :3, :3]), "does not take an image of 16 x 16 with 8 channels: Given groups=1"),
    ):
        with pytest.raises(ModelError, match=words) as error:
            of(function)
        assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match=r"Function cannot be copied .*lock"):
        of(lambda x: x, lock=threading.Lock())
    with pytest.raises(ModelError, match="Conv2d does not take an image of 16 x 16 with 8 channels"):
        macs(nn.Conv2d(3, 4, 1, device="meta"), input_shape=SHAPE)
