"""What other code has made is kept until asked for, then made again whole; and records never mix the two."""

import shutil

import pytest

from bench import source
from bench.engine import origin, probing, stage, train
from bench.engine.progress import done_and_stale
from bench.engine.store import Store
from bench.lease import Lease
from bench.report.records import read_run
from tests.changed_code import changed
from tests.engine.tiny import SIZES, differing, planned, records, results, run, without, words

pytestmark = pytest.mark.xdist_group("grid")
RETRAIN = ("--retrain", "stale")


class Killed(BaseException):
    """Ends a start at once, as SIGKILL would."""


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Changes a file of the code, and with it, where asked, the numbers that training gives."""

    def edit(name, numbers=False):
        monkeypatch.setattr(source, "ROOT", changed(tmp_path / "code", name))
        if numbers:
            real = train.learning_rate
            monkeypatch.setattr(train, "learning_rate", lambda *args: 3 * real(*args))

    return edit


@pytest.fixture
def line_of(copied, pictures):
    """The command line of some of the grid's methods."""
    return lambda methods: words(pictures, copied.out, methods, "--quiet")


@pytest.fixture
def fresh(pictures, tmp_path):
    """What methods give that are trained from nothing by the code as it is now."""

    def fresh(methods):
        assert run(*words(pictures, tmp_path / "fresh", methods, "--quiet")) == 0
        return results(tmp_path / "fresh")

    return fresh


def stages_of(out, strategy):
    return records(out)[f"{strategy}-moco"][0]["stages"]


def record_of(out, strategy):
    return f"records/{records(out)[f'{strategy}-moco'][0]['run_id']}.jsonl"


def test_a_changed_strategy_is_shown_kept_and_marked_until_it_is_made_again(copied, edit, trained, capsys):
    edit("methods/strategies/cassle.py")
    assert run("plan", *without([word for word in copied.line if word != "--quiet"], "--format")) == 0
    text = capsys.readouterr().out
    shown = {line.split("│")[4].strip(): line.split("│")[-3].strip() for line in text.splitlines() if "│ moco" in line}
    assert shown == {"finetune": "0", "cassle": "1", "sycon": "0"}
    assert "1 of 6 finished stages are stale" in text
    assert "run with --retrain stale makes them again" in text

    before = results(copied.out)
    assert run(*copied.line) == 0
    assert "warning: 1 of 6 finished stages are stale" in capsys.readouterr().err
    assert not trained
    assert differing(before, results(copied.out)) == []
    lines = (copied.out / "report" / "table.md").read_text().splitlines()
    assert [line.split(" | ")[1] for line in lines if "1/1¶" in line] == ["cassle"]

    assert run(*copied.line, *RETRAIN) == 0
    assert trained == {1: 1}
    assert "¶" not in (copied.out / "report" / "table.md").read_text()
    key = stages_of(copied.out, "cassle")[-1]
    aside = {path.name.removeprefix(f"{key}-") for path in (copied.out / "set-aside").glob(f"{key}-*")}
    assert {"stage.json.1", "model.safetensors.1", "features.safetensors.1"} < aside
    assert sum(name.startswith("probe-") for name in aside) == 3
    capsys.readouterr()
    assert run(*copied.line, *RETRAIN) == 0
    assert trained == {1: 1}
    assert "stale" not in capsys.readouterr().err


def test_all_that_begins_from_it_is_made_again_and_a_run_beside_the_plan_follows_when_it_is_planned(
    copied, line_of, edit, trained, fresh, capsys
):
    edit("methods/objectives/moco.py", numbers=True)
    wanted, before, beside = fresh("finetune,cassle,sycon"), results(copied.out), record_of(copied.out, "sycon")
    trained.clear()
    assert run(*line_of("finetune,cassle"), *RETRAIN) == 0
    assert trained == {0: 1, 1: 2}
    after = results(copied.out)
    old = {beside, *(name for name in wanted if stages_of(copied.out, "sycon")[-1] in name)}
    assert set(differing(after, wanted)) == old
    assert after[beside] == before[beside]
    assert read_run(copied.out / beside, []).stale

    assert run("eval", "--out", str(copied.out), "--probe", "linear_1pct", "--format", "md", "--quiet") == 0
    assert "trained again since" in capsys.readouterr().err
    found = {row.get("after_task") for row in records(copied.out)["sycon-moco"] if row.get("probe") == "linear_1pct"}
    assert found == {None, -1, 1}

    trained.clear()
    assert run(*line_of("sycon")) == 0
    assert trained == {1: 1}
    assert results(copied.out)[beside] == wanted[beside]
    assert len(list((copied.out / "set-aside").glob("records-*"))) == 3


def deadly(real, path_name):
    """A method of leases that ends the process where it comes to a file."""

    def do(lease, path, *rest):
        if f"{path.parent.name}/{path.name}" == path_name:
            raise Killed
        return real(lease, path, *rest)

    return do


