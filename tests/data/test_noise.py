"""Random pixels: of the size and number asked for, the same everywhere, and whole on disk or not there."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench.commands import listing
from bench.data import noise
from bench.data.datasets import load
from bench.data.scenarios import build
from bench.errors import UserError
from bench.files import NoSpace
from bench.lease import hold

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def mapped(monkeypatch):
    """Every split becomes a memory map, written in parts of about 40 images of 8x8x3."""
    monkeypatch.setattr(noise, "MEMORY_BYTES", 0)
    monkeypatch.setattr(noise, "_CHUNK_BYTES", 40 * 192 + 5)


@pytest.mark.parametrize(
    ("spec", "train", "test"),
    [
        ("noise:5", (10_000, 5, 5, 3), (1000, 5, 5, 3)),
        ("noise:6x1", (10_000, 6, 6, 1), (1000, 6, 6, 1)),
        ("noise:7x3x129", (129, 7, 7, 3), (12, 7, 7, 3)),
    ],
)
def test_a_spec_says_side_channels_and_number(tmp_path, spec, train, test):
    data = load(spec, out=tmp_path)
    assert (data.train.images.shape, data.test.images.shape) == (train, test)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.tolist() == [index % 10 for index in range(train[0])]
    assert data.test.labels.tolist() == [index % 10 for index in range(test[0])]
    assert len(data.classes) == 10
    assert (data.name, data.note) == (spec, "random pixels: for timing only")


@pytest.mark.parametrize(
    "spec",
    [
        "noise:",
        "noise:x",
        "noise:0",
        "noise:-4",
        "noise:8.5",
        "noise:08",
        "noise:10000",
        "noise:٣",
        "noise:8x2",
        "noise:8x100",
        "noise:8x3x",
        "noise:8x3x0",
        "noise:8x3x99",
        "noise:8x3x100x1",
        "noise:8 ",
        "noise:noise:8",
    ],
)
def test_a_bad_spec_is_answered_by_the_form_of_a_good_one(tmp_path, spec):
    with pytest.raises(UserError) as caught:
        load(spec, out=tmp_path)
    text = str(caught.value)
    assert f"'{spec}'" in text
    assert "noise:SIDExCHANNELSxCOUNT" in text
    assert "\n" not in text
    assert list(tmp_path.iterdir()) == []


def test_the_name_alone_is_answered_by_its_form(tmp_path):
    with pytest.raises(UserError, match="noise:SIDE"):
        load("noise", out=tmp_path)


def test_it_is_listed(capsys):
    listing.show("datasets")
    assert "noise:SIDE" in capsys.readouterr().out


def test_content_is_the_same_in_memory_and_on_disk_and_at_every_time(tmp_path, monkeypatch, mapped):
    on_disk = load("noise:8x3x200", out=tmp_path / "a")
    monkeypatch.setattr(noise, "MEMORY_BYTES", 1 << 30)
    in_memory = load("noise:8x3x200", out=tmp_path / "b")
    assert isinstance(on_disk.train.images, np.memmap)
    assert not isinstance(in_memory.train.images, np.memmap)
    assert not (tmp_path / "b").exists()
    np.testing.assert_array_equal(on_disk.train.images, in_memory.train.images)
    np.testing.assert_array_equal(on_disk.test.images, in_memory.test.images)
    assert on_disk.digest == in_memory.digest
    # As they were when this was written: the digest promises the same pixels on every machine.
    assert in_memory.train.images[0, 0, :2].tolist() == [[95, 130, 194], [217, 207, 235]]


def test_the_digest_follows_shape_and_number(tmp_path):
    specs = ["noise:8x3x200", "noise:8x1x200", "noise:9x3x200", "noise:8x3x210", "noise:8"]
    assert len({load(spec, out=tmp_path).digest for spec in specs}) == len(specs)
    assert load("noise:8x3x10000", out=tmp_path).digest == load("noise:8", out=tmp_path).digest


def test_no_two_images_are_alike_and_all_values_are_as_likely(tmp_path, monkeypatch):
    monkeypatch.setattr(noise, "_CHUNK_BYTES", 40 * 192)
    data = load("noise:8x3x2000", out=tmp_path)
    images = np.concatenate([data.train.images, data.test.images])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
    counts = np.bincount(images.reshape(-1), minlength=256)
    assert abs(counts / images.size * 256 - 1).max() < 0.15
    values = data.train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(data.mean, values.mean(0), atol=5e-3)
    np.testing.assert_allclose(data.std, values.std(0), atol=5e-3)


def test_the_map_is_read_only_and_made_once(tmp_path, monkeypatch, mapped):
    first = load("noise:8x3x200", out=tmp_path).train.images
    # A second load writes nothing, and holds nothing: the folder may be read-only by then.
    monkeypatch.setattr(noise, "_write", None)
    monkeypatch.setattr(noise, "hold", None)
    again = load("noise:8x3x200", out=tmp_path).train.images
    assert not again.flags.writeable
    np.testing.assert_array_equal(first, again)
    folder = tmp_path / "datasets" / "noise-8x3x200"
    assert sorted(path.name for path in folder.iterdir()) == ["test.npy", "train.npy"]


@pytest.mark.parametrize("fault", ["short", "empty", "not npy", "another shape", "absent"])
def test_a_file_that_is_not_whole_is_made_again(tmp_path, mapped, fault):
    expected = np.array(load("noise:8x3x200", out=tmp_path).train.images)
    path = tmp_path / "datasets" / "noise-8x3x200" / "train.npy"
    whole = path.read_bytes()
    path.unlink()
    if fault == "another shape":
        np.save(path, np.zeros((200, 8, 8, 1), np.uint8))
    elif fault != "absent":
        path.write_bytes({"short": whole[:-1], "empty": b"", "not npy": b"x" * 500}[fault])
    np.testing.assert_array_equal(load("noise:8x3x200", out=tmp_path).train.images, expected)


def test_a_writer_that_is_killed_leaves_nothing_that_is_taken_for_whole(tmp_path, mapped):
    program = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})
from bench.data import noise
noise.MEMORY_BYTES, noise._CHUNK_BYTES = 0, {noise._CHUNK_BYTES}
def hang(file):
    print("written", flush=True)
    time.sleep(60)
os.fsync = hang
noise.load_noise("noise:8x3x200", out=Path(sys.argv[1]))
"""
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    folder = tmp_path / "datasets" / "noise-8x3x200"
    assert not (folder / "train.npy").exists()
    assert list(folder.glob("owner/*/train.npy"))
    load("noise:8x3x200", out=tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["test.npy", "train.npy"]


def test_of_two_processes_one_writes_and_the_other_waits(tmp_path, mapped):
    folder = tmp_path / "datasets" / "noise-8x3x200"
    loading = threading.Thread(target=load, args=("noise:8x3x200",), kwargs={"out": tmp_path}, daemon=True)
    with hold(folder):
        loading.start()
        loading.join(0.3)
        assert [path.name for path in folder.iterdir()] == ["owner"]
    loading.join(30)
    assert (folder / "test.npy").exists()


def test_without_room_one_line_says_so_and_nothing_is_written(tmp_path, monkeypatch, mapped):
    monkeypatch.setattr(noise.shutil, "disk_usage", lambda path: SimpleNamespace(free=38_399))
    with pytest.raises(UserError, match="random pixels need") as caught:
        load("noise:8x3x200", out=tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.npy*"))
    monkeypatch.setattr(noise.shutil, "disk_usage", lambda path: SimpleNamespace(free=38_400))
    load("noise:8x3x200", out=tmp_path)


def test_what_cannot_be_written_is_one_line(tmp_path, mapped):
    (tmp_path / "datasets").write_text("")
    with pytest.raises(UserError, match="cannot be written") as caught:
        load("noise:8x3x200", out=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_disk_that_fills_up_is_told_from_that_with_the_space_needed(tmp_path, monkeypatch, mapped):
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(NoSpace, match=r"train\.npy: it needs 38 kB, and .* are free"):
        load("noise:8x3x200", out=tmp_path)
    assert not list(tmp_path.rglob("*.npy*"))


@pytest.mark.parametrize("scenario", ["class_il", "data_il"])
def test_the_fewest_images_make_every_task(tmp_path, scenario):
    data = load("noise:4x1x100", out=tmp_path)
    tasks = build(scenario, data, tasks=5, order_seed=0, split_seed=0).tasks
    assert all(len(task.train) == 20 and len(task.test) for task in tasks)
