"""A stage's key changes with whatever changes its result, and with nothing else."""

import shutil
from functools import cache

import pytest
import torch

from bench.engine import stage
from tests.engine.tiny import planned, run, words

pytestmark = pytest.mark.xdist_group("grid")
PIXELS, INIT, FIRST, SECOND = range(4)


@pytest.fixture(scope="module")
def keys(pictures, tmp_path_factory):
    """Stage keys of the one run of a tiny command line."""
    out = tmp_path_factory.mktemp("keys")

    @cache
    def of(method, *more, folder=None):
        (single,) = planned(*words(folder or pictures, out, method, *more)).runs
        return single.stages

    return of


@pytest.mark.parametrize(
    "more",
    [
        ("--jobs", "3"),
        ("--save-every", "1"),
        ("--quiet",),
        ("--data-dir", "elsewhere"),
        ("--skip-corrupt",),
        ("--format", "csv"),
        ("--set", "probe.knn.k=5"),
    ],
    ids=" ".join,
)
def test_what_changes_no_training_changes_no_key(keys, more):
    assert keys("sycon-byol", *more) == keys("sycon-byol")


def test_the_place_of_data_and_results_changes_no_key(keys, pictures, tmp_path):
    moved = shutil.copytree(pictures, tmp_path / "moved")
    assert keys("sycon-byol", "--out", str(tmp_path / "other"), folder=moved) == keys("sycon-byol")


@pytest.mark.parametrize(
    "setting",
    [
        "optim.lr=0.04",
        "optim.momentum=0.8",
        "optim.name=sgd",
        "train.epochs=3",
        "train.batch=8",
        "numerics.threads=2",
        "numerics.precision=bf16",
        "numerics.compile=true",
        "encoder.width=8",
        "encoder.stem_padding=2",
        "augment.view1.flip_prob=0.4",
        "data.image_size=16",
        "byol.tau_start=0.9",
    ],
)
def test_what_changes_training_changes_the_keys_of_all_tasks(keys, setting):
    flag = {"numerics.precision=bf16": ("--precision", "bf16"), "train.epochs=3": ("--epochs", "3")}
    flag |= {"train.batch=8": ("--batch", "8")}
    plain, changed = keys("sycon-byol"), keys("sycon-byol", *flag.get(setting, ("--set", setting)))
    assert plain[FIRST] != changed[FIRST]
    assert plain[SECOND] != changed[SECOND]


LATER = (
    *("train.ema_skip_first=true", "train.device_groups=2", "optim.schedule=epoch"),
    *("data.normalisation=imagenet", "data.order=pnr", "data.order=cassle"),
)
NEUTRAL = (
    *("train.ema_skip_first=false", "train.device_groups=1", "optim.schedule=step", "data.normalisation=dataset"),
    *("data.order=seeded", "online.run=false", "online.leak=true", "online.lr=2"),
)


@pytest.mark.parametrize("setting", NEUTRAL)
def test_a_switch_at_its_default_is_in_no_key(keys, setting):
    assert keys("sycon-byol", "--set", setting) == keys("sycon-byol")


@pytest.mark.parametrize("setting", LATER)
def test_a_switch_changes_the_keys_of_all_tasks_and_the_setting(pictures, tmp_path, setting):
    plain, changed = (
        planned(*words(pictures, tmp_path, "sycon-byol", *more)).runs[0] for more in ((), ("--set", setting))
    )
    assert not set(plain.stages[FIRST:]) & set(changed.stages)
    assert plain.setting != changed.setting
    # Normalisation meets the random network too, an order even raw pixels, as it says whose images are in which task.
    shared = {"data.normalisation=imagenet": 1}.get(setting, 0 if setting.startswith("data.") else 2)
    assert [a == b for a, b in zip(plain.stages, changed.stages, strict=True)] == [i < shared for i in range(4)]


def test_released_constants_share_the_keys_of_the_ones_they_stand_for(keys):
    found = [keys("sycon-byol", "--set", f"data.normalisation={name}") for name in ("released", "imagenet_228")]
    assert found[0] == found[1]


def test_the_lag_of_momentum_networks_is_in_no_key_of_an_objective_without_them(keys):
    assert keys("sycon-simclr") == keys("sycon-simclr", "--set", "train.ema_skip_first=true")


def test_the_seed_changes_every_key_and_no_two_seeds_share_one(keys):
    zero, one, two = (keys("finetune-byol", "--seeds", seed) for seed in "012")
    assert len({*zero, *one, *two}) == 12


@pytest.mark.parametrize("scenario", ["class_il", "data_il", "domain_il"])
def test_seeds_of_one_line_share_a_setting_and_another_rate_does_not(pictures, tmp_path, scenario):
    line = words(pictures, tmp_path, "finetune", "--scenario", scenario, "--seeds", "0-3")
    found = {run.setting for run in planned(*line).runs}
    assert len(found) == 1
    assert found.isdisjoint(run.setting for run in planned(*line, "--set", "optim.lr=0.01").runs)


