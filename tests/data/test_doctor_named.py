"""`data check` on small stand-ins for public datasets: their lists and class sets."""

import json
from argparse import Namespace

import pytest
from image_folders import paint

from bench.commands.data_check import check
from bench.data.doctor import releases, source
from bench.data.doctor.releases import Release, release_of
from bench.data.doctor.variants import class_list
from bench.data.named import NAMED
from bench.data.named.lists import CLEANED


@pytest.fixture
def ill(tmp_path, capsys):
    """Checks a dataset of tmp_path; returns the exit status, {text: names} by level, and what was printed."""

    def run(name):
        given = {"image_size": None, "quick": False, "all": False, "quiet": True}
        status = check(Namespace(name=name, data_dir=str(tmp_path), out=tmp_path / "out", **given))
        path = tmp_path / "out" / f"data-check-{name}.json"
        found = {"ok": {}, "note": {}, "attention": {}}
        for each in json.loads(path.read_text())["findings"] if path.exists() else []:
            found[each["level"]][each["text"]] = each["names"]
        return status, found, capsys.readouterr().out

    return run


@pytest.fixture
def release(monkeypatch):
    """Makes the public release as small as what the tests write."""

    def shrink(classes, totals):
        monkeypatch.setattr(source, "release_of", lambda name: Release(classes, totals, {}, "these tests"))

    return shrink


def imagenet100(root, classes):
    for label, name in enumerate(classes):
        paint(root / "imagenet-100" / "train" / name / "a.png", size=(3, 3), value=2 * label)
        paint(root / "imagenet-100" / "val" / name / "b.png", size=(3, 3), value=2 * label + 1)


def test_imagenet100_with_cmcs_classes_is_well(tmp_path, ill, release):
    release(100, {("", "train"): 100, ("", "test"): 100})
    imagenet100(tmp_path, class_list("cmc"))
    status, found, _ = ill("imagenet100")
    assert status == 0, found
    assert any("CMC, solo-learn, CaSSLe" in text for text in found["ok"])
    assert any(text.startswith("released code takes 11, 22, 39, 23, 42, 30 ..") for text in found["note"])


def test_imagenet100_from_a_larger_imagenet_takes_cmcs_classes(tmp_path, ill, release):
    release(100, {("", "train"): 100, ("", "test"): 100})
    imagenet100(tmp_path, {*class_list("cmc"), *class_list("kaggle")})
    assert ill("imagenet100")[0] == 0


def test_kaggles_imagenet100_is_named_with_what_it_means(tmp_path, ill):
    imagenet100(tmp_path, class_list("kaggle"))
    status, found, printed = ill("imagenet100")
    assert status == 1
    assert any("Kaggle" in text and "8 of 100" in text and "not comparable" in text for text in found["attention"])
    assert "Kaggle" in printed


def test_a_class_of_imagenet100_that_is_not_there_is_named(tmp_path, ill):
    imagenet100(tmp_path, sorted(class_list("cmc"))[1:])
    status, found, _ = ill("imagenet100")
    assert status == 1
    assert found["attention"]["1 of the classes of CMC's list not here"] == [sorted(class_list("cmc"))[0]]
    assert "99 classes; the public release has 100" in found["attention"]


def domainnet(root, **changes):
    """Two classes in six domains; changes: lines in place of those of a list."""
    for number, domain in enumerate(sorted(CLEANED)):
        for split, index in (("train", 1), ("test", 2)):
            lines = []
            for label, name in enumerate(("ant", "bee")):
                path = f"{domain}/{name}/{index}.png"
                paint(root / "domainnet" / path, value=100 * number + 10 * label + index)
                lines.append(f"{path} {label}")
            text = "\n".join(changes.get(f"{domain}_{split}", lines))
            (root / "domainnet" / f"{domain}_{split}.txt").write_text(f"{text}\n")


@pytest.fixture
def small_domainnet(release):
    release(2, {(domain, split): 2 for domain in CLEANED for split in ("train", "test")})


def test_domainnet_with_whole_lists_is_well(tmp_path, ill, small_domainnet):
    domainnet(tmp_path)
    status, found, printed = ill("domainnet")
    assert status == 0, found
    assert all(domain in printed for domain in CLEANED)


def test_a_listed_file_that_is_not_there_is_named(tmp_path, ill, small_domainnet):
    domainnet(tmp_path)
    for name in ("real/ant/1.png", "sketch/bee/2.png"):
        (tmp_path / "domainnet" / name).unlink()
    status, found, _ = ill("domainnet")
    assert status == 1
    assert found["attention"] == {"2 absent: listed, but not there": ["real/ant/1.png", "sketch/bee/2.png"]}


def test_a_label_that_disagrees_and_a_path_listed_in_both_splits_are_named(tmp_path, ill, small_domainnet):
    domainnet(tmp_path, real_test=["real/ant/2.png 1", "real/bee/1.png 1"])
    status, found, _ = ill("domainnet")
    assert status == 1
    names = [name for names in found["attention"].values() for name in names]
    assert "real_test.txt:1: real/ant/2.png has label 1, other ant 0" in names
    assert "real_test.txt:2: real/bee/1.png" in names
    assert "real/bee/1.png = real/bee/1.png" in names


def test_the_original_lists_of_domainnet_are_known_by_their_images(tmp_path, ill, monkeypatch):
    domainnet(tmp_path)
    monkeypatch.setattr(releases, "ORIGINAL", dict.fromkeys(CLEANED, 4))
    status, found, _ = ill("domainnet")
    assert (status, found["attention"]) == (1, {"2 classes; the public release has 345": []})


def test_lists_of_another_length_than_the_release_are_told_by_domain(tmp_path, ill):
    domainnet(tmp_path)
    found = ill("domainnet")[1]
    assert any(text.startswith("clipart train: 2 images; the public release has 33,525") for text in found["attention"])


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_there_is_missing_with_the_way_to_get_it(ill, name):
    status, _, printed = ill(name)
    assert status == 1
    assert "missing" in printed
    assert NAMED[name].how_to_get in " ".join(printed.split())


@pytest.mark.parametrize("name", NAMED)
def test_a_release_has_the_numbers_that_the_dataset_is_known_by(name):
    release, counts = release_of(name), NAMED[name].counts
    assert release.classes == counts.classes
    assert sum(release.totals.values()) == counts.train + counts.test