def test_a_retraining_that_is_killed_goes_on_and_keeps_what_was_there(copied, line_of, edit, monkeypatch, tmp_path):
    edit("methods/strategies/finetune.py", numbers=True)
    before, record = results(copied.out), record_of(copied.out, "finetune")
    key = stages_of(copied.out, "finetune")[-1]

    def afresh(source):
        shutil.rmtree(copied.out)
        shutil.copytree(source, copied.out)

    whole = shutil.copytree(copied.out, tmp_path / "whole")
    shutil.rmtree(copied.out / "stages" / key)
    (copied.out / record).unlink()
    assert run(*line_of("finetune")) == 0
    wanted = results(copied.out)
    for number, (how, name) in enumerate(
        (("move", "stage.json"), ("move", "model.safetensors"), ("write", "stage.json"))
    ):
        afresh(whole)
        with monkeypatch.context() as patch:
            patch.setattr(Lease, how, deadly(getattr(Lease, how), f"{key}/{name}"))
            with pytest.raises(Killed):
                run(*line_of("finetune"), *RETRAIN, "--save-every", "0")
        assert results(copied.out)[record] == before[record]
        killed = shutil.copytree(copied.out, tmp_path / f"killed {number}")
        assert run(*line_of("finetune"), *RETRAIN) == 0
        assert differing(results(copied.out), wanted) == []
        afresh(killed)  # asked for no retraining, what is left of the old stays or what is there of the new is used
        assert run(*line_of("finetune")) == 0
        assert results(copied.out)[record] in (before[record], wanted[record])


def test_stages_that_train_nothing_are_made_again_with_their_probes(pictures, tmp_path, edit, monkeypatch):
    line = words(pictures, tmp_path / "out", "random", "--quiet")
    for size in SIZES["moco"]:
        line = [*line[: line.index(size) - 1], *line[line.index(size) + 1 :]]
    assert run(*line) == 0
    real = probing.run_probe
    monkeypatch.setattr(probing, "run_probe", lambda *args: [row | {"value": 0.5} for row in real(*args)])
    edit("bench/evaluate/probes.py")
    (found,) = records(tmp_path / "out").values()
    pixels = found[0]["stages"][0]
    probe = next((tmp_path / "out" / "stages" / pixels).glob("probe-*")).name
    with monkeypatch.context() as patch:
        patch.setattr(Lease, "move", deadly(Lease.move, f"{pixels}/{probe}"))
        with pytest.raises(Killed):
            run(*line, *RETRAIN)
    assert run(*line, *RETRAIN) == 0
    (found,) = records(tmp_path / "out").values()
    assert {row["value"] for row in found if row["kind"] in ("pixels", "accuracy")} == {0.5}
    assert {row["code"] for row in found if row["kind"] == "stage"} == {source.base_code()}


def halfway(monkeypatch, line):
    """Kills a start in the first task that it trains, after a step that is saved."""

    real = stage.save_tensors

    def save(path, *rest):
        real(path, *rest)
        if path.name == "partial.safetensors":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stage, "save_tensors", save)
        with pytest.raises(Killed):
            run(*line, "--save-every", "0")


@pytest.fixture
def half(copied, line_of, monkeypatch):
    """The grid with the last stage of cassle half trained; its key."""
    key = stages_of(copied.out, "cassle")[-1]
    shutil.rmtree(copied.out / "stages" / key)
    (copied.out / record_of(copied.out, "cassle")).unlink()
    halfway(monkeypatch, line_of("cassle"))
    return key


def test_a_stage_that_two_codes_have_trained_is_stale_for_both(half, copied, line_of, edit, monkeypatch):
    edit("methods/strategies/cassle.py")
    assert run(*line_of("cassle")) == 0
    plan, store = planned(*line_of("cassle")), Store(copied.out)
    assert done_and_stale(plan, store)[1] == {half}
    monkeypatch.undo()
    assert done_and_stale(plan, store)[1] == {half}
    assert [session["step"] for session in store.facts(half)["sessions"]] == [0, 1]


@pytest.fixture
def elsewhere(monkeypatch):
    """Another version of torch from here on."""
    real = origin.environment
    monkeypatch.setattr(origin, "environment", lambda device: real(device) | {"torch": "9.9"})


def test_another_environment_does_not_go_on_inside_a_stage_and_others_do(half, copied, line_of, elsewhere, capsys):
    partial = Store(copied.out).partial(half).read_bytes()
    assert run(*line_of("cassle,lump")) == 1
    (text,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: "))
    assert "it was trained up to step 1 with torch 2." in text
    assert "and here is torch 9.9, processor " in text
    assert "--allow-new-environment" in text
    assert Store(copied.out).partial(half).read_bytes() == partial
    assert read_run(copied.out / record_of(copied.out, "lump"), []).status == "complete"


def test_where_it_may_go_on_stage_and_record_say_who_trained_from_which_step(half, copied, line_of, elsewhere):
    assert run(*line_of("cassle"), "--allow-new-environment") == 0
    first, second = Store(copied.out).facts(half)["sessions"]
    assert (first["step"], second["step"], second["environment"]["torch"]) == (0, 1, "9.9")
    rows = [row for row in records(copied.out)["cassle-moco"] if row["kind"] == "stage"]
    assert [row.get("sessions") for row in rows] == [None, None, None, [first, second]]


def test_another_number_of_processes_is_recorded_and_not_refused(half, copied, line_of, monkeypatch):
    monkeypatch.setattr(origin, "processes", lambda: 2)
    assert run(*line_of("cassle")) == 0
    assert [session["processes"] for session in Store(copied.out).facts(half)["sessions"]] == [1, 2]
    assert not read_run(copied.out / record_of(copied.out, "cassle"), []).stale


def test_asked_to_retrain_a_half_trained_stage_of_other_code_begins_anew(half, copied, line_of, edit, fresh):
    edit("methods/strategies/cassle.py", numbers=True)
    assert run(*line_of("cassle"), *RETRAIN) == 0
    assert len(Store(copied.out).facts(half)["sessions"]) == 1
    assert list((copied.out / "set-aside").glob(f"{half}-partial*"))
