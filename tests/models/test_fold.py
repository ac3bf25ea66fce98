"""Networks with BatchNorm folded away give what they gave."""

import pytest
import timm
import torch
from torch import nn

from bench.config import EncoderConfig
from bench.models.encoder import build_encoder
from bench.models.fold import folded


def trained(encoder):
    """With statistics, scales and shifts that are not those of the beginning."""
    rng = torch.Generator().manual_seed(0)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=rng))
            module.running_var.mul_(0.5 + torch.rand(module.running_var.shape, generator=rng))
    return encoder


@pytest.mark.parametrize("stem", ["cifar", "stride2", "imagenet"])
def test_our_networks_lose_every_batchnorm_and_keep_their_features(stem):
    encoder = trained(build_encoder(EncoderConfig(name="resnet10", width=8, stem=stem), 3, 32, 0)[0]).eval()
    x = torch.randn(4, 3, 32, 32)
    fast = folded(encoder, "fp32")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    torch.testing.assert_close(fast(x), encoder(x), rtol=1e-4, atol=1e-5)


def test_in_bf16_weights_are_rounded_once_and_features_stay_close():
    encoder = trained(build_encoder(EncoderConfig(name="resnet8", width=16, stem="stride2"), 1, 28, 0)[0]).eval()
    x = torch.randn(16, 1, 28, 28)
    fast = folded(encoder, "bf16")
    assert {m.weight.dtype for m in fast.modules() if isinstance(m, nn.Conv2d)} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = fast(x.bfloat16()).float()
    expected = encoder(x)
    assert (found - expected).norm() / expected.norm() < 0.02


def test_the_network_itself_is_untouched():
    encoder = trained(build_encoder(EncoderConfig(name="resnet4", width=8, stem="cifar"), 1, 8, 0)[0]).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    folded(encoder, "bf16")
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_networks_of_timm_keep_their_features(name):
    options = {"img_size": 32} if "vit" in name else {}
    encoder = trained(timm.create_model(name, num_classes=0, **options)).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(folded(encoder, "fp32")(x), encoder(x), rtol=1e-3, atol=1e-4)


def test_a_network_that_cannot_be_traced_is_used_as_it_is():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))

        def forward(self, x):
            return self.net(x) if x.sum() > 0 else self.net(-x)

    network = Branching().eval()
    assert folded(network, "fp32") is network
