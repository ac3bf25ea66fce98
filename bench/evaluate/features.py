"""Features of frozen encoders on train and test images, and what they say about collapse."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.data import augment
from bench.data.datasets import Split
from bench.data.images import TaskImages
from bench.data.scenarios import Scenario
from bench.models.learner import Learner
from bench.seal import Damaged

BATCH = 512
PIXEL_SIDE = 32
PIXEL_BYTES = 1 << 30
"""What the raw pixels of a dataset may take as float16; a probe on them holds four times as much beside it."""
EVERY_TASK, NO_TASK = -1, -2
MOST_CLASSES = 1_000_000
WATCHED = 2000
COLLAPSE_RANK = 1.5
COLLAPSE_STD = 0.02


@dataclass(frozen=True)
class Features:
    """Cached features with all that probes need to know of the images, so that they need no dataset.

    x: (N, F) float16; y: (N,) labels; task: (N,) task of each image, -1 where every task has it.
    """

    train_x: Tensor
    train_y: Tensor
    train_task: Tensor
    test_x: Tensor
    test_y: Tensor
    test_task: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, for the cache."""
        return dict(vars(self))

    @classmethod
    def of(cls, tensors: dict[str, Tensor], path: Path) -> "Features":
        """From the cache in a file; raises Damaged where these tensors are no features."""
        if tensors.keys() == {f.name for f in fields(cls)}:
            found = cls(**tensors)
            splits = (found.train_x, found.train_y, found.train_task), (found.test_x, found.test_y, found.test_task)
            if all(_fit(*split) for split in splits):
                return found
        raise Damaged(path, "holds no features")


def _fit(x: Tensor, y: Tensor, task: Tensor) -> bool:
    alike = x.ndim == 2 and y.shape == task.shape == x.shape[:1] and y.dtype == task.dtype == torch.long
    return alike and len(y) > 0 and int(y.min()) >= 0 and int(y.max()) < MOST_CLASSES


def all_features(scenario: Scenario, train_x: Tensor, test_x: Tensor) -> Features:
    """Adds labels and tasks to the features of all train and test images; images of no task (left-out domains) go."""
    tensors: list[Tensor] = []
    for x, split, task in zip(
        (train_x, test_x), (scenario.dataset.train, scenario.dataset.test), _membership(scenario), strict=True
    ):
        kept = task != NO_TASK
        tensors += [x.half().cpu()[kept], torch.from_numpy(np.array(split.labels))[kept], task[kept]]
    return Features(*tensors)


def _membership(scenario: Scenario) -> tuple[Tensor, Tensor]:
    shared_test = scenario.name == "data_il"
    train = torch.full((len(scenario.dataset.train.labels),), NO_TASK, dtype=torch.long)
    test = torch.full((len(scenario.dataset.test.labels),), EVERY_TASK if shared_test else NO_TASK, dtype=torch.long)
    for task in scenario.tasks:
        train[torch.from_numpy(task.train)] = task.index
        if not shared_test:
            test[torch.from_numpy(task.test)] = task.index
    return train, test


@torch.no_grad()
def encode_split(
    learner: Learner, encoder: nn.Module, split: Split, size: int, stats: tuple, channels: int | None = None
) -> Tensor:
    """Features (N, F) float32 of a whole split in eval mode; leaves every state as it was.

    channels: what the images are adapted to, None for their own; stats: mean and standard deviation of each of them.
    """
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    parts = [
        learner.encode(encoder, augment.resize(adapted(images, channels), size, *stats)[None])[0]
        for images in batches_of(split, str(device))
    ]
    encoder.train(was_training)
    return torch.cat(parts)


@torch.no_grad()
def project(projector: nn.Module, features: Tensor) -> Tensor:
    """Projections (N, D) of features in eval mode; leaves every state as it was."""
    was_training = projector.training
    projector.eval()
    z: Tensor = projector(features)
    projector.train(was_training)
    return z


def pixel_side(splits: Sequence[Split]) -> int:
    """Side to which raw pixels of larger images are resized: 32, or half of it as often as it takes for all splits
    together to fit into `PIXEL_BYTES`."""
    side = PIXEL_SIDE
    while side > 1 and sum(pixel_bytes(split, side) for split in splits) > PIXEL_BYTES:
        side //= 2
    return side


def pixel_bytes(split: Split, side: int) -> int:
    """Bytes of the raw pixels of a split resized to a side."""
    count, height, width, channels = split.images.shape
    kept = height * width if max(height, width) <= side else side**2
    return 2 * int(count * channels * kept)


def pixels(split: Split, side: int) -> Tensor:
    """Raw pixels (N, D) in [0, 1], the row to beat; images above this side are resized to it."""
    height, width, channels = split.images.shape[1:]
    zero, one = (0.0,) * channels, (1.0,) * channels
    rows = []
    for x in batches_of(split, "cpu"):
        small = x / 255 if max(height, width) <= side else augment.resize(x, side, zero, one)
        rows.append(small.flatten(1).half())
    return torch.cat(rows)


def batches_of(split: Split, device: str) -> Iterator[Tensor]:
    """All images of a split in order: uint8 (n, C, H, W) on the device."""
    images = TaskImages(split.images, np.arange(len(split.images)), device, once=True)
    return images.batches(torch.arange(len(images)).split(BATCH))


def adapted(images: Tensor, channels: int | None) -> Tensor:
    """uint8 images (n, C, H, W) with 1 or 3 channels: grey is repeated, colour becomes the luminance mean (.299, .587,
    .114 of red, green and blue, rounded, as PIL's `L`); unchanged for None or their own number."""
    if channels in (None, images.shape[1]):
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).to(torch.uint8)[:, None]


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the normalised singular values of x (N, D), in [1, min(N, D)] (RankMe,
    arXiv:2210.02885)."""
    singular = torch.linalg.svdvals(x.double())
    p = singular / singular.sum().clamp_min(1e-30)
    return float(torch.exp(-(p * torch.log(p.clamp_min(1e-30))).sum()))


def embedding_std(z: Tensor) -> float:
    """Mean standard deviation of the dimensions of unit rows, times sqrt(D): 1 spread evenly, 0 collapsed
    (arXiv:2011.10566)."""
    unit = F.normalize(z.double(), dim=-1)
    return float(unit.std(0).mean() * z.shape[1] ** 0.5)


def watch(features: Tensor, projections: Tensor | None) -> dict[str, object]:
    """Signs of collapse: values that are not finite, and on at most `WATCHED` images the effective rank of the features
    (N, F) and the spread of the projections (N, D), or of the features where there are none."""
    z = features if projections is None else projections
    if not (torch.isfinite(features).all() and torch.isfinite(z).all()):
        return {
            "effective_rank": 0.0,
            "embedding_std": 0.0,
            "collapsed": True,
            "reason": "NaN or infinite embeddings",
        }
    rank, spread = effective_rank(_some(features)), embedding_std(_some(z))
    reason = ""
    if rank < COLLAPSE_RANK:
        reason = f"effective rank of the features is {rank:.2f} (below {COLLAPSE_RANK})"
    elif spread < COLLAPSE_STD:
        reason = f"standard deviation of the embeddings is {spread:.3f} (below {COLLAPSE_STD})"
    return {"effective_rank": rank, "embedding_std": spread, "collapsed": bool(reason), "reason": reason}


def _some(x: Tensor) -> Tensor:
    return x[:: max(1, -(-len(x) // WATCHED))].float()
