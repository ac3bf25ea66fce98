"""Switches on their way from the command line to what is trained, and the sets of them under one name."""

import re
from itertools import combinations

import pytest
import torch

from bench.config import FIDELITIES, Settings, fidelity_names, read_preset, with_fidelity
from bench.contract.trial import equal
from bench.engine.checkpoint import load_tensors
from bench.engine.plan import scenario_of
from bench.engine.stage import _features
from bench.engine.task import build_learner
from bench.errors import UserError
from bench.evaluate.features import encode_split
from bench.grid import Request, build_runs
from bench.layers import Given, leaves, read_yaml
from tests.data.image_folders import fill
from tests.engine.tiny import planned, records, run, words

pytestmark = pytest.mark.xdist_group("grid")


def model(out):
    """The carried state at the end of the one run in a results folder."""
    (rows,) = records(out).values()
    return load_tensors(out / "stages" / rows[0]["stages"][-1] / "model.safetensors")[0]


def trained_with(pictures, out, *settings):
    """The state that a method ends up with under settings, after one task."""
    more = [word for setting in ("probe.headline=ncm", *settings) for word in ("--set", setting)]
    assert run(*words(pictures, out, "finetune-byol", "--quiet", "--probes", "ncm", *more, tasks=1)) == 0
    return model(out)


def test_schedule_and_normalisation_change_what_is_trained(pictures, tmp_path):
    lines = ((), ("optim.schedule=epoch",), ("data.normalisation=imagenet",))
    states = [trained_with(pictures, tmp_path / str(index), *line) for index, line in enumerate(lines)]
    assert not any(equal(one, other) for one, other in combinations(states, 2))


def test_networks_are_evaluated_under_the_normalisation_they_are_trained_under(pictures, tmp_path):
    line = words(pictures, tmp_path, "finetune-byol", "--set", "data.normalisation=imagenet")
    config = planned(*line).runs[0].config
    scenario = scenario_of(config, tmp_path)
    learner = build_learner(config, scenario, 0)
    stats = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = encode_split(learner, learner.encoder, scenario.dataset.test, 8, stats)
    assert torch.equal(_features(learner, config, scenario).test_x, expected.half())


@pytest.mark.parametrize(
    ("setting", "refusal"),
    [
        (
            "train.device_groups=3",
            r"device_groups 3 does not divide train.batch 16 .*: the nearest that does is 2",
        ),
        ("train.device_groups=16", "into groups of 2 or more: the nearest that does is 8"),
        ("train.device_groups=0", "train.device_groups must be at least 1"),
        ("optim.warmup_epochs=0.5", "optim.warmup_epochs 0.5 must be whole under optim.schedule epoch"),
        ("data.order=cassle", "data.order cassle: 3 tasks do not divide the 4 classes"),
        ("data.order=pnd", "did you mean 'pnr'"),
    ],
)
def test_a_switch_that_does_not_fit_is_refused_in_one_line(pictures, tmp_path, capsys, setting, refusal):
    line = words(pictures, tmp_path, "finetune", "--set", "optim.schedule=epoch", "--set", setting, tasks=3)
    assert run(*line) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(refusal, error), error


def test_constants_for_colours_are_refused_for_grey_data_before_anything_is_trained(tmp_path, capsys):
    grey = fill(tmp_path / "grey", count=40, mode="L")
    assert run(*words(grey, tmp_path / "out", "finetune", "--set", "data.normalisation=cifar")) == 2
    assert "data.normalisation cifar is for images of 3 channels, folder:grey has 1" in capsys.readouterr().err


# fidelity


def settings_under(name, preset="quick", **layer):
    given = {key.replace("__", "."): Given(value, "--set") for key, value in layer.items()}
    (made,) = build_runs(Request(["sycon"], preset=preset, fidelity=name, layer=given))
    return made


@pytest.mark.parametrize("name", fidelity_names())
def test_every_key_of_a_set_exists_and_has_its_source_beside_it(name):
    known = {key for key, _ in leaves(Settings)}
    path = FIDELITIES / f"{name}.yaml"
    keys = {key.removeprefix("unless_given.") for key in read_yaml(path)} - {"description"}
    assert keys <= known
    values = [line for line in path.read_text().splitlines() if line.startswith(" ") and not line.endswith(":")]
    assert len(values) == len(keys)
    assert all("  # " in line for line in values)


def test_released_is_what_the_released_code_does():
    found = settings_under("released").settings
    assert (found.train.teacher_bn, found.train.ema_skip_first, found.train.device_groups) == ("train", True, 1)
    assert (found.optim.schedule, found.encoder.stem_padding, found.data.normalisation) == ("epoch", 2, "released")
    assert (found.online.leak, found.online.run, found.data.order) == (True, False, "seeded")


def test_principled_is_the_default_of_every_switch_over_any_preset():
    found, default = settings_under("principled", preset="paper").settings, Settings()
    assert found.train.teacher_bn == default.train.teacher_bn == "eval"
    assert found.train.ema_skip_first == default.train.ema_skip_first
    assert found.optim.schedule == default.optim.schedule
    assert found.encoder.stem_padding == default.encoder.stem_padding == 1
    assert found.data.normalisation == default.data.normalisation
    assert found.online == default.online


def test_without_a_set_everything_stays_as_it_is():
    assert settings_under(None).settings == settings_under(None, preset="quick").settings
    assert settings_under(None, preset="paper").settings.encoder.stem_padding == 2
    assert "fidelity" not in settings_under(None).overrides


def test_keys_of_the_user_win_over_a_set_and_the_set_over_the_preset():
    made = settings_under("released", train__teacher_bn="eval", optim__schedule="step")
    assert made.settings.train.teacher_bn == "eval"
    assert made.settings.optim.schedule == "step"
    assert made.settings.train.ema_skip_first
    assert made.overrides == {"train.teacher_bn": "eval", "optim.schedule": "step", "fidelity": "released"}


def test_what_a_recipe_knows_better_stays_and_all_else_is_the_sets():
    recipe = {**read_preset("paper"), "train.teacher_bn": Given("reference", "r"), "optim.schedule": Given("step", "r")}
    made = with_fidelity(recipe, "released")
    assert made["train.teacher_bn"].value == "reference"
    assert made["optim.schedule"].value == "epoch"
    assert made["train.epochs"].value == 500


def test_another_set_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"unknown fidelity 'relased'.*did you mean 'released'"):
        settings_under("relased")


def test_a_set_is_taken_from_the_command_line_and_from_a_file(pictures, tmp_path):
    line = words(pictures, tmp_path, "finetune")
    file = tmp_path / "mine.yaml"
    file.write_text("fidelity: released\n")
    named, in_file = (planned(*line, *more) for more in (("--fidelity", "released"), ("--config", str(file))))
    assert named.runs == in_file.runs
    assert named.runs[0].stages != planned(*line).runs[0].stages
    assert named.runs[0].config.overrides["fidelity"] == "released"


def test_switches_of_data_are_named_as_overrides():
    made = settings_under(None, data__order="pnr", data__normalisation="imagenet", data__tasks=2)
    assert made.overrides == {"data.order": "pnr", "data.normalisation": "imagenet"}
