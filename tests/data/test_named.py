"""Public datasets by name: each layout as it is released, what is missing or misplaced, and which lists they are by."""

import numpy as np
import pytest
from image_folders import paint
from PIL import Image
from released import paint_domains, paint_flat_val, paint_synsets, paint_tiny

from bench.data.class_lists import class_list, fingerprint
from bench.data.datasets import catalogue, load
from bench.data.listing import split_of
from bench.data.named import NAMED, NotHere, lists
from bench.errors import UserError

SYNSETS = ("n01440764", "n02102040", "n03000684")
# Not the alphabet's order: DomainNet's labels are those of its lists.
CLASSES = ("bird", "The_Eiffel_Tower", "ant")

CMC = tuple(sorted(class_list("cmc")))


def get(name, tmp_path, size=8):
    return load(name, out=tmp_path / "out", data_dir=tmp_path / "data", image_size=size)


def refusal(name, tmp_path):
    with pytest.raises(UserError) as caught:
        get(name, tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stored(path, side):
    image = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image)


@pytest.fixture
def domainnet(tmp_path):
    root = tmp_path / "data" / "domainnet"
    return paint_domains(root, lists.CLEANED, CLASSES, lists=root)


# layouts


@pytest.mark.parametrize("place", ["imagenet1k", "ILSVRC/Data/CLS-LOC", "."])
def test_imagenet_is_found_in_its_usual_places_and_labelled_by_sorted_synset(tmp_path, place):
    root = paint_synsets(tmp_path / "data" / place, reversed(SYNSETS))
    (tmp_path / "data" / place / "test").mkdir()
    data = get("imagenet1k", tmp_path)
    assert data.classes == SYNSETS
    assert np.bincount(data.train.labels).tolist() == [2, 2, 2]
    assert data.test.labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(data.train.images[2], stored(root / f"train/{SYNSETS[1]}/{SYNSETS[1]}_0.JPEG", 9))
    assert data.note == "3 classes where the public release has 1000"


@pytest.mark.parametrize("kind", ["synsets beside val", "synsets in val", "kaggle"])
def test_a_flat_validation_folder_is_labelled_by_a_file_of_its_labels(tmp_path, kind):
    root = tmp_path / "data" / ("ILSVRC/Data/CLS-LOC" if kind == "kaggle" else "imagenet")
    paint_synsets(root, SYNSETS, test=0)
    labels = [SYNSETS[index] for index in (2, 0, 1, 0)]
    paint_flat_val(root, labels)
    if kind == "kaggle":
        rows = [f"ILSVRC2012_val_{number:08},{name} 1 2 3 4 \n" for number, name in enumerate(labels, 1)]
        (tmp_path / "data" / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows[::-1]))
    else:
        folder = root / "val" if kind == "synsets in val" else root
        (folder / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(labels) + "\n")
    data = get("imagenet1k", tmp_path)
    order = (4, 3, 2, 1) if kind == "kaggle" else (1, 2, 3, 4)
    assert [data.classes[label] for label in data.test.labels] == [labels[number - 1] for number in order]
    np.testing.assert_array_equal(data.test.images[0], stored(root / f"val/ILSVRC2012_val_{order[0]:08}.JPEG", 9))


def test_a_flat_validation_folder_without_labels_is_answered_with_how_to_sort_it(tmp_path):
    paint_synsets(tmp_path / "data" / "imagenet", SYNSETS, test=0)
    paint_flat_val(tmp_path / "data" / "imagenet", SYNSETS)
    text = refusal("imagenet1k", tmp_path)
    for part in ("data/imagenet/val", "imagenet_2012_validation_synset_labels.txt", "LOC_val_solution.csv", "valprep"):
        assert part in text


def test_archives_that_were_not_unpacked_into_class_folders_are_named(tmp_path):
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "val").mkdir()
    (tmp_path / "data" / "train" / "n01440764.tar").write_bytes(b"")
    assert "holds no class folders such as n01440764 (unpack each" in refusal("imagenet1k", tmp_path)


def test_a_class_without_validation_images_is_named(tmp_path):
    root = paint_synsets(tmp_path / "data" / "imagenet", SYNSETS)
    (root / "val" / SYNSETS[1] / "val_1_0.JPEG").unlink()
    assert f"val: 1 classes have no images there, the first {SYNSETS[1]}" in refusal("imagenet1k", tmp_path)


def test_tiny_imagenet_is_read_by_its_annotations(tmp_path):
    root = paint_tiny(tmp_path / "data" / "tiny-imagenet-200", SYNSETS)
    data = get("tiny_imagenet", tmp_path)
    assert data.classes == SYNSETS
    assert np.bincount(data.train.labels).tolist() == [2, 2, 2]
    assert data.test.labels.tolist() == [2, 1, 0]
    np.testing.assert_array_equal(data.test.images[0], stored(root / "val/images/val_2.JPEG", 8))


