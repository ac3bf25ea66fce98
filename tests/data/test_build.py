"""Decoding that was stopped: what is whole is not decoded again, and nothing damaged or torn is believed."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from image_folders import caches, damage, fill
from PIL import Image

from bench import cli
from bench.data import build, decode, folders
from bench.data.folders import How, cache_key, folder_source, load_folder, load_source
from bench.data.listing import Entry
from bench.errors import UserError
from bench.lease import hold

CHUNK, TRAIN, TEST = 4, 30, 14


class Pets(NamedTuple):
    """A folder of 30 train and 14 test images, where they are decoded to, and what comes out undisturbed."""

    root: Path
    out: Path
    whole: dict[str, bytes]


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "BATCH", CHUNK)
    root = tmp_path / "pets"
    fill(root / "train", count=15)  # 30 images: the last chunk is not a full one
    fill(root / "test", count=7)
    load_folder("folder", root, out=tmp_path / "whole")
    (cache,) = (tmp_path / "whole" / "datasets").iterdir()
    return Pets(root, tmp_path / "out", content(cache))


def content(cache):
    return {path.name: path.read_bytes() for path in cache.iterdir() if path.name != "lock"}


def stop_after(pets, chunks):
    """Decodes in a process that kills itself after so many chunks; returns the folder it leaves."""
    pid = os.fork()
    if not pid:
        try:
            load_and_die(pets, chunks)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    (cache,) = caches(pets.out.parent)
    assert not (cache / "manifest.json").exists()
    return cache


def load_and_die(pets, chunks):
    add, left = build.Journal.add, [chunks]

    def counting(journal, chunk):
        add(journal, chunk)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    build.Journal.add = counting
    load_folder("folder", pets.root, out=pets.out)


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that are decoded from now on."""
    names, real = [], decode._decoded

    def noting(path, shape):
        names.append(path)
        return real(path, shape)

    monkeypatch.setattr(decode, "_decoded", noting)
    return names


@pytest.mark.parametrize("where", ["train", "test"])
def test_after_a_kill_only_the_rest_is_decoded_and_the_result_is_the_same(pets, decoded, where):
    cache = stop_after(pets, 3 if where == "train" else 8 + 1)
    files = 3 * CHUNK if where == "train" else TRAIN + CHUNK
    load_folder("folder", pets.root, out=pets.out)
    assert len(decoded) == TRAIN + TEST - files
    assert content(cache) == pets.whole


def test_several_kills_add_up(pets, decoded):
    for _ in range(3):
        cache = stop_after(pets, 2)
    load_folder("folder", pets.root, out=pets.out)
    assert len(decoded) == TRAIN + TEST - 3 * 2 * CHUNK
    assert content(cache) == pets.whole


@pytest.mark.parametrize(
    ("fault", "kept"),
    [("second chunk", 1), ("cut data", 2), ("no data", 0), ("torn line", 2), ("no newline", 3), ("no journal", 0)],
)
def test_a_chunk_counts_while_its_line_and_its_bytes_are_whole(pets, decoded, fault, kept):
    cache = stop_after(pets, 3)
    images, journal = cache / ".train.npy.tmp", cache / "journal"
    data, lines = bytearray(images.read_bytes()), journal.read_text()
    nbytes = CHUNK * 8 * 8 * 3
    if fault == "second chunk":
        data[build.NPY_HEADER + nbytes + 5] ^= 1
        images.write_bytes(data)
    if fault == "cut data":
        os.truncate(images, build.NPY_HEADER + 3 * nbytes - 1)
    if fault == "no data":
        images.unlink()
    if fault == "torn line":
        journal.write_text(lines[:-20])
    if fault == "no newline":
        journal.write_text(lines[:-1])
    if fault == "no journal":
        journal.unlink()
    load_folder("folder", pets.root, out=pets.out)
    assert len(decoded) == TRAIN + TEST - kept * CHUNK
    assert content(cache) == pets.whole


def test_a_torn_line_does_not_swallow_the_chunk_behind_it(pets, decoded):
    cache = stop_after(pets, 3)
    lines = (cache / "journal").read_text()
    (cache / "journal").write_text(lines[:-20])
    stop_after(pets, 2)
    load_folder("folder", pets.root, out=pets.out)
    assert len(decoded) == TRAIN + TEST - 4 * CHUNK
    assert content(cache) == pets.whole


