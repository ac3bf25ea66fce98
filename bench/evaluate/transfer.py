"""Features of another dataset in a frozen encoder, to be probed as its own."""

from typing import Any

import torch
from torch import Tensor

from bench.data.arrays import Stats, Tally
from bench.data.datasets import Dataset
from bench.evaluate.features import Features, adapted, batches_of, encode_split, pixel_side, pixels
from bench.evaluate.probes import run_probe
from bench.models.learner import Learner

TRANSFER_PROBES = ("linear", "knn")


def statistics(data: Dataset, channels: int) -> Stats:
    """Mean and standard deviation per channel of the training images with this number of channels."""
    own = len(data.mean)
    if channels == own:
        return data.mean, data.std
    if own == 1:
        return data.mean * channels, data.std * channels
    tally = Tally(channels)
    for images in batches_of(data.train, "cpu"):
        tally.add(adapted(images, channels).permute(0, 2, 3, 1).numpy())
    return tally.moments()


def transfer_features(data: Dataset, learner: Learner | None, size: int, channels: int) -> Features:
    """Features of a dataset as one task: in the learner's encoder for images of this size and number of channels,
    normalised by the dataset's own statistics; or its raw pixels where there is no learner."""
    splits = (data.train, data.test)
    if learner is None:
        side = pixel_side(splits)
        x = [pixels(split, side) for split in splits]
    else:
        stats = statistics(data, channels)
        x = [encode_split(learner, learner.encoder, split, size, stats, channels) for split in splits]
    tensors: list[Tensor] = []
    for rows, split in zip(x, splits, strict=True):
        labels = torch.from_numpy(split.labels.copy())
        tensors += [rows.half().cpu(), labels, torch.zeros_like(labels)]
    return Features(*tensors)


def run_transfer(name: str, config: Any, features: Features, dataset: str, seed: int) -> list[dict[str, Any]]:
    """The row {dataset, probe, value, n} of a probe on the features of another dataset."""
    (row,) = run_probe(name, config, features, "data_il", 1, seed)
    return [{"dataset": dataset, **{key: value for key, value in row.items() if key != "on_task"}}]
