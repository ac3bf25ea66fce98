"""Every bit of what is written is covered: whatever one of them is turned into, nothing else is read for it."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from bench.engine.checkpoint import load_tensors, save_tensors
from bench.report.records import whole_lines
from bench.seal import Damaged, check_tensors, read_sealed, seal_file, sealed

ROWS = [{"kind": "config", "run_id": "a"}, {"kind": "watch", "after_task": 0, "rank": 2.5}, {"kind": "failure"}]


def flipped(data):
    """The bytes with each bit turned in its turn, and then cut at each place."""
    for position in range(len(data)):
        for bit in range(8):
            yield data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]
    for length in range(len(data)):
        yield data[:length]


def test_tensors_with_any_bit_turned_or_cut_anywhere_are_damaged(tmp_path):
    path = tmp_path / "key" / "model.safetensors"
    path.parent.mkdir()
    save_tensors(path, {"weight": torch.arange(6.0), "step": torch.tensor(3)}, {"step": 3})
    assert load_tensors(path)[1] == {"step": 3}
    for data in flipped(path.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(Damaged):
            check_tensors(path)


def test_a_fact_with_any_bit_turned_or_cut_anywhere_is_damaged(tmp_path):
    path = tmp_path / "stage.json"
    whole = seal_file(path, {"kind": "task", "samples": 640})
    for data in flipped(whole):
        path.write_bytes(data)
        try:
            assert data in (whole[:-1], whole) or read_sealed(path) is None
        except Damaged:
            continue


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]], ids=["three rows", "one row"])
def test_a_record_with_any_bit_turned_or_cut_anywhere_never_says_anything_else(rows):
    whole = b"".join(sealed(row) + b"\n" for row in rows)
    for data in flipped(whole):
        lines, faults = whole_lines(data)
        assert all(line.row in rows for line in lines)
        cut_between_lines = whole.startswith(data) and (not data or data.endswith((b"}", b"}\n")))
        assert faults or cut_between_lines


@pytest.mark.parametrize("kind", ["no seal", "pickle", "empty", "another place", "another stage", "a huge header"])
def test_a_foreign_file_is_damaged(tmp_path, kind):
    path, other = tmp_path / "key" / "model.safetensors", tmp_path / "other" / "model.safetensors"
    for folder in (path.parent, other.parent):
        folder.mkdir()
    tensors = {"weight": torch.arange(6.0)}
    if kind == "no seal":
        save_file(tensors, path, {"note": "{}"})
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(tensors))
    elif kind == "a huge header":
        path.write_bytes(b"\xff" * 64)
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        source = other if kind == "another stage" else path.with_name("partial.safetensors")
        save_tensors(source, tensors)
        source.replace(path)
    with pytest.raises(Damaged):
        load_tensors(path)


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(Damaged, match=r"model\.safetensors is gone"):
        load_tensors(tmp_path / "model.safetensors")
