"""`speed` times the real step, splits it fairly, and its figures serve the plan."""

import json
import multiprocessing

import pytest
import torch

from bench.engine.estimate import estimate
from bench.engine.plan import scenario_of
from bench.engine.store import Store
from bench.speed import measure, step
from bench.speed.reference import Reference, transform
from bench.speed.step import PARTS, Trial, mean_seconds
from tests.engine.tiny import paint_folder, planned, run, words

pytestmark = pytest.mark.xdist_group("processes")
METHODS = "finetune,cassle,sycon"


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """An estimate measures steps for a moment only."""
    monkeypatch.setattr(step, "SECONDS", 0.02)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return paint_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def tiny_run(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("trial")
    config = planned(*line(pictures, out, "sycon")).runs[0].config
    return config, scenario_of(config, out)


def line(pictures, out, methods, *more):
    """The words of a tiny grid, without those that only `run` knows."""
    return [w for w in words(pictures, out, methods, *more) if w not in ("--format", "md")]


@pytest.fixture(scope="module")
def measured(pictures, tmp_path_factory):
    """Results folder, JSON and terminal output of one `speed`."""
    out = tmp_path_factory.mktemp("speed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "SECONDS", 0.02)
        patch.setattr(measure, "peak_memory", lambda run, out: 123_000_000)
        assert run("speed", *line(pictures, out, METHODS), "--rounds", "2", "--quiet") == 0
    (path,) = (out / "speed").glob("*.json")
    return out, json.loads(path.read_text())


def test_every_method_has_a_row_whose_parts_sum_to_the_step(measured):
    rows = measured[1]["methods"]
    assert [row["method"] for row in rows] == ["finetune-moco", "cassle-moco", "sycon-moco"]
    for row in rows:
        assert set(row["parts"]) == {*PARTS, "rest"}
        assert sum(row["parts"].values()) == pytest.approx(row["step"])
        assert row["images_per_second"] == pytest.approx(16 / row["step"])
        for ratio in ("of_limit", "over_reference", "per_core"):
            assert row[ratio] > 0


def test_a_figure_stands_beside_the_figures(measured):
    (picture,) = (measured[0] / "speed").glob("*.png")
    assert picture.stat().st_size > 5000


def test_speed_trains_nothing_and_leaves_no_process(measured):
    assert list((measured[0] / "stages").iterdir()) == []
    assert list((measured[0] / "records").iterdir()) == []
    assert multiprocessing.active_children() == []


def test_a_plan_takes_the_figures(measured, pictures):
    out, content = measured
    plan = planned(*line(pictures, out, METHODS))
    cost = estimate(plan, Store(out))
    assert cost.measured == 1  # raw pixels
    for row in content["methods"]:
        row["step"] *= 100
    (path,) = (out / "speed").glob("*.json")
    text = path.read_text()
    path.write_text(json.dumps(content))
    slow = estimate(plan, Store(out))
    images = len(scenario_of(plan.runs[0].config, out).tasks[1].train)
    steps = images // 16 * 2  # epochs
    added = sum(99 * row["step"] / 100 * steps for row in content["methods"])
    # pixels are measured anew each time
    assert slow.seconds - cost.seconds == pytest.approx(added, abs=0.3)
    content["environment"]["torch"] = "0.0"
    path.write_text(json.dumps(content))
    assert estimate(plan, Store(out)).measured > 1
    path.write_text(text)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"device": "cpu", "environment": {}, "methods": 1}'])
def test_a_foreign_file_among_the_figures_is_named(pictures, tmp_path, capsys, text):
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "foreign.json").write_text(text)
    assert run("plan", *line(pictures, tmp_path, "finetune")) == (0 if "methods" in text else 2)
    assert "methods" in text or "foreign.json is not what" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--scenario", "class_il,data_il"), "one scenario and one seed"),
        (("--seeds", "0-1"), "one scenario and one seed"),
        (("--rounds", "0"), "whole number above 0"),
        (("--jobs", "2"), "unknown argument '--jobs'"),
    ],
)
def test_bad_input_is_one_line(more, message, pictures, tmp_path, capsys):
    assert run("speed", *line(pictures, tmp_path, "finetune"), *more) == 2
    text = capsys.readouterr().err
    assert message in text
    assert text.count("\n") == 1


