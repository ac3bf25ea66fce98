"""The same step fed and computed as most released code does it, to compare with.

Two views per image by torchvision transforms on PIL images, one sample at a time in DataLoader workers; float32,
contiguous layout, BatchNorm of the teacher unfolded, all logits of the loss in memory. Kinder than released code where
it differs: `foreach` optimizer and momentum updates are ours.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from bench.config import RunConfig
from bench.data.augment import View
from bench.data.colour import blur_kernel_size
from bench.data.scenarios import Scenario
from bench.models.optim import learning_rate, set_learning_rate
from bench.speed.step import Trial


def transform(view: View, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """The recipe of a view as torchvision transforms of a PIL image; the result is (C, size, size) float32."""
    jitter = T.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    bicubic = T.InterpolationMode.BICUBIC
    steps = [
        T.RandomResizedCrop(size, scale=view.crop_scale, ratio=view.crop_ratio, interpolation=bicubic),
        T.RandomApply([jitter], p=view.jitter_prob),
        T.RandomGrayscale(p=view.gray_prob),
    ]
    if view.blur_prob > 0:
        steps.append(T.RandomApply([T.GaussianBlur(blur_kernel_size(size), view.blur_sigma)], p=view.blur_prob))
    if view.solarize_prob > 0:
        steps.append(T.RandomSolarize(128, p=view.solarize_prob))
    return T.Compose([*steps, T.RandomHorizontalFlip(view.flip_prob), T.ToTensor(), T.Normalize(mean, std)])


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """Two augmented views of each image of a task."""

    def __init__(self, trial: Trial) -> None:
        self.array, self.rows = trial.scenario.dataset.train.images, trial.views.images.rows
        self.transforms = [transform(recipe, trial.size, *trial.stats) for recipe in trial.views.recipes]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = np.asarray(self.array[self.rows[index]])
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        first, second = (change(image) for change in self.transforms)
        return first, second


class Reference:
    """A method in the reference feed; as many workers as cores (at most 16), two batches ahead each."""

    def __init__(self, run: RunConfig, scenario: Scenario) -> None:
        numerics = replace(run.settings.numerics, precision="fp32", compile=False)
        self.trial = Trial(replace(run, settings=replace(run.settings, numerics=numerics)), scenario, plain=True)
        self.workers = min(16, os.cpu_count() or 1)
        self.loader = DataLoader(
            PairDataset(self.trial),
            batch_size=self.trial.views.batch,
            shuffle=True,
            drop_last=True,
            num_workers=self.workers,
            pin_memory=self.trial.device == "cuda",
            persistent_workers=True,
            generator=torch.Generator().manual_seed(0),
        )
        self._batches = self._endless()

    def _endless(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self.loader

    def whole(self) -> None:
        """One step."""
        trial = self.trial
        views = torch.stack([view.to(trial.device, non_blocking=True) for view in next(self._batches)])
        set_learning_rate(trial.optimizer, learning_rate(trial.settings.optim, 0, 1, 1), trial.settings.optim.lr)
        output = trial.learner(views)
        trial.optimizer.zero_grad()
        output.loss.backward()
        trial.optimizer.step()
        trial.learner.after_step(output, 0.5)

    def processor_seconds(self) -> float:
        """Time that this process and its workers have used of processors so far."""
        ticks = 0
        for worker in active_children():
            fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # user and system time, man proc_pid_stat
        return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Ends the workers."""
        self._batches = iter(())
        del self.loader
