"""Probes of a stage: which run, under what names, and that it does not matter when or how often they are started."""

import json
import shutil
from dataclasses import asdict, replace

import pytest

from bench.config import OnlineConfig, ProbeConfig, restored
from bench.engine import plan
from bench.engine import stage as stage_module
from bench.engine.checkpoint import load_tensors
from bench.engine.probing import Probe, probe_of
from bench.engine.store import Store
from bench.errors import UserError
from bench.evaluate import probes
from bench.evaluate.features import Features
from bench.seal import Damaged
from bench.speed.evaluation import evaluation_seconds
from bench.speed.step import Trial
from tests.engine.conftest import count_trainings
from tests.engine.tiny import paint_folder, planned, records, results, run, words

pytestmark = pytest.mark.xdist_group("grid")
MORE = ("linear_1pct", "linear_10pct", "linear_offline")
SHORT = ("--set", "probe.linear_offline.epochs=2")


def evaluate(out, *more):
    return run("eval", "--out", str(out), "--format", "md", "--quiet", *more)


def probed(out):
    """Content of the probes' results by stage and name."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.glob("stages/*/probe-*.json")}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Another dataset: fewer pictures of the same kind."""
    return paint_folder(tmp_path_factory.mktemp("others") / "others", 12)


@pytest.fixture(scope="module")
def full(grid, pictures, others, tmp_path_factory):
    """The same grid, for two strategies, with every probe run in place."""
    out = tmp_path_factory.mktemp("full") / "out"
    names = ",".join(("linear", "knn", "ncm", *MORE))
    line = words(pictures, out, "finetune,cassle", "--quiet", "--probes", names, *SHORT)
    assert run(*line, "--transfer", f"folder:{others}") == 0
    return out


@pytest.fixture(scope="module")
def later(grid, others, tmp_path_factory):
    """The grid with the same probes run afterwards, and how often that trained each task."""
    out = tmp_path_factory.mktemp("later") / "out"
    shutil.copytree(grid.out, out)
    with pytest.MonkeyPatch.context() as patch:
        calls = count_trainings(patch)
        assert evaluate(out, "--probe", ",".join(MORE), *SHORT, "--transfer", f"folder:{others}") == 0
    return out, calls


def test_probes_run_afterwards_are_those_of_the_run_byte_for_byte(later, full):
    out, trained = later
    assert not trained
    theirs, mine = probed(full), probed(out)
    assert {name: mine.get(name) for name in theirs} == theirs
    assert len(theirs) == 5 * 8 - 1  # five stages, six probes and two transfers; no images of raw pixels
    for name, content in theirs.items():
        assert json.loads(content)["rows"], name


def test_rows_of_probes_run_afterwards_are_those_of_the_run(later, full):
    for method in ("finetune-moco", "cassle-moco"):
        mine, theirs = (
            sorted(json.dumps(row, sort_keys=True) for row in records(out)[method][1:] if row["kind"] != "stage")
            for out in (later[0], full)
        )
        assert mine == theirs


def test_evaluation_changes_no_model_no_feature_and_no_other_result(copied, others):
    before = results(copied.out)
    assert evaluate(copied.out, "--probe", "linear_offline", *SHORT, "--transfer", f"folder:{others}") == 0
    after = results(copied.out)
    kept = {name: content for name, content in before.items() if not name.startswith("records")}
    assert {name: after[name] for name in kept} == kept


def test_a_run_killed_in_a_probe_repeats_that_probe_alone(pictures, tmp_path, trained, monkeypatch):
    line = words(
        pictures, tmp_path / "out", "finetune", "--quiet", "--probes", "linear,linear_offline", *SHORT, tasks=1
    )
    real, calls = stage_module.run_on, []

    def killed(subject, probe, store):
        calls.append((subject.kind, probe.name))
        if calls[-1] == ("task", "linear_offline") and calls.count(calls[-1]) == 1:
            raise KeyboardInterrupt
        return real(subject, probe, store)

    monkeypatch.setattr(stage_module, "run_on", killed)
    assert run(*line) == 130
    before = probed(tmp_path / "out")
    assert run(*line) == 0
    assert trained == {0: 1}
    assert calls.count(("task", "linear")) == calls.count(("init", "linear_offline")) == 1
    assert calls.count(("task", "linear_offline")) == 2
    after = probed(tmp_path / "out")
    assert {name: after[name] for name in before} == before


