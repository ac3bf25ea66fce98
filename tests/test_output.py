"""Readers of what is printed may go: the work goes on, and its exit status is its own."""

import os
import signal
import sys

import pytest

from bench.output import make_output_last
from tests.engine.forked import end, pause_in_step, start, wait_until
from tests.engine.tiny import differing, paint_folder, results, run, words

pytestmark = pytest.mark.xdist_group("processes")


def nobody_reads(then=lambda *_: None, *args):
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(reader)
    then(*args)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_grid_whose_reader_has_gone_is_made_and_reported(tmp_path, jobs):
    pictures, out, calm = paint_folder(tmp_path / "pictures"), tmp_path / "out", tmp_path / "calm"
    assert run(*words(pictures, calm, "finetune")) == 0
    assert end(start([*words(pictures, out, "finetune"), "--jobs", str(jobs)], nobody_reads)) == 0
    assert differing(results(calm), results(out)) == []
    assert (out / "report" / "table.md").read_bytes() == (calm / "report" / "table.md").read_bytes()
    assert not list((out / "logs").iterdir())


def test_a_grid_whose_reader_has_gone_stops_with_its_own_status(tmp_path):
    pictures, sign = paint_folder(tmp_path / "pictures"), tmp_path / "sign"
    process = start(words(pictures, tmp_path / "out", "finetune"), nobody_reads, pause_in_step, 3, sign)
    wait_until(sign.exists)
    assert end(process, signal.SIGINT) == 130


def test_text_goes_nowhere_from_then_on_and_what_was_written_before_is_there(monkeypatch):
    reader, writer = os.pipe()
    with open(writer, "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        make_output_last()
        print("first \udcff\N{SNOWMAN}", flush=True)
        assert os.read(reader, 99) == b"first \\udcff\\u2603\n"
        os.close(reader)
        for _ in range(3):
            print("x" * 100_000)
        print("last", flush=True)
