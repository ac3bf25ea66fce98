"""The walk over keys against the plain form: value, gradients, memory, every mode."""

import pytest
import torch
from torch.nn import functional as F

from methods import contrast
from methods.contrast import log_partition, using
from methods.losses import info_nce, joint_info_nce


def unit(rng, *shape, dtype=torch.float64):
    return F.normalize(torch.randn(*shape, generator=rng, dtype=dtype), dim=-1)


def plain(rows, keys, temperature, but_self=False):
    blocks = [rows @ k.T / temperature for k in keys]
    if but_self:
        blocks = [b.masked_fill(torch.eye(*b.shape, dtype=torch.bool), float("-inf")) for b in blocks]
    return torch.cat(blocks, 1).logsumexp(1)


def value_and_gradients(function, rows, keys, weight):
    inputs = [x.clone().requires_grad_() for x in (rows, *keys)]
    value = function(inputs[0], inputs[1:])
    return value.detach(), torch.autograd.grad((value * weight).sum(), inputs)


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks even on small inputs, so that walking is what is tested."""
    monkeypatch.setattr(contrast, "_CACHED", 512)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("temperature", [1.0, 0.2, 0.05, 0.01, 0.001])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_queues_give_the_plain_value_and_gradient(temperature, dtype):
    rng = torch.Generator().manual_seed(1)
    rows, keys = unit(rng, 9, 12), [unit(rng, 301, 12), unit(rng, 77, 12)]
    weight = torch.rand(9, generator=rng, dtype=torch.float64)
    expected = value_and_gradients(lambda r, k: plain(r, k, temperature), rows, keys, weight)
    for wants_keys in (True, False):
        x = rows.to(dtype).requires_grad_()
        ks = [k.to(dtype).requires_grad_(wants_keys) for k in keys]
        value = log_partition(x, ks, temperature)
        found = torch.autograd.grad((value * weight).sum(), [x, *ks] if wants_keys else [x])
        tolerance = 1e-10 if dtype == torch.float64 else 2e-6 / temperature
        torch.testing.assert_close(value.double(), expected[0], rtol=tolerance, atol=tolerance)
        for gradient, right in zip(found, expected[1], strict=False):
            error = (gradient.double() - right).norm() / right.norm()
            assert error < tolerance


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("temperature", [0.3, 0.004])
def test_no_row_is_its_own_candidate(sets, temperature):
    rng = torch.Generator().manual_seed(2)
    rows = unit(rng, 70, 6)
    keys = [unit(rng, 70, 6) for _ in range(sets)]
    keys[-1] = rows.clone()  # its diagonal would be the largest of all
    weight = torch.rand(70, generator=rng, dtype=torch.float64)
    assert sum(map(len, keys)) > contrast._chunk_size(rows)
    found = value_and_gradients(lambda r, k: log_partition(r, k, temperature, but_self=True), rows, keys, weight)
    expected = value_and_gradients(lambda r, k: plain(r, k, temperature, True), rows, keys, weight)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["exact", "bf16", "stored"])
def test_rows_that_are_their_own_keys_get_both_gradients(mode, small_chunks):
    rows = unit(torch.Generator().manual_seed(3), 40, 8).requires_grad_()
    with using(mode):
        (found,) = torch.autograd.grad(log_partition(rows, [rows], 0.2, but_self=True).sum(), rows)
    (expected,) = torch.autograd.grad(plain(rows, [rows], 0.2, True).sum(), rows)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("keys", [1000, 65536])
@pytest.mark.parametrize("spread", [0.5, None])
def test_bf16_keeps_the_stated_error(keys, spread):
    rng = torch.Generator().manual_seed(4)
    centres = unit(rng, 20, 128, dtype=torch.float32)
    rows, queue = (unit(rng, n, 128, dtype=torch.float32) for n in (64, keys))
    if spread is not None:
        rows, queue = (F.normalize(centres[torch.arange(len(x)) % 20] + spread * x, dim=-1) for x in (rows, queue))

    def both():
        x = rows.clone().requires_grad_()
        value = log_partition(x, [queue], 0.2)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    exact = both()
    with using("bf16"):
        rounded = both()
    for found, right, bound in zip(rounded, exact, (5e-4, 5e-3), strict=True):
        assert 0 < (found - right).norm() / right.norm() < bound


@pytest.mark.parametrize("temperature", [0.2, 0.01])
def test_bf16_leaves_in_batch_keys_and_steep_temperatures_exact(temperature, small_chunks):
    rng = torch.Generator().manual_seed(5)
    rows, keys = unit(rng, 32, 16, dtype=torch.float32), unit(rng, 500, 16, dtype=torch.float32)
    keys.requires_grad_(temperature == 0.2)
    exact = log_partition(rows, [keys], temperature)
    with using("bf16"):
        assert torch.equal(log_partition(rows, [keys], temperature), exact)


def test_modes_end_with_their_block_even_after_an_error():
    seen = []
    with pytest.raises(ZeroDivisionError), using("stored"):
        seen.append(contrast._mode.get() == "stored" and 1 / 0)
    assert contrast._mode.get() == "exact"


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Elements of the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() > 0:
                self.numel = max(self.numel, value.numel())
        return result


@pytest.mark.parametrize("mode", ["exact", "bf16", "stored"])
def test_only_the_stored_mode_holds_all_logits(mode):
    rng = torch.Generator().manual_seed(6)
    q, k = (unit(rng, 2, 128, 16, dtype=torch.float32).requires_grad_() for _ in range(2))
    queue = unit(rng, 2, 32768, 16, dtype=torch.float32)
    with using(mode), Largest() as largest:
        info_nce(q, k, [queue], 0.2).backward()
    all_logits = 128 * 32768
    assert (largest.numel >= all_logits) == (mode == "stored")
    assert mode == "stored" or largest.numel <= queue.numel()


@pytest.mark.parametrize("temperatures", [(0.2, 0.2), (0.1, 0.3), (0.5, 0.07)])
def test_a_joint_walk_gives_each_set_of_anchors_its_own_loss(temperatures):
    rng = torch.Generator().manual_seed(7)
    anchors = [unit(rng, 2, n, 8).requires_grad_() for n in (6, 4)]
    positives = [unit(rng, 2, n, 8) for n in (6, 4)]
    negatives = [unit(rng, 2, 50, 8), unit(rng, 2, 30, 8)]
    joint = joint_info_nce(anchors, positives, negatives, temperatures)
    for loss, q, k, t in zip(joint, anchors, positives, temperatures, strict=True):
        alone = info_nce(q, k, negatives, t)
        torch.testing.assert_close(loss, alone)
        found, expected = (torch.autograd.grad(x, q, retain_graph=True)[0] for x in (loss, alone))
        torch.testing.assert_close(found, expected)
