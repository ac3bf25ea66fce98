"""What evaluating one stage costs, from a small part of its images."""

import time
from collections.abc import Iterable

import numpy as np
import torch

from bench.data.datasets import Split
from bench.data.scenarios import Scenario
from bench.engine.plan import Probe
from bench.evaluate.features import Features, encode_split, pixels
from bench.evaluate.probes import run_probe
from bench.speed.step import Trial

SAMPLE = 1500
"""Training images that are really encoded and probed; of the test images as many in proportion."""


def evaluation_seconds(scenario: Scenario, trial: Trial | None, probes: Iterable[Probe]) -> float:
    """Seconds to extract the features of all images and to run the probes; trial: None for raw pixels."""
    splits = (scenario.dataset.train, scenario.dataset.test)
    share = min(1.0, SAMPLE / len(splits[0].labels))
    chosen = [_part(split, share) for split in splits]
    began = time.perf_counter()
    if trial is None:
        x = [pixels(part) for part in chosen]
    else:
        network = trial.learner
        x = [encode_split(network, network.encoder, part, trial.size, trial.stats).half().cpu() for part in chosen]
    seconds = (time.perf_counter() - began) / share
    tasks = len(scenario.tasks)
    features = Features(x[0], *_labels(chosen[0], tasks), x[1], *_labels(chosen[1], tasks))
    for probe in probes:
        began = time.perf_counter()
        run_probe(probe.name, probe.config, features, scenario.name, tasks, probe.seed)
        # Neighbours compare every test image with every training image, all else is linear in images.
        seconds += (time.perf_counter() - began) / (share**2 if probe.name == "knn" else share)
    return seconds


def _part(split: Split, share: float) -> Split:
    rows = np.linspace(0, len(split.labels) - 1, max(2, int(share * len(split.labels)))).astype(int)
    return Split(split.images[rows], split.labels[rows], split.domains[rows])


def _labels(split: Split, tasks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels, and tasks dealt out in turn: their sizes are what counts."""
    return torch.from_numpy(np.array(split.labels)), torch.arange(len(split.labels)) % tasks