def test_tiny_imagenet_may_have_its_validation_images_sorted_into_folders(tmp_path):
    root = paint_tiny(tmp_path / "data" / "tiny-imagenet-200", SYNSETS)
    for number, name in enumerate(SYNSETS):
        (root / "val" / name / "images").mkdir(parents=True)
        (root / "val" / "images" / f"val_{number}.JPEG").rename(root / "val" / name / "images" / f"{number}.JPEG")
    (root / "val" / "val_annotations.txt").unlink()
    assert get("tiny_imagenet", tmp_path).test.labels.tolist() == [0, 1, 2]


def test_an_annotated_image_that_is_not_there_is_named(tmp_path):
    root = paint_tiny(tmp_path / "data" / "tiny-imagenet-200", SYNSETS)
    (root / "val/images/val_1.JPEG").unlink()
    assert f"val_annotations.txt: {root}/val/images/val_1.JPEG is not there" in refusal("tiny_imagenet", tmp_path)


def test_a_class_of_wnids_without_a_folder_is_named(tmp_path):
    root = paint_tiny(tmp_path / "data" / "tiny-imagenet-200", SYNSETS)
    (root / "train" / SYNSETS[2]).rename(root / "train" / "x")
    assert f"train: no folder {SYNSETS[2]}, which wnids.txt names" in refusal("tiny_imagenet", tmp_path)


# ImageNet-100


def test_the_list_of_imagenet100_is_cmcs_in_sorted_order():
    classes = CMC
    assert len(set(classes)) == 100
    assert list(classes) == sorted(classes)
    assert fingerprint(classes) == "d61d354b64be"
    # Labels 0, 11, 22, 39 and 99 as CaSSLe and solo-learn number them, which see folders in sorted order.
    assert [classes[label] for label in (0, 11, 22, 39, 99)] == [
        "n01558993",
        "n02009229",
        "n02099849",
        "n02259212",
        "n13040303",
    ]


def test_imagenet100_is_taken_out_of_all_of_imagenet(tmp_path):
    paint_synsets(tmp_path / "data" / "imagenet", [*CMC, "n01440764", "n15075141"], train=1)
    data = get("imagenet100", tmp_path)
    assert data.classes == CMC
    assert len(data.train.images) == len(data.test.images) == 100
    assert data.note == ""


def test_a_hundred_other_classes_are_used_and_noted(tmp_path):
    other = sorted([*CMC[:97], "n01440764", "n02102040", "n03000684"])
    paint_synsets(tmp_path / "data" / "imagenet-100", other, train=1)
    data = get("imagenet100", tmp_path)
    assert data.classes == tuple(other)
    assert data.note == (
        f"another ImageNet-100 class list (fingerprint {fingerprint(other)}, 97 classes in common with CMC's)"
    )


def test_a_part_of_imagenet_that_lacks_classes_of_the_list_is_refused(tmp_path):
    paint_synsets(tmp_path / "data" / "imagenet-100", CMC[:3])
    text = refusal("imagenet100", tmp_path)
    assert (
        f"holds 3 class folders, neither 100 nor all of CMC's list: {sorted(class_list('cmc'))[3]} is the first of 97"
        in text
    )


# DomainNet and PACS


@pytest.mark.parametrize("place", ["", "txt"])
def test_domainnet_has_the_labels_and_splits_of_its_lists(tmp_path, place):
    root = tmp_path / "data" / "DomainNet"
    paint_domains(root, lists.CLEANED, CLASSES, lists=root / place)
    data = get("domainnet", tmp_path)
    assert data.classes == CLASSES
    assert data.domains == tuple(sorted(lists.CLEANED))
    assert len(data.train.images) == 6 * 3 * 2
    assert len(data.test.images) == 6 * 3
    first = data.domains[data.train.domains[0]], data.classes[data.train.labels[2]]
    assert first == ("real", "The_Eiffel_Tower")
    np.testing.assert_array_equal(data.train.images[2], stored(root / "real/The_Eiffel_Tower/real_001_000000.jpg", 9))


def test_domainnet_has_the_order_of_published_results():
    assert NAMED["domainnet"].domain_order == ("real", "quickdraw", "painting", "sketch", "infograph", "clipart")


@pytest.mark.usefixtures("domainnet")
def test_the_note_says_which_lists_of_domainnet_these_are(tmp_path, monkeypatch):
    other = get("domainnet", tmp_path).note
    assert "DomainNet by lists of 36 + 18 images that are neither the original nor the cleaned ones, of " in other
    assert "of 409,832 + 176,743 (fingerprint " in other
    monkeypatch.setattr(lists, "CLEANED", dict.fromkeys(lists.CLEANED, (6, 3)))
    cleaned = get("domainnet", tmp_path).note
    assert cleaned.startswith("DomainNet by its cleaned lists (fingerprint ")
    monkeypatch.setattr(lists, "CLEANED", dict.fromkeys(lists.CLEANED, (7, 2)))
    monkeypatch.setattr(lists, "ORIGINAL", dict.fromkeys(lists.CLEANED, 9))
    assert get("domainnet", tmp_path).note.startswith("DomainNet by its original lists (fingerprint ")
    assert other.partition("(fingerprint ")[2] == cleaned.partition("(fingerprint ")[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "sketch_test.txt").unlink(), "1 of 12 lists are missing, the first sketch_test.txt"),
        (lambda root: (root / "sketch/ant/sketch_002_000000.jpg").unlink(), "sketch_train.txt:5: "),
        (lambda root: append(root, "clipart_test.txt", "clipart/ant/clipart_002_000002.jpg"), "clipart_test.txt:4: "),
        (
            lambda root: append(root, "clipart_test.txt", "clipart/ant/clipart_002_000002.jpg 1"),
            "1 is the label of ant",
        ),
        (lambda root: append(root, "clipart_test.txt", "clipart/ant/clipart_002_000002.jpg 3"), "give ant several lab"),
        (lambda root: append(root, "clipart_test.txt", "../x.jpg 0"), "../x.jpg leads out of "),
        (lambda root: [path.unlink() for path in root.glob("*.txt")], "real_train.txt is missing, and the other lists"),
    ],
)
def test_what_is_wrong_with_lists_of_domainnet_is_named(tmp_path, domainnet, change, message):
    change(domainnet)
    assert message in refusal("domainnet", tmp_path)


