"""Features of frozen encoders: what they are, what they leave alone, and how collapse shows."""

from math import exp, log

import numpy as np
import pytest
import torch

from bench.config import EncoderConfig
from bench.data import augment
from bench.data.arrays import Split, assemble
from bench.data.scenarios import build
from bench.evaluate import features as module
from bench.evaluate.features import (
    all_features,
    effective_rank,
    embedding_std,
    encode_split,
    pixel_side,
    pixels,
    project,
    watch,
)
from bench.models.encoder import build_encoder
from bench.models.learner import Learner
from methods import registry

STATS = ((0.5,), (0.25,))


def split(count=7, side=8, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return Split(images, np.arange(count) % 4, np.zeros(count, dtype=np.int64))


@pytest.fixture
def learner():
    encoder, width = build_encoder(EncoderConfig(name="resnet4", width=8, stem="stride2"), 1, 8, 0)
    torch.manual_seed(0)
    cls = registry.get("objective", "byol")
    return Learner(encoder, cls(width, cls.Hparams(hidden=8, output=4, predictor_hidden=8)))


def snapshot(learner):
    return {n: v.clone() for n, v in learner.state_dict().items()}, [m.training for m in learner.modules()]


def test_features_are_those_of_eval_mode_on_plain_images(learner):
    learner(torch.randn(2, 8, 1, 8, 8))
    data = split()
    found = encode_split(learner, learner.encoder, data, 8, STATS)
    x = (torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        expected = learner.encoder.eval()(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_batch_they_were_made_in(learner, monkeypatch):
    data = split(11)
    whole = encode_split(learner, learner.encoder, data, 8, STATS)
    monkeypatch.setattr(module, "BATCH", 3)
    torch.testing.assert_close(encode_split(learner, learner.encoder, data, 8, STATS), whole)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_features_and_projections_leave_the_learner_as_it_was(learner, mode):
    learner.train(mode)
    before, modes = snapshot(learner)
    x = encode_split(learner, learner.encoder, split(), 8, STATS)
    z = project(learner.objective.projector, x)
    after, modes_after = snapshot(learner)
    assert modes == modes_after
    assert all(torch.equal(after[n], v) for n, v in before.items())
    assert not x.requires_grad
    assert not z.requires_grad


def test_projections_are_those_of_eval_mode(learner):
    x = torch.randn(6, 8)
    found = project(learner.objective.projector, x)
    torch.testing.assert_close(found, learner.objective.projector.eval()(x).detach())
    torch.testing.assert_close(found[:2], project(learner.objective.projector, x[:2]))


@pytest.mark.parametrize("side", [8, 32, 40])
def test_pixels_are_fractions_of_at_most_32_by_32(side):
    data = split(5, side)
    found = pixels(data, pixel_side([data]))
    kept = min(side, 32)
    assert found.shape == (5, kept * kept)
    assert found.dtype == torch.float16
    if side <= 32:
        np.testing.assert_allclose(found.float().numpy(), data.images.reshape(5, -1) / 255, atol=3e-4)
    else:
        images = torch.from_numpy(data.images).permute(0, 3, 1, 2)
        expected = augment.resize(images, 32, (0.0,), (1.0,)).flatten(1)
        np.testing.assert_allclose(found.float().numpy(), expected.numpy(), atol=3e-4)


@pytest.mark.parametrize(
    ("count", "side", "kept"),
    [(170_000, 224, 32), (1_281_167, 224, 8), (1_281_167, 12, 8), (650_000, 256, 16), (5_000_000, 8, 4)],
)
def test_raw_pixels_of_many_images_are_smaller_so_that_they_stay_in_a_gibibyte(count, side, kept):
    row = np.zeros((1, side, side, 3), dtype=np.uint8)
    part = (count + 1) // 2
    half = Split(np.broadcast_to(row, (part, side, side, 3)), np.zeros(part), np.zeros(part))
    assert pixel_side([half, half]) == kept
    assert 2 * 2 * part * 3 * min(kept, side) ** 2 <= module.PIXEL_BYTES


# --- labels and tasks -------------------------------------------------------------------------------------------------


def scenario(name):
    return build(
        name, assemble("toy", split(24), split(12, seed=1), list("abcd"), ()), tasks=2, order_seed=0, split_seed=0
    )


def test_features_carry_labels_and_tasks():
    s = scenario("class_il")
    found = all_features(s, torch.zeros(24, 3), torch.zeros(12, 3))
    assert found.train_x.dtype == torch.float16
    assert torch.equal(found.train_y, torch.from_numpy(s.dataset.train.labels))
    for task in s.tasks:
        assert set(found.train_y[found.train_task == task.index].tolist()) == set(task.classes)
        assert set(found.test_y[found.test_task == task.index].tolist()) == set(task.classes)
    assert set(found.test_task.tolist()) == {0, 1}


def test_every_task_of_data_il_has_the_whole_test_set():
    s = scenario("data_il")
    found = all_features(s, torch.zeros(24, 3), torch.zeros(12, 3))
    assert set(found.test_task.tolist()) == {-1}
    for task in s.tasks:
        assert torch.equal(torch.nonzero(found.train_task == task.index)[:, 0], torch.from_numpy(np.sort(task.train)))


# --- collapse ---------------------------------------------------------------------------------------------------------


def noise(count=200, width=16, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rank", [1, 2, 5, 8])
def test_effective_rank_of_equal_singular_values_is_their_number(rank):
    x = torch.zeros(10, 8)
    x[:rank, :rank] = 3 * torch.eye(rank)
    assert effective_rank(x) == pytest.approx(rank, rel=1e-6)


def test_effective_rank_of_two_unequal_singular_values():
    expected = exp(-(0.75 * log(0.75) + 0.25 * log(0.25)))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(expected, rel=1e-6)


def test_effective_rank_does_not_see_scale_and_is_1_at_zero():
    assert effective_rank(1e-3 * noise()) == pytest.approx(effective_rank(noise()), rel=1e-6)
    assert effective_rank(torch.zeros(5, 4)) == pytest.approx(1.0)


def test_embedding_std_is_1_on_the_sphere_and_0_at_a_point():
    assert embedding_std(noise(20_000)) == pytest.approx(1.0, abs=0.01)
    assert embedding_std(torch.ones(50, 8)) == pytest.approx(0.0, abs=1e-6)
    assert embedding_std(5 * noise()) == pytest.approx(embedding_std(noise()), rel=1e-6)


def test_healthy_features_are_not_marked():
    for projections in (None, noise(seed=1)):
        found = watch(noise().half(), projections)
        assert found["collapsed"] is False
        assert found["reason"] == ""
        assert found["effective_rank"] == pytest.approx(effective_rank(noise().half().float()))
        assert found["embedding_std"] == pytest.approx(1.0, abs=0.1)


def bad(place, value):
    x = noise()
    x[place, 3] = value
    return x.half()


@pytest.mark.parametrize(
    ("x", "z", "reason"),
    [
        (torch.ones(200, 16), noise(), "effective rank of the features is 1.00"),
        (torch.zeros(200, 16), noise(), "effective rank of the features is 1.00"),
        (noise(200, 1) @ noise(1, 16), noise(), "effective rank of the features is 1.00"),
        (noise(), torch.ones(200, 16), "standard deviation of the embeddings is 0.000"),
        (noise(), torch.ones(200, 16) + 1e-3 * noise(), "standard deviation of the embeddings is 0.00"),
        (bad(7, float("nan")), noise(), "NaN or infinite embeddings"),
        (bad(7, 1e6), noise(), "NaN or infinite embeddings"),
        (noise(), bad(199, float("inf")), "NaN or infinite embeddings"),
    ],
    ids=["constant", "zero", "rank 1", "one point", "nearly one point", "NaN", "overflow of float16", "infinite z"],
)
def test_collapse_is_marked_with_its_reason(x, z, reason):
    found = watch(x, z)
    assert found["collapsed"] is True
    assert reason in found["reason"]
    assert np.isfinite([found["effective_rank"], found["embedding_std"]]).all()


def test_one_bad_image_among_many_is_seen():
    x = noise(5000, 4)
    x[4999, 0] = float("nan")
    assert watch(x, noise(5000, 4))["collapsed"] is True
    assert watch(noise(5000, 4), x)["collapsed"] is True


def test_large_test_sets_are_thinned_evenly():
    half = torch.cat([noise(2500, 4), torch.ones(2500, 4)])
    found = watch(half, None)
    assert found["effective_rank"] == pytest.approx(effective_rank(half[::3]))
