"""Runs that another machine has made: where their records are merged and complete, nothing of them is to do here."""

from dataclasses import replace

from bench.engine.plan import Plan, PlannedRun
from bench.engine.progress import is_done
from bench.engine.store import Store
from bench.errors import UserError
from bench.evaluate.probes import probe_names
from bench.report.records import Run, read_run


def without_merged(plan: Plan, store: Store, retrain: bool = False) -> Plan:
    """The plan without the runs that are complete by what was merged, but have not all of their stages here. retrain:
    keeps those that other code than the present has made."""
    merged = {path.stem for path in store.merged("any").parent.glob("*.jsonl")}
    kept = [run for run in plan.runs if run.run_id not in merged or not _is_merged(run, plan, store, retrain)]
    if len(kept) == len(plan.runs):
        return plan
    keys = {key for run in kept for key in run.stages}
    return replace(plan, runs=kept, stages={key: stage for key, stage in plan.stages.items() if key in keys})


def _is_merged(run: PlannedRun, plan: Plan, store: Store, retrain: bool) -> bool:
    if not store.record(run.run_id).exists():
        return False
    try:
        record = read_run(store.record(run.run_id), [])
    except UserError:  # whoever makes the run says why
        return False
    if record is None or (retrain and record.stale):
        return False
    return _has_all(record, run) and not all(is_done(plan.stages[key], store) for key in run.stages)


def _has_all(record: Run, run: PlannedRun) -> bool:
    """Whether a record has every row that the planned run would write."""
    others = [
        (probe.target.name, name, task)
        for probe in run.probes
        if probe.target is not None
        for name in probe_names(probe.name, probe.config, "data_il")
        for task in run.after
    ]
    complete = record.status in ("complete", "marked") and {*run.expected_probes()} <= {*record.probes}
    return complete and all(key in record.transfer for key in others)
