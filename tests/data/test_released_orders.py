"""Orders of classes, images and domains as the released programs draw them, against values they give."""

import numpy as np
import pytest
import torch

from bench.data.scenarios import RELEASED_DOMAINS, class_order, split_order
from bench.errors import UserError
from tests.data.test_scenarios import make, toy

SEED_5 = """
11 22 39 23 42 30 78 81 64 20 29 79 15 69 86 63 55 53 73 68
89 67 58 97 96 92 37 14 75 51 54 7 3 6 50 40 45 4 83 98
27 12 8 99 60 87 28 5 84 34 82 16 72 49 59 31 71 35 66 76
61 17 36 62 13 2 38 94 80 19 25 18 0 1 46 74 85 91 52 77
21 33 32 88 93 70 44 47 26 57 90 95 48 65 43 10 9 56 24 41
"""


def test_a_hundred_classes_come_in_the_order_of_the_published_runs():
    published = [int(word) for word in SEED_5.split()]
    assert class_order(100, 5, "pnr").tolist() == published
    assert {seed: class_order(100, seed, "cassle").tolist() for seed in (0, 5)} == {0: published, 5: published}


def test_the_order_seed_moves_the_classes_of_pnr_alone():
    assert class_order(100, 0, "pnr").tolist()[:6] == [44, 19, 93, 90, 71, 69]
    assert class_order(100, 1, "pnr").tolist()[:6] == [45, 15, 90, 32, 35, 63]
    assert class_order(100, 5, "seeded").tolist() != class_order(100, 5, "pnr").tolist()


def test_tasks_are_contiguous_parts_of_the_published_order():
    scenario = make("class_il", toy(100, 1, test_per_class=1), tasks=5, order="cassle")
    classes = [int(word) for word in SEED_5.split()]
    assert [task.classes for task in scenario.tasks] == [tuple(classes[i : i + 20]) for i in range(0, 100, 20)]


@pytest.mark.parametrize("order", ["pnr", "cassle"])
def test_shards_are_those_of_the_published_runs_whatever_the_seed(order):
    drawn = split_order(126_689, 3, order)
    assert drawn[:4].tolist() == [67309, 43316, 38181, 112869]
    assert drawn[25_341:25_343].tolist() == [122946, 56332]
    assert split_order(130_000, 0, order)[:2].tolist() == [17542, 72384]


def test_the_remainder_goes_to_the_first_shard():
    source = toy(2, 52)
    scenario = make("data_il", source, tasks=5, order="pnr", split_seed=9)
    drawn = torch.randperm(104, generator=torch.Generator().manual_seed(42)).numpy()
    assert [len(task.train) for task in scenario.tasks] == [24, 20, 20, 20, 20]
    parts = np.split(drawn, [24, 44, 64, 84])
    assert all(set(task.train) == set(part) for task, part in zip(scenario.tasks, parts, strict=True))


def test_domains_come_in_the_published_order():
    source = toy(2, 2, domains=sorted(RELEASED_DOMAINS))
    for seed in (0, 1):
        scenario = make("domain_il", source, order="cassle", order_seed=seed)
        assert [task.name for task in scenario.tasks] == [
            *("real", "quickdraw", "painting", "sketch", "infograph", "clipart")
        ]
    assert [task.name for task in make("domain_il", source, order="pnr", tasks=2).tasks] == ["real", "quickdraw"]


@pytest.mark.parametrize("domains", [(), ("real", "sketch"), (*RELEASED_DOMAINS, "photo")])
def test_other_domains_are_refused(domains):
    with pytest.raises(
        UserError, match=f"published order is real, .* but toy has {', '.join(domains) or 'no domains'}"
    ):
        make("domain_il", toy(2, 2, domains=domains), order="pnr")


def test_an_order_of_ones_own_is_refused_beside_the_published_one():
    with pytest.raises(UserError, match="has its own order of domains"):
        make("domain_il", toy(2, 2, domains=RELEASED_DOMAINS), order="pnr", domain_order=["real"])


@pytest.mark.parametrize("order", ["pnr", "cassle"])
def test_classes_that_tasks_do_not_divide_are_refused(order):
    with pytest.raises(UserError, match=f"data.order {order}: 4 tasks do not divide the 6 classes of toy"):
        make("class_il", toy(6), tasks=4, order=order)
    assert len(make("class_il", toy(6), tasks=3, order=order).tasks) == 3


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    class_order(100, 5, "pnr")
    split_order(100, 5, "cassle")
    assert torch.equal(torch.get_rng_state(), before)
