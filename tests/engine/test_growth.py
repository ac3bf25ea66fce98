"""Work grows with the size of a grid and no faster: counted, not timed."""

from collections import Counter
from dataclasses import replace

import pytest

from bench.config import KnnProbe
from bench.engine import plan as planning
from bench.engine.plan import Probe, make_plan, scenario_of
from bench.engine.records import start_record, sync_record
from bench.engine.store import Store
from bench.evaluate.probes import probe_names
from bench.grid import Request, build_runs
from bench.layers import Given
from bench.seal import seal_file

METHODS = ("finetune", "cassle", "sycon", "lump")
SEEDS = range(5)
pytestmark = pytest.mark.xdist_group("grid")


@pytest.fixture(scope="module")
def grid(pictures):
    """Makes the runs of a grid on the pictures."""
    layer = {"data.dataset": Given(f"folder:{pictures}", "--dataset"), "train.batch": Given(16, "--batch")}

    def of(methods=METHODS, seeds=SEEDS, **more):
        return build_runs(Request(methods, seeds=seeds, layer=layer, **more))

    return of


@pytest.fixture
def calls(monkeypatch):
    """Counts how often datasets are loaded and scenarios built, from empty caches on."""
    counts = Counter()
    for name in ("load", "build"):
        real = getattr(planning, name)

        def counting(*args, name=name, real=real, **options):
            counts[name] += 1
            return real(*args, **options)

        monkeypatch.setattr(planning, name, counting)
    caches = (planning._scenario, planning._dataset)
    for cache in caches:
        cache.cache_clear()
    yield counts
    for cache in caches:
        cache.cache_clear()


def test_a_scenario_is_built_once_for_all_methods_of_a_seed(calls, grid, tmp_path):
    runs = grid(scenarios=("class_il", "data_il"))
    assert len(make_plan(runs, tmp_path).runs) == 2 * len(METHODS) * len(SEEDS)
    assert calls == {"load": 1, "build": 2 * len(SEEDS)}


def test_a_scenario_is_built_once_where_seeds_do_not_change_it(calls, grid, tmp_path):
    make_plan(grid(vary="init"), tmp_path)
    assert calls == {"load": 1, "build": 1}


def test_a_dataset_that_was_loaded_with_a_progress_bar_is_not_loaded_again_without(calls, grid, tmp_path):
    (run,) = grid(["finetune"], [0])
    make_plan([run], tmp_path, quiet=False)
    scenario_of(run, tmp_path)
    assert calls == {"load": 1, "build": 1}


def test_a_plan_keeps_the_order_of_its_runs_and_knows_each_once(grid, tmp_path):
    runs = grid(scenarios=("class_il", "data_il"))
    found = make_plan([*runs, *runs[:3]], tmp_path)
    assert [run.config for run in found.runs] == runs
    own = [stage for run in found.runs for stage in run.stages]
    assert list(found.stages) == list(dict.fromkeys(own))


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def single(grid, tmp_path):
    """A run of five tasks."""
    (run,) = make_plan(grid(["sycon"], [0], scenarios=("data_il",)), tmp_path).runs
    return run


def finish(store, run, position, code="0" * 12):
    """Writes what a finished stage leaves for the records."""
    key, tasks = run.stages[position], range(len(run.task_names))
    store.stage(key).mkdir(parents=True, exist_ok=True)
    for probe in run.probes:
        names = probe_names(probe.name, probe.config, run.config.scenario)
        rows = [{"probe": n, "on_task": i, "value": (7 * position + i) % 10 / 10, "n": 9} for n in names for i in tasks]
        put(store.probe(key, probe.key), {"rows": rows})
    watch = None if position == 0 else {"effective_rank": 3.0, "collapsed": False, "reason": ""}
    facts = {"kind": "task" if position > 1 else "init", "watch": watch, "code": code}
    facts |= {"sessions": [{"step": 0, "code": code, "environment": {}, "processes": 1}]}
    facts |= {"parent": run.stages[position - 1] if position > 2 else None, "from": code if position > 2 else None}
    facts |= {"task": position, "samples": 0, "seconds": {}, "environment": {}}
    put(store.end(key), facts)


def put(path, content):
    path.write_bytes(seal_file(path, content))


def recorded(store, run, positions):
    """The record after the stages have ended one by one, each booked as it ended."""
    store.prepare()
    start_record(run, store)
    for position in positions:
        finish(store, run, position)
        sync_record(run, store)
    return store.record(run.run_id).read_bytes()


def test_records_read_each_stage_once_beside_finding_it_unfinished_and_for_the_next_one(single, tmp_path, monkeypatch):
    reads = Counter()
    real = Store.facts

    def counting(store, key):
        reads[key] += 1
        return real(store, key)

    monkeypatch.setattr(Store, "facts", counting)
    recorded(Store(tmp_path / "out"), single, range(len(single.stages)))
    assert set(reads) == set(single.stages)
    assert max(reads.values()) <= 3


@pytest.mark.parametrize("order", [(1, 0, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1, 0)])
def test_the_order_in_which_stages_end_changes_no_byte_of_a_record(single, tmp_path, order):
    straight = recorded(Store(tmp_path / "straight"), single, range(len(single.stages)))
    assert recorded(Store(tmp_path / "other"), single, order) == straight


@pytest.mark.parametrize("kept", [0, 400, -30], ids=["nothing", "a torn config row", "a torn last row"])
def test_what_others_do_to_a_record_meanwhile_is_noticed(single, tmp_path, kept):
    store = Store(tmp_path / "out")
    whole = recorded(store, single, range(len(single.stages)))
    store.record(single.run_id).write_bytes(whole[:kept])
    start_record(single, store)
    assert sync_record(single, store) == len(single.stages)
    assert store.record(single.run_id).read_bytes() == whole


def test_rows_of_another_probe_join_a_record_that_is_complete(single, tmp_path):
    store = Store(tmp_path / "out")
    whole = recorded(store, single, range(len(single.stages)))
    other = Probe("knn", KnnProbe(k=3), 0)
    widened = replace(single, probes=(*single.probes, other))
    again = recorded(store, widened, range(len(single.stages)))
    assert again.startswith(whole)
    assert again.count(b"knn(k=3)") == len(single.stages) * len(single.task_names)
