"""Statistics over seeds: cells, variants, counts, references, clear winners and flipped orders."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import recording

from bench.report.comparisons import differences_to_best, flips, winners
from bench.report.statistics import Summary, interval, summarise

PROBE = ("linear",)


def run_with(out: Path, final: float, strategy: str = "sycon", seed: int = 0, **more: Any) -> dict[str, Any]:
    """A two-task run whose average accuracy is `final` and whose forgetting is 0.1."""
    head = recording.config(strategy, seed=seed, tasks=2, probes=PROBE, **more)
    rows = recording.accuracy_rows("linear", [[final + 0.1, 0.2], [final, final]], [0.1, 0.1])
    recording.write(out, [head, *rows])
    return head


def cell(summary: Summary, strategy: str, metric: str = "average_accuracy", probe: str = "linear") -> pd.Series:
    cells = summary.cells
    found = cells[(cells["strategy"] == strategy) & (cells["metric"] == metric) & (cells["probe"] == probe)]
    assert len(found) == 1
    return found.iloc[0]


def test_an_interval_is_the_student_t_interval_worked_out_by_hand() -> None:
    spread = interval([0.5, 0.6, 0.7])
    half = 4.302653 * 0.1 / math.sqrt(3)  # t quantile for two degrees of freedom
    assert spread[:2] == pytest.approx((0.6, 0.1))
    assert (spread.low, spread.high) == pytest.approx((0.6 - half, 0.6 + half), abs=1e-6)
    assert spread.n == 3


def test_one_value_has_no_spread_and_no_value_has_no_mean() -> None:
    one, none = interval([0.5]), interval([float("nan")])
    assert (one.mean, one.n) == (0.5, 1)
    assert np.isnan([one.std, one.low, one.high]).all()
    assert math.isnan(none.mean)
    assert none.n == 0
    assert not one.excludes_zero


def test_rounding_errors_do_not_exclude_zero_but_constant_differences_do() -> None:
    assert not interval([1e-17, 1e-17]).excludes_zero
    assert interval([0.01, 0.01]).excludes_zero
    assert interval([-0.01, -0.01]).excludes_zero


def test_a_cell_is_the_mean_over_its_seeds(tmp_path: Path) -> None:
    for seed, final in enumerate((0.5, 0.7)):
        run_with(tmp_path, final, seed=seed)
    found = cell(summarise(tmp_path), "sycon")
    assert found["mean"] == pytest.approx(0.6)
    assert found["std"] == pytest.approx(0.2 / math.sqrt(2))
    assert list(found[["n", "complete", "marked", "planned"]]) == [2, 2, 0, 2]


def test_collapsed_runs_lower_n_and_leave_the_mean_alone(tmp_path: Path) -> None:
    for seed in range(2):
        recording.write(tmp_path, recording.rows_of(recording.config(seed=seed)))
    before = cell(summarise(tmp_path), "sycon")
    collapsed = recording.marked(recording.rows_of(recording.config(seed=2), level=0.1))
    recording.write(tmp_path, collapsed)
    found = cell(summarise(tmp_path), "sycon")
    assert found["mean"] == before["mean"]
    assert list(found[["n", "complete", "marked", "planned"]]) == [2, 3, 1, 3]


def test_a_method_whose_every_run_collapsed_keeps_its_cell_without_a_mean(tmp_path: Path) -> None:
    recording.write(tmp_path, recording.marked(recording.rows_of(recording.config())))
    found = cell(summarise(tmp_path), "sycon")
    assert math.isnan(found["mean"])
    assert list(found[["n", "marked", "planned"]]) == [0, 1, 1]


def test_unfinished_runs_count_as_planned_and_so_do_seeds_of_other_strategies(tmp_path: Path) -> None:
    run_with(tmp_path, 0.5)
    recording.write(tmp_path, [recording.config(seed=1, tasks=2, probes=PROBE)])
    run_with(tmp_path, 0.6, "cassle", seed=2)
    summary = summarise(tmp_path)
    assert list(cell(summary, "sycon")[["n", "planned"]]) == [1, 3]
    assert list(cell(summary, "cassle")[["n", "planned"]]) == [1, 3]


def test_an_override_is_named_and_never_averaged_with_the_default(tmp_path: Path) -> None:
    run_with(tmp_path, 0.5)
    run_with(tmp_path, 0.9, overrides={"optim.lr": 0.3})
    summary = summarise(tmp_path)
    assert cell(summary, "sycon")["mean"] == pytest.approx(0.5)
    assert cell(summary, "sycon [optim.lr=0.3]")["mean"] == pytest.approx(0.9)


def test_presets_are_named_in_every_row_where_there_are_several(tmp_path: Path) -> None:
    run_with(tmp_path, 0.5, preset="quick")
    run_with(tmp_path, 0.9, preset="pilot")
    run_with(tmp_path, 0.7, "cassle", preset="pilot")
    names = set(summarise(tmp_path).names.values())
    assert names == {"sycon [quick]", "sycon [pilot]", "cassle [pilot]"}


def test_a_strategy_with_two_method_settings_is_told_apart_and_others_keep_their_name(tmp_path: Path) -> None:
    run_with(tmp_path, 0.5, "finetune")
    run_with(tmp_path, 0.5)
    run_with(tmp_path, 0.6, method={"sycon.weight": 2})
    assert set(summarise(tmp_path).names.values()) == {"finetune", "sycon", "sycon [sycon.weight=2]"}


def test_settings_that_nothing_else_tells_apart_are_named_by_hash(tmp_path: Path) -> None:
    for number in "12":
        run_with(tmp_path, 0.5, setting=number * 8, run_id=number * 16)
    for number in "34":
        run_with(tmp_path, 0.5, method_setting=number * 8, run_id=number * 16, tasks_note=number, scenario="domain_il")
    names = set(summarise(tmp_path).names.values())
    assert names == {"sycon [11111111]", "sycon [22222222]", "sycon [33333333]", "sycon [44444444]"}


def test_references_of_settings_that_nothing_else_tells_apart_are_named_by_hash(tmp_path: Path) -> None:
    for number in "12":
        run_with(tmp_path, 0.5, setting=number * 8, run_id=number * 16)
    summary = summarise(tmp_path)
    for number in "12":
        assert cell(summary, f"random [{number * 8}]")["n"] == 1


def test_runs_that_vary_different_seeds_are_not_averaged(tmp_path: Path) -> None:
    run_with(tmp_path, 0.5, vary="all")
    run_with(tmp_path, 0.9, vary="order")
    assert set(summarise(tmp_path).names.values()) == {"sycon [vary=all]", "sycon [vary=order]"}


def test_what_all_runs_share_is_in_no_name(tmp_path: Path) -> None:
    run_with(tmp_path, 0.5, overrides={"optim.lr": 0.3})
    run_with(tmp_path, 0.5, "cassle", overrides={"optim.lr": 0.3})
    assert set(summarise(tmp_path).names.values()) == {"sycon", "cassle"}


def test_a_second_run_of_one_seed_is_left_out_with_a_warning(tmp_path: Path) -> None:
    run_with(tmp_path, 0.5, run_id="a" * 16)
    run_with(tmp_path, 0.9, run_id="b" * 16)
    summary = summarise(tmp_path)
    assert cell(summary, "sycon")["mean"] == pytest.approx(0.5)
    assert len(summary.warnings) == 1
    assert "b" * 16 in summary.warnings[0]
    assert "a" * 16 in summary.warnings[0]


def test_the_random_network_and_pixels_are_counted_once_per_seed(tmp_path: Path) -> None:
    for seed in range(2):
        for strategy in ("sycon", "cassle"):
            head = recording.config(strategy, seed=seed, tasks=2, probes=PROBE)
            rows = recording.accuracy_rows("linear", [[0.8, 0.3], [0.6, 0.9]], [0.1 + seed / 10, 0.3])
            pixels = [{"kind": "pixels", "on_task": i, "probe": "linear", "value": 0.4, "n": 9} for i in range(2)]
            recording.write(tmp_path, [head, *rows, *pixels])
    summary = summarise(tmp_path)
    random, pixels_cell = cell(summary, "random"), cell(summary, "pixels")
    assert random["objective"] == "none"
    assert (random["mean"], random["n"]) == (pytest.approx((0.2 + 0.25) / 2), 2)
    assert (pixels_cell["mean"], pixels_cell["n"]) == (pytest.approx(0.4), 2)
    references = summary.cells[summary.cells["objective"] == "none"]
    assert set(references["metric"]) == {"average_accuracy"}


def test_a_clear_winner_beats_every_other_strategy_by_seed(tmp_path: Path) -> None:
    for seed, luck in enumerate((0.0, 0.2, 0.1)):
        run_with(tmp_path, 0.52 + luck + seed / 1000, "sycon", seed)
        run_with(tmp_path, 0.50 + luck, "cassle", seed)
    # intervals of the two overlap by far, the differences by seed do not include zero
    assert winners(summarise(tmp_path), "linear", "average_accuracy") == {
        ("class_il", "fashion_mini", 2, "moco", "sycon")
    }


def test_one_doubtful_comparison_makes_no_winner(tmp_path: Path) -> None:
    for seed, luck in enumerate((0.0, 0.2, 0.1)):
        run_with(tmp_path, 0.52 + seed / 1000, "sycon", seed)
        run_with(tmp_path, 0.50, "cassle", seed)
        run_with(tmp_path, 0.40 + luck, "lump", seed)
    assert not winners(summarise(tmp_path), "linear", "average_accuracy")


@pytest.mark.parametrize("seeds", [{"sycon": [0], "cassle": [0]}, {"sycon": [0, 1], "cassle": [2, 3]}])
def test_without_two_common_seeds_there_is_no_winner(tmp_path: Path, seeds: dict[str, list[int]]) -> None:
    for strategy, own in seeds.items():
        for seed in own:
            run_with(tmp_path, 0.9 if strategy == "sycon" else 0.1, strategy, seed)
    assert not winners(summarise(tmp_path), "linear", "average_accuracy")


def test_strategies_of_other_settings_or_objectives_are_no_competitors(tmp_path: Path) -> None:
    for seed in range(2):
        run_with(tmp_path, 0.8 + seed / 1000, "sycon", seed, preset="quick")
        run_with(tmp_path, 0.1, "cassle", seed, preset="pilot")
        run_with(tmp_path, 0.1, "cassle", seed, objective="byol", preset="quick")
    assert not winners(summarise(tmp_path), "linear", "average_accuracy")


def test_the_winner_in_forgetting_is_the_lowest(tmp_path: Path) -> None:
    for seed in range(2):
        run_with(tmp_path, 0.5, "sycon", seed)
        head = recording.config("cassle", seed=seed, tasks=2, probes=PROBE)
        recording.write(tmp_path, [head, *recording.accuracy_rows("linear", [[0.5, 0], [0.5, 0.5]], [0, 0])])
    found = winners(summarise(tmp_path), "linear", "forgetting")
    assert found == {("class_il", "fashion_mini", 2, "moco", "cassle")}


def test_a_strategy_without_values_of_a_probe_is_no_competitor_in_it(tmp_path: Path) -> None:
    for seed in range(2):
        run_with(tmp_path, 0.9, "cassle", seed)
        for strategy, lost in (("sycon", 0.2), ("lump", 0.3)):
            rows = [recording.config(strategy, seed=seed, tasks=2)]
            for probe in ("linear", "knn"):
                rows += recording.accuracy_rows(probe, [[0.5 + lost + seed / 1000, 0], [0.5, 0.5]], [0, 0])
            recording.write(tmp_path, rows)
    summary = summarise(tmp_path)
    place = ("class_il", "fashion_mini", 2, "moco")
    assert winners(summary, "knn", "forgetting") == {(*place, "sycon")}
    assert winners(summary, "linear", "forgetting") == {(*place, "cassle")}
    assert winners(summary, "ncm", "forgetting") == set()


def test_differences_to_the_best_are_paired_by_seed(tmp_path: Path) -> None:
    for seed, luck in enumerate((0.0, 0.2)):
        run_with(tmp_path, 0.6 + luck, "sycon", seed)
        run_with(tmp_path, 0.5 + luck, "cassle", seed)
    run_with(tmp_path, 0.1, "cassle", seed=7)
    (difference,) = differences_to_best(summarise(tmp_path), "average_accuracy")
    assert (difference.strategy, difference.other) == ("sycon", "cassle")
    assert difference.spread.mean == pytest.approx(0.1)
    assert difference.spread.std == pytest.approx(0, abs=1e-12)
    assert difference.spread.n == 2


def test_an_order_that_flips_between_definitions_of_forgetting_is_reported_once(tmp_path: Path) -> None:
    # cassle peaks between: more forgetting than sycon by the best row, less by the first one
    matrices = {
        "cassle": [[0.5, 0, 0], [0.9, 0.5, 0], [0.5, 0.5, 0.5]],
        "sycon": [[0.7, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0.5]],
    }
    for strategy, matrix in matrices.items():
        rows = recording.accuracy_rows("linear", matrix, [0, 0, 0])
        recording.write(tmp_path, [recording.config(strategy, probes=PROBE), *rows])
    (line,) = flips(summarise(tmp_path))
    assert "class_il / fashion_mini / 3 tasks / moco: the order of cassle and sycon in forgetting" in line
    assert "cassle is higher by forgetting, forgetting_max_all, forgetting_div_T, lower by forgetting_first" in line


def test_an_order_that_flips_between_probes_is_reported(tmp_path: Path) -> None:
    for strategy, linear, knn in (("cassle", 0.6, 0.4), ("sycon", 0.5, 0.5)):
        rows = [recording.config(strategy, tasks=1)]
        for probe, value in (("linear", linear), ("knn", knn)):
            rows += recording.accuracy_rows(probe, [[value]], [0.1])
        recording.write(tmp_path, rows)
    (line,) = flips(summarise(tmp_path))
    assert line.endswith("in average accuracy flips: cassle is higher by linear, lower by knn")


def test_orders_that_agree_or_tie_are_not_reported(tmp_path: Path) -> None:
    for strategy, linear in (("cassle", 0.6), ("sycon", 0.5)):
        rows = [recording.config(strategy, tasks=1)]
        for probe, value in (("linear", linear), ("knn", 0.4)):
            rows += recording.accuracy_rows(probe, [[value]], [0.1])
        recording.write(tmp_path, rows)
    assert flips(summarise(tmp_path)) == []


def test_a_difference_by_rounding_alone_flips_no_order(tmp_path: Path) -> None:
    ascending = [0.1, 0.2, 0.3]
    assert np.mean(ascending) > np.mean(ascending[::-1])
    for strategy, linear, knn in (("cassle", 0.6, ascending[::-1]), ("sycon", 0.5, ascending)):
        rows = [recording.config(strategy)]
        for probe, final in (("linear", [linear] * 3), ("knn", knn)):
            rows += recording.accuracy_rows(probe, [[0.5] * 3, [0.5] * 3, final], [0.1] * 3)
        recording.write(tmp_path, rows)
    assert not any("average accuracy flips" in line for line in flips(summarise(tmp_path)))