def test_names_of_results_that_lie_on_disk_stay(pictures, tmp_path):
    (one,) = planned(*words(pictures, tmp_path, "finetune")).runs
    plain = {probe.name: probe.key for probe in one.probes}
    assert plain == {"linear": "linear-8ab60e88", "knn": "knn-b1254e73", "ncm": "ncm-f688927e"}
    (more,) = planned(*words(pictures, tmp_path, "finetune", "--probes", "linear,linear_offline")).runs
    assert (one.run_id, one.stages, one.setting) == (more.run_id, more.stages, more.setting)


def test_objectives_share_the_random_network_but_not_the_rate_of_its_offline_probe(pictures, tmp_path):
    line = words(pictures, tmp_path, "finetune-moco,finetune-simclr", "--probes", "linear,linear_offline")
    made = planned(*line)
    first, second = made.runs
    assert first.stages[:2] == second.stages[:2]
    init = made.stages[first.stages[1]]
    assert sorted(probe.rate for probe in init.probes if probe.name == "linear_offline") == [1.0, 3.0]
    assert len({probe.key for probe in init.probes}) == 3
    assert first.expected_probes() == ["linear", "linear_aware", "linear_offline", "linear_offline_aware"]


def test_the_offline_probe_normalises_as_the_encoder_was_trained(pictures, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("bench.engine.probing.offline.run_offline", lambda *given: seen.append(given[-2]) or [])
    line = ["--methods", "random", "--dataset", f"folder:{pictures}", "--set", "encoder.width=4", "--batch", "16"]
    line += ["--probes", "linear,linear_offline", "--set", "data.normalisation=cifar", "--out", str(tmp_path)]
    assert run(*line, "--format", "md", "--quiet") == 0
    assert seen == [((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))]


def test_a_given_rate_is_used_and_named():
    config = replace(ProbeConfig(), linear_offline=replace(ProbeConfig().linear_offline, lr=3.0))
    given, published = (probe_of("linear_offline", c, "moco", 0) for c in (config, ProbeConfig()))
    assert given.record_names("data_il") == ["linear_offline(lr=3.0)"]
    assert published.record_names("data_il") == ["linear_offline"]
    assert given.key != published.key
    probe_of("linear_offline", config, "an objective without a published rate", 0)


def test_raw_pixels_have_the_probes_on_features_only(full):
    found = {row["probe"] for row in records(full)["finetune-moco"] if row["kind"] == "pixels"}
    assert found == {f"{name}{end}" for name in ("linear", "knn", "ncm", *MORE[:2]) for end in ("", "_aware")}


def test_transfer_rows_are_there_after_every_task_for_random_network_and_pixels(full, others):
    for found in records(full).values():
        transfer = [row for row in found if row["kind"] == "transfer"]
        assert {(row["after_task"], row["probe"]) for row in transfer} == {
            (after, probe) for after in (-2, -1, 0, 1) for probe in ("linear", "knn")
        }
        assert len(transfer) == 8
        assert {row["dataset"] for row in transfer} == {f"folder:{others.name}"}
        key = found[0]["stages"][3]
        (path,) = Store(full).stage(key).glob("transfer-*.safetensors")
        features = Features(**load_tensors(path)[0])
        (expected,) = probes.run_probe("knn", ProbeConfig().knn, features, "data_il", 1, 0)
        (row,) = (row for row in transfer if (row["after_task"], row["probe"]) == (1, "knn"))
        assert (row["value"], row["n"]) == (expected["value"], expected["n"])


def test_the_report_of_a_run_with_more_probes_names_and_compares_them(full):
    text = (full / "report" / "table.md").read_text()
    assert "linear probe: L-BFGS logistic regression on cached features; one for all classes" in text
    assert (
        "| objective | strategy | linear | knn | ncm | linear_1pct | linear_10pct | linear_offline(epochs=2) |" in text
    )
    assert "transfer to folder:others" in text


def test_the_headline_can_be_chosen(pictures, tmp_path):
    out = tmp_path / "out"
    line = words(pictures, out, "finetune", "--quiet", "--probes", "knn,ncm", "--set", "probe.headline=knn", tasks=1)
    assert run(*line) == 0
    head = records(out)["finetune-moco"][0]
    assert head["headline"] == "knn"
    assert head["probes"] == ["knn", "knn_aware", "ncm", "ncm_aware"]
    assert "\nknn probe: " in (out / "report" / "table.md").read_text()


def test_the_classifier_beside_the_encoder_can_be_the_headline(pictures, tmp_path):
    out = tmp_path / "out"
    more = ("--set", "online.run=true", "--set", "probe.headline=linear_online")
    line = words(pictures, out, "finetune", "--quiet", "--probes", "ncm", *more, tasks=1)
    assert run(*line) == 0
    assert records(out)["finetune-moco"][0]["headline"] == "linear_online"
    assert "\nlinear_online probe: " in (out / "report" / "table.md").read_text()


def test_a_recorded_configuration_is_the_one_that_was_run(copied):
    config = planned(*copied.line).runs[0].config
    assert restored(json.loads(json.dumps(asdict(config)))) == config
    broken = json.loads(json.dumps(asdict(config)))
    broken["settings"]["optim"]["colour"] = 1
    with pytest.raises(UserError, match=r"settings of another version: optim\.colour"):
        restored(broken)


def test_a_stage_is_not_probed_on_other_images_than_it_was_trained_on(pictures, tmp_path, capsys):
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    out = tmp_path / "out"
    assert run(*words(folder, out, "finetune", "--quiet", tasks=1)) == 0
    shutil.rmtree(folder)
    shutil.rmtree(out / "datasets")
    paint_folder(folder, 20)
    for cached in (plan._scenario, plan._dataset):  # as in a process of its own
        cached.cache_clear()
    before = probed(out)
    assert evaluate(out, "--probe", "linear_offline", *SHORT) == 2
    assert f"its dataset folder:{folder} or the code's defaults have changed" in capsys.readouterr().err
    assert probed(out) == before


def test_a_stage_without_its_model_is_left_out_and_counted(copied, capsys):
    last = records(copied.out)["finetune-moco"][0]["stages"][-1]
    Store(copied.out).model(last).unlink()
    assert evaluate(copied.out, "--probe", "linear_offline", *SHORT) == 0
    assert "1 stages have no cached features or model" in capsys.readouterr().err


def test_a_probe_of_the_training_is_never_made_up(copied, capsys):
    probe = Probe("linear_online", OnlineConfig(run=True), 0)
    assert [probe.fits(kind) for kind in ("pixels", "init", "task", "joint")] == [False, False, True, True]
    made = planned(*copied.line)
    store, task = Store(copied.out), made.stages[made.runs[0].stages[2]]
    with pytest.raises(Damaged, match=r"online\.safetensors is gone"):
        stage_module.probe_stage(replace(task, probes={probe}), store, stage_module.Clock({}), lambda _: None)
    with pytest.raises(UserError, match=r"linear_online .* leave it out, and --set online.run=true"):
        planned(*copied.line, "--probes", "linear,linear_online")
    assert evaluate(copied.out, "--probe", "linear_online") == 2
    assert "--probe linear_online: it runs while a stage trains" in capsys.readouterr().err


def test_the_estimate_counts_epochs_of_the_offline_probe_and_images_of_other_datasets(pictures, others, tmp_path):
    line = words(pictures, tmp_path, "finetune", "--probes", "linear,linear_offline", "--transfer", f"folder:{others}")
    made = planned(*line)
    scenario = plan.scenario_of(made.runs[0].config, tmp_path)
    trial = Trial(made.runs[0].config, scenario, task=0)
    (offline,) = (probe for probe in made.runs[0].probes if probe.name == "linear_offline")
    other = [probe for probe in made.runs[0].probes if probe.target is not None]
    larger = [replace(probe, target=replace(probe.target, images=(10**7, 10))) for probe in other]
    longer = replace(offline, config=replace(offline.config, epochs=10**5))
    assert evaluation_seconds(scenario, trial, [longer]) > 100 * evaluation_seconds(scenario, trial, [offline])
    assert evaluation_seconds(scenario, trial, larger) > 100 * evaluation_seconds(scenario, trial, other)
    cached = replace(offline, config=replace(offline.config, from_images=False, epochs=2))
    assert evaluation_seconds(scenario, None, [cached]) > 0
