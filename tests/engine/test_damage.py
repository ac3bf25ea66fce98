"""What is cut, has a bit turned or belongs elsewhere is named, set aside and made again from what it was made from."""

import json
import pickle
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bench.engine import board as boards
from bench.engine import stage
from bench.engine.board import REPAIRS, Board
from bench.engine.checkpoint import save_tensors
from bench.engine.stopping import Stopped
from bench.engine.store import Store, check
from bench.seal import Damaged, sealed
from tests.engine.test_workers import board_of, forest
from tests.engine.tiny import differing, records, results, rows, run

pytestmark = pytest.mark.xdist_group("grid")


def turn_a_bit(data, position):
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


def header_of(data):
    return int.from_bytes(data[:8], "little") if data[:1] != b"{" else 0


DAMAGES = {
    "length of the header": lambda path, data: turn_a_bit(data, 0),
    "header": lambda path, data: turn_a_bit(data, 8 + header_of(data) // 3),
    "data": lambda path, data: turn_a_bit(data, (8 + header_of(data) + len(data)) // 2),
    "seal": lambda path, data: turn_a_bit(data, data.index(b"seal") + 12),
    "name of the seal": lambda path, data: turn_a_bit(data, data.index(b"seal")),
    "cut": lambda path, data: data[: len(data) // 2],
    "empty": lambda path, data: b"",
    "of another stage": lambda path, data: neighbour(path, lambda p: p.name == path.name),
    "of another file": lambda path, data: neighbour(path, lambda p: p.suffix == path.suffix and p.name != path.name),
    "unsealed": lambda path, data: unsealed(path),
    "pickle": lambda path, data: pickle.dumps({"weight": [1.0]}),
}


def neighbour(path, fits):
    """Another file of a stage, which is whole."""
    found = (p for p in sorted(path.parent.parent.glob("*/*.*")) if p != path and fits(p) and is_whole(p))
    return next(found).read_bytes()


def is_whole(path):
    try:
        check(path)
    except Damaged:
        return False
    return True


def unsealed(path):
    if path.suffix == ".json":
        return json.dumps({"rows": [], "kind": "task"}).encode()
    save_file({"weight": torch.ones(3)}, path, {"note": "{}"})
    return path.read_bytes()


def damage(path, kind):
    data = path.read_bytes()
    path.write_bytes(DAMAGES[kind](path, data))
    assert path.read_bytes() != data
    return path.read_bytes()


def stages_of(out, name):
    """Folders of the stages of a run."""
    return [Store(out).stage(key) for key in records(out)[name][0]["stages"]]


def lose(*folders):
    for folder in folders:
        shutil.rmtree(folder)


@pytest.mark.parametrize("turn", range(4))
def test_a_damaged_file_of_every_stage_is_set_aside_and_made_again(little, capsys, turn):
    before, damaged, kinds = results(little.out), {}, [*DAMAGES]
    for number, folder in enumerate(sorted((little.out / "stages").iterdir())):
        files = sorted(path for path in folder.iterdir() if path.name != "stage.json")
        path = files[(number + turn) % len(files)]
        damaged[path] = damage(path, kinds[(4 * number + 3 * turn) % len(kinds)])
        end = folder / "stage.json"  # so that the stage is looked at again
        damaged[end] = damage(end, kinds[(4 * number + 3 * turn + 1) % len(kinds)])
    assert run(*little.line) == 0
    assert differing(before, results(little.out)) == []
    said, log = capsys.readouterr().err, rows(little.out / "set-aside" / "log.jsonl")
    for path, data in damaged.items():
        (row,) = (row for row in log if row["file"] == path.relative_to(little.out).as_posix())
        assert (little.out / "set-aside" / row["now"]).read_bytes() == data
        assert f"set aside: {path} {row['reason']}; now " in said


@pytest.mark.parametrize("fault", ["damaged", "gone"])
def test_a_parent_whose_model_is_not_whole_is_trained_again_before_its_children(little, trained, capsys, fault):
    before, folders = results(little.out), [stages_of(little.out, f"{name}-moco") for name in ("cassle", "finetune")]
    model = folders[0][2] / "model.safetensors"
    if fault == "damaged":
        damage(model, "data")
    else:
        model.unlink()
    lose(*(each[3] for each in folders))
    assert run(*little.line) == 0
    assert trained == {0: 1, 1: 2}
    assert differing(before, results(little.out)) == []
    assert f"{folders[0][2] / 'stage.json'} was made from a model that is damaged or gone" in capsys.readouterr().err


def test_features_that_are_gone_are_made_again_when_a_probe_needs_them(little, trained):
    folder = stages_of(little.out, "cassle-moco")[-1]
    before = (folder / "features.safetensors").read_bytes()
    (folder / "features.safetensors").unlink()
    assert run(*little.line, "--set", "probe.knn.k=7") == 0
    assert (folder / "features.safetensors").read_bytes() == before
    assert not trained


@pytest.mark.parametrize("fault", ["damaged", "gone", "own"])
def test_an_online_classifier_that_is_not_whole_is_trained_again(little, trained, fault):
    before, folders = results(little.out), stages_of(little.out, "cassle-moco")
    online = folders[3 if fault == "own" else 2] / "online.safetensors"
    if fault == "damaged":
        damage(online, "data")
    else:
        online.unlink()
    if fault == "own":
        next(folders[3].glob("probe-linear_online-*")).unlink()
    else:
        lose(folders[3])
    assert run(*little.line) == 0
    assert trained == ({1: 1} if fault == "own" else {0: 1, 1: 1})
    assert differing(before, results(little.out)) == []


def test_an_online_classifier_that_was_set_aside_before_the_stage_ended_is_trained_again(little, trained):
    before, folder = results(little.out), stages_of(little.out, "cassle-moco")[3]
    for name in ("stage.json", "online.safetensors", *(path.name for path in folder.glob("probe-linear_online-*"))):
        (folder / name).unlink()
    assert run(*little.line) == 0
    assert trained == {1: 1}
    assert differing(before, results(little.out)) == []


@pytest.mark.parametrize("fault", ["damaged", "exchanged"])
def test_a_damaged_partial_state_begins_the_task_anew(little, monkeypatch, trained, capsys, fault):
    before, folders = results(little.out), [stages_of(little.out, f"{name}-moco") for name in ("cassle", "finetune")]
    partials = [each[3] / "partial.safetensors" for each in folders]
    lose(*(each[3] for each in folders))
    for partial in partials:
        with monkeypatch.context() as patch:
            patch.setattr(stage._Saver, "_save_or_stop", save_and_stop)
            patch.setattr(Board, "take", only(partial.parent.name))
            assert run(*little.line, "--save-every", "0") == 130
    one, other = (partial.read_bytes() for partial in partials)
    if fault == "exchanged":
        partials[0].write_bytes(other)
        partials[1].write_bytes(one)
    else:
        for partial in partials:
            damage(partial, "data")
    assert run(*little.line) == 0
    assert differing(before, results(little.out)) == []
    said = capsys.readouterr().err
    assert all(f"set aside: {partial} " in said for partial in partials)


SAVE = stage._Saver._save_or_stop


def save_and_stop(saver, step, due):
    SAVE(saver, step, due)
    raise Stopped(2)


def only(key):
    """Chooses this stage."""

    def take(board):
        board.waiting.remove(key)
        return board.plan.stages[key]

    return take


NAMES = ("model", "online", "features", "transfer-ab", "partial")
ALL = {f"{name}.safetensors" for name in NAMES} | {"stage.json", "probe-a.json", "probe-b.json"}


FACTS = {
    **{"kind": "task", "task": 0, "samples": 1, "parent": None, "watch": None, "seconds": {}},
    **{"code": "c", "from": None, "sessions": [], "environment": {}},
}


@pytest.mark.parametrize(
    ("damaged", "needed", "goes"),
    [
        ("model.safetensors", None, ALL),
        ("online.safetensors", None, ALL),
        ("features.safetensors", None, {"features.safetensors", "stage.json"}),
        ("transfer-ab.safetensors", None, {"transfer-ab.safetensors"}),
        ("partial.safetensors", None, {"partial.safetensors"}),
        ("stage.json", None, {"stage.json"}),
        ("probe-a.json", None, {"probe-a.json"}),
        (None, "model.safetensors", ALL - {"model.safetensors"}),
        (None, "online.safetensors", ALL - {"online.safetensors"}),
        (None, None, set()),
    ],
)
def test_what_hangs_on_a_damaged_file_goes_with_it(tmp_path, damaged, needed, goes):
    store = Store(tmp_path)
    store.prepare()
    with store.lock("key") as held:
        folder = held.stage("key")
        for name in ALL:
            if name.endswith(".json"):
                held.write_json(folder / name, FACTS if name == "stage.json" else {"rows": []})
            else:
                save_tensors(folder / name, {"x": torch.ones(2)}, write=held.write)
        if damaged:
            damage(folder / damaged, "cut")
        if needed:
            (folder / needed).unlink()
        held.examine("key", [folder / needed] if needed else [])
        assert {path.name for path in folder.iterdir()} == ALL - goes - {needed} | {"owner"}


# --- how often a stage is made again ----------------------------------------------------------------------------------


def test_any_number_of_children_that_find_a_parent_damaged_at_once_count_as_one(monkeypatch):
    board, ended = board_of(forest(9, 2), monkeypatch, {"0-0", "pixels", "init"})
    children = [board.take() for _ in range(9)]
    for child in children:
        board.mend(child, "0-0")
    parent = board.take()
    assert parent.key == "0-0"
    assert board.wants(parent)
    assert board.take() is None
    board.settle(parent, "done")
    assert {board.take() for _ in range(9)} == set(children)
    assert [result for _, result in ended] == ["cached"] * 3 + ["done"]


@pytest.mark.parametrize("key", ["0-0", "1-1"], ids=["its parent", "it itself"])
def test_a_stage_that_is_damaged_over_and_over_fails(monkeypatch, key):
    monkeypatch.setattr(boards, "RETRY_SECONDS", 0)
    monkeypatch.setattr(boards, "mark_failure", lambda *_: None)  # the board belongs to no folder
    board, ended = board_of(forest(2, 2), monkeypatch, {"0-0", "pixels", "init", "0-1"})
    for _ in range(REPAIRS):
        child = board.take()
        assert child.key == "1-1"
        board.mend(child, key)
        if key != child.key:
            board.settle(board.take(), "done")
    board.mend(board.take(), key)
    assert ended[-1] == ("1-1", f"the stage {key} is damaged, and making it again does not help")
    assert not board.waiting


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_record_with_bits_turned_at_random_is_whole_again(little, capsys):
    before, rng = results(little.out), random.Random(5)
    paths = sorted((little.out / "records").glob("*.jsonl"))
    damaged = {}
    for path in paths:
        data = bytearray(path.read_bytes())
        for position in np.linspace(5, len(data) - 5, 4, dtype=int):
            data[position] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        damaged[path] = bytes(data)
    assert run("report", "--out", str(little.out), "--format", "md", "--quiet") in (0, 2)
    assert run(*little.line) == 0
    assert differing(before, results(little.out)) == []
    assert {path.read_bytes() for path in (little.out / "set-aside").glob("*.jsonl.1")} == set(damaged.values())
    said = capsys.readouterr().err
    assert all(f"set aside: {path} line " in said for path in paths)


def test_a_record_of_another_run_in_its_place_is_set_aside(little):
    before = results(little.out)
    one, other = sorted((little.out / "records").glob("*.jsonl"))
    data = other.read_bytes()
    one.write_bytes(data)
    assert run(*little.line) == 0
    assert differing(before, results(little.out)) == []
    assert (little.out / "set-aside" / f"records-{one.name}.1").read_bytes() == data


def test_equal_rows_are_fine_and_a_torn_last_one_is_cut_off(little, capsys):
    before = results(little.out)
    one, other = sorted((little.out / "records").glob("*.jsonl"))
    lines = one.read_bytes().splitlines(keepends=True)
    one.write_bytes(b"".join([*lines, *lines[3:5]]))
    other.write_bytes(other.read_bytes() + lines[5][:40])
    assert run(*little.line) == 0
    assert one.read_bytes() == b"".join([*lines, *lines[3:5]])
    assert differing(before, results(little.out)) == [one.relative_to(little.out).as_posix()]
    assert "is left out: it is torn" in capsys.readouterr().err


def test_rows_of_a_finished_run_that_contradict_each_other_do_not_stop_others(little, trained, capsys):
    path = contradictory(little)
    lose(stages_of(little.out, "finetune-moco")[-1])
    assert run(*little.line) == 2  # as nothing can be reported
    assert trained == {1: 1}
    said = capsys.readouterr().err
    assert "failed: " in said
    assert said.count(f"{path}: two rows contradict each other: ") == 2
    assert all((folder / "stage.json").exists() for folder in stages_of(little.out, "finetune-moco"))


def contradictory(little):
    """The record of one run, with a row that says otherwise than another."""
    path = next(p for p in (little.out / "records").glob("*.jsonl") if rows(p)[0]["strategy"] == "cassle")
    row = next(row for row in rows(path) if row["kind"] == "accuracy")
    del row["seal"]
    path.write_bytes(path.read_bytes() + sealed({**row, "value": 0.125}) + b"\n")
    return path


def test_rows_that_contradict_each_other_stop_a_run_before_it_trains(little, trained, capsys):
    path = contradictory(little)
    row = next(row for row in rows(path) if row["kind"] == "accuracy")
    lose(stages_of(little.out, "cassle-moco")[-1])
    assert run(*little.line) == 2
    assert not trained
    said = capsys.readouterr().err
    assert f"error: {path}: two rows contradict each other: " in said
    assert json.dumps(row["value"]) in said
    assert "0.125" in said
