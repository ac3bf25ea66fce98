"""A disk that fills up, at any write: one line says which file needs how much, and the same line goes on."""

import re
import resource

import pytest

from bench.engine.store import check
from bench.report.records import read_run
from tests.engine.forked import end, start
from tests.engine.full_disk import disk
from tests.engine.tiny import differing, results, run

FULL = re.compile(r"error: no space for (\S+): it needs (\d+ kB|more), and \S+ GB are free; the same line goes on .*")
LIMIT = " kB, and files may not be so large here (see `ulimit -f`); the same line goes on"
SAID = ("set aside: ", "warning: ")


def all_is_whole(out):
    for path in (*out.glob("stages/*/*.safetensors"), *out.glob("stages/*/*.json")):
        check(path)
    warnings = []
    for path in out.glob("records/*.jsonl"):
        read_run(path, warnings)
    assert warnings == []


def fill_up_at_each_kind_of_write(line, out, capsys, damaged=False):
    """Runs a line until it is done, each time on a disk that is full from another kind of write on; returns these."""
    failed = []

    def refuses(kind):
        if kind in failed or kind.startswith("open"):  # a write will follow
            return False
        failed.append(kind)
        return True

    while True:
        with disk(out, refuses) as seen:
            status = run(*line)
        said = [text for text in capsys.readouterr().err.splitlines() if not text.startswith(SAID)]
        if status == 0:
            assert not seen.full
            return failed
        assert (status, len(said)) == (1, 1), (failed[-1], said)
        found = FULL.fullmatch(said[0])
        assert found, (failed[-1], said)
        assert found[1].startswith(str(out))
        if not damaged:
            all_is_whole(out)
        assert not list(out.glob("stages/*/owner")), failed[-1]
        assert len(failed) < 300  # else something half-written is found each time


@pytest.mark.xdist_group("grid")
def test_a_disk_that_is_full_from_any_write_on_costs_nothing_but_time(least, tmp_path, capsys):
    out = tmp_path / "out"
    line = [*(str(out) if word == str(least.out) else word for word in least.line), "--save-every", "0"]
    failed = "\n".join(fill_up_at_each_kind_of_write(line, out, capsys))
    assert differing(results(least.out), results(out)) == []
    names = ("manifest.json", "journal", "train.npy", "partial", "model", "online", "features", "probe-", "stage.json")
    for name in (*names, "jsonl", "table.md", "who.json", "beat"):
        assert re.search(rf"write .*{name}", failed), (name, failed)


@pytest.mark.xdist_group("grid")
def test_a_disk_that_is_full_while_damage_is_set_aside_costs_nothing_but_time(little, capsys):
    before = results(little.out)
    for path in (*little.out.glob("stages/*/stage.json"), *little.out.glob("records/*"), *little.out.glob("timings/*")):
        path.write_bytes(path.read_bytes().replace(b"e", b"f"))
    failed = fill_up_at_each_kind_of_write(little.line, little.out, capsys, damaged=True)
    assert differing(before, results(little.out)) == []
    assert {"mkdir set-aside", "write set-aside/log.jsonl"} <= set(failed)
    aside = [path.name for path in (little.out / "set-aside").iterdir()]
    assert (sum("stage.json" in name for name in aside), sum("records-" in name for name in aside)) == (5, 2)


@pytest.mark.xdist_group("processes")
def test_a_limit_on_the_size_of_files_ends_a_run_with_workers(little):
    before = results(little.out)
    for path in little.out.glob("stages/*/*"):
        path.unlink()
    assert end(start([*little.line, "--jobs", "2"], limit_files, 60_000)) == 1
    (said,) = little.out.with_name("out.log").read_text().splitlines()
    assert said.startswith(f"error: no space for {little.out}/stages/")
    assert LIMIT in said
    all_is_whole(little.out)
    assert run(*little.line) == 0
    assert differing(before, results(little.out)) == []


def limit_files(nbytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))
