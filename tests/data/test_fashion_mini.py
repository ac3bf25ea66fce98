"""The embedded dataset: its bytes are pinned, and follow from the files of Fashion-MNIST."""

import bz2
import gzip
import hashlib

import numpy as np
import pytest

from bench.data import fashion_mini
from bench.data.datasets import DEBIAN_FASHION_MNIST, load
from bench.data.fashion_mini import rebuild
from bench.data.idx import encode_idx, read_idx
from bench.errors import UserError

SHA256 = {
    "t10k-images-idx3-ubyte.bz2": "2f4a714998728ac4342966a4eb72fa72ee95c6693e88713d525b6cbecd29df85",
    "t10k-labels-idx1-ubyte.bz2": "2bb4050247bc0470b105f86fe15f66714145169f78bc85209c0f53da01289c36",
    "train-images-idx3-ubyte.bz2": "515dc90c6da6ba8f1f11217d443579bf55dfc0203b9b236a81a8a85afe739cdb",
    "train-labels-idx1-ubyte.bz2": "863f862f7b88070f5380bca97f1af5f023b28e9903abd7288c9d66d5378445e0",
}


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.bz2")}


def small_source(folder, suffix="", *, train=4, test=3):
    """A source in the true format: 3x2 images whose first pixel is their position in the file."""
    folder.mkdir(exist_ok=True)
    pack = gzip.compress if suffix == ".gz" else bytes
    for split, per_class in (("train", train), ("t10k", test)):
        labels = np.tile(np.arange(10, dtype=np.uint8)[::-1], per_class)
        images = np.zeros((len(labels), 3, 2), dtype=np.uint8)
        images[:, 0, 0] = np.arange(len(labels))
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{split}-{name}-ubyte{suffix}").write_bytes(pack(encode_idx(array)))
    return folder


def test_the_embedded_files_are_the_pinned_ones():
    assert digests(fashion_mini.FOLDER) == SHA256


def test_the_embedded_files_and_their_licence_fit_into_7_mb():
    files = [path for path in fashion_mini.FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 7e6
    assert "Copyright (c) 2017 Zalando SE" in (fashion_mini.FOLDER / "LICENSE").read_text()


def test_unpacked_images_are_kept_and_believed_only_while_they_are_whole(tmp_path, monkeypatch):
    images, labels = fashion_mini.read("t10k")
    cached, unpacked = tmp_path / "cache", []
    monkeypatch.setattr(bz2, "decompress", lambda data, real=bz2.decompress: unpacked.append(1) or real(data))
    for unpackings, damage in ((1, None), (1, None), (2, b"P"), (3, b"")):
        for path in cached.iterdir() if damage is not None else ():
            path.write_bytes(damage + path.read_bytes()[1:])
        for one, other in zip((images, labels), fashion_mini.read("t10k", cached), strict=True):
            assert np.array_equal(one, other)
        assert len(unpacked) == unpackings
        assert len(list(cached.iterdir())) == 1
    (tmp_path / "file").touch()  # no folder can be made below it
    assert np.array_equal(fashion_mini.read("t10k", tmp_path / "file" / "cache")[0], images)


def test_it_holds_1200_and_200_images_of_each_class(tmp_path):
    data = load("fashion_mini", out=tmp_path)
    assert data.train.images.shape == (12000, 28, 28, 1)
    assert data.test.images.shape == (2000, 28, 28, 1)
    assert data.train.images.dtype == np.uint8
    assert np.bincount(data.train.labels).tolist() == [1200] * 10
    assert np.bincount(data.test.labels).tolist() == [200] * 10
    assert data.train.labels.dtype == np.int64
    assert len(data.classes) == 10


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_it_is_rebuilt_byte_for_byte_from_fashion_mnist(tmp_path):
    rebuild.rebuild(DEBIAN_FASHION_MNIST, tmp_path)
    assert digests(tmp_path) == SHA256


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_rebuilding_keeps_the_first_of_each_class_in_file_order(tmp_path, suffix):
    source, target = small_source(tmp_path / "source", suffix), tmp_path / "target"
    target.mkdir()
    written = rebuild.rebuild(source, target, {"train": 2, "t10k": 1})
    assert sorted(path.name for path in written) == sorted(SHA256)
    assert read_idx(target / "train-images-idx3-ubyte.bz2")[:, 0, 0].tolist() == list(range(20))
    assert read_idx(target / "train-labels-idx1-ubyte.bz2").tolist() == [*range(9, -1, -1)] * 2
    assert read_idx(target / "t10k-images-idx3-ubyte.bz2")[:, 0, 0].tolist() == list(range(10))


def test_the_first_of_each_class_are_chosen_where_classes_are_mixed():
    labels = np.array([1, 1, 0, 1, 0, 0, 1])
    assert rebuild.first_of_each(labels, 2).tolist() == [0, 1, 2, 4]


def test_rebuilding_from_too_few_images_says_so_and_exits_with_2(tmp_path, capsys):
    source = small_source(tmp_path / "source")
    assert rebuild.main([str(source), "--to", str(tmp_path)]) == 2
    assert "fewer than 1200" in capsys.readouterr().err
    assert rebuild.main([str(tmp_path / "absent"), "--to", str(tmp_path)]) == 2
    assert "train-labels-idx1-ubyte" in capsys.readouterr().err


def test_an_idx_file_comes_back_from_every_compression(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for name, pack in (("a", bytes), ("a.gz", gzip.compress), ("a.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(pack(encode_idx(array)))
        np.testing.assert_array_equal(read_idx(tmp_path / name), array)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("short", encode_idx(np.zeros((4, 4), np.uint8))[:-1], "15 bytes of data"),
        ("long", encode_idx(np.zeros((4, 4), np.uint8)) + b"x", "17 bytes of data"),
        ("other", b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "not an idx file"),
        ("empty", b"", "not an idx file"),
        ("header", b"\0\0\x08\x03\0\0", "not an idx file"),
        ("torn.gz", gzip.compress(bytes(999), mtime=0)[:-9], "cannot be read"),
        ("text.bz2", b"<html>", "cannot be read"),
    ],
)
def test_a_broken_idx_file_is_named(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_idx_refuses_to_write_anything_but_bytes():
    with pytest.raises(TypeError, match="int64"):
        encode_idx(np.zeros(3, dtype=np.int64))
