"""The decoded cache of image folders: found again, made again, and never taken for whole when it is not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from image_folders import caches, damage, fill, paint, read
from PIL import Image

from bench.data import decode, folders
from bench.data.listing import class_folders, split_of
from bench.errors import UserError
from bench.lease import hold, owners_of


def refuse_to_decode(monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("decoded again")

    monkeypatch.setattr(folders, "write_split", fail)


def test_a_second_load_decodes_nothing_and_gives_the_same_dataset(tmp_path, monkeypatch):
    root = fill(tmp_path / "pets")
    first = read(root, tmp_path)
    refuse_to_decode(monkeypatch)
    second = read(root, tmp_path)
    assert isinstance(second.train.images, np.memmap)
    assert not second.train.images.flags.writeable
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert (first.digest, first.mean, first.std) == (second.digest, second.mean, second.std)


def test_the_decoded_files_are_npy_files_with_a_json_manifest(tmp_path):
    data = read(fill(tmp_path / "pets"), tmp_path)
    (cache,) = caches(tmp_path)
    np.testing.assert_array_equal(np.load(cache / "train.npy", allow_pickle=False), data.train.images)
    manifest = json.loads((cache / "manifest.json").read_text())
    assert manifest["shape"]["train"] == list(data.train.images.shape)
    assert sorted(path.name for path in cache.iterdir()) == ["manifest.json", "test.npy", "train.npy"]


@pytest.mark.parametrize("change", ["touched", "added", "removed", "resized"])
def test_another_listing_or_size_is_decoded_anew(tmp_path, change):
    root = fill(tmp_path / "pets")
    read(root, tmp_path)
    path = root / "cat" / "00.png"
    if change == "touched":
        os.utime(path, ns=(1, 1))
    if change == "added":
        paint(root / "cat" / "new.png")
    if change == "removed":
        path.unlink()
    read(root, tmp_path, image_size=4 if change == "resized" else None)
    assert len(caches(tmp_path)) == 2


def test_the_digest_follows_the_content_and_not_the_place_or_the_times(tmp_path):
    root = fill(tmp_path / "pets")
    digest = read(root, tmp_path).digest
    moved = tmp_path / "elsewhere" / "animals"
    shutil.copytree(root, moved, copy_function=shutil.copyfile)
    for path in moved.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    assert read(moved, tmp_path).digest == digest
    paint(moved / "cat" / "00.png", value=777)
    assert read(moved, tmp_path).digest != digest


def test_the_statistics_are_those_of_the_train_images_over_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "BATCH", 7)
    data = read(fill(tmp_path / "pets"), tmp_path)
    values = np.asarray(data.train.images, dtype=np.float64).reshape(-1, 3) / 255
    np.testing.assert_allclose(data.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(data.std, values.std(0), rtol=1e-12)


@pytest.mark.parametrize("fault", ["no manifest", "torn manifest", "short images", "no images"])
def test_a_cache_that_is_not_whole_is_made_again(tmp_path, fault):
    root = fill(tmp_path / "pets")
    first = read(root, tmp_path)
    expected = np.array(first.train.images)
    (cache,) = caches(tmp_path)
    del first
    if fault == "no manifest":
        (cache / "manifest.json").unlink()
        (cache / "train.npy").write_bytes(b"half")
    if fault == "torn manifest":
        (cache / "manifest.json").write_text('{"schema": 1, "key"')
    if fault == "short images":
        os.truncate(cache / "train.npy", (cache / "train.npy").stat().st_size - 1)
    if fault == "no images":
        (cache / "train.npy").unlink()
    np.testing.assert_array_equal(read(root, tmp_path).train.images, expected)


def test_a_killed_decode_leaves_nothing_that_is_taken_for_whole(tmp_path):
    root = fill(tmp_path / "pets")
    program = (
        "import sys, time; from pathlib import Path; from bench.data import build, decode, folders\n"
        "decode.BATCH = 4\n"
        "def slow(*arguments, **options):\n"
        "    options['advance'] = lambda count: (print('.', flush=True), time.sleep(60))\n"
        "    return build.write_split(*arguments, **options)\n"
        "folders.write_split = slow\n"
        "folders.load_folder('folder', Path(sys.argv[1]), out=Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", program, str(root), str(tmp_path / "out")]
    repository = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=repository) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    (cache,) = caches(tmp_path)
    assert (cache / ".train.npy.tmp").exists()
    assert not (cache / "manifest.json").exists()
    started = time.monotonic()
    data = read(root, tmp_path)
    assert time.monotonic() - started < 30  # nobody waits for the dead process
    assert len(data.train.images) + len(data.test.images) == 40
    assert not (cache / ".train.npy.tmp").exists()


def test_a_failed_decode_leaves_no_manifest(tmp_path):
    root = fill(tmp_path / "pets")
    (root / "cat" / "00.png").write_bytes(b"")
    with pytest.raises(UserError):
        read(root, tmp_path)
    assert not list((tmp_path / "out").rglob("manifest.json"))


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path):
    root = fill(tmp_path / "pets")
    (tmp_path / "out").write_text("a file in its place")
    with pytest.raises(UserError, match="cannot be written"):
        read(root, tmp_path)


def test_who_decodes_is_waited_for(tmp_path):
    root = fill(tmp_path / "pets")
    source = folders.folder_source("folder", root, None)
    reading = threading.Thread(target=read, args=(root, tmp_path), daemon=True)
    with hold(folders.cache_of(source, tmp_path / "out")) as lease:
        reading.start()
        reading.join(0.3)
        assert [path.name for path in lease.place.iterdir()] == ["owner"]
    reading.join(30)
    assert (lease.place / "manifest.json").exists()


def test_who_was_taken_for_dead_while_decoding_stops_and_takes_what_the_other_has_made(tmp_path, monkeypatch):
    root, calls, real = fill(tmp_path / "pets"), [], folders.write_split
    (tmp_path / "calm").mkdir()
    expected = np.array(read(root, tmp_path / "calm").test.images)

    def write_split(target, *args, **options):
        calls.append(target.name)
        if len(calls) == 1:
            (owner,) = owners_of(target.parent)
            os.utime(owner / "beat", (0, 0))
            read(root, tmp_path)
        return real(target, *args, **options)

    monkeypatch.setattr(folders, "write_split", write_split)
    np.testing.assert_array_equal(read(root, tmp_path).test.images, expected)
    assert calls == ["train.npy", "train.npy", "test.npy"]
    (cache,) = caches(tmp_path)
    assert sorted(path.name for path in cache.iterdir()) == ["manifest.json", "test.npy", "train.npy"]


# files that cannot be read


@pytest.mark.parametrize("kind", ["empty", "text", "torn"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, kind):
    root = fill(tmp_path / "pets")
    damage(root / "dog" / "07.png", kind)
    with pytest.raises(UserError, match=r"07\.png") as caught:
        read(root, tmp_path)
    assert str(root / "dog" / "07.png") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_skipped_files_are_counted_noted_and_said_once(tmp_path, capsys):
    root = fill(tmp_path / "pets")
    whole = read(root, tmp_path)
    for name in ("cat/03.png", "dog/07.png"):
        damage(root / name, "torn")
    data = read(root, tmp_path, skip_corrupt=True, quiet=True)
    said = capsys.readouterr().err
    assert len(data.train.images) + len(data.test.images) == 38
    assert np.bincount(np.concatenate([data.train.labels, data.test.labels])).tolist() == [19, 19]
    assert data.note == "2 unreadable images left out"
    assert said.count("2 unreadable images left out") == 1
    assert data.digest != whole.digest


def test_the_rest_keeps_its_labels_when_files_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "BATCH", 5)
    root = fill(tmp_path / "pets")
    damaged = [f"dog/{index:02}.png" for index in range(20) if split_of(f"dog/{index:02}.png") == "train"][5:8]
    for name in damaged:
        damage(root / name, "empty")
    data = read(root, tmp_path, skip_corrupt=True)
    kept = [entry for entry in class_folders(root) if entry.split == "train" and entry.path not in damaged]
    for entry, image, label in zip(kept, data.train.images, data.train.labels, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(root / entry.path)))
        assert data.classes[label] == entry.label


def test_a_cache_with_skipped_files_is_refused_without_the_option(tmp_path):
    root = fill(tmp_path / "pets")
    damage(root / "cat" / "03.png", "empty")
    read(root, tmp_path, skip_corrupt=True)
    with pytest.raises(UserError, match=r"cat/03\.png"):
        read(root, tmp_path)


def test_a_class_of_which_nothing_can_be_read_is_named(tmp_path):
    root = fill(tmp_path / "pets")
    for path in (root / "cat").iterdir():
        damage(path, "empty")
    with pytest.raises(UserError, match="no training image of class cat"):
        read(root, tmp_path, skip_corrupt=True)
