"""`data check` on small folders: each defect put in is found by name, and a clean folder is well."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from image_folders import damage, fill, paint
from PIL import Image

from bench.commands.data_check import check
from bench.data import fashion_mini
from bench.data.doctor.examine import examine_files, file_names
from bench.data.doctor.walk import stream
from bench.data.listing import class_folders, domain_folders, split_of
from bench.errors import UserError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def ill(tmp_path, capsys):
    """Checks a dataset; returns the exit status, findings as (level, text, names), and what was printed."""

    def run(name, **options):
        given = {"data_dir": None, "image_size": None, "quick": False, "all": False, "quiet": True, **options}
        status = check(Namespace(name=name, out=tmp_path / "out", **given))
        printed = capsys.readouterr().out
        written = list((tmp_path / "out").glob("data-check-*.json"))
        content = json.loads(written[0].read_text()) if written else {"findings": []}
        return status, [(f["level"], f["text"], f["names"]) for f in content["findings"]], printed

    return run


def wrong(findings, level="attention"):
    return [(text, names) for each, text, names in findings if each == level]


@pytest.fixture
def pets(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        for index in range(6):
            split = "train" if index < 4 else "test"
            paint(tmp_path / "pets" / split / name / f"{index:02}.png", value=100 * label + index)
    return tmp_path / "pets"


@pytest.fixture
def fashion(monkeypatch):
    """Random pixels in place of Fashion-MNIST's: reading those takes seconds. Returns what may be changed first."""
    rng = np.random.default_rng(0)
    parts = {
        split: [rng.integers(0, 256, (10 * count, 28, 28, 1), np.uint8), np.arange(10).repeat(count)]
        for split, count in (("train", 1200), ("t10k", 200))
    }
    monkeypatch.setattr(fashion_mini, "read", lambda split, cache: tuple(parts[split]))
    return parts


def test_a_clean_folder_is_well(pets, ill):
    status, findings, printed = ill(f"folder:{pets}")
    assert status == 0
    assert wrong(findings) == wrong(findings, "note") == []
    assert "all is well" in printed
    assert "attention" not in printed


def test_a_clean_folder_of_domains_is_well(tmp_path, ill):
    for start, domain in enumerate(("photo", "sketch")):
        for label, name in enumerate(("cat", "dog")):
            for index in range(12):
                paint(tmp_path / "pacs" / domain / name / f"{index}.png", value=1000 * start + 100 * label + index)
    status, findings, printed = ill(f"domains:{tmp_path / 'pacs'}")
    assert status == 0, findings
    assert wrong(findings) == []
    assert all(word in printed for word in ("photo", "sketch", "train", "test"))


@pytest.mark.parametrize(("kind", "text"), [("empty", "1 empty"), ("torn", "1 truncated"), ("text", "1 unreadable")])
@pytest.mark.parametrize("quick", [False, True])
def test_a_broken_file_is_named(pets, ill, kind, text, quick):
    paint(pets / "train" / "cat" / "bad.jpg", size=(40, 40), value=7)
    damage(pets / "train" / "cat" / "bad.jpg", kind)
    status, findings, printed = ill(f"folder:{pets}", quick=quick)
    assert status == 1
    [(said, names)] = wrong(findings)
    assert said.startswith(text)
    assert names == ["train/cat/bad.jpg"]
    assert "train/cat/bad.jpg" in printed


def test_files_that_are_not_8_bit_rgb_are_named_but_harm_nothing(pets, ill):
    for name, mode in (("print.jpg", "CMYK"), ("old.png", "L"), ("web.png", "P"), ("logo.png", "RGBA")):
        picture = Image.fromarray(np.random.default_rng(len(name)).integers(0, 256, (8, 8, 3), dtype=np.uint8))
        picture.convert(mode).save(pets / "train" / "dog" / name)
    status, findings, _ = ill(f"folder:{pets}")
    assert status == 0
    told = {names[0]: text for text, names in wrong(findings, "note")}
    assert sorted(told) == [f"train/dog/{name}" for name in ("logo.png", "old.png", "print.jpg", "web.png")]
    assert told["train/dog/print.jpg"].startswith("1 cmyk")
    assert told["train/dog/old.png"].startswith("1 grey")


def test_a_set_that_is_all_grey_is_no_matter(tmp_path, ill):
    status, findings, _ = ill(f"folder:{fill(tmp_path / 'pets', mode='L')}")
    assert status == 0
    assert any(text.startswith("all grey") for _, text, _ in findings)


