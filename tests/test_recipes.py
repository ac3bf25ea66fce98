"""Recipes: what they give a run, what stands over them, and what is said about it."""

from dataclasses import asdict

import pytest

from bench import cli, options, recipes
from bench.commands import grid as commands
from bench.commands.grid import request_of
from bench.data.datasets import catalogue
from bench.data.named import NAMED
from bench.engine.estimate import Estimate
from bench.errors import UserError
from bench.grid import Request, build_runs
from bench.layers import Given, given_of
from bench.recipes import SCRIPTED, corrections_of, family_of, recipe_layer, recipe_names, remarks_of
from bench.report.records import read_records
from bench.report.variants import strategy_names
from methods import registry
from tests.engine.tiny import paint_folder, planned, words
from tests.report import recording

SCENARIOS = [(family, scenario) for family, scenarios in SCRIPTED.items() for scenario in scenarios]


def asked(*line):
    return build_runs(request_of(options.build_parser().parse_args(["--device", "cpu", "--methods", *line])))


def runs_on(dataset, scenario, recipe, methods=("all",), **more):
    layer = {"data.dataset": Given(dataset, "--dataset"), "numerics.device": Given("cpu", "--device")} | more
    return build_runs(Request(methods, ["all"], [scenario], preset="paper", recipe=recipe, layer=layer))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return paint_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.mark.parametrize(
    ("dataset", "scenario", "size", "family"),
    [
        ("cifar100", "class_il", None, "cifar100"),
        ("cifar10", "data_il", None, "cifar100"),
        ("fashion_mini", "domain_il", None, "cifar100"),
        ("noise:64x3", "domain_il", None, "cifar100"),
        ("noise:65", "domain_il", None, "domainnet"),
        ("noise:224x3x1000", "class_il", None, "imagenet100"),
        ("cifar10", "class_il", 96, "imagenet100"),
        ("folder:PATH", "class_il", None, "imagenet100"),
        ("folder:PATH", "class_il", 64, "cifar100"),
        ("domains:PATH", "domain_il", None, "domainnet"),
        ("domains:PATH", "class_il", None, "imagenet100"),
    ],
)
def test_a_dataset_takes_the_settings_of_the_nearest_scripts(dataset, scenario, size, family):
    assert family_of(dataset, scenario, size) == family


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_released_order_is_asked_for_where_there_is_one(recipe):
    def order(dataset, scenario):
        return recipe_layer(recipe, dataset, scenario, "byol").get("data.order")

    assert order("fashion_mini", "domain_il") is None
    asked_for = [order("fashion_mini", "class_il"), order("folder:PATH", "data_il"), order("domains:PATH", "domain_il")]
    assert [given.value for given in asked_for] == [recipe] * 3


def test_the_side_of_every_dataset_that_ships_is_known():
    by_name = {name for name in catalogue() if ":" not in name}
    assert by_name <= set(recipes.SIDES) | set(NAMED)
    families = {name: family_of(name, "class_il") for name in ("tiny_imagenet", "imagenet1k", "pacs", "cifar10")}
    large = dict.fromkeys(("imagenet1k", "pacs"), "imagenet100")
    assert families == {"tiny_imagenet": "cifar100", "cifar10": "cifar100", **large}


@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize(("dataset", "scenario"), SCENARIOS)
def test_every_value_of_a_recipe_reaches_the_runs(recipe, dataset, scenario):
    for run in runs_on(dataset, scenario, recipe, ["finetune", "cassle", "sycon"]):
        found = {key: given.value for key, given in given_of(run.settings).items()}
        found |= {f"{run.objective}.{key}": value for key, value in run.objective_hparams.items()}
        found |= {f"{run.strategy}.{key}": value for key, value in run.strategy_hparams.items()}
        layer = recipe_layer(recipe, dataset, scenario, run.objective)
        wanted = {k: tuple(v.value) if isinstance(v.value, list) else v.value for k, v in layer.items() if k in found}
        assert {key: found[key] for key in wanted} == wanted
        assert {key.partition(".")[0] for key in set(layer) - set(wanted)} <= {"finetune", "cassle", "sycon"}