def test_chunks_that_are_not_believed_leave_the_journal(pets):
    cache = stop_after(pets, 3)
    os.truncate(cache / ".train.npy.tmp", build.NPY_HEADER + CHUNK * 8 * 8 * 3)
    stop_after(pets, 1)
    with hold(cache) as lease:
        assert [chunk.files for chunk in build.Journal(cache / "journal", lease).chunks] == [CHUNK, CHUNK]


def test_decoding_that_fails_on_a_file_goes_on_behind_it_with_skip_corrupt(pets, decoded, monkeypatch):
    names = sorted((pets.root / "train").rglob("*.png"))
    damage(names[2 * CHUNK], "empty")
    with pytest.raises(UserError, match=names[2 * CHUNK].name):
        load_folder("folder", pets.root, out=pets.out)
    decoded.clear()
    data = load_folder("folder", pets.root, out=pets.out, skip_corrupt=True, quiet=True)
    assert len(decoded) == TRAIN + TEST - 2 * CHUNK
    assert len(data.train.images) == TRAIN - 1


def test_files_that_were_skipped_before_a_kill_are_refused_without_the_option(pets, monkeypatch):
    names = sorted((pets.root / "train").rglob("*.png"))
    damage(names[1], "empty")
    add, calls = build.Journal.add, []

    def failing(journal, chunk):
        add(journal, chunk)
        calls.append(chunk)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(build.Journal, "add", failing)
    with pytest.raises(KeyboardInterrupt):
        load_folder("folder", pets.root, out=pets.out, skip_corrupt=True)
    monkeypatch.setattr(build.Journal, "add", add)
    with pytest.raises(UserError, match=f"{names[1].name}: cannot be read as an image"):
        load_folder("folder", pets.root, out=pets.out)
    data = load_folder("folder", pets.root, out=pets.out, skip_corrupt=True, quiet=True)
    np.testing.assert_array_equal(data.train.images[1], np.asarray(Image.open(names[2])))


@pytest.mark.parametrize("threads", [1, 5])
def test_the_number_of_threads_changes_nothing(pets, threads):
    load_source(folder_source("folder", pets.root, None), pets.out, How(quiet=True, threads=threads))
    (cache,) = caches(pets.out.parent)
    assert content(cache) == pets.whole


# room on disk


def free_space(monkeypatch, nbytes):
    usage = folders.shutil.disk_usage("/")
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: usage._replace(free=nbytes))


def test_without_room_nothing_is_decoded_and_one_line_says_how_much_is_needed(pets, decoded, monkeypatch):
    free_space(monkeypatch, (TRAIN + TEST) * 8 * 8 * 3 - 1)
    with pytest.raises(UserError, match=r"44 images of 8 x 8 x 3 need 8 kB in .*; 8 kB are free: give --out") as caught:
        load_folder("folder", pets.root, out=pets.out)
    assert "\n" not in str(caught.value)
    assert decoded == []


def test_what_is_there_already_needs_no_room(pets, monkeypatch):
    cache = stop_after(pets, 3)
    free_space(monkeypatch, (TRAIN + TEST - 3 * CHUNK) * 8 * 8 * 3)
    load_folder("folder", pets.root, out=pets.out)
    assert content(cache) == pets.whole


# what results on disk are named by


def test_the_key_of_a_listing_stays_what_it_was():
    entries = [Entry("cat/0.png", "train", "", "cat", 10, 1), Entry("düg/\udcff.png", "test", "", "düg", 11, 2)]
    for layout, part, size in (("folder", entries, None), ("domains", entries[:1], 32), ("folder", [], 32)):
        text = json.dumps([1, layout, size, part])
        assert cache_key(layout, part, size) == build.hashlib.sha256(text.encode()).hexdigest()[:16]
    assert cache_key("folder", entries, None) == "2c85882233b52bc0"


