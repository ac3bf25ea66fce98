"""Features of other datasets: channels, statistics, and the rows of their probes."""

import numpy as np
import pytest
import torch
from PIL import Image

from bench.config import KnnProbe, NcmProbe
from bench.data.arrays import assemble
from bench.evaluate.features import Features, adapted, pixels
from bench.evaluate.transfer import run_transfer, statistics, transfer_features
from tests.evaluate.test_features import learner, split

__all__ = ["learner"]


def dataset(channels, side=8):
    train, test = split(20, side, channels), split(8, side, channels, seed=1)
    return assemble("toy", train, test, tuple("abcd"))


def test_colour_becomes_the_grey_that_pil_makes_of_it():
    images = split(5, channels=3).images
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    found = adapted(torch.from_numpy(images).permute(0, 3, 1, 2), 1)
    assert found.dtype == torch.uint8
    assert (found[:, 0].numpy() == expected).all()


def test_grey_becomes_three_equal_channels_and_what_fits_is_left_alone():
    images = torch.from_numpy(split(5).images).permute(0, 3, 1, 2)
    assert torch.equal(adapted(images, 3), torch.cat([images] * 3, 1))
    assert adapted(images, 1) is adapted(images, None) is images


@pytest.mark.parametrize("channels", [1, 3])
def test_the_other_datasets_own_statistics_normalise_it(channels):
    data = dataset(3 if channels == 1 else 1)
    images = adapted(torch.from_numpy(data.train.images).permute(0, 3, 1, 2), channels).double() / 255
    mean, std = statistics(data, channels)
    assert mean == pytest.approx(images.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(images.std((0, 2, 3), correction=0).tolist())
    assert statistics(data, len(data.mean)) == (data.mean, data.std)


def test_features_are_those_of_the_images_in_the_networks_size_and_channels(learner):
    data = dataset(3)
    mean, std = statistics(data, 1)
    found = transfer_features(data, learner, 8, 1)
    x = (adapted(torch.from_numpy(data.test.images).permute(0, 3, 1, 2), 1).float() / 255 - mean[0]) / std[0]
    with torch.no_grad():
        expected = learner.encoder.eval()(x)
    torch.testing.assert_close(found.test_x.float(), expected, rtol=1e-2, atol=1e-2)
    assert found.train_x.dtype == torch.float16
    assert found.train_y.tolist() == data.train.labels.tolist()
    resized = transfer_features(dataset(3, side=12), learner, 8, 1)
    assert resized.train_x.shape == found.train_x.shape


def test_without_a_network_features_are_the_datasets_raw_pixels():
    data = dataset(3)
    found = transfer_features(data, None, 8, 1)
    assert torch.equal(found.train_x, pixels(data.train, 32))


def test_a_row_is_the_accuracy_on_the_whole_test_set():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    y, none = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.long)
    test = torch.tensor([[2.0, 0.1], [0.1, 2.0], [3.0, 0.0], [0.0, 1.0]])
    answers, task = torch.tensor([0, 1, 1, 1]), torch.zeros(4, dtype=torch.long)
    features = Features(x.half(), y, none, test.half(), answers, task)
    row = {"dataset": "toy", "value": 0.75, "n": 4}
    assert run_transfer("ncm", NcmProbe(), features, "toy", 0) == [{**row, "probe": "ncm"}]
    assert run_transfer("knn", KnnProbe(k=1), features, "toy", 0) == [{**row, "probe": "knn(k=1)"}]
