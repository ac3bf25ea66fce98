"""BatchNorm over several processes does what BatchNorm does in one; that there are several is the law `world_size`."""

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn

from bench.config import EncoderConfig
from bench.errors import UserError
from bench.models import syncnorm
from bench.models.encoder import build_encoder
from bench.models.fold import folded
from bench.models.syncnorm import JointNorm, join_, part_


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory):
    """A group of this process alone."""
    place = tmp_path_factory.mktemp("group") / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def both(layer):
    """A layer and the same one over all processes, with scales and shifts that are not those of the beginning."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 1.0, 0.3, generator=torch.Generator().manual_seed(0))
    twin = type(layer)(layer.num_features, **({"affine": False} if layer.weight is None else {}))
    twin.momentum = layer.momentum
    twin.load_state_dict(layer.state_dict())
    return layer, join_(twin, "cpu")


def outcome(layer, x, tolerance_of=torch.float32):
    """Output, gradients and statistics after two steps."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=tolerance_of is torch.bfloat16):
        for factor in (1.0, 3.0):
            y = layer(factor * x + 5)
    (y.float() * torch.linspace(-1, 2, y.numel()).view(y.shape)).sum().backward()
    return [y, x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.BatchNorm1d(3), (6, 3)),
        (lambda: nn.BatchNorm2d(3), (6, 3, 4, 5)),
        (lambda: nn.BatchNorm2d(3, affine=False), (6, 3, 4, 5)),
        (lambda: timm.layers.BatchNormAct2d(3), (6, 3, 4, 5)),
    ],
    ids=["rows", "images", "without affine", "with activation"],
)
def test_outputs_gradients_and_statistics_are_those_of_batchnorm(layer, shape, momentum):
    plain, joint = both(layer())
    plain.momentum = joint.momentum = momentum
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for found, expected in zip(outcome(joint, x), outcome(plain, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_images_in_bf16_keep_their_precision_and_their_layout():
    plain, joint = both(nn.BatchNorm2d(3))
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    x = x.to(torch.bfloat16, memory_format=torch.channels_last)
    found, expected = (outcome(layer, x, torch.bfloat16) for layer in (joint, plain))
    assert found[0].dtype == torch.bfloat16
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_an_encoder_keeps_its_state_and_in_eval_mode_its_features():
    encoder = build_encoder(EncoderConfig(name="resnet4", width=8, stem="cifar"), 1, 8, 0)[0]
    names, x = list(encoder.state_dict()), torch.randn(4, 1, 8, 8)
    encoder(x)  # statistics move
    expected = encoder.eval()(x)
    joint = join_(encoder, "cpu")
    assert list(joint.state_dict()) == names
    assert not any(type(module) is nn.BatchNorm2d for module in joint.modules())
    assert torch.equal(joint(x), expected)
    assert any(type(module) is nn.BatchNorm2d for module in part_(joint).modules())


def test_a_joint_encoder_is_folded_like_any_other():
    encoder = join_(build_encoder(EncoderConfig(name="resnet4", width=8, stem="cifar"), 1, 8, 0)[0], "cpu").eval()
    fast = folded(encoder, "fp32")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(fast(x), encoder(x), rtol=1e-4, atol=1e-5)
    assert type(encoder.stem[1]) is JointNorm


def test_a_compiled_encoder_trains_the_same():
    encoder = join_(build_encoder(EncoderConfig(name="resnet4", width=8, stem="cifar"), 1, 8, 0)[0], "cpu")
    x = torch.randn(4, 1, 8, 8)
    expected = encoder(x)
    encoder.compile(backend="eager")
    torch.testing.assert_close(encoder(x), expected)


def test_on_gpus_torch_does_it_over_their_own_group(monkeypatch):
    monkeypatch.setattr(syncnorm, "group_of", lambda device: device.type)
    (layer,) = join_(nn.Sequential(timm.layers.BatchNormAct2d(3)), "cuda")
    assert isinstance(layer, nn.SyncBatchNorm)
    assert layer.process_group == "cuda"
    x = torch.randn(2, 3, 1, 1)
    assert torch.equal(layer.eval()(x), timm.layers.BatchNormAct2d(3).eval()(x))
    with pytest.raises(ValueError, match="expected input tensor to be on GPU"):
        layer.train()(x)


def test_a_layer_that_may_do_anything_is_refused():
    class Strange(nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match="Strange of this encoder"):
        join_(nn.Sequential(Strange(3)), "cpu")
