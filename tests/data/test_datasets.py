"""Datasets by name: what is found where, what is said when nothing is, and what the digest depends on."""

import gzip
import hashlib
import pickle
from urllib.error import URLError

import numpy as np
import pytest
import torchvision

from bench.data import datasets
from bench.data.arrays import Split, assemble, single_domain, tally
from bench.data.datasets import catalogue, load
from bench.data.idx import encode_idx
from bench.errors import UserError

CIFAR = {
    "cifar10": ("CIFAR10", "labels", "label_names"),
    "cifar100": ("CIFAR100", "fine_labels", "fine_label_names"),
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise URLError("no network in tests")

    for module in (torchvision.datasets.cifar, torchvision.datasets.mnist):
        monkeypatch.setattr(module, "download_and_extract_archive", refuse)


@pytest.fixture
def no_debian(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "no-debian")


def write_fashion(folder, *, value, suffix=""):
    """Fashion-MNIST in small: 20 + 10 images full of `value`."""
    folder.mkdir(parents=True)
    pack = gzip.compress if suffix else bytes
    for split, count in (("train", 20), ("t10k", 10)):
        images, labels = np.full((count, 28, 28), value, np.uint8), np.arange(count, dtype=np.uint8) % 10
        (folder / f"{split}-images-idx3-ubyte{suffix}").write_bytes(pack(encode_idx(images)))
        (folder / f"{split}-labels-idx1-ubyte{suffix}").write_bytes(pack(encode_idx(labels)))


def write_cifar(root, name, monkeypatch):
    """CIFAR in small, in its true format, with torchvision's checksums set to those of the small files."""
    class_name, label_key, names_key = CIFAR[name]
    source = getattr(torchvision.datasets, class_name)
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    md5 = {}

    def dump(file, content):
        data = pickle.dumps(content)
        (folder / file).write_bytes(data)
        md5[file] = hashlib.md5(data).hexdigest()

    rng = np.random.default_rng(0)
    parts = [file for file, _ in source.train_list + source.test_list]
    for file in parts:
        dump(file, {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), label_key: [0, 1, 2, 1]})
    dump(source.meta["filename"], {names_key: ["apple", "bear", "cat"]})
    monkeypatch.setattr(source, "train_list", [[file, md5[file]] for file, _ in source.train_list])
    monkeypatch.setattr(source, "test_list", [[file, md5[file]] for file, _ in source.test_list])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5[source.meta["filename"]]})
    return folder, parts


