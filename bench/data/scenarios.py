"""Scenarios: how a dataset becomes a sequence of tasks. Labels are never renumbered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from bench.data.arrays import Dataset
from bench.data.domains import synthetic
from bench.errors import UserError, nearest, printable
from bench.layers import MOST_TASKS
from bench.seeding import permutation

SCENARIOS: dict[str, str] = {
    "class_il": "each task brings new classes",
    "data_il": "each task brings more i.i.d. data of all classes",
    "domain_il": "each task brings all classes in a new visual domain",
}
DEFAULT_TASKS = 5
Order = Literal["seeded", "pnr", "cassle"]
RELEASED_ORDER_SEED, RELEASED_SPLIT_SEED = 5, 42
RELEASED_DOMAINS = ("real", "quickdraw", "painting", "sketch", "infograph", "clipart")
_NAME_LENGTH = 32  # characters of a task name that lists its classes


@dataclass(frozen=True, eq=False)
class Task:
    """One task: int64 indices into the splits of the dataset, its classes, and its domain where it is one."""

    index: int
    name: str
    train: np.ndarray
    test: np.ndarray
    classes: tuple[int, ...]
    domain: int | None


@dataclass(frozen=True, eq=False)
class Scenario:
    """A sequence of tasks over `dataset`, which is the derived one where the domains are synthetic.

    source: digest of the dataset it was derived from, the same for every seed; else that of `dataset`.
    """

    name: str
    dataset: Dataset
    tasks: tuple[Task, ...]
    synthetic_domains: bool
    note: str
    source: str


def build(
    name: str,
    dataset: Dataset,
    *,
    tasks: int | None,
    order_seed: int,
    split_seed: int,
    domain_order: Sequence[str] = (),
    order: Order = "seeded",
) -> Scenario:
    """The tasks of a scenario.

    tasks: how many; None: 5 (or as many as there are classes), in domain_il all domains, as with 0.
    order_seed decides the order of classes or domains, split_seed what is drawn i.i.d.: the shards of data_il
    and synthetic domains. domain_order: names of domains, maybe a subset, in place of the order of the seed.
    A dataset without domains gets synthetic ones in domain_il. order: `pnr` and `cassle` draw what these programs
    draw: the class order that torch gives right after manual_seed(order_seed), or seed 5 for `cassle`; data_il's shards
    from seed 42, over the dataset's own order of images; the domains of DomainNet in a fixed order. Raises UserError
    for an unknown name, a number of tasks that does not fit, or a task without training or test images.
    """
    if name not in SCENARIOS:
        raise UserError(f"unknown scenario '{name}'{nearest(name, SCENARIOS)}")
    if tasks is not None and tasks < (0 if name == "domain_il" else 1):
        raise UserError(f"{name}: {tasks} tasks; must be 1 or more")
    if domain_order and name != "domain_il":
        raise UserError(f"{name}: a domain order is for domain_il only")
    if order != "seeded":
        _check_released(name, dataset, tasks, domain_order, order)
    derived = name == "domain_il" and not dataset.domains
    source = dataset.digest
    if derived:
        dataset = synthetic(dataset, split_seed)
    if name == "class_il":
        made = _class_il(dataset, tasks, class_order(len(dataset.classes), order_seed, order))
    elif name == "data_il":
        made = _data_il(dataset, tasks, split_order(len(dataset.train.images), split_seed, order))
    else:
        made = _domain_il(dataset, tasks, order_seed, domain_order if order == "seeded" else RELEASED_DOMAINS)
    if len(made) > MOST_TASKS:
        raise UserError(f"{name}: {len(made):,} tasks are more than {MOST_TASKS:,}: give --tasks")
    for task in made:
        if not (len(task.train) and len(task.test)):
            kind = "test" if len(task.train) else "training"
            raise UserError(f"{name}: no {kind} images of {dataset.name} for task {task.index + 1} ({task.name})")
    return Scenario(name, dataset, tuple(made), derived, dataset.note, source)


def class_order(count: int, order_seed: int, order: Order = "seeded") -> np.ndarray:
    """The classes, int64 (count,), in the order of their tasks."""
    if order == "seeded":
        return permutation(count, order_seed, "class_order")
    return _drawn_at_once(count, RELEASED_ORDER_SEED if order == "cassle" else order_seed)


def split_order(count: int, split_seed: int, order: Order = "seeded") -> np.ndarray:
    """The training images, int64 (count,), of whose order the shards of data_il are parts."""
    if order == "seeded":
        return permutation(count, split_seed, "data_split")
    return _drawn_at_once(count, RELEASED_SPLIT_SEED)


def _drawn_at_once(count: int, seed: int) -> np.ndarray:
    """What torch.randperm gives right after torch.manual_seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()


