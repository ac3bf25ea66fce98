"""Whose mean and deviation inputs are normalised by."""

import numpy as np
import pytest

from bench.data.arrays import Split, assemble, normalisation_of, statistics
from bench.errors import UserError

CIFAR = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
IMAGENET = (0.485, 0.456, 0.406)


def pictures(side, channels):
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, channels), dtype=np.uint8)
    split = Split(images, np.zeros(4, np.int64), np.zeros(4, np.int64))
    return assemble("toy", split, split, ["a"])


def test_constants_are_the_published_ones():
    data = pictures(8, 3)
    assert statistics("cifar", data) == CIFAR
    assert statistics("imagenet", data) == (IMAGENET, (0.229, 0.224, 0.225))
    assert statistics("imagenet_228", data) == (IMAGENET, (0.228, 0.224, 0.225))


def test_a_dataset_has_its_own_by_default():
    data = pictures(8, 3)
    mean, std = statistics("dataset", data)
    pixels = data.train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, pixels.mean(0))
    np.testing.assert_allclose(std, pixels.std(0))


@pytest.mark.parametrize("name", ["cifar", "imagenet", "imagenet_228"])
def test_constants_for_colours_are_refused_for_grey_images(name):
    with pytest.raises(UserError, match=f"data.normalisation {name} is for .* 3 channels, toy has 1: use dataset"):
        statistics(name, pictures(8, 1))


@pytest.mark.parametrize(("side", "channels", "name"), [(32, 3, "cifar"), (64, 3, "imagenet_228"), (32, 1, "dataset")])
def test_released_constants_follow_the_images(side, channels, name):
    data = pictures(side, channels)
    assert normalisation_of("released", data) == name
    assert statistics("released", data) == statistics(name, data)
