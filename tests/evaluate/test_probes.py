"""Probes: optimality of the linear one, loops beside the others, and what each scenario makes of them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bench.config import KnnProbe, LinearProbe, NcmProbe, ProbeConfig
from bench.evaluate.features import Features
from bench.evaluate.probes import (
    FITS,
    few_labels,
    fit_knn,
    fit_linear,
    fit_ncm,
    label,
    probe_names,
    run_probe,
    settings_of,
)
from tests.oracles import neighbours as oracle

CONFIGS = {name: getattr(ProbeConfig(), name) for name in FITS}
every_probe = pytest.mark.parametrize("name", FITS)


def blobs(count=60, classes=4, width=6, spread=0.3, seed=0):
    """Gaussian clouds around fixed random centres."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99)) * 2
    y = torch.arange(count) % classes
    return centres[y] + spread * torch.randn(count, width, generator=rng), y


def accuracy(scores, y):
    return float((scores.argmax(1) == y).double().mean())


@every_probe
def test_separable_classes_are_separated(name):
    x, y = blobs()
    test, test_y = blobs(seed=1)
    assert accuracy(FITS[name](x, y, 4, CONFIGS[name], 0)(test), test_y) == 1.0


@every_probe
def test_features_without_information_give_chance(name):
    rng = torch.Generator().manual_seed(0)
    x, test = torch.randn(400, 8, generator=rng), torch.randn(400, 8, generator=rng)
    y = torch.arange(400) % 4
    assert accuracy(FITS[name](x, y, 4, CONFIGS[name], 0)(test), y) == pytest.approx(0.25, abs=0.08)


# --- linear -----------------------------------------------------------------------------------------------------------


def test_linear_probe_stops_where_the_gradient_is_zero():
    x, y = blobs(spread=3.0)
    config = LinearProbe(l2=1e-2, iterations=500)
    scores = fit_linear(x, y, 4, config, 0)
    standard = (x - x.mean(0)) / x.std(0)
    # Weights and bias from the scores of the mean and of one standard deviation along each axis.
    bias = scores(x.mean(0)[None])[0]
    weight = (scores(x.mean(0) + torch.diag(x.std(0))) - bias).requires_grad_()
    bias = bias.clone().requires_grad_()
    torch.testing.assert_close(scores(x), (standard @ weight + bias).detach(), rtol=1e-4, atol=1e-4)
    (F.cross_entropy(standard @ weight + bias, y) + config.l2 * weight.square().sum()).backward()
    assert float(weight.grad.abs().max()) < 1e-4
    assert float(bias.grad.abs().max()) < 1e-4


def test_linear_probe_of_two_classes_finds_the_one_dimensional_optimum():
    x, y = torch.tensor([[-1.0], [-1.0], [1.0], [1.0]]), torch.tensor([0, 0, 1, 1])
    l2 = 0.05
    scores = fit_linear(x, y, 2, LinearProbe(l2=l2, iterations=200), 0)(x)
    margin = float(scores[2, 1] - scores[2, 0])
    # By symmetry w = (-a, a) on x / std, margin m = 2 a / std, loss log(1 + e^-m) + 2 l2 a^2: grid search.
    std = float(x.std())
    a = np.linspace(0, 10, 200001)
    best = a[np.argmin(np.log1p(np.exp(-2 * a / std)) + 2 * l2 * a**2)]
    assert margin == pytest.approx(2 * best / std, abs=2e-3)


def test_linear_probe_does_not_see_shift_or_scale_of_features():
    x, y = blobs(spread=2.0)
    test, _ = blobs(spread=2.0, seed=1)
    scale, shift = torch.tensor([1e-3, 1, 10, 100, 1, 5]), torch.arange(6.0)
    config = LinearProbe(l2=1e-3, iterations=300)
    plain = fit_linear(x, y, 4, config, 0)(test)
    moved = fit_linear(x * scale + shift, y, 4, config, 0)(test * scale + shift)
    torch.testing.assert_close(plain.softmax(1), moved.softmax(1), rtol=0, atol=0.01)


def test_linear_probe_is_not_misled_by_a_feature_that_is_constant_in_training():
    x, y = blobs()
    test, test_y = blobs(seed=1)
    for constant in (0.0, 0.1, 3.0):
        dead = torch.full((60, 20), constant)
        scores = fit_linear(torch.cat([x, dead], 1), y, 4, LinearProbe(), 0)
        assert accuracy(scores(torch.cat([test, dead + 0.5], 1)), test_y) == 1.0