def _check_released(name: str, dataset: Dataset, tasks: int | None, domain_order: Sequence[str], order: Order) -> None:
    """Raises UserError for what the released programs cannot be asked."""
    count = len(dataset.classes)
    parts = min(DEFAULT_TASKS, count) if tasks is None else tasks
    if name == "class_il" and parts <= count and count % parts:
        raise UserError(
            f"data.order {order}: {parts} tasks do not divide the {count} classes of {dataset.name}, as the released "
            "code requires (data.order seeded takes any number)"
        )
    if name == "domain_il" and domain_order:
        raise UserError(f"data.order {order} has its own order of domains: leave data.domains out, or order seeded")
    if name == "domain_il" and set(dataset.domains) != set(RELEASED_DOMAINS):
        raise UserError(
            f"data.order {order}: the published order is {', '.join(RELEASED_DOMAINS)}, but {dataset.name} has "
            f"{', '.join(dataset.domains) or 'no domains'} (data.order seeded takes any)"
        )


def _class_il(dataset: Dataset, tasks: int | None, order: np.ndarray) -> list[Task]:
    """The classes in `tasks` parts of the order; where they do not divide, the first get one more."""
    count = len(dataset.classes)
    tasks = min(DEFAULT_TASKS, count) if tasks is None else tasks
    if tasks > count:
        raise UserError(f"class_il: {tasks} tasks, but {dataset.name} has {count} classes")
    parts = np.array_split(order, tasks)
    task_of = np.empty(count, dtype=np.int64)
    task_of[order] = np.repeat(np.arange(tasks), [len(part) for part in parts])
    of_images = [task_of[split.labels] for split in (dataset.train, dataset.test)]
    made = []
    for index, part in enumerate(parts):
        train, test = (np.flatnonzero(of_image == index) for of_image in of_images)
        classes = tuple(int(label) for label in part)
        name = printable(_joined([dataset.classes[label] for label in classes]))
        made.append(Task(index, name, train, test, classes, None))
    return made


def _data_il(dataset: Dataset, tasks: int | None, order: np.ndarray) -> list[Task]:
    """Equal shards of a permutation of the training images, the remainder in the first; all test images."""
    count = len(dataset.train.images)
    tasks = DEFAULT_TASKS if tasks is None else tasks
    if tasks > count:
        raise UserError(f"data_il: {tasks} tasks, but {dataset.name} has {count} training images")
    first = count // tasks + count % tasks
    bounds = [first + index * (count // tasks) for index in range(tasks - 1)]
    test = np.arange(len(dataset.test.images), dtype=np.int64)
    classes = tuple(range(len(dataset.classes)))
    return [
        Task(index, f"shard {index + 1}", np.sort(part), test, classes, None)
        for index, part in enumerate(np.split(order, bounds))
    ]


def _domain_il(dataset: Dataset, tasks: int | None, order_seed: int, domain_order: Sequence[str]) -> list[Task]:
    """A task per domain, by `domain_order` or else by the seed; only the first `tasks`, if given."""
    names = dataset.domains
    for position, domain in enumerate(domain_order):
        if domain not in names:
            raise UserError(f"unknown domain '{domain}' of {dataset.name}{nearest(domain, names)}")
        if domain in domain_order[:position]:
            raise UserError(f"domain '{domain}' stands twice in the domain order")
    order = [names.index(domain) for domain in domain_order]
    order = order or permutation(len(names), order_seed, "domain_order").tolist()
    if tasks and tasks > len(order):
        raise UserError(f"domain_il: {tasks} tasks, but there are {len(order)} domains")
    made = []
    for index, domain in enumerate(order[: tasks or None]):
        train, test = (np.flatnonzero(split.domains == domain) for split in (dataset.train, dataset.test))
        classes = tuple(range(len(dataset.classes)))
        made.append(Task(index, printable(names[domain]), train, test, classes, domain))
    return made


def _joined(names: Sequence[str]) -> str:
    """The class names, cut after those that fit into 32 characters."""
    text = ", ".join(names)
    shown = len(names)
    while len(text) > _NAME_LENGTH and shown > 1:
        shown -= 1
        text = f"{', '.join(names[:shown])}, +{len(names) - shown}"
    return text