def random_split(count=30, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return single_domain(
        rng.integers(0, 256, (count, 4, 4, channels), dtype=np.uint8), np.arange(count, dtype=np.int64) % 3
    )


def test_the_catalogue_describes_every_dataset_in_one_line():
    names = catalogue()
    named = {"fashion_mini", "fashion_mnist", "cifar10", "cifar100"}
    named |= {"tiny_imagenet", "imagenet100", "imagenet1k", "domainnet", "pacs"}
    assert named | {"folder:PATH", "domains:PATH", "noise:SIDE"} == set(names)
    assert all(text and "\n" not in text for text in names.values())


@pytest.mark.parametrize(
    ("spec", "suggestion"),
    [
        ("fashion_mimi", "fashion_mini"),
        ("cifar", "cifar10"),
        ("foldr:/data", "folder:PATH"),
        ("domain:/data", "domains:PATH"),
        ("folder", "folder:PATH"),
        ("folder:", "folder:PATH"),
        ("zzz", "fashion_mini"),
        ("cifar10:x", "cifar10"),
    ],
)
def test_an_unknown_name_is_answered_by_the_nearest(tmp_path, spec, suggestion):
    with pytest.raises(UserError) as caught:
        load(spec, out=tmp_path)
    assert spec in str(caught.value)
    assert suggestion in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_size_below_one_is_refused(tmp_path):
    with pytest.raises(UserError, match="image_size must be at least 1, not 0"):
        load("fashion_mini", out=tmp_path, image_size=0)


@pytest.mark.parametrize("place", [".", "fashion_mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_is_found_in_every_layout_of_the_data_folder(tmp_path, place, suffix):
    write_fashion(tmp_path / "data" / place, value=7, suffix=suffix)
    data = load("fashion_mnist", out=tmp_path / "out", data_dir=tmp_path / "data")
    assert data.train.images.shape == (20, 28, 28, 1)
    assert data.test.labels.tolist() == list(range(10))
    assert data.mean == (7 / 255,)


def test_fashion_mnist_is_taken_from_the_data_folder_before_debian_before_a_download(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    write_fashion(tmp_path / "out" / "datasets" / "FashionMNIST" / "raw", value=3)
    means = [load("fashion_mnist", out=tmp_path / "out").mean]
    write_fashion(tmp_path / "debian", value=2, suffix=".gz")
    means.append(load("fashion_mnist", out=tmp_path / "out").mean)
    write_fashion(tmp_path / "data", value=1)
    means.append(load("fashion_mnist", out=tmp_path / "out", data_dir=tmp_path / "data").mean)
    assert means == [(3 / 255,), (2 / 255,), (1 / 255,)]


@pytest.mark.usefixtures("no_debian")
def test_without_fashion_mnist_one_line_names_the_three_places(tmp_path):
    with pytest.raises(UserError) as caught:
        load("fashion_mnist", out=tmp_path / "out", data_dir=tmp_path / "mine")
    text = str(caught.value)
    assert str(tmp_path / "mine") in text
    assert "dataset-fashion-mnist" in text
    assert "download failed" in text
    assert "no network in tests" in text
    assert "\n" not in text


@pytest.mark.usefixtures("no_debian")
def test_an_incomplete_data_folder_is_not_taken_for_fashion_mnist(tmp_path):
    write_fashion(tmp_path / "data", value=1)
    (tmp_path / "data" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="not in"):
        load("fashion_mnist", out=tmp_path / "out", data_dir=tmp_path / "data")


def test_labels_that_do_not_fit_the_images_are_refused(tmp_path):
    write_fashion(tmp_path / "data", value=1)
    labels = encode_idx(np.zeros(19, np.uint8))
    (tmp_path / "data" / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(UserError, match="the train files"):
        load("fashion_mnist", out=tmp_path / "out", data_dir=tmp_path / "data")


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("below", ["data", "data/{name}", "out/datasets"])
def test_cifar_is_read_as_rgb_images_with_its_own_classes(tmp_path, monkeypatch, name, below):
    folder, parts = write_cifar(tmp_path / below.format(name=name), name, monkeypatch)
    data = load(name, out=tmp_path / "out", data_dir=tmp_path / "data" if below.startswith("data") else None)
    assert data.classes == ("apple", "bear", "cat")
    assert data.train.images.shape == (4 * (len(parts) - 1), 32, 32, 3)
    assert data.test.labels.tolist() == [0, 1, 2, 1]
    raw = pickle.loads((folder / parts[-1]).read_bytes())["data"]
    assert data.test.images[1, 2, 3].tolist() == [raw[1, plane * 1024 + 2 * 32 + 3] for plane in range(3)]


@pytest.mark.parametrize("damage", ["absent", "torn"])
@pytest.mark.parametrize("name", CIFAR)
def test_without_whole_cifar_files_one_line_says_what_to_put_where(tmp_path, monkeypatch, name, damage):
    folder, parts = write_cifar(tmp_path / "data", name, monkeypatch)
    (folder / parts[0]).unlink() if damage == "absent" else (folder / parts[0]).write_bytes(b"torn")
    with pytest.raises(UserError) as caught:
        load(name, out=tmp_path / "out", data_dir=tmp_path / "data")
    text = str(caught.value)
    assert str(tmp_path / "data") in text
    assert getattr(torchvision.datasets, CIFAR[name][0]).filename in text
    assert "\n" not in text


def test_loading_the_embedded_dataset_twice_gives_one_digest(tmp_path):
    digests = {load("fashion_mini", out=tmp_path).digest for _ in range(2)}
    assert len(digests) == 1
    assert len(next(iter(digests))) == 64


@pytest.mark.parametrize("part", ["pixel", "label", "domain", "class name", "domain name", "test pixel"])
def test_the_digest_depends_on_every_part_of_the_content(part):
    def digest(changed):
        train, test = random_split(), random_split(12, seed=1)
        classes, domains = ["a", "b", "c"], ["x", "y"]
        if changed == "pixel":
            train.images[-1, -1, -1, -1] ^= 1
        if changed == "test pixel":
            test.images[0, 0, 0, 0] ^= 1
        if changed == "label":
            train.labels[0] = 2
        if changed == "domain":
            train.domains[5] = 1
        if changed == "class name":
            classes[1] = "bb"
        if changed == "domain name":
            domains[1] = "z"
        return assemble("name", train, test, classes, domains).digest

    assert digest("") == digest("")
    assert digest(part) != digest("")


def test_the_digest_does_not_depend_on_the_name_or_on_memory_order():
    train, test = random_split(), random_split(12, seed=1)
    turned = Split(np.asfortranarray(train.images), train.labels, train.domains)
    first, second = assemble("one", train, test, "abc"), assemble("two", turned, test, "abc")
    assert first.digest == second.digest


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_std_are_those_of_all_train_pixels(monkeypatch, channels):
    monkeypatch.setattr("bench.data.arrays.CHUNK", 7)
    images = random_split(30, channels).images
    mean, std = tally(images).moments()
    values = images.reshape(-1, channels).astype(np.float64) / 255
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-13)
    np.testing.assert_allclose(std, values.std(0), rtol=1e-13)


def test_a_constant_channel_has_a_std_that_can_be_divided_by():
    assert tally(np.full((3, 2, 2, 1), 200, np.uint8)).moments() == ((200 / 255,), (1.0,))


def test_splits_whose_columns_differ_in_length_are_refused():
    with pytest.raises(ValueError, match="differ in number"):
        Split(np.zeros((3, 2, 2, 1), np.uint8), np.zeros(2, np.int64), np.zeros(3, np.int64))