def test_a_training_image_in_the_test_set_is_found_under_another_name_and_format(pets, ill):
    paint(pets / "train" / "cat" / "a.jpg", value=50)
    with Image.open(pets / "train" / "cat" / "a.jpg") as image:
        image.save(pets / "test" / "cat" / "b.png")
    status, findings, _ = ill(f"folder:{pets}")
    assert status == 1
    assert wrong(findings) == [
        ("1 test image has the pixels of a training image", ["train/cat/a.jpg = test/cat/b.png"])
    ]


def test_the_same_file_in_both_splits_is_said_to_be_the_same(pets, ill):
    for place in ("train/cat/a.jpg", "test/cat/b.jpg"):
        paint(pets / place, value=50)
    [(text, names)] = wrong(ill(f"folder:{pets}")[1])
    assert text.endswith("(1 the same file, byte by byte)")
    assert names == ["train/cat/a.jpg = test/cat/b.jpg"]


def test_in_a_hurry_no_duplicates_are_looked_for_and_that_is_said(pets, ill):
    for place in ("train/cat/a.jpg", "test/cat/b.jpg"):
        paint(pets / place, value=50)
    status, findings, _ = ill(f"folder:{pets}", quick=True)
    assert status == 0
    assert ("not looked for (--quick)", []) in wrong(findings, "note")


def test_copies_within_a_split_are_counted_and_those_of_two_classes_are_named(pets, ill):
    for name in ("a", "b", "c"):
        paint(pets / "train" / "cat" / f"{name}.png", value=50)
    paint(pets / "train" / "dog" / "d.png", value=50)
    for name in ("e", "f"):
        paint(pets / "test" / "cat" / f"{name}.png", value=51)
    status, findings, _ = ill(f"folder:{pets}")
    assert status == 0
    notes = dict(wrong(findings, "note"))
    group = " = ".join(["train/cat/a.png", "train/cat/b.png", "train/cat/c.png", "train/dog/d.png"])
    assert notes == {
        "within train: 3 copies of another image": [group],
        "within test: 1 copy of another image": ["test/cat/e.png = test/cat/f.png"],
        "4 images are equal to another one under another class": [group],
    }


def test_empty_files_are_not_duplicates_of_one_another(pets, ill):
    for place in ("train/cat/a.png", "test/cat/b.png"):
        paint(pets / place)
        damage(pets / place, "empty")
    assert len(wrong(ill(f"folder:{pets}")[1])) == 1


@pytest.mark.parametrize("gone", ["train", "test"])
def test_a_class_that_a_split_lacks_is_named(pets, ill, gone):
    other = {"train": "test", "test": "train"}[gone]
    paint(pets / other / "emu" / "0.png", value=90)
    status, findings, _ = ill(f"folder:{pets}")
    assert status == 1
    assert wrong(findings) == [(f"1 class without {gone} images", ["emu"])]


def test_a_class_folder_without_images_is_named(pets, ill):
    (pets / "test" / "emu").mkdir()
    assert wrong(ill(f"folder:{pets}")[1]) == [("1 class folder without an image", ["test/emu"])]


def test_a_class_far_from_the_others_is_named(pets, ill):
    for index in range(9):
        paint(pets / "train" / "emu" / f"{index}.png", value=300 + index)
    paint(pets / "test" / "emu" / "0.png", value=400)
    status, findings, _ = ill(f"folder:{pets}")
    assert status == 0
    text, names = wrong(findings, "note")[0]
    assert text == "train: 1 class has less than half or more than twice the median of 4"
    assert names == ["emu (9)"]


def test_an_array_set_is_checked_against_its_release_and_for_equal_pixels(ill, fashion):
    status, findings, printed = ill("fashion_mini")
    assert status == 0
    assert "12,000" in printed
    assert any(text.startswith("those of the public release") for _, text, _ in findings)
    assert any("no test image has the pixels" in text for _, text, _ in findings)


def test_a_leak_in_an_array_set_is_named_by_its_places(ill, fashion):
    fashion["t10k"][0][3] = fashion["train"][0][11]
    status, findings, _ = ill("fashion_mini")
    assert status == 1
    assert wrong(findings) == [("1 test image has the pixels of a training image", ["train[11] = test[3]"])]


