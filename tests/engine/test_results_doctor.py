"""`doctor` finds every kind of damage, repairs it, and the same line then makes the undisturbed bytes again."""

import json
import os
import shutil

import pytest
from safetensors import safe_open
from safetensors.torch import save

from bench import lease
from bench.engine.store import Store
from bench.seal import OWNER, sealed, unsealed
from bench.upkeep.doctor import examine
from tests.engine.tiny import differing, results, run

pytestmark = pytest.mark.xdist_group("grid")


def record(out, strategy="sycon"):
    """The record of a run, whatever has happened to its rows."""
    name = f'"strategy": "{strategy}"'.encode()
    return next(path for path in (out / "records").iterdir() if name in path.read_bytes().split(b"\n")[0])


def stage(out, number, strategy="sycon"):
    """Folder of a stage of a run: 0 raw pixels, 1 the random network, then the tasks."""
    return out / "stages" / json.loads(record(out, strategy).read_bytes().split(b"\n")[0])["stages"][number]


def images(out):
    """Folder of the decoded images."""
    (folder,) = (out / "datasets").iterdir()
    return folder


def flip(path, position=-40):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])
    return path


def leave(path):
    """A file as a killed process leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return old(path)


def old(path):
    os.utime(path, (1, 1))
    return path


def change(path, number, *, keep=False, **fields):
    """Another row, as well sealed, in the place of one of a record, or behind it; where it is."""
    lines = path.read_bytes().splitlines()
    changed = sealed({**unsealed(lines[number]), **fields})
    lines[number : number + 1] = [lines[number], changed] if keep else [changed]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def change_end(folder, **fields):
    path = folder / "stage.json"
    path.write_bytes(sealed({**unsealed(path.read_bytes().rstrip()), **fields}) + b"\n")


def copy(path, target):
    shutil.copy(path, target)
    return target


def link(path, target):
    path.rename(target)
    path.symlink_to(target)
    return path


DAMAGE = {
    "a truncated model": ("damaged", lambda out: cut(stage(out, -1) / "model.safetensors")),
    "flipped features": ("damaged", lambda out: flip(stage(out, 0) / "features.safetensors")),
    "a flipped end": ("damaged", lambda out: flip(stage(out, 2) / "stage.json")),
    "a foreign probe": (
        "damaged",
        lambda out: copy(next(stage(out, 0).glob("probe-knn*")), next(stage(out, -1, "cassle").glob("probe-knn*"))),
    ),
    "a foreign partial state": (
        "damaged",
        lambda out: copy(stage(out, 2) / "model.safetensors", stage(out, -1) / "partial.safetensors"),
    ),
    "a file that is a link": (
        "damaged",
        lambda out: link(stage(out, -1) / "features.safetensors", out.parent / "elsewhere"),
    ),
    "a stage that is a link": ("damaged", lambda out: link(stage(out, -1), out.parent / "elsewhere")),
    "a stray file": ("foreign", lambda out: leave(stage(out, -1) / "notes.txt")),
    "a stray folder": ("foreign", lambda out: leave(out / "stages" / "backup" / "file").parent),
    "a torn last row": ("damaged", lambda out: cut(record(out))),
    "a flipped row": ("damaged", lambda out: flip(record(out), 5000)),
    "a row twice, and not the same": ("contradicting", lambda out: change(record(out), 20, keep=True, value=0.987)),
    "a row that its stage contradicts": ("contradicting", lambda out: change(record(out), 20, value=0.987)),
    "a row out of range": ("damaged", lambda out: change(record(out), 20, value=2)),
    "rows that are not there": (
        "behind",
        lambda out: record(out).write_bytes(b"".join(record(out).read_bytes().splitlines(True)[:30])) and record(out),
    ),
    "a record of another run": ("damaged", lambda out: copy(record(out), record(out, "cassle"))),
    "a record without its name": ("damaged", lambda out: record(out).rename(out / "records" / f"{'0' * 16}.jsonl")),
    "a record that is a link": ("damaged", lambda out: link(record(out), out.parent / "elsewhere")),
    "a stray record": ("foreign", lambda out: leave(out / "records" / "notes.txt")),
    "a torn timing": ("damaged", lambda out: cut(next((out / "timings").iterdir()))),
    "a dead owner": ("leftover", lambda out: leave(stage(out, -1) / "owner" / "0" / "beat").parent),
    "a dead claim": (
        "leftover",
        lambda out: old(leave(stage(out, -1) / ".claim-00000000" / "0" / "beat").parent.parent),
    ),
    "an owner that is a link": ("damaged", lambda out: link(leave(stage(out, -1) / "owner"), out.parent / "elsewhere")),
    "a removal cut short": ("leftover", lambda out: leave(stage(out, -1) / ".gone-00000000" / "x").parent),
    "a lock of an older version": ("leftover", lambda out: leave(stage(out, -1) / "lock")),
    "a dead writer of a record": (
        "leftover",
        lambda out: leave(out / "locks" / "records-x" / "owner" / "0" / "beat").parent,
    ),
    "a dead writer of a report": (
        "leftover",
        lambda out: leave(out / "report" / ".writing" / "owner" / "0" / "beat").parent,
    ),
    "a dead decoder": ("leftover", lambda out: leave(images(out) / "owner" / "0" / "beat").parent),
    "what a dead decoder has left": ("leftover", lambda out: leave(images(out) / "journal")),
    "flipped images": ("damaged", lambda out: flip(images(out) / "train.npy")),
    "half a report": ("leftover", lambda out: leave(out / "report" / ".table.md.1.00000000.tmp")),
}
MENDED = {name for name in DAMAGE if "row" in name} | {"a record without its name"}
"""Damage to records of which nothing is left after a repair, as the stages are there."""


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_repaired(name, copied, grid):
    kind, damage = DAMAGE[name]
    place = damage(copied.out)
    found = examine(copied.out)
    assert (kind, place) in {(each.kind, each.path) for each in found.findings}
    assert found.in_order == (kind not in ("damaged", "contradicting"))
    assert run("doctor", "--out", str(copied.out), "--repair", "--quiet") == 0
    assert {each.kind for each in examine(copied.out).findings} <= {"unfinished", "gone", "orphaned"}
    if name in MENDED:
        assert record(copied.out).read_bytes() == record(grid.out).read_bytes()


def test_after_a_repair_the_same_line_makes_the_undisturbed_bytes_again(copied, trained):
    before = results(copied.out)
    together = (
        *("a truncated model", "flipped features", "a flipped end", "a foreign probe"),
        *("a stray file", "a flipped row", "a torn timing", "a dead claim"),
    )
    for name in together:
        DAMAGE[name][1](copied.out)
    assert run("doctor", "--out", str(copied.out), "--repair") == 0
    assert run(*copied.line) == 0
    assert differing(before, results(copied.out)) == []
    assert trained == {1: 1}
    assert examine(copied.out).findings == []


def test_images_that_are_damaged_are_decoded_again(copied):
    whole = (images(copied.out) / "train.npy").read_bytes()
    flip(images(copied.out) / "train.npy")
    assert run("doctor", "--out", str(copied.out), "--repair", "--quiet") == 0
    assert run(*copied.line, "--quiet") == 0
    assert (images(copied.out) / "train.npy").read_bytes() == whole


def test_names_and_rows_of_anything_are_told_in_plain_lines(copied, capsys):
    (copied.out / "stages" / "\x1b[31mred").mkdir()
    change(record(copied.out), 0, after=["x", 0])
    assert run("doctor", "--out", str(copied.out)) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "stages/\\x1b[31mred is no stage" in said


def test_damage_is_status_1_and_each_kind_is_listed_with_what_it_means(copied, capsys):
    for number in range(12):
        leave(stage(copied.out, -1) / f"{number:02}.txt")
    last = record(copied.out).read_bytes().count(b"\n")
    cut(record(copied.out))
    assert run("doctor", "--out", str(copied.out)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "damaged: not what was written" in lines
    assert f"  records/{record(copied.out).name} line {last} is left out: it is torn" in lines
    assert lines[lines.index("foreign: does not belong here") + 11] == "  and 2 more"
    assert run("doctor", "--out", str(copied.out), "--quiet") == 1
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if line[0] != " "] == ["damaged"]


def test_a_folder_that_nothing_has_happened_to_is_in_order(grid, capsys):
    before = {path: path.stat().st_mtime_ns for path in grid.out.rglob("*")}
    assert run("doctor", "--out", str(grid.out)) == 0
    assert examine(grid.out).findings == []
    text = capsys.readouterr().out
    assert [line.split()[1:4:2] for line in text.splitlines() if "stages" in line] == [["stages", "6"]]
    assert "in order" in text
    assert before == {path: path.stat().st_mtime_ns for path in grid.out.rglob("*")}
    assert run("doctor", "--out", str(grid.out), "--repair", "--adopt") == 0
    assert [p for p in before if p.is_file() and p.stat().st_mtime_ns != before[p]] == []


def test_a_stage_that_somebody_holds_is_left_as_it_is(copied, capsys):
    place = cut(stage(copied.out, -1) / "model.safetensors")
    with Store(copied.out).lock(place.parent.name) as held:
        held.lease.tell({"step": 3, "steps": 9})
        held.lease.beat()
        assert run("doctor", "--out", str(copied.out), "--repair") == 1
        assert place.exists()
    text = capsys.readouterr()
    assert "which somebody holds" in text.err
    assert f"is held by process {os.getpid()} on " in text.out
    assert "step 3 steps 9" in text.out


def test_a_stage_that_somebody_takes_over_meanwhile_is_left_as_it_is(copied, capsys, monkeypatch):
    place = cut(stage(copied.out, -1) / "model.safetensors")
    set_aside = Store.set_aside

    def robbed(store, *args, **options):
        store.lease.release()
        set_aside(store, *args, **options)

    monkeypatch.setattr(Store, "set_aside", robbed)
    assert run("doctor", "--out", str(copied.out), "--repair") == 1
    assert "which somebody holds" in capsys.readouterr().err
    assert place.exists()


def test_a_record_that_has_lost_its_configuration_is_left_to_its_run(copied, capsys):
    before = results(copied.out)
    flip(record(copied.out), 500)
    assert run("doctor", "--out", str(copied.out), "--repair") == 1
    assert "its run's command line, or its bundle, makes it whole" in capsys.readouterr().err
    assert run(*copied.line) == 0
    assert differing(before, results(copied.out)) == []
    assert run("doctor", "--out", str(copied.out)) == 0


def test_a_half_trained_stage_says_how_far_it_is_and_orphans_are_named(copied):
    last = stage(copied.out, -1)
    for name in ("stage.json", "model.safetensors"):
        (last / name).unlink()
    found = examine(copied.out)
    assert [(f.kind, f.path, f.text) for f in found.findings] == [
        ("unfinished", last, "is begun, and nothing of its training is saved")
    ]
    assert found.counts["stages"]["unfinished"] == 1
    record(copied.out).unlink()
    assert ("orphaned", last) in {(f.kind, f.path) for f in examine(copied.out).findings}


def test_what_other_code_has_made_is_stale(copied):
    place = stage(copied.out, -1)
    change_end(place, code="0" * 12)
    assert [(f.kind, f.path) for f in examine(copied.out).findings] == [("stale", place)]
    change_end(stage(copied.out, 2), code="0" * 12)
    texts = [f.text for f in examine(copied.out).findings if f.path == place]
    assert texts[1:] == ["began from a stage that has been made again since"]


# --- older versions ---------------------------------------------------------------------------------------------------


def strip(out):
    """The files as an older version wrote them: without seals, and without saying what made them but for the code."""
    for path in out.glob("stages/*/*.json"):
        content = unsealed(path.read_bytes().rstrip())
        path.write_text(json.dumps(without(content, OWNER, "from", "sessions"), sort_keys=True) + "\n")
    for path in out.glob("stages/*/*.safetensors"):
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        path.write_bytes(save(tensors, {"note": "{}"}))
    for path in [*out.glob("records/*"), *out.glob("timings/*")]:
        rows = [unsealed(line) for line in path.read_bytes().splitlines()]
        path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def without(content, *names):
    return {name: value for name, value in content.items() if name not in names}


def test_files_of_an_older_version_are_sealed_as_they_are_when_asked_to(copied, trained, capsys):
    before = results(copied.out)
    strip(copied.out)
    bare = results(copied.out)
    assert all(before[name] != bare[name] for name in before)
    assert {found.kind for found in examine(copied.out).findings} == {"unsealed"}
    assert run("doctor", "--out", str(copied.out), "--repair") == 1
    assert differing(bare, results(copied.out)) == []
    capsys.readouterr()
    assert run("doctor", "--out", str(copied.out), "--adopt") == 0
    count = sum(1 for pattern in ("stages/*/*", "records/*", "timings/*") for _ in copied.out.glob(pattern))
    assert f"sealing {count} files of an older version" in capsys.readouterr().err
    assert differing(before, results(copied.out)) == []
    assert run(*copied.line) == 0
    assert trained == {}


def test_what_is_half_trained_by_an_older_version_is_not_gone_on_with(copied):
    strip(copied.out)
    place = stage(copied.out, -1)
    (place / "stage.json").unlink()
    assert run("doctor", "--out", str(copied.out), "--adopt") == 0
    assert not place.exists() or not [*place.iterdir()]
    assert (copied.out / "set-aside" / f"{place.name}-model.safetensors.1").exists()


@pytest.mark.parametrize("name", ["stage.json", "features.safetensors"])
def test_a_file_with_a_damaged_seal_is_not_taken_for_an_older_one(name, copied):
    place = stage(copied.out, -1) / name
    place.write_bytes(place.read_bytes().replace(b"seal", b"sebl", 1))
    assert {found.kind for found in examine(copied.out).findings if found.path == place} == {"damaged"}
    assert run("doctor", "--out", str(copied.out), "--adopt", "--quiet") == 1


def test_two_doctors_do_not_work_at_one_folder(copied, capsys):
    cut(record(copied.out))
    with lease.hold(copied.out / "locks" / "doctor"):
        assert run("doctor", "--out", str(copied.out), "--repair") == 2
    assert "another doctor" in capsys.readouterr().err


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert run("doctor", "--out", str(tmp_path)) == 2
    assert capsys.readouterr().err == f"error: no results in {tmp_path}: name a results folder with --out\n"