def test_the_digest_of_images_stays_what_it_was(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "pics" / name).mkdir(parents=True)
        for index in range(20):
            pixels = np.arange(8 * 8 * 3).reshape(8, 8, 3) * (7 + label) + index * 13 & 255
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pics" / name / f"{index:02}.png")
    data = load_folder("folder", tmp_path / "pics", out=tmp_path)
    assert data.digest == "5158b0bfab63f3f308f77db485409052b694a02fa2b7ab6fa5b682ac47e2b908"


# the command


def test_building_a_dataset_says_what_it_takes_and_what_came_out(pets, capsys):
    words = ("data", "build", f"folder:{pets.root}", "--out", str(pets.out), "--jobs", "2")
    assert cli.main(words) == 0
    first = capsys.readouterr()
    (cache,) = caches(pets.out.parent)
    assert content(cache) == pets.whole
    assert f"44 images of 8 x 8 x 3 need 8 kB in {cache}; " in first.err
    counts = f"{TRAIN} + {TEST} images of 8 x 8 x 3"
    assert f"folder:pets is decoded: {counts}, 8 kB, in {cache}" in first.out
    assert cli.main(words) == 0
    second = capsys.readouterr()
    assert f"folder:pets was decoded already: {counts}" in second.out
    assert second.err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cifar10",), "cifar10 is not made of image files"),
        (("noise:32",), "noise:32 is not made of image files"),
        (("pakcs",), "unknown dataset 'pakcs' (did you mean 'pacs'?)"),
        (("imagenet1k",), "imagenet1k: --data-dir DIR is missing"),
        ((), "required: NAME"),
        (("pacs", "--jobs", "0"), "--jobs: takes a whole number above 0"),
        (("pacs", "--job", "2"), "unknown argument '--job' (did you mean '--jobs'?)"),
    ],
)
def test_what_cannot_be_built_is_named_in_one_line(capsys, words, message):
    assert cli.main(("data", "build", *words)) == 2
    text = capsys.readouterr()
    assert message in text.err
    assert text.err.count("\n") == 1
    assert text.out == ""


@pytest.mark.parametrize(
    ("words", "message"), [(("bild",), "data cannot 'bild' (did you mean 'build'?)"), ((), "required: build|check")]
)
def test_a_verb_that_data_does_not_have_is_named(capsys, words, message):
    assert cli.main(("data", *words)) == 2
    assert message in capsys.readouterr().err


# --- an owner that was taken for dead ---------------------------------------------------------------------------------


def test_what_another_process_writes_between_is_found_and_mended_next_time(pets, decoded, monkeypatch):
    add, spoilt = build.Journal.add, []

    def spoiling(journal, chunk):
        add(journal, chunk)
        if len(journal.chunks) == 3 and not spoilt:
            spoilt.append(journal.path.with_name(".train.npy.tmp"))
            with spoilt[0].open("r+b") as file:
                file.seek(build.NPY_HEADER + CHUNK * 8 * 8 * 3)
                file.write(bytes(9))

    monkeypatch.setattr(build.Journal, "add", spoiling)
    with pytest.raises(UserError, match=r"cannot be written .*train\.npy does not read back as it was written"):
        load_folder("folder", pets.root, out=pets.out)
    assert not (spoilt[0].with_name("manifest.json")).exists()
    load_folder("folder", pets.root, out=pets.out)
    assert spoilt
    assert len(decoded) == TRAIN + TEST + (TRAIN - CHUNK)  # of the first chunk the bytes are as they were
    assert content(spoilt[0].parent) == pets.whole


def test_an_owner_that_has_lost_the_images_cuts_nothing_off(pets, decoded, monkeypatch):
    cache, taken_up, sizes = stop_after(pets, 3), build._taken_up, []

    def slow(file, *args):
        done = taken_up(file, *args)
        if not sizes:
            sizes.append(0)
            shutil.rmtree(cache / "owner")  # taken for dead
            load_folder("folder", pets.root, out=pets.out)
            sizes[0] = (cache / "train.npy").stat().st_size
        return done

    monkeypatch.setattr(build, "_taken_up", slow)
    load_folder("folder", pets.root, out=pets.out)
    assert (cache / "train.npy").stat().st_size == sizes[0]
    assert len(decoded) == TRAIN + TEST - 3 * CHUNK  # by the other one: nothing had to be mended
    assert content(cache) == pets.whole