def test_optimizer_and_objective_leave_raw_pixels_and_random_network_alone(keys):
    plain = keys("finetune-byol")
    assert keys("finetune-barlow", "--set", "optim.lr=1")[: INIT + 1] == plain[: INIT + 1]


def test_the_network_leaves_raw_pixels_alone(keys):
    plain, wide = keys("finetune-byol"), keys("finetune-byol", "--set", "encoder.width=8")
    assert plain[PIXELS] == wide[PIXELS]
    assert plain[INIT] != wide[INIT]


@pytest.mark.parametrize(
    "setting",
    ["sycon.repel=0.25", "sycon.weight=2", "sycon.hidden=8", "train.teacher_bn=train", "train.teacher_bn=reference"],
)
def test_what_only_later_tasks_read_leaves_the_first_task_alone(keys, setting):
    plain, changed = keys("sycon-byol"), keys("sycon-byol", "--set", setting)
    assert plain[: FIRST + 1] == changed[: FIRST + 1]
    assert plain[SECOND] != changed[SECOND]


def test_the_temperature_of_distillation_is_for_later_tasks_of_strategies_that_distill(keys):
    plain, warm = keys("cassle-moco"), keys("cassle-moco", "--set", "moco.distill_temperature=0.5")
    assert plain[FIRST] == warm[FIRST]
    assert plain[SECOND] != warm[SECOND]


def test_a_strategy_without_teacher_does_not_depend_on_the_teachers_mode(keys):
    assert keys("finetune-byol") == keys("finetune-byol", "--set", "train.teacher_bn=train")


def test_strategies_share_the_first_task_and_part_at_the_second(keys):
    found = [keys(f"{strategy}-byol") for strategy in ("finetune", "cassle", "sycon", "lump")]
    assert len({stages[FIRST] for stages in found}) == 1
    assert len({stages[SECOND] for stages in found}) == 4


def test_the_number_of_tasks_is_part_of_every_key(keys):
    assert not set(keys("finetune-byol")) & set(keys("finetune-byol", "--tasks", "3"))


def test_an_alias_is_the_same_run(keys):
    assert keys("pnr-byol", "--set", "pnr.hidden=16") == keys("sycon-byol")


def test_a_key_under_an_alias_wins_over_the_preset(keys):
    under_alias, under_name = (keys("sycon-byol", "--set", f"{name}.weight=3") for name in ("pnr", "sycon"))
    assert under_alias == under_name != keys("sycon-byol")


def test_vary_order_gives_seeds_their_own_order_of_classes_and_nothing_else(pictures, tmp_path):
    plan = planned(*words(pictures, tmp_path, "finetune", "--seeds", "0-3", "--vary", "order"))
    for each in plan.runs:
        seeds = dict(vars(each.config.seeds))
        assert seeds.pop("order") == each.config.seed
        assert set(seeds.values()) == {0}
    assert len({run.task_names for run in plan.runs}) > 1


def test_vary_init_keeps_the_order_of_classes_and_the_raw_pixels(pictures, tmp_path):
    plan = planned(*words(pictures, tmp_path, "finetune", "--seeds", "0-2", "--vary", "init"))
    assert len({run.task_names for run in plan.runs}) == 1
    assert len({run.stages[PIXELS] for run in plan.runs}) == 1
    assert len({run.stages[INIT] for run in plan.runs}) == 3


def test_vary_probe_shares_every_stage(pictures, tmp_path):
    plan = planned(*words(pictures, tmp_path, "finetune", "--seeds", "0-2", "--vary", "probe"))
    assert (len(plan.runs), len(plan.stages)) == (3, 4)


def test_a_stage_trains_on_the_threads_that_its_key_names(pictures, tmp_path, monkeypatch):
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr(stage, "train_task", lambda *_: seen.append(torch.get_num_threads()))
    for threads in ("3", "2"):
        more = ("--quiet", "--set", f"numerics.threads={threads}", "--probes", "ncm", "--set", "probe.headline=ncm")
        assert run(*words(pictures, tmp_path / "out", "finetune", *more, tasks=1)) == 0
    torch.set_num_threads(before)
    assert seen == [3, 2]


def test_pinned_keys_of_the_published_setting(tmp_path):
    line = ("--methods", "sycon-moco", "--preset", "paper", "--dataset", "fashion_mini", "--device", "cpu")
    line += ("--precision", "fp32", "--out", str(tmp_path))
    (pinned,) = planned(*line).runs
    # They name results on disk: a change here makes every cached stage a stranger. Raise `keys.SCHEMA` with it.
    assert pinned.run_id == "489f8a9957f43aea"
    assert pinned.stages == (
        "8e599ddedd64d3b2",
        "97404065b49c6678",
        "3a66cbfa5a673db1",
        "cddb9a9e34f3a0d4",
        "c8a88978f7b137e2",
        "728a24df6da3b9f2",
        "ba405edc3fd31aa2",
    )
