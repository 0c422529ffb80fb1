"""A patched network: torchvision's numbers by default, the same state dict, the configuration only inside `with`."""

import pytest
import torch

from itd.errors import ModelError, SpaceError
from itd.patcher import MODELS, DynamicConv2d, build_model, model_space, patch
from itd.space import Setting

FAMILIES = ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "mobilenet_v2", "densenet121"]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_configuration_reproduces_torchvision(name, random_network):
    network = random_network(name)
    model = patch(network, name)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(x)
        for attribute in ("stride", "dilation", "size"):
            space = model_space(model, [attribute], entry=MODELS[name])
            with model.configured(space.configs[space.default]):
                logits = model(x)
            assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
            assert torch.equal(logits.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_state_dict_has_the_originals_keys_and_tensors(name):
    network = build_model(name, 10)
    state, patched = network.state_dict(), patch(network, name).state_dict()
    assert list(state) == list(patched)
    assert all(state[k].data_ptr() == patched[k].data_ptr() for k in state)
    build_model(name, 10).load_state_dict(patched)


def test_patching_leaves_the_original_as_it_was():
    network = build_model("resnet18", 10)
    patch(network, "resnet18")
    assert not any(isinstance(m, DynamicConv2d) for m in network.modules())


def test_the_configuration_is_restored_also_after_an_error():
    model = patch(build_model("resnet18", 10), "resnet18")
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        before = model(x)
        with pytest.raises(RuntimeError), model.configured({"B": Setting(stride=4)}):
            assert not torch.allclose(model(x), before)
            raise RuntimeError
        assert torch.equal(model(x), before)


def test_configurations_nest():
    model = patch(build_model("resnet18", 10), "resnet18")
    layer = model.get_submodule("layer2.0.conv1")
    with model.configured({"B": Setting(stride=4)}):
        with model.configured({"B": Setting(stride=1)}):
            assert layer.setting.stride == 1
        assert layer.setting.stride == 4


def test_gradients_reach_the_pretrained_kernel_at_any_size():
    model = patch(build_model("resnet18", 10), "resnet18")
    with model.configured({"D": Setting(size=7, dilation=2)}):
        model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert model.get_submodule("layer4.0.conv1").weight.grad.abs().sum() > 0


def test_unknown_sites_models_and_paths_are_refused():
    model = patch(build_model("resnet18", 10), "resnet18")
    with pytest.raises(SpaceError, match="no such site: Z"), model.configured({"Z": Setting(stride=1)}):
        pass
    with pytest.raises(ModelError, match="did you mean resnet50"):
        build_model("resnet5O")
    with pytest.raises(ModelError, match="no registered sites"):
        patch(build_model("vgg11", 10), "vgg11")