def append(root, name, line):
    with (root / name).open("a") as file:
        file.write(line + "\n")


@pytest.mark.parametrize("place", ["pacs", "PACS/kfold", "pacs_data", "."])
def test_pacs_without_its_lists_is_split_by_hash(tmp_path, place):
    paint_domains(tmp_path / "data" / place, lists.PACS, ("dog", "house"), train=9)
    data = get("pacs", tmp_path)
    assert data.domains == ("art_painting", "cartoon", "photo", "sketch")
    paths = [
        f"{d}/{c}/{d}_{n:03}_{i:06}.jpg" for d in lists.PACS for n, c in enumerate(("dog", "house")) for i in range(10)
    ]
    assert len(data.test.images) == sum(split_of(path) == "test" for path in paths)
    assert len(data.train.images) + len(data.test.images) == 80
    assert "held out by hash" in data.note


@pytest.mark.parametrize("place", ["pacs/kfold", "pacs/pacs_label", "pacs"])
def test_pacs_with_its_lists_trains_on_train_and_tests_on_crossval(tmp_path, place):
    root = tmp_path / "data" / "pacs" / "kfold"
    folder = tmp_path / "data" / place
    names = ("train_kfold", "crossval_kfold")
    paint_domains(root, lists.PACS, ("dog", "house"), lists=folder, first_label=1, names=names)
    for domain in lists.PACS:
        parts = [(folder / f"{domain}_{name}.txt").read_text() for name in names]
        (folder / f"{domain}_test_kfold.txt").write_text("".join(parts))
    append(folder, "sketch_train_kfold.txt", "sketch/dog/n02103406_4068-1.png 1")
    data = get("pacs", tmp_path)
    assert data.classes == ("dog", "house")
    assert np.bincount(data.train.domains).tolist() == [4, 4, 4, 4]
    assert np.bincount(data.test.domains).tolist() == [2, 2, 2, 2]
    assert "released lists" in data.note
    (folder / "photo_crossval_kfold.txt").unlink()
    assert "1 of 8 lists are missing, the first photo_crossval_kfold.txt" in refusal("pacs", tmp_path)


# what is not there


@pytest.mark.parametrize("name", NAMED)
def test_a_dataset_that_is_not_there_is_answered_with_where_it_belongs_and_how_to_get_it(tmp_path, name):
    named = NAMED[name]
    for where in (None, tmp_path / "data"):
        with pytest.raises(NotHere) as caught:
            load(name, out=tmp_path, data_dir=where)
        text = str(caught.value)
        assert text.startswith(f"{name}: ")
        assert named.places[0] in text
        assert ("--data-dir" if where is None else str(where)) in text
        assert named.how_to_get in text
        assert "\n" not in text


@pytest.mark.parametrize("name", NAMED)
def test_a_part_that_is_missing_is_named_and_is_no_absent_dataset(tmp_path, name):
    first, *rest = NAMED[name].needs
    root = tmp_path / "data" / NAMED[name].places[0]
    paint(root / first / "x" / "0.png")
    with pytest.raises(UserError, match=f"{name}: {root} lacks {', '.join(rest)}; ") as caught:
        get(name, tmp_path)
    assert not isinstance(caught.value, NotHere)


def test_every_name_is_in_the_catalogue():
    assert set(NAMED) <= set(catalogue())


@pytest.mark.parametrize(
    ("name", "input_side", "stored_side"),
    [
        ("imagenet100", 224, 256),
        ("imagenet1k", None, 256),
        ("domainnet", 64, 73),
        ("tiny_imagenet", None, 64),
        ("tiny_imagenet", 32, 32),
        ("pacs", None, None),
    ],
)
def test_the_stored_side_leaves_a_margin_where_files_are_larger_than_the_input(name, input_side, stored_side):
    assert NAMED[name].stored_side(input_side) == stored_side


def test_numbers_of_releases_are_those_of_their_domains():
    for named in NAMED.values():
        if named.counts.domains:
            assert named.counts.train == sum(domain[1] for domain in named.counts.domains)
            assert named.counts.test == sum(domain[2] for domain in named.counts.domains)
    assert NAMED["domainnet"].counts[:3] == (409_832, 176_743, 345)
