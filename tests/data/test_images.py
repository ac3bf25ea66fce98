"""Images of a task: the same by every way of reading them, one batch ahead of a memory map, and never in the way."""

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.config import Seeds, Settings, TrainConfig
from bench.data import images as module
from bench.data.arrays import Split
from bench.data.images import TaskImages
from bench.engine.train import Views
from bench.evaluate import features
from bench.evaluate.features import pixels

COUNT, SIDE, BATCH, EPOCHS = 50, 6, 8, 3
STATS = ((0.5,) * 3, (0.25,) * 3)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def saved(array, tmp_path, monkeypatch):
    """The array as a memory map of which nothing is held in memory."""
    monkeypatch.setattr(module, "RESIDENT_BYTES", 0)
    np.save(tmp_path / "images.npy", array)
    return np.load(tmp_path / "images.npy", mmap_mode="r")


@pytest.fixture
def reads(monkeypatch):
    """(thread, positions) of every read."""
    seen = []
    real = TaskImages._read

    def read(self, index, buffer):
        seen.append((threading.current_thread(), index.tolist()))
        return real(self, index, buffer)

    monkeypatch.setattr(TaskImages, "_read", read)
    return seen


@pytest.fixture
def gate(monkeypatch):
    """An event that every read in the background waits for."""
    opened = threading.Event()
    real = TaskImages._read

    def read(self, index, buffer):
        if threading.current_thread() is not threading.main_thread():
            assert opened.wait(30)
        return real(self, index, buffer)

    monkeypatch.setattr(TaskImages, "_read", read)
    yield opened
    opened.set()


def planes(array, rows):
    return torch.from_numpy(array[np.asarray(rows)]).permute(0, 3, 1, 2)


def views_of(images, epochs=EPOCHS):
    settings = Settings(train=TrainConfig(batch=BATCH, epochs=epochs))
    return Views(images, settings, Seeds(), 0, SIDE, STATS)


def walk(views, start=0):
    per_epoch = COUNT // BATCH
    return [views(*divmod(step, per_epoch)) for step in range(start, per_epoch * EPOCHS)]


# --- the same images by every way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("way", ["in memory", "map held", "map", "map that can be written", "part of a map"])
def test_every_way_of_reading_gives_the_rows_in_the_order_asked_for(array, tmp_path, monkeypatch, way, channels):
    array = np.ascontiguousarray(array[..., :channels])
    np.save(tmp_path / "images.npy", array)
    rows = np.array([7, 0, 49, 3, 3, 21])
    source = array
    if "map" in way:
        source = np.load(tmp_path / "images.npy", mmap_mode="r+" if "written" in way else "r")
    if way == "part of a map":
        source, rows = source[3:], np.array([7, 0, 46, 3, 3, 21])
        array = array[3:]
    if way != "map held":
        monkeypatch.setattr(module, "RESIDENT_BYTES", 0)
    images = TaskImages(source, rows, "cpu")
    index = torch.tensor([5, 0, 2, 1, 4])
    expected = planes(array, rows[index.numpy()])
    found = [images[index], images[index]]
    images.read_ahead(index)
    found.append(images[index])
    assert all(torch.equal(each, expected) and each.is_contiguous() for each in found)
    assert len(images) == 6
    assert (images.height, images.width, images.channels) == (SIDE, SIDE, channels)
    assert (images.resident is not None) == (way == "map held")


@pytest.mark.parametrize("channels", [1, 3])
def test_buffers_in_the_order_of_the_array_give_the_same_images(array, saved, monkeypatch, channels):
    array, rows = np.ascontiguousarray(array[..., :channels]), np.arange(COUNT)[::-1]
    images = TaskImages(array, rows, "cpu")
    real = torch.empty
    # As before CUDA, but for the pinning, which needs one.
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory, **options: real(*size, **options))
    monkeypatch.setattr(images, "_pinned", True)
    assert images._buffer(torch.arange(4))[0].permute(1, 2, 0).is_contiguous()
    found = images[torch.tensor([3, 0, 9])]
    assert torch.equal(found, planes(array, rows[[3, 0, 9]]))
    assert found.is_contiguous()


def test_pixels_written_through_a_map_are_read_and_kept(saved):
    source = np.load(saved.filename, mmap_mode="c")
    source[4] = 9
    images = TaskImages(source, np.arange(COUNT), "cpu")
    for _ in range(2):
        assert bool((images[torch.tensor([4])] == 9).all())


