"""`gc` says what no record needs, frees it when told to, and never anything else."""

import pytest

from bench.engine.store import Store
from bench.errors import UserError
from bench.lease import Lease
from bench.seal import seal_file
from bench.source import base_code
from bench.upkeep import garbage
from tests.engine.tiny import differing, results, run
from tests.report.recording import config, digest, rows_of, write

pytestmark = pytest.mark.xdist_group("grid")

FACTS = {
    **{"kind": "task", "task": 0, "samples": 1, "parent": None, "watch": None, "seconds": {}},
    **{"code": base_code(), "from": None, "sessions": [], "environment": {}},
}


def fill(out, name, *files, nbytes=1000):
    """A finished stage, and its key."""
    key = digest(name, length=16)
    folder = out / "stages" / key
    folder.mkdir(parents=True)
    (folder / "stage.json").write_bytes(seal_file(folder / "stage.json", FACTS))
    for file in ("model.safetensors", *files):
        (folder / file).write_bytes(bytes(nbytes))
    return key


@pytest.fixture
def out(tmp_path):
    """Two runs that share a stage, one of them torn and failed; a stage that none names, and a file set aside."""
    out = tmp_path / "out"
    shared, own, other = fill(out, "shared"), fill(out, "own", "partial.safetensors"), fill(out, "other")
    fill(out, "orphan", "features.safetensors")
    (out / "stages" / other / "stage.json").unlink()
    (out / "stages" / other / "partial.safetensors").write_bytes(bytes(1000))
    head = config(stages=[shared, own])
    write(out, rows_of(head))
    torn = write(out, rows_of(config("cassle", stages=[shared, other, digest("yet to come", length=16)])))
    torn.write_bytes(torn.read_bytes()[:3000])
    (out / "set-aside").mkdir()
    for name in ("x-model.safetensors.1", "log.jsonl"):
        (out / "set-aside" / name).write_bytes(bytes(500))
    return out


def there(out):
    return {path.relative_to(out) for path in out.rglob("*") if path.is_file()}


def orphan(out):
    return out / "stages" / digest("orphan", length=16)


def test_it_says_how_much_and_frees_nothing_unless_told_to(out, capsys):
    before = there(out)
    assert run("gc", "--out", str(out)) == 0
    text = capsys.readouterr()
    assert there(out) == before
    assert text.err == "nothing is freed without --yes\n"
    counts = [line.replace("│", "").split() for line in text.out.splitlines() if "kB" in line]
    assert [words[-3:] for words in counts] == [["1", "2", "kB"], ["1", "1", "kB"], ["1", "0", "kB"], ["3", "4", "kB"]]


def test_it_frees_what_no_record_needs_and_nothing_else(out, capsys):
    before = there(out)
    assert run("gc", "--out", str(out), "--yes", "--quiet") == 0
    assert capsys.readouterr().out == "4 kB freed\n"
    own = digest("own", length=16)
    assert {str(path) for path in before - there(out)} == {
        *(f"stages/{orphan(out).name}/{name}.safetensors" for name in ("model", "features")),
        f"stages/{orphan(out).name}/stage.json",
        f"stages/{own}/partial.safetensors",
        "set-aside/x-model.safetensors.1",
    }
    assert not orphan(out).exists()
    assert garbage.find(out) == []


def test_nothing_goes_while_a_record_does_not_say_what_it_needs(out, capsys):
    path = out / "records" / f"{'0' * 16}.jsonl"
    path.write_text('{"kind": "config", "stages": ["a\n{"kind": "accuracy"}\n')
    before = there(out)
    assert run("gc", "--out", str(out), "--yes") == 2
    assert str(path) in capsys.readouterr().err
    assert there(out) == before


def test_what_somebody_holds_is_left(out):
    with Store(out).lock(orphan(out).name):
        assert orphan(out) not in [piece.path for piece in garbage.find(out)]
    pieces = garbage.find(out)
    with Store(out).lock(orphan(out).name):
        freed = garbage.free(out, pieces)
    assert {piece.kind for piece in freed} == {"partial", "aside"}
    assert (orphan(out) / "stage.json").exists()


@pytest.mark.parametrize("code", ["000000000000", base_code()])
def test_a_training_state_that_a_retraining_goes_on_from_is_left(out, monkeypatch, code):
    pieces = [piece for piece in garbage.find(out) if piece.kind == "partial"]
    end = pieces[0].path.with_name("stage.json")
    facts = {**FACTS, "code": code, **({"from": "another", "parent": orphan(out).name} if code == base_code() else {})}
    end.write_bytes(seal_file(end, facts))
    assert [piece for piece in garbage.find(out) if piece.kind == "partial"] == []
    assert garbage.free(out, pieces) == []
    assert pieces[0].path.exists()


def test_what_somebody_takes_over_meanwhile_is_left(out, monkeypatch):
    pieces = [piece for piece in garbage.find(out) if piece.kind == "partial"]
    remove = Lease.remove

    def robbed(lease, path):
        lease.release()
        remove(lease, path)

    monkeypatch.setattr(Lease, "remove", robbed)
    assert garbage.free(out, pieces) == []
    assert all(piece.path.exists() for piece in pieces)
    assert pieces


def test_what_a_record_names_that_has_come_meanwhile_is_left(out, monkeypatch):
    pieces = garbage.find(out)
    real = Store.lock

    def lock(store, key):
        write(out, rows_of(config("sycon", seed=1, stages=[orphan(out).name])))
        return real(store, key)

    monkeypatch.setattr(Store, "lock", lock)
    assert {piece.kind for piece in garbage.free(out, pieces)} == {"partial", "aside"}
    assert (orphan(out) / "model.safetensors").exists()


def test_a_record_that_comes_and_does_not_say_stops_it(out, monkeypatch):
    pieces = garbage.find(out)
    real = Store.lock

    def lock(store, key):
        (out / "records" / f"{'0' * 16}.jsonl").write_text("{")
        return real(store, key)

    monkeypatch.setattr(Store, "lock", lock)
    with pytest.raises(UserError, match="nobody knows what it needs"):
        garbage.free(out, pieces)
    assert orphan(out).exists()


def test_stages_of_a_record_that_was_set_aside_are_needed_until_that_is_gone(out):
    path = next(path for path in (out / "records").iterdir() if b"cassle" not in path.read_bytes())
    path.rename(out / "set-aside" / f"records-{path.name}.1")
    names = {piece.path.name for piece in garbage.find(out) if piece.kind == "stages"}
    assert names == {orphan(out).name}
    garbage.free(out, garbage.find(out))
    assert {piece.path.name for piece in garbage.find(out)} == {digest("own", length=16)}


def test_a_freed_stage_goes_at_one_stroke(out, monkeypatch):
    def killed(path):
        assert not orphan(out).exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(garbage, "_remove", killed)
    pieces = [piece for piece in garbage.find(out) if piece.kind == "stages"]
    with pytest.raises(KeyboardInterrupt):
        garbage.free(out, pieces)
    monkeypatch.undo()
    assert not orphan(out).exists()
    assert {piece.kind for piece in garbage.find(out)} == {"aside", "partial"}


def test_after_it_the_same_line_trains_nothing(copied, trained, capsys):
    fill(copied.out, "orphan")
    before = results(copied.out)
    assert run("gc", "--out", str(copied.out), "--yes") == 0
    gone = set(differing(before, results(copied.out)))
    assert gone == {f"stages/{digest('orphan', length=16)}/model.safetensors"}
    assert run(*copied.line) == 0
    assert trained == {}
