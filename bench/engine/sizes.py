"""What must fit together before a run can start: a network and its images, a batch and all it is drawn for."""

from functools import lru_cache

from bench.config import EncoderConfig, RunConfig
from bench.data.scenarios import Scenario
from bench.engine.keys import input_size, input_statistics
from bench.errors import UserError
from bench.models.encoder import build_encoder


def check_sizes(run: RunConfig, scenario: Scenario) -> None:
    """Raises UserError for a run that cannot start."""
    _check_builds(run.settings.encoder, scenario.dataset.train.images.shape[3], input_size(run, scenario))
    batch, smallest = run.settings.train.batch, min(scenario.tasks, key=lambda task: len(task.train))
    if batch > len(smallest.train):
        raise UserError(
            f"train.batch {batch} is larger than task {smallest.index} ({smallest.name}), which has "
            f"{len(smallest.train)} images: use at most that"
        )
    queue = run.objective_hparams.get("queue")
    if queue is not None and queue < batch:
        raise UserError(f"{run.objective}.queue {queue} is smaller than train.batch {batch}: use at least that")
    if batch < 2:
        raise UserError("train.batch must be at least 2")
    _check_groups(run.settings.train.device_groups, batch)
    input_statistics(run, scenario)


@lru_cache
def _check_groups(groups: int, batch: int) -> None:
    fitting = [count for count in range(1, batch // 2 + 1) if batch % count == 0]
    if groups not in fitting:
        close = min(fitting, key=lambda count: abs(count - groups))
        raise UserError(
            f"train.device_groups {groups} does not divide train.batch {batch} into groups of 2 or more: "
            f"the nearest that does is {close}"
        )


@lru_cache
def _check_builds(encoder: EncoderConfig, channels: int, size: int) -> None:
    if encoder.name.startswith("timm:"):
        build_encoder(encoder, channels, size, 0)