def test_views_are_the_same_with_and_without_reading_ahead_in_every_epoch(array, saved):
    mapped = TaskImages(saved, np.arange(COUNT), "cpu")
    assert mapped.resident is None
    expected = walk(views_of(TaskImages(array, np.arange(COUNT), "cpu")))
    found = walk(views_of(mapped))
    assert len(found) == EPOCHS * (COUNT // BATCH)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("start", [1, 5, 6, 10, 17])
def test_a_start_in_the_middle_gives_the_rest_of_the_whole(array, saved, start):
    whole = walk(views_of(TaskImages(array, np.arange(COUNT), "cpu")))
    rest = walk(views_of(TaskImages(saved, np.arange(COUNT), "cpu")), start)
    assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_another_batch_than_the_one_read_ahead_is_read_as_asked(array, saved):
    images = TaskImages(saved, np.arange(COUNT), "cpu")
    images.read_ahead(torch.arange(4))
    assert torch.equal(images[torch.arange(8)], planes(array, range(8)))
    images.read_ahead(torch.arange(10, 14))
    assert torch.equal(images[torch.arange(4)], planes(array, range(4)))
    assert torch.equal(images[torch.arange(10, 14)], planes(array, range(10, 14)))


@pytest.mark.parametrize("sizes", [[], [3], [3, 1, 5]])
def test_batches_are_those_of_the_indices(array, saved, sizes):
    images = TaskImages(saved, np.arange(COUNT)[::-1], "cpu")
    parts = torch.randperm(COUNT)[: sum(sizes)].split(sizes)
    found = list(images.batches(parts))
    assert len(found) == len(sizes)
    for part, each in zip(parts, found, strict=True):
        assert torch.equal(each, planes(array[::-1], part.numpy()))


# --- what is read when ------------------------------------------------------------------------------------------------


def test_every_batch_but_the_first_is_read_once_in_the_background_and_none_beyond_the_end(saved, reads):
    views = views_of(TaskImages(saved, np.arange(COUNT), "cpu"))
    orders = []
    for epoch in range(EPOCHS):
        for index in range(COUNT // BATCH):
            views(epoch, index)
        orders += views.order[: COUNT // BATCH * BATCH].tolist()
    threads, positions = zip(*reads, strict=True)
    assert [position for part in positions for position in part] == orders
    assert threads[0] is threading.main_thread()
    assert threading.main_thread() not in threads[1:]


def test_a_whole_split_is_read_once_and_ahead(array, saved, reads, monkeypatch):
    monkeypatch.setattr(module, "RESIDENT_BYTES", 1 << 30)
    monkeypatch.setattr(features, "BATCH", 16)
    labels = np.zeros(COUNT, dtype=np.int64)
    expected = pixels(Split(array, labels, labels), 32)
    reads.clear()
    assert torch.equal(pixels(Split(saved, labels, labels), 32), expected)
    threads, positions = zip(*reads, strict=True)
    assert positions == ([*range(16)], [*range(16, 32)], [*range(32, 48)], [48, 49])
    assert threading.main_thread() not in threads[1:]


@pytest.mark.parametrize("held", ["in memory", "map held"])
def test_images_in_memory_are_not_read_ahead(array, saved, monkeypatch, held):
    if held == "map held":
        monkeypatch.setattr(module, "RESIDENT_BYTES", 1 << 30)
    images = TaskImages(array if held == "in memory" else saved, np.arange(COUNT), "cpu")
    monkeypatch.setattr(module, "_in_background", None)
    walk(views_of(images))


def test_images_are_not_held_when_asked_for_once_or_in_memory_already(array, saved, monkeypatch):
    monkeypatch.setattr(module, "RESIDENT_BYTES", 1 << 30)
    assert TaskImages(array, np.arange(COUNT), "cpu").resident is None
    assert TaskImages(saved, np.arange(COUNT), "cpu").resident is not None
    assert TaskImages(saved, np.arange(COUNT), "cpu", once=True).resident is None


def test_there_is_never_more_than_one_batch_ahead(saved, gate, monkeypatch):
    images = TaskImages(saved, np.arange(COUNT), "cpu")
    taken = []
    real = TaskImages._buffer
    monkeypatch.setattr(TaskImages, "_buffer", lambda self, index: (taken.append(index.tolist()), real(self, index))[1])
    images.read_ahead(torch.arange(4))
    images.read_ahead(torch.arange(4))
    assert taken == [[0, 1, 2, 3]]
    other = threading.Thread(target=images.read_ahead, args=(torch.arange(8),), daemon=True)
    other.start()
    other.join(0.2)
    assert len(taken) == 1
    gate.set()
    other.join(30)
    assert len(taken) == 2


# --- errors, threads, memory ------------------------------------------------------------------------------------------


class Torn(Exception):
    pass


@pytest.mark.parametrize("error", [Torn("page 7"), MemoryError(), KeyboardInterrupt()], ids=lambda e: type(e).__name__)
def test_an_error_of_the_background_is_raised_as_itself_where_the_batch_is_asked_for(saved, monkeypatch, error):
    views = views_of(TaskImages(saved, np.arange(COUNT), "cpu"))
    expected = views_of(TaskImages(saved, np.arange(COUNT), "cpu"))(0, 1)
    real = TaskImages._read

    def read(self, index, buffer):
        if threading.current_thread() is not threading.main_thread():
            raise error
        return real(self, index, buffer)

    monkeypatch.setattr(TaskImages, "_read", read)
    views(0, 0)
    with pytest.raises(type(error)) as caught:
        views(0, 1)
    assert caught.value is error
    monkeypatch.setattr(TaskImages, "_read", real)
    assert torch.equal(views(0, 1), expected)


def test_a_position_outside_of_the_task_is_an_error_of_the_reader(saved):
    images = TaskImages(saved, np.arange(5), "cpu")
    images.read_ahead(torch.tensor([1, 5]))
    with pytest.raises(IndexError):
        images[torch.tensor([1, 5])]


def test_no_thread_is_left_by_a_walk_or_by_images_that_are_let_go(saved, gate):
    before = set(threading.enumerate())
    images = TaskImages(saved, np.arange(COUNT), "cpu")
    images.read_ahead(torch.arange(4))
    (reader,) = set(threading.enumerate()) - before
    gone = weakref.ref(images)
    del images
    gate.set()
    reader.join(30)
    gc.collect()
    assert gone() is None
    walk(views_of(TaskImages(saved, np.arange(COUNT), "cpu")))
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert set(threading.enumerate()) <= before


HANGS = """
import os, sys, time
import numpy as np, torch
from bench.data import images
images.RESIDENT_BYTES = 0
images.TaskImages._read = lambda *arguments: time.sleep(600)
by_itself = os.fork()  # which spares the second the import of torch
held = images.TaskImages(np.zeros((5, 8, 8, 1), np.uint8), np.arange(5), "cpu")
held.read_ahead(torch.arange(3))
os.write(1, b"reading\\n")  # at once, between those of the other process
if by_itself:
    print(os.waitstatus_to_exitcode(os.waitpid(by_itself, 0)[1]), flush=True)
    raise KeyboardInterrupt
"""


@pytest.fixture(scope="module")
def hanging():
    """Two processes whose readers hang: one that comes to its end by itself, and then one that is interrupted."""
    command = [sys.executable, "-c", HANGS]
    return subprocess.run(command, cwd=REPOSITORY, timeout=120, capture_output=True, text=True)


@pytest.mark.xdist_group("images")
@pytest.mark.parametrize("end", ["by itself", "interrupted"])
def test_a_reader_that_hangs_does_not_keep_the_process_from_ending(hanging, end):
    *reading, code = hanging.stdout.split()
    assert reading == ["reading", "reading"], hanging.stderr
    if end == "by itself":
        assert code == "0"
    else:
        assert hanging.returncode == -signal.SIGINT, hanging.stderr


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("order", ["in order", "shuffled"])
def test_memory_stays_flat_on_a_walk_over_a_large_map(tmp_path, monkeypatch, order):
    monkeypatch.setattr(module, "RESIDENT_BYTES", 0)
    count, side, batch, allowed = 1536, 256, 32, 48 << 20
    shape = (count, side, side, 1)
    np.lib.format.open_memmap(tmp_path / "large.npy", mode="w+", dtype=np.uint8, shape=shape).flush()
    array = np.load(tmp_path / "large.npy", mmap_mode="r")
    assert array.nbytes >= 2 * allowed
    positions = torch.arange(count) if order == "in order" else torch.randperm(count)
    used = []
    for images in TaskImages(array, np.arange(count), "cpu").batches(positions.split(batch)):
        assert len(images) == batch
        used.append(resident_bytes())
    assert max(used) - used[0] < allowed
