"""Class lists against what they are made of, and what is said of each."""

from pathlib import Path

import numpy as np
import pytest
import timm

from bench.data.class_lists import class_list, fingerprint
from bench.data.doctor.findings import ATTENTION, NOTE, OK, class_findings
from bench.data.doctor.variants import IMAGENET100, identify

SYNSETS = (Path(timm.__file__).parent / "data" / "_info" / "imagenet_synsets.txt").read_text().split()


def drawn(seed):
    return np.random.RandomState(seed)


@pytest.mark.parametrize("key", IMAGENET100)
def test_a_list_holds_100_different_classes_of_imagenet_and_is_recognised_in_any_order(key):
    classes = class_list(key)
    assert len(classes) == len(set(classes)) == 100
    assert set(classes) <= set(SYNSETS)
    assert identify(sorted(classes)).key == identify(classes[::-1]).key == key


def test_lists_that_are_drawn_are_what_their_seed_draws():
    assert class_list("first100") == tuple(SYNSETS[:100])
    assert class_list("seed1993") == tuple(SYNSETS[i] for i in drawn(1993).permutation(1000)[:100])
    assert class_list("gcd") == tuple(SYNSETS[i] for i in np.sort(drawn(0).choice(1000, 100, replace=False)))


def test_no_two_lists_are_near_one_another_but_kaggles_and_the_first_hundred():
    common = {(a, b): len(set(class_list(a)) & set(class_list(b))) for a in IMAGENET100 for b in IMAGENET100 if a < b}
    assert {pair for pair, count in common.items() if count > 20} == {("first100", "kaggle")}
    assert common["first100", "kaggle"] == 69
    assert common["cmc", "kaggle"] == 8


def test_fingerprints_of_known_sets_are_those_of_their_names():
    assert identify(SYNSETS).title == "ImageNet-1k (ILSVRC 2012)"
    cifar10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert identify(cifar10).title == "CIFAR-10"
    assert identify(["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]).title == "PACS"


def test_a_fingerprint_follows_names_and_order():
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert fingerprint(["a", "b"]) != fingerprint(["b", "a"])
    texts = [each.text for each in class_findings(["b", "a"])]
    assert fingerprint(["a", "b"]) in texts[0]
    assert fingerprint(["b", "a"]) in texts[0]


def test_cmcs_list_is_what_imagenet100_should_be():
    found = class_findings(sorted(class_list("cmc")), "cmc")
    assert {each.level for each in found} == {OK}
    assert "CMC, solo-learn, CaSSLe" in found[-1].text


def test_another_known_list_is_named_with_what_it_means():
    found = class_findings(sorted(class_list("kaggle")), "cmc")
    told = next(each for each in found if "Kaggle" in each.text)
    assert told.level == ATTENTION
    assert "8 of 100 classes in common with CMC's" in told.text
    assert "not comparable" in told.text
    assert class_findings(sorted(class_list("kaggle")))[-1].level == NOTE


def test_one_exchanged_class_makes_another_list_and_is_named():
    classes = [*sorted(class_list("cmc"))[1:], "n01440764"]
    found = class_findings(classes, "cmc")
    assert any("another class list: 99 of 100" in each.text and each.level == ATTENTION for each in found)
    assert [each.names for each in found if each.names] == [[sorted(class_list("cmc"))[0]], ["n01440764"]]


def test_a_list_near_another_known_one_is_said_to_be():
    classes = [*class_list("seed1993")[1:], "n02869837"]
    text = class_findings(sorted(classes))[-1].text
    assert "nearest to that of PyCIL" in text
    assert "99 in common" in text