def gradients(learner):
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


def test_a_step_in_parts_is_the_step(tiny_run):
    whole, parts = Trial(*tiny_run), Trial(*tiny_run)
    whole.whole()
    seconds = parts.parts()
    assert set(seconds) == set(PARTS)
    assert all(value > 0 for value in seconds.values())
    expected = gradients(whole.learner)
    found = gradients(parts.learner)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    assert torch.equal(whole.learner.objective.pool.keys, parts.learner.objective.pool.keys)


def test_the_limit_runs_the_encoders_and_nothing_else(tiny_run):
    trial = Trial(*tiny_run)
    calls = []
    learner = trial.learner
    for name, module in (
        ("encoder", learner.encoder),
        ("target", learner.target),
        ("projector", learner.objective.projector),
        ("predictor", learner.strategy.predictor),
    ):
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    trial.limit()
    assert sorted(calls) == ["encoder"] * 2 + ["target"] * 2
    assert learner.teacher._folded
    assert {name.split(".")[0] for name in gradients(learner)} == {"encoder"}


def test_means_count_neither_the_first_turn_nor_the_other_works(monkeypatch):
    clock = iter([0, 1, 10, 12, 20, 21, 30, 32])
    monkeypatch.setattr(step, "now", lambda device: next(clock))
    monkeypatch.setattr(step, "SECONDS", 2)
    calls = []
    assert mean_seconds([lambda: calls.append("a"), lambda: calls.append("b")], "cpu") == [1, 2]
    assert calls == ["a", "b"] * 3


def test_a_diverged_run_still_has_a_speed(tiny_run):
    trial = Trial(*tiny_run)
    trial.whole()
    with torch.no_grad():
        next(trial.learner.encoder.parameters()).fill_(float("nan"))
    for _ in range(3):
        trial.whole()


def test_the_reference_is_fed_by_workers_and_runs_the_plain_way(tiny_run):
    reference = Reference(*tiny_run)
    try:
        learner = reference.trial.learner
        assert (learner.precision, learner.layout, learner.contrast) == ("fp32", torch.contiguous_format, "stored")
        before = [p.detach().clone() for p in learner.encoder.parameters()]
        reference.whole()
        assert len(multiprocessing.active_children()) >= reference.workers
        assert not learner.teacher._folded
        assert any(not torch.equal(p, q) for p, q in zip(before, learner.encoder.parameters(), strict=True))
        assert reference.processor_seconds() > 0
    finally:
        reference.close()
    assert multiprocessing.active_children() == []


def test_the_reference_transform_has_every_operation_of_the_recipe(tiny_run):
    view = tiny_run[0].settings.augment.view2
    names = [type(t).__name__ for t in transform(view, 8, (0.5,), (0.2,)).transforms]
    assert names[0] == "RandomResizedCrop"
    assert ("RandomSolarize" in names) == (view.solarize_prob > 0)
    assert names[-3:] == ["RandomHorizontalFlip", "ToTensor", "Normalize"]


def test_peak_memory_is_that_of_a_process_of_its_own(pictures, tmp_path):
    held = torch.ones(1 << 28)  # a gigabyte here is none there
    config = planned(*line(pictures, tmp_path, "finetune")).runs[0].config
    assert 100e6 < measure.peak_memory(config, tmp_path) < held.nbytes


def test_a_step_that_fails_is_said_in_one_line(pictures, tmp_path, capsys, monkeypatch):
    def fail(self):
        raise RuntimeError("out of memory\nat depth")

    monkeypatch.setattr(measure.Trial, "whole", fail)
    assert run("speed", *line(pictures, tmp_path, "finetune", "--batch", "16", "--no-reference")) == 2
    text = capsys.readouterr().err.splitlines()[-1]
    assert "a step fails" in text
    assert "lower train.batch" in text
