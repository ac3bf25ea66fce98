"""The offline linear evaluation: its schedule, an independent loop beside it, and what it sees of images."""

import numpy as np
import pytest
import torch
from torch import nn

from bench.config import EncoderConfig, LinearOfflineProbe, ProbeConfig
from bench.data import augment
from bench.data.arrays import Split, assemble
from bench.data.images import TaskImages
from bench.data.scenarios import build
from bench.errors import UserError
from bench.evaluate.features import all_features, encode_split
from bench.evaluate.offline import (
    Augmented,
    Cached,
    crops_and_flips,
    fit_sgd,
    published_rate,
    rate_at,
    run_offline,
)
from bench.models.encoder import build_encoder
from bench.models.learner import Learner
from bench.seeding import generator, permutation, seed_of
from methods import registry

CLASSES = 3


def clouds(count=50, width=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    return torch.randn(count, width, generator=rng) + y[:, None] * torch.linspace(-1, 1, width), y


def learner_of(channels=3, side=8):
    encoder, width = build_encoder(EncoderConfig(name="resnet4", width=8, stem="stride2"), channels, side, 0)
    torch.manual_seed(0)
    cls = registry.get("objective", "byol")
    return Learner(encoder, cls(width, cls.Hparams(hidden=8, output=4, predictor_hidden=8)))


def painted(count=48, classes=2, swap_from=None):
    """Images of one colour per class; from image `swap_from` on, a second domain with the labels the other way."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    images = rng.integers(0, 40, (count, 8, 8, 3), dtype=np.uint8)
    images[np.arange(count), :, :, labels] += 200
    domains = np.zeros(count, dtype=np.int64)
    if swap_from is not None:
        domains[swap_from:] = 1
        labels = np.where(domains == 1, classes - 1 - labels, labels)
    return Split(images, labels.astype(np.int64), domains)


def scenario_of(name, split, domains=()):
    data = assemble("toy", split, split, ("a", "b"), domains)
    return build(name, data, tasks=2 if name != "domain_il" else None, order_seed=0, split_seed=0)


def offline(scenario, learner, config, seed=0, rate=1.0):
    data = scenario.dataset
    x = [encode_split(learner, learner.encoder, s, 8, (data.mean, data.std)) for s in (data.train, data.test)]
    rows = run_offline(config, rate, all_features(scenario, *x), scenario, learner, 8, (data.mean, data.std), seed)
    return {(row["probe"].endswith("_aware"), row["on_task"]): row["value"] for row in rows}


# --- the schedule and the step ----------------------------------------------------------------------------------------


def test_the_rate_is_a_tenth_after_sixty_and_a_hundredth_after_eighty_of_a_hundred_epochs():
    rates = [rate_at(epoch, LinearOfflineProbe(), 3.0) for epoch in range(100)]
    assert rates == pytest.approx([3.0] * 60 + [0.3] * 20 + [0.03] * 20)
    early = LinearOfflineProbe(epochs=4, milestones=(0.25, 0.5))
    assert [rate_at(epoch, early, 1.0) for epoch in range(4)] == pytest.approx([1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("milestones", [(0.6, 0.8), (0.2, 0.4)])
def test_training_equals_a_loop_by_hand(momentum, milestones):
    x, y = clouds()
    config = LinearOfflineProbe(epochs=5, batch=16, momentum=momentum, milestones=milestones)
    scores = fit_sgd(Cached(x), y, CLASSES, 5, config, 0.5, seed=7)(x)
    torch.manual_seed(seed_of(7, "probe", "linear_offline", "start"))
    start = nn.Linear(5, CLASSES)
    w, b = start.weight.detach().double().numpy(), start.bias.detach().double().numpy()
    moved = [np.zeros_like(w), np.zeros_like(b)]
    features, labels = x.double().numpy(), y.numpy()
    for epoch in range(5):
        rate = 0.5 * 0.1 ** sum(epoch >= 5 * fraction for fraction in milestones)
        order = permutation(50, 7, "probe", "linear_offline", "order", epoch)
        for first in (0, 16, 32):  # the two images left over are not trained on
            rows = order[first : first + 16]
            logits = features[rows] @ w.T + b
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            p[np.arange(16), labels[rows]] -= 1
            moved = [momentum * m + g for m, g in zip(moved, (p.T @ features[rows] / 16, p.mean(0)), strict=True)]
            w, b = w - rate * moved[0], b - rate * moved[1]
    np.testing.assert_allclose(scores.numpy(), features @ w.T + b, rtol=1e-4, atol=1e-4)


def test_a_batch_larger_than_the_data_is_all_of_it():
    x, y = clouds(6)
    config = LinearOfflineProbe(epochs=30)
    assert torch.equal(fit_sgd(Cached(x), y, CLASSES, 5, config, 1.0, 0)(x).argmax(1), y)


def test_published_rates_are_those_of_the_scripts_and_others_must_be_given():
    found = {name: published_rate(name) for name in ("moco", "byol", "simclr", "vicreg", "swav", "barlow", "simsiam")}
    assert found == {"moco": 3, "byol": 3, "simclr": 1, "vicreg": 0.3, "swav": 0.15, "barlow": 0.1, "simsiam": 30}
    with pytest.raises(UserError, match=r"no published rate for 'mine' .*: set probe.linear_offline.lr"):
        published_rate("mine")


def test_the_defaults_are_the_published_protocol():
    probe = ProbeConfig().linear_offline
    assert (probe.epochs, probe.batch, probe.momentum, probe.milestones) == (100, 256, 0.9, (0.6, 0.8))
    assert (probe.crop_scale, probe.lr, probe.from_images) == ((0.08, 1.0), None, True)


# --- images -----------------------------------------------------------------------------------------------------------


def test_the_classifier_sees_cropped_and_flipped_images_drawn_from_seed_and_epoch():
    split, learner = painted(10), learner_of()
    learner.train()
    recipe, stats = crops_and_flips(LinearOfflineProbe()), ((0.5,) * 3, (0.25,) * 3)
    images = TaskImages(split.images, np.arange(10), "cpu")
    part = torch.tensor([3, 7, 1])
    feed = Augmented(learner, images, recipe, 8, stats, seed=5)
    (found,) = feed(2, [part])
    draw = augment.take(augment.draw(recipe, 10, 8, 8, 3, generator(5, "probe", "linear_offline", "augment", 2)), part)
    assert not torch.stack([draw.jitter, draw.gray, draw.blur, draw.solarize]).any()
    assert draw.flip.any() or draw.box[:, 2:].min() < 8
    x = augment.apply(images[part], draw, 8, *stats)
    assert learner.encoder.training  # as it was before
    with torch.no_grad():
        torch.testing.assert_close(found, learner.encoder.eval()(x), rtol=1e-4, atol=1e-5)
    assert not found.requires_grad
    (again,), (later,) = feed(2, [part]), feed(3, [part])
    assert torch.equal(found, again)
    assert not torch.equal(found, later)


@pytest.mark.parametrize("from_images", [True, False])
def test_separable_images_are_separated_in_every_task(from_images):
    config = LinearOfflineProbe(epochs=10, batch=16, from_images=from_images)
    found = offline(scenario_of("class_il", painted()), learner_of(), config)
    assert found == {(aware, task): 1.0 for aware in (False, True) for task in (0, 1)}


def test_domains_have_a_classifier_each_beside_the_common_one():
    scenario = scenario_of("domain_il", painted(swap_from=24), ("x", "y"))
    found = offline(scenario, learner_of(), LinearOfflineProbe(epochs=10, batch=8))
    assert all(found[True, task] == 1.0 for task in (0, 1))
    assert sum(found[False, task] for task in (0, 1)) <= 1.5


def test_the_result_depends_on_its_seed_alone():
    scenario, config = scenario_of("data_il", painted()), LinearOfflineProbe(epochs=1, batch=8)
    data = scenario.dataset

    def scores(seed):
        feed = Augmented(
            learner_of(),
            TaskImages(data.train.images, np.arange(48), "cpu"),
            crops_and_flips(config),
            8,
            (data.mean, data.std),
            seed,
        )
        y = torch.from_numpy(np.array(data.train.labels))
        return fit_sgd(feed, y, 2, 8, config, 0.1, seed)(torch.eye(8))

    first = scores(0)
    torch.manual_seed(99)
    assert torch.equal(scores(0), first)
    assert not torch.equal(scores(1), first)
