"""Symbolic links in a results folder: nothing is read or written where they lead."""

import os

import pytest

from tests.engine.tiny import run, words

COMMANDS = (
    ("report", "--format", "md"),
    ("eval", "--probe", "knn"),
    ("gc", "--yes"),
    ("doctor", "--repair"),
    ("export", "B"),
)


@pytest.fixture
def elsewhere(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "0123456789abcdef.jsonl").write_text('{"kind": "config"}\n')
    return folder


@pytest.mark.parametrize(
    "name", ["records", "stages", "logs", "locks", "timings", "datasets", "report", "set-aside/log.jsonl"]
)
def test_a_link_out_of_the_results_folder_stops_a_run_before_it_writes(tmp_path, elsewhere, capsys, name):
    out, before = tmp_path / "out", sorted(elsewhere.iterdir())
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(elsewhere)
    assert run(*words(tmp_path, out, "finetune")[:4], "--dataset", "fashion_mini", "--out", str(out)) == 2
    assert "a symbolic link that leads out of the results folder: remove it" in capsys.readouterr().err
    assert sorted(elsewhere.iterdir()) == before


@pytest.mark.parametrize("inside", [False, True], ids=["records", "a record"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_no_command_follows_one(tmp_path, elsewhere, capsys, command, inside):
    out = tmp_path / "out"
    record = out / "records" / "0123456789abcdef.jsonl"
    (out / "stages").mkdir(parents=True)
    if inside:
        record.parent.mkdir()
        record.symlink_to(elsewhere / record.name)
    else:
        record.parent.symlink_to(elsewhere)
    before = (elsewhere / record.name).read_bytes()
    status = run(*(str(tmp_path / "b.zip") if word == "B" else word for word in command), "--out", str(out))
    assert status != 0 or command[0] == "doctor"
    assert (elsewhere / record.name).read_bytes() == before
    assert len(list(elsewhere.iterdir())) == 1


def test_one_that_stays_inside_is_taken_and_a_pipe_is_not(tmp_path, capsys):
    out = tmp_path / "out"
    (out / "kept").mkdir(parents=True)
    (out / "records").symlink_to(out / "kept")
    line = ("report", "--out", str(out), "--format", "md")
    assert run(*line) == 2
    assert "no records in" in capsys.readouterr().err
    os.mkfifo(out / "kept" / "0123456789abcdef.jsonl")
    assert run(*line) == 2
    assert "is neither a file nor a folder" in capsys.readouterr().err