def test_a_release_that_is_not_whole_is_told_by_split_and_class(ill, fashion):
    fashion["train"] = [part[:-1] for part in fashion["train"]]
    status, findings, _ = ill("fashion_mini")
    assert status == 1
    assert wrong(findings) == [
        ("train: 11,999 images; the public release has 12,000 (bench.data.fashion_mini)", []),
        ("train: 1 class does not have 1,200 images", ["Ankle boot (1,199)"]),
    ]


def test_a_named_set_that_is_not_there_is_missing_with_the_way_to_get_it(tmp_path, ill):
    (tmp_path / "data").mkdir()
    status, _, printed = ill("cifar10", data_dir=str(tmp_path / "data"))
    assert status == 1
    assert "missing" in printed
    assert "download failed" not in printed
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in printed
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("cifar1000", "did you mean 'cifar100'"), ("noise:32", "nothing to check"), ("folder:", "a path is missing")],
)
def test_a_name_that_cannot_be_checked_is_bad_input(ill, name, message):
    with pytest.raises(UserError, match=message):
        ill(name)


def test_a_folder_that_is_not_there_or_is_empty_is_bad_input(tmp_path, ill):
    with pytest.raises(UserError, match="no such folder"):
        ill(f"folder:{tmp_path / 'absent'}")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="no images"):
        ill(f"folder:{tmp_path / 'bare'}")


def test_all_prints_every_class(pets, ill):
    assert "dog" not in ill(f"folder:{pets}")[2]
    assert "dog" in ill(f"folder:{pets}", all=True)[2]


def test_the_terminal_shows_a_few_names_and_the_file_all(pets, ill):
    for index in range(8):
        paint(pets / "train" / "cat" / f"bad{index}.png")
        damage(pets / "train" / "cat" / f"bad{index}.png", "empty")
    _, findings, printed = ill(f"folder:{pets}")
    assert len(wrong(findings)[0][1]) == 8
    assert printed.count("bad") == 5
    assert "and 3 more" in printed


def test_a_name_that_is_no_utf_8_and_one_that_is_long_are_shown_and_stand_whole_in_the_file(pets, ill):
    for name in (b"\xff.png", b"x" * 200 + b".png"):
        (pets / "train" / "cat" / os.fsdecode(name)).write_bytes(b"")
    _, findings, printed = ill(f"folder:{pets}")
    assert [os.fsencode(name) for name in wrong(findings)[0][1]] == [
        b"train/cat/" + b"x" * 200 + b".png",
        b"train/cat/\xff.png",
    ]
    assert r"train/cat/\udcff.png" in printed
    assert "xxx...\n" in printed


def test_the_command_line_checks_without_torch(pets, tmp_path):
    out = str(tmp_path / "out")
    code = (
        "import sys; from bench.cli import main; "
        f"assert main(['data', 'check', 'folder:{pets}', '--quick', '--all', '--out', {out!r}]) == 0; "
        f"assert main(['data', 'check', 'folder:{tmp_path / 'absent'}']) == 2; "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "all is well" in done.stdout
    assert done.stderr == f"error: {tmp_path / 'absent'}: no such folder\n"


def test_the_stream_lists_what_the_datasets_are_made_of(tmp_path, pets):
    flat = fill(tmp_path / "flat")
    domains = tmp_path / "domains"
    for name in ("photo", "sketch"):
        fill(domains / name, count=3)
    assert list(stream("folder", pets)) == class_folders(pets)
    assert list(stream("folder", flat)) == class_folders(flat)
    assert {entry.split for entry in stream("folder", flat)} == {"train", "test"}
    assert list(stream("domains", domains)) == domain_folders(domains)


def test_an_image_keeps_its_place_whichever_thread_is_faster(tmp_path):
    root = fill(tmp_path / "pets", count=150, size=(2, 2))
    for name in ("cat/010.png", "dog/140.png"):
        paint(root / name)
        damage(root / name, "empty")
    record = examine_files(root, stream("folder", root))
    names = [entry.path for entry in stream("folder", root)]
    assert [names[position] for position in record.marks["empty"]] == ["cat/010.png", "dog/140.png"]
    assert record.tests[names.index("dog/111.png")] == (split_of("dog/111.png") == "test")


def test_a_folder_that_changes_during_the_check_is_refused(pets):
    total = sum(1 for _ in stream("folder", pets))
    paint(pets / "train" / "cat" / "new.png")
    with pytest.raises(UserError, match="changed during the check"):
        file_names(stream("folder", pets), {0}, total)