@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize(("dataset", "scenario"), SCENARIOS)
def test_strategies_of_one_objective_train_with_the_same_settings(recipe, dataset, scenario):
    shared = {}
    for run in runs_on(dataset, scenario, recipe):
        first = shared.setdefault(run.objective, run)
        assert (run.settings, run.objective_hparams) == (first.settings, first.objective_hparams)
    assert len(shared) == len(registry.classes("objective"))
    assert len({str(run.settings) for run in shared.values()}) > 1


def test_flags_and_assignments_stand_over_the_recipe_which_stands_over_the_preset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: pnr\noptim: {lr: 0.5, weight_decay: 0.5}\nmethods: sycon\n")
    line = ("sycon-vicreg", "--config", str(file), "--set", "optim.lr=0.25", "--epochs", "7")
    (run,) = asked(*line)
    optim = run.settings.optim
    assert (optim.lr, optim.weight_decay, run.settings.train.epochs) == (0.25, 0.5, 7)
    assert run.settings.augment.view1.crop_scale == (0.2, 1.0)
    assert run.preset == "paper"
    assert run.settings.numerics.threads == 2
    (quick,) = asked(*line, "--preset", "quick")
    assert (quick.preset, quick.settings.numerics.threads) == ("quick", 1)
    assert quick.settings.encoder.name == "resnet18"


def test_under_a_recipe_the_seed_is_that_of_the_scripts_unless_another_is_given():
    assert [run.seed for run in asked("sycon", "--recipe", "pnr")] == [5]
    assert [run.seed for run in asked("sycon", "--recipe", "pnr", "--seeds", "0-1")] == [0, 1]
    assert [run.seed for run in asked("sycon")] == [0]


