"""What evaluating one stage costs, from a small part of its images."""

import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from bench.data.datasets import Split
from bench.data.images import TaskImages
from bench.data.scenarios import Scenario
from bench.engine.probing import Probe, Target
from bench.evaluate.features import Features, encode_split, pixel_side, pixels
from bench.evaluate.offline import NAME, Augmented, Cached, Feed, crops_and_flips, fit_sgd
from bench.evaluate.probes import count_classes, run_probe
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
        x = [pixels(part, pixel_side(splits)) for part in chosen]
    else:
        network = trial.learner
        x = [encode_split(network, network.encoder, part, trial.size, trial.stats).half().cpu() for part in chosen]
    encoding = (time.perf_counter() - began) / sum(len(part.labels) for part in chosen)
    seconds = encoding * sum(len(split.labels) for split in splits)
    tasks = len(scenario.tasks)
    features = Features(x[0], *_labels(chosen[0], tasks), x[1], *_labels(chosen[1], tasks))
    transferred: set[Target] = set()
    for probe in probes:
        if probe.kind == "training":
            continue
        began = time.perf_counter()
        if probe.name == NAME:
            epochs = _offline_epoch(probe, scenario, trial, chosen[0], features)
            seconds += epochs * (time.perf_counter() - began) / share
            continue
        run_probe(probe.name, probe.config, features, "data_il" if probe.target else scenario.name, tasks, probe.seed)
        taken = time.perf_counter() - began
        ratio = 1 / share
        if probe.target is not None:
            ratio = probe.target.images[0] / len(chosen[0].labels)
            if probe.target not in transferred:
                transferred.add(probe.target)
                seconds += encoding * sum(probe.target.images)
        # Neighbours compare every test image with every training image, all else is linear in images.
        seconds += taken * (ratio**2 if probe.name == "knn" else ratio)
    return seconds


def _offline_epoch(probe: Probe, scenario: Scenario, trial: Trial | None, part: Split, features: Features) -> float:
    """Trains an epoch of the probe on a part of the images; returns how many such epochs it has in all."""
    config = replace(probe.config, epochs=1)
    y, width = features.train_y, features.train_x.shape[1]
    if probe.needs_network and trial is not None:
        images = TaskImages(part.images, np.arange(len(part.labels)), trial.device)
        feed: Feed = Augmented(trial.learner, images, crops_and_flips(config), trial.size, trial.stats, 0)
        y = y.to(trial.device)
    else:
        feed = Cached(features.train_x.float())
    fit_sgd(feed, y, count_classes(features), width, config, 0.1, 0)
    # In domain_il every domain has a classifier of its own beside the common one.
    return float(probe.config.epochs * (2 if scenario.name == "domain_il" else 1))


def _part(split: Split, share: float) -> Split:
    rows = np.linspace(0, len(split.labels) - 1, max(2, int(share * len(split.labels)))).astype(int)
    return Split(split.images[rows], split.labels[rows], split.domains[rows])


def _labels(split: Split, tasks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels, and tasks dealt out in turn: their sizes are what counts."""
    return torch.from_numpy(np.array(split.labels)), torch.arange(len(split.labels)) % tasks