def test_linear_probe_depends_on_its_seed_alone():
    x, y = blobs(spread=2.0)
    few = LinearProbe(iterations=2)
    torch.manual_seed(0)
    first = fit_linear(x, y, 4, few, 0)(x)
    torch.manual_seed(1)
    assert torch.equal(first, fit_linear(x, y, 4, few, 0)(x))
    assert not torch.equal(first, fit_linear(x, y, 4, few, 1)(x))


# --- neighbours and means ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (5, 1.0), (40, 0.2)])
def test_knn_equals_a_loop(k, temperature):
    x, y = blobs(40, spread=3.0)
    test, _ = blobs(30, spread=3.0, seed=1)
    scores = fit_knn(x, y, 4, KnnProbe(k, temperature), 0)(test)
    assert scores.argmax(1).tolist() == oracle.knn(x, y, test, 4, k, temperature)


def test_knn_votes_are_weighted_by_similarity():
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    scores = fit_knn(x, torch.tensor([0, 1, 1]), 2, KnnProbe(3, 0.5), 0)(torch.tensor([[2.0, 0.0]]))
    assert (scores[0] / scores[0, 0]).tolist() == pytest.approx([1, 2 * np.exp(-0.4 / 0.5)])


def test_knn_with_a_low_temperature_does_not_overflow():
    x, y = blobs()
    scores = fit_knn(x, y, 4, KnnProbe(5, 1e-3), 0)(x)
    assert torch.isfinite(scores).all()
    assert accuracy(scores, y) == 1.0


def test_knn_takes_all_images_where_k_is_larger():
    x, y = blobs(8, spread=3.0)
    test, _ = blobs(10, spread=3.0, seed=1)
    scores = fit_knn(x, y, 4, KnnProbe(50), 0)(test)
    assert scores.argmax(1).tolist() == oracle.knn(x, y, test, 4, 8, 0.07)


def test_knn_in_parts_is_knn_at_once():
    x, y = blobs(40, spread=3.0)
    test, _ = blobs(1500, spread=3.0, seed=1)
    scores = fit_knn(x, y, 4, KnnProbe(), 0)
    torch.testing.assert_close(scores(test)[1400:], scores(test[1400:]))
    assert len(scores(test)) == 1500


def test_ncm_equals_a_loop():
    x, y = blobs(40, spread=3.0)
    test, _ = blobs(30, spread=3.0, seed=1)
    assert fit_ncm(x, y, 4, NcmProbe(), 0)(test).argmax(1).tolist() == oracle.ncm(x, y, test, 4)


@every_probe
def test_a_class_without_training_images_is_never_answered(name):
    x, y = blobs()
    kept = y != 2
    scores = FITS[name](x[kept], y[kept], 4, CONFIGS[name], 0)
    opposite = -10 * x[kept].mean(0)[None]
    assert 2 not in scores(torch.cat([x, opposite])).argmax(1).tolist()


# --- scenarios --------------------------------------------------------------------------------------------------------


def features(scenario, spread=2.5):
    """Two tasks: classes {0, 1} and {2, 3}; or two domains that swap the classes; or halves."""
    x, y = blobs(200, spread=spread)
    test, test_y = blobs(100, spread=spread, seed=1)
    if scenario == "class_il":
        task, test_task = y // 2, test_y // 2
    elif scenario == "domain_il":
        task, test_task = torch.arange(200) // 100, torch.arange(100) // 50
        y, test_y = torch.where(task == 1, 3 - y, y), torch.where(test_task == 1, 3 - test_y, test_y)
    else:
        task, test_task = torch.arange(200) // 100, torch.full((100,), -1)
    return Features(x.half(), y, task, test.half(), test_y, test_task)


def rows(name, scenario, **options):
    found = run_probe(name, CONFIGS[name], features(scenario, **options), scenario, 2, 0)
    return {(row["probe"], row["on_task"]): row for row in found}


@every_probe
def test_class_il_is_scored_with_and_without_the_task(name):
    found = rows(name, "class_il")
    assert set(found) == {(probe, task) for probe in (name, f"{name}_aware") for task in (0, 1)}
    assert all(row["n"] == 50 for row in found.values())
    for task in (0, 1):
        assert found[f"{name}_aware", task]["value"] >= found[name, task]["value"]
    assert sum(found[f"{name}_aware", t]["value"] - found[name, t]["value"] for t in (0, 1)) > 0


