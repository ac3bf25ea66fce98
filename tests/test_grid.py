"""From names to runs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.grid import MOST_SEEDS, Request, build_runs, method_pairs, parse_seeds
from bench.layers import Given
from methods import registry
from tests.refusal import tried


def layer(**values):
    return {key.replace("__", "."): Given(value, "--set") for key, value in values.items()}


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", [0]), ("0-2", [0, 1, 2]), ("5,3,3", [3, 5]), ("0-1, 7", [0, 1, 7]), ("2-2", [2]), (4, [4])],
)
def test_seeds_are_a_list_or_a_span(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "-1", "1-", "2-1", "1.5", "0..2", "1,,2", "²", "٣", "0-99999999", "9" * 30, "0x1", "1-2-3"]
)
def test_other_seeds_are_refused(text):
    with pytest.raises(UserError, match=r"^--seeds "):
        parse_seeds(text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=12) | st.text("0123456789-, ", max_size=12))
def test_any_text_gives_sorted_seeds_or_an_error(text):
    seeds, refusal = tried(parse_seeds, text)
    if refusal is not None:
        assert refusal.startswith("--seeds '")
        return
    assert seeds == sorted(set(seeds))
    assert 0 < len(seeds) <= MOST_SEEDS
    assert all(seed >= 0 for seed in seeds)


def test_a_bare_strategy_takes_every_objective_and_a_pair_its_own():
    assert method_pairs(["sycon", "cassle-byol"], ["moco", "simclr"]) == [
        ("sycon", "moco"),
        ("sycon", "simclr"),
        ("cassle", "byol"),
    ]


def test_all_stands_for_every_name():
    strategies, objectives = registry.classes("strategy"), registry.classes("objective")
    assert len(method_pairs(["all"], ["all"])) == len(strategies) * len(objectives)


def test_a_method_named_twice_or_by_its_alias_runs_once():
    assert method_pairs(["sycon", "pnr", "sycon-moco", "all"], ["moco"])[0] == ("sycon", "moco")
    assert len(method_pairs(["sycon", "pnr", "sycon-moco"], ["moco"])) == 1


def test_the_grid_is_the_product_of_scenarios_methods_and_seeds():
    runs = build_runs(Request(["finetune", "cassle"], scenarios=["class_il", "data_il"], seeds=[0, 1, 2]))
    assert len({(run.scenario, run.strategy, run.seed) for run in runs}) == 12


def test_seeds_vary_everything_or_one_thing():
    (everything,) = build_runs(Request(["finetune"], seeds=[7]))
    assert set(vars(everything.seeds).values()) == {7}
    (one,) = build_runs(Request(["finetune"], seeds=[7], vary="init"))
    assert vars(one.seeds) == {"order": 0, "split": 0, "init": 7, "data": 0, "augment": 0, "probe": 0}


def test_flags_win_over_the_preset_and_are_named_as_overrides():
    (plain,) = build_runs(Request(["finetune"]))
    (changed,) = build_runs(Request(["finetune"], layer=layer(optim__lr=0.2, moco__queue=512)))
    assert plain.overrides == {}
    assert changed.overrides == {"optim.lr": 0.2, "moco.queue": 512}
    assert changed.settings.optim.lr == 0.2
    assert changed.objective_hparams["queue"] == 512
    assert changed.settings.train == plain.settings.train


def test_what_the_preset_says_anyway_is_no_override():
    (plain,) = build_runs(Request(["finetune"]))
    (same,) = build_runs(Request(["finetune"], layer=layer(optim__lr=plain.settings.optim.lr)))
    assert same == plain


def test_a_hyperparameter_goes_to_the_runs_that_read_it():
    runs = build_runs(Request(["sycon-byol", "cassle-byol"], layer=layer(sycon__repel=0.5)))
    assert [run.strategy_hparams.get("repel") for run in runs] == [0.5, None]
    assert [run.overrides for run in runs] == [{"sycon.repel": 0.5}, {}]


def test_an_alias_sets_what_the_name_sets_even_over_a_preset():
    runs = [build_runs(Request(["sycon"], layer={key: Given(64, "--set")})) for key in ("pnr.hidden", "sycon.hidden")]
    assert runs[0] == runs[1]
    assert runs[0][0].strategy_hparams["hidden"] == 64


@pytest.mark.parametrize("key", ["sycon.weight", "moco.distill_temperature", "sycon.repel", "lump.alpha"])
def test_a_hyperparameter_that_no_run_reads_is_refused(key):
    methods = {"sycon.repel": ["sycon-moco"], "lump.alpha": ["sycon-moco"]}.get(key, ["finetune-moco"])
    with pytest.raises(UserError, match=f"no method of this grid reads '{key}'"):
        build_runs(Request(methods, layer={key: Given(0.5, "--set")}))


def test_automatic_numerics_are_resolved_before_they_are_hashed():
    (run,) = build_runs(Request(["finetune"]))
    assert run.settings.numerics.device in ("cpu", "cuda")
    assert run.settings.numerics.precision in ("fp32", "bf16")


def test_a_config_is_refused_by_the_rule_its_method_states():
    with pytest.raises(UserError, match="tau"):
        build_runs(Request(["finetune-moco"], layer=layer(moco__tau_start=1.5)))