def test_overrides_are_what_differs_from_the_recipe():
    lr, queue = Given(0.6, "--set"), Given(65536, "--set")
    moco, byol = runs_on(
        "cifar100", "class_il", "pnr", ["sycon-moco", "sycon-byol"], **{"optim.lr": lr, "moco.queue": queue}
    )
    assert ("optim.lr" in moco.overrides, "moco.queue" in moco.overrides) == (False, False)
    assert byol.overrides["optim.lr"] == 0.6
    (moco,) = runs_on("cifar100", "class_il", "pnr", ["sycon-moco"], **{"moco.queue": Given(512, "--set")})
    assert moco.overrides["moco.queue"] == 512


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"^unknown recipe 'casle' \(did you mean 'cassle'\?\)$"):
        asked("sycon", "--recipe", "casle")
    with pytest.raises(UserError, match=r"^unknown recipe 'pn' "):
        build_runs(Request(["sycon"], recipe="pn"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{when: {famly: cifar100}}", "unknown condition 'famly' .did you mean 'family'"),
        ("{when: {family: cifar10}}", "unknown family 'cifar10' .did you mean 'cifar100'"),
        ("{when: {scenario: [class_il, data]}}", "unknown scenario 'data' .did you mean 'data_il'"),
        ("{sett: {optim: {lr: 1}}}", "a section has no 'sett' .did you mean 'set'"),
        ("{set: {optim: {rate: 1}}}", "unknown key 'optim.rate'"),
    ],
)
def test_a_slip_in_a_recipe_is_refused_with_its_line(text, message, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(f"description: mine\nseed: 5\nsections:\n  one: {text}\n")
    monkeypatch.setattr(recipes, "RECIPES", tmp_path)
    recipes._read.cache_clear()
    recipes.sections.cache_clear()
    with pytest.raises(UserError, match=f"mine.yaml:4: {message}"):
        asked("sycon", "--recipe", "mine")


def test_what_no_script_is_for_is_said():
    (own,) = runs_on("imagenet100", "data_il", "cassle", ["sycon-byol"])
    assert remarks_of(own) == []
    (other,) = runs_on("cifar10", "data_il", "cassle", ["sycon-moco"])
    place, objective = remarks_of(other)
    assert place == "recipe cassle: cifar10 in data_il takes the settings for cifar100"
    assert "CaSSLe has no MoCo script for CIFAR" in objective


def test_the_corrections_of_a_run_are_those_of_its_own_scripts():
    (moco, byol) = runs_on("cifar100", "class_il", "pnr", ["sycon-moco", "sycon-byol"])
    (found,) = corrections_of(moco)
    assert (found.field, found.released, found.used) == ("epochs_per_task", "1", "500")
    assert corrections_of(byol) == []
    (plain,) = asked("sycon-moco", "--dataset", "cifar100", "--preset", "paper")
    assert corrections_of(plain) == remarks_of(plain) == []


def test_keys_depend_on_values_and_not_on_where_they_came_from(pictures, tmp_path):
    line = words(pictures, tmp_path, "sycon-byol", "--preset", "paper", "--seeds", "1")
    layer = recipe_layer("pnr", f"folder:{pictures}", "class_il", "byol")
    by_hand = {key: given for key, given in layer.items() if f"{key}=" not in " ".join(line)}
    sets = [word for key, given in by_hand.items() for word in ("--set", f"{key}={given.value}")]
    unread = [word for word in sets if not word.startswith("cassle.")]
    (recipe,) = planned(*line, "--recipe", "pnr").runs
    (plain,) = planned(*line, *dropped(sets), *line).runs
    assert unread
    assert recipe.stages == plain.stages
    assert recipe.run_id == plain.run_id
    assert recipe.setting != plain.setting


def dropped(sets):
    """Without assignments that no method of a Sy-CON grid reads."""
    pairs = zip(sets[::2], sets[1::2], strict=True)
    return [word for pair in pairs if not pair[1].startswith("cassle.") for word in pair]


def test_objectives_of_one_recipe_share_a_setting_and_recipes_do_not(pictures, tmp_path):
    def settings(*more):
        line = words(pictures, tmp_path, "sycon-byol,cassle-vicreg", "--set", "optim.lr=0.03")
        return {run.setting for run in planned(*line, *more).runs}

    one, two = settings("--recipe", "pnr"), settings("--recipe", "cassle")
    assert len(one) == len(two) == 1
    assert one != two
    assert settings("--recipe", "pnr", "--epochs", "3") != one


def test_plan_and_records_say_recipe_corrections_and_stand_ins(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commands, "estimate", lambda *_: Estimate(1.0, 1.0, False))  # it would train at 224 pixels
    line = words(pictures, tmp_path, "sycon-barlow,finetune-simsiam", "--recipe", "pnr")
    shown = [word for word in line if word not in ("--format", "md")]
    assert cli.main(["plan", *shown]) == 0
    text = capsys.readouterr().out
    assert "recipe pnr: the released scripts of PNR" in text
    assert (
        "corrected: PNR/bash_files/continual/imagenet-100/class/barlow_pnr.sh: distill.negative_lamb 1.0 -> 2.0" in text
    )
    assert f"folder:{pictures} in class_il takes the settings for imagenet100" in text
    assert "no script of any family trains SimSiam" in text
    for run in planned(*line).runs:
        assert run.config.recipe == asdict(run.config)["recipe"] == "pnr"
        assert "takes the settings for imagenet100" in run.note


def test_lists_name_the_recipes(capsys):
    assert cli.main(["list", "recipes"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*recipe_names(), *SCRIPTED))


def test_a_report_tells_runs_of_two_recipes_apart(tmp_path):
    for row in (recording.config(recipe="pnr", setting="a"), recording.config(setting="b", run_id="b" * 16)):
        recording.write(tmp_path, recording.rows_of(row))
    runs, _ = read_records(tmp_path / "records")
    assert set(strategy_names(runs).values()) == {"sycon [pnr]", "sycon"}