@every_probe
def test_class_il_rows_are_accuracies_of_one_classifier_over_all_classes(name):
    f = features("class_il")
    scores = FITS[name](f.train_x.float(), f.train_y, 4, CONFIGS[name], 0)(f.test_x.float())
    found = rows(name, "class_il")
    for task in (0, 1):
        mine = f.test_task == task
        assert found[name, task]["value"] == pytest.approx(accuracy(scores[mine], f.test_y[mine]), abs=1e-8)
        allowed = scores[mine][:, 2 * task : 2 * task + 2].argmax(1) + 2 * task
        expected = float((allowed == f.test_y[mine]).double().mean())
        assert found[f"{name}_aware", task]["value"] == pytest.approx(expected, abs=1e-8)


@every_probe
def test_domain_il_fits_each_domain_by_itself(name):
    found = rows(name, "domain_il", spread=0.3)
    for task in (0, 1):
        assert found[f"{name}_aware", task]["value"] == 1.0
        assert found[name, task]["value"] < 0.9
        assert found[name, task]["n"] == 50


@every_probe
def test_data_il_scores_every_task_on_the_whole_test_set(name):
    found = rows(name, "data_il")
    assert set(found) == {(name, 0), (name, 1)}
    assert found[name, 0]["value"] == found[name, 1]["value"]
    assert {row["n"] for row in found.values()} == {100}


def test_a_label_that_only_the_test_set_has_counts_as_wrong():
    f = features("class_il", spread=0.1)
    f.test_y[f.test_y == 3] = 7
    found = {(r["probe"], r["on_task"]): r for r in run_probe("ncm", NcmProbe(), f, "class_il", 2, 0)}
    assert found["ncm", 1]["value"] == 0.5


def test_records_name_settings_that_are_not_the_default():
    assert label("knn", KnnProbe()) == "knn"
    assert label("knn", KnnProbe(k=50)) == "knn(k=50)"
    assert label("linear", LinearProbe(l2=0.1, iterations=7)) == "linear(l2=0.1,iterations=7)"
    assert probe_names("knn", KnnProbe(k=50), "class_il") == ["knn(k=50)", "knn(k=50)_aware"]
    assert probe_names("knn", KnnProbe(), "domain_il") == ["knn", "knn_aware"]
    assert probe_names("knn", KnnProbe(), "data_il") == ["knn"]
    assert settings_of("knn", KnnProbe(k=3)) == {"name": "knn", "k": 3, "temperature": 0.07}


@pytest.mark.parametrize("scenario", ["class_il", "domain_il", "data_il"])
def test_rows_have_the_announced_names(scenario):
    found = run_probe("knn", KnnProbe(k=3), features(scenario), scenario, 2, 0)
    assert {row["probe"] for row in found} == set(probe_names("knn", KnnProbe(k=3), scenario))


# --- few labels -------------------------------------------------------------------------------------------------------


def test_few_labels_are_equally_many_of_each_class_and_nested():
    y = torch.arange(1000) % 5
    one, ten = few_labels(y, 0.01, 3), few_labels(y, 0.1, 3)
    assert torch.bincount(y[one]).tolist() == [2] * 5
    assert torch.bincount(y[ten]).tolist() == [20] * 5
    assert set(one.tolist()) < set(ten.tolist())
    assert ten.tolist() == sorted(set(ten.tolist()))
    assert not torch.equal(few_labels(y, 0.1, 4), ten)


def test_few_labels_have_at_least_one_image_of_each_class_and_at_most_all():
    y = torch.tensor([0] * 50 + [1] * 2 + [4])
    assert torch.bincount(y[few_labels(y, 0.01, 0)]).tolist() == [1, 1, 0, 0, 1]
    assert torch.bincount(y[few_labels(y, 0.2, 0)]).tolist() == [4, 2, 0, 0, 1]


def test_the_other_labels_are_not_read_but_their_features_standardise():
    x, y = blobs(200, spread=2.5)
    test, _ = blobs(50, spread=2.5, seed=1)
    rows = few_labels(y, 0.1, 0)
    fit, config = FITS["linear_10pct"], LinearProbe()
    scores = fit(x, y, 4, config, 0)(test)
    standard = (x - x.mean(0)) / x.std(0)
    unit = torch.tensor([[-1.0], [1.0]]).expand(2, 6) / 2**0.5  # mean 0, deviation 1: standardises nothing
    expected = fit_linear(standard[rows], y[rows], 4, config, 0, unlabelled=unit)
    torch.testing.assert_close(scores, expected((test - x.mean(0)) / x.std(0)), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(scores, fit_linear(x, y, 4, config, 0)(test), atol=0.1)


def test_fewer_labels_say_less():
    x, y = blobs(2000, spread=2.5)
    test, test_y = blobs(2000, spread=2.5, seed=1)
    found = [accuracy(FITS[name](x, y, 4, LinearProbe(), 0)(test), test_y) for name in ("linear_1pct", "linear")]
    assert found[0] < found[1]
