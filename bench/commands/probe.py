"""`eval`: probes on finished stages, without training them again."""

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.commands.report import render
from bench.config import ProbeConfig, RunConfig
from bench.engine.checkpoint import load_tensors
from bench.engine.plan import Stage, make_plan
from bench.engine.probing import Probe, probe_of, transfers_of
from bench.engine.records import accuracy_row, append_rows, probe_rows
from bench.engine.runner import is_out_of_memory, what_to_lower
from bench.engine.stage import Clock, probe_stage
from bench.engine.store import Store
from bench.errors import UserError, nearest
from bench.evaluate.catalogue import PROBES
from bench.evaluate.features import Features
from bench.evaluate.probes import FITS, run_probe
from bench.grid import again, resolve_numerics
from bench.layers import fill, leaves, parse_set
from bench.lease import Busy, LostLease, holder_of
from bench.report.formats import check_formats
from bench.report.records import Line, codes_of, whole_lines
from bench.report.rows import BadRow, checked

BUSY_SECONDS = 0.5
"""Between looks at a stage that another process probes."""


@dataclass(frozen=True)
class Wanted:
    """Names of the probes to run, their settings, and the datasets to transfer to."""

    names: tuple[str, ...]
    config: ProbeConfig


def evaluate(args: argparse.Namespace) -> int:
    """Runs the probes on every finished stage of every run in --out, appends their rows, and reports."""
    wanted = _wanted(args)
    check_formats(args.format)
    store = Store(args.out)
    store.check_links()
    paths = sorted((args.out / "records").glob("*.jsonl"))
    if not paths:
        raise UserError(f"no records in {args.out / 'records'}: run something first, or name another --out")
    missing = 0
    for path in paths:
        lines, _ = whole_lines(path.read_bytes() if path.is_file() else b"")
        run, codes = _first_row(path, lines), codes_of(line.row for line in lines)
        try:
            config = again(run["config"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        torch.set_num_threads(config.settings.numerics.threads)
        try:
            missing += _probe_run(_Planned(run, config, store, args.quiet), codes, wanted)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            print(f"error: {path}: {what_to_lower(config)}", file=sys.stderr)
            return 1
    if missing:
        print(
            f"{missing} stages have no cached features or model (not trained yet, in work, or removed), or have been "
            "trained again since their run was recorded (run it again): left out",
            file=sys.stderr,
        )
    render(args.out, args.format, args.quiet)
    return 0


def _wanted(args: argparse.Namespace) -> Wanted:
    transfer = tuple(args.transfer or ())
    names = tuple(args.probe or (() if transfer else ProbeConfig().run))
    for name in names:
        if name not in PROBES:
            raise UserError(f"unknown probe '{name}'{nearest(name, PROBES)}")
        if PROBES[name].kind == "training":
            raise UserError(f"--probe {name}: it runs while a stage trains, and not afterwards")
    return Wanted(names, replace(_probe_config(args.set, names), transfer=transfer))


def _first_row(path: Path, lines: list[Line]) -> dict[str, Any]:
    """The config row of a run; raises UserError where the file does not begin with one of the run it is named by."""
    try:
        run = checked(lines[0].row) if lines and lines[0].row.get("kind") == "config" else None
    except BadRow as error:
        raise UserError(f"{path}: the config line lacks a valid {error}") from None
    if run is None:
        raise UserError(f"{path}: does not begin with a config row: repeat the run, or remove the file")
    after = run.setdefault("after", [*range(-2, run["tasks"])])
    if run["run_id"] != path.stem or "config" not in run or len(run.get("stages", ())) != len(after):
        raise UserError(f"{path}: is not the record of a run of this name with its stages and configuration")
    return run


def _probe_config(assignments: list[str], names: tuple[str, ...]) -> ProbeConfig:
    given = dict(parse_set(text) for text in assignments)
    known = {f"probe.{key}" for key, _ in leaves(ProbeConfig) if "." in key}
    for key in given:
        if key not in known:
            raise UserError(f"--set: unknown key '{key}'{nearest(key, known)}")
        if key.split(".")[1] not in names:
            raise UserError(f"--set {key}: --probe does not name '{key.split('.')[1]}'")
    config: ProbeConfig = fill(ProbeConfig, given, "probe.")
    return config


def _probe_run(planned: "_Planned", codes: dict[int, set[str]], wanted: Wanted) -> int:
    """Rows of the probes for one run, computed where they are not cached; returns the number of rows left out, counted
    as stages. codes: what has made the run's stages, as its record says."""
    run, config, store = planned.run, planned.config, planned.store
    probes = [probe_of(name, wanted.config, config.objective, config.seeds.probe) for name in wanted.names]
    if wanted.config.transfer:
        probes += transfers_of(config, wanted.config, store.out, planned.quiet)
    stages = list(zip(run["after"], run["stages"], strict=True))
    missing = 0
    for probe in probes:
        rows = []
        for task, key in stages:
            if not probe.fits({-2: "pixels", -1: "init"}.get(task, "task")):
                continue
            found = _rows_when_free(planned, probe, key, codes.get(task))
            if found is None:
                missing += 1
            else:
                rows += [accuracy_row(row, task) for row in found]
        append_rows(store, store.record(run["run_id"]), rows)
    return missing


def _is_recorded(store: Store, key: str, codes: set[str] | None) -> bool:
    """Whether a stage is the one that a record has rows of, as far as that says what code has made it."""
    facts = store.facts(key)
    return facts is None or codes is None or facts["code"] in codes


class _Planned:
    """The stages of a recorded run, planned again when a probe first needs its network and images."""

    def __init__(self, run: dict[str, Any], config: RunConfig, store: Store, quiet: bool) -> None:
        self.run, self.config, self.store, self.quiet = run, config, store, quiet
        self.stages: dict[str, Stage] = {}

    def __getitem__(self, key: str) -> Stage:
        """The stage of a key; raises UserError where settings or images are no longer what it was trained with."""
        if not self.stages:
            config = self.config
            resolve_numerics(config.settings.numerics)  # refuses a device that is not here
            plan = make_plan([config], self.store.out, self.quiet)
            if plan.runs[0].stages != tuple(self.run["stages"]):
                name = f"{config.strategy}-{config.objective} ({self.run['run_id']})"
                raise UserError(
                    f"{name}: its dataset {config.settings.data.dataset} or the code's defaults have changed"
                )
            self.stages = plan.stages
        return self.stages[key]


def _rows_when_free(planned: _Planned, probe: Probe, key: str, codes: set[str] | None) -> list[dict[str, Any]] | None:
    """The same as `_rows_of` of a stage that one of these codes has made. Waits while another process is at it, unless
    that trains it, which may take hours."""
    store, waits = planned.store, False
    while _is_recorded(store, key, codes):
        try:
            return _rows_of(planned.run, probe, store, key, planned)
        except (Busy, LostLease):
            who, progress = holder_of(store.stage(key)) or ({}, {})
            if "step" in progress:
                return None
            if who and not waits and not planned.quiet:
                print(f"waits for process {who.get('pid')} on {who.get('host')}, which is at {key}", file=sys.stderr)
            waits = waits or bool(who)
            time.sleep(BUSY_SECONDS)
    return None


def _rows_of(
    run: dict[str, Any], probe: Probe, store: Store, key: str, planned: _Planned
) -> list[dict[str, Any]] | None:
    """Rows of a probe on a finished stage, or None where it is unfinished or its features or its model are gone."""
    facts = store.facts(key)
    if facts is None:
        return None
    if probe_rows(store, key, probe) is None:
        network = probe.needs_network and facts["kind"] in ("task", "joint")
        if not store.features(key).exists() or (network and not store.model(key).exists()):
            return None
        with store.lock(key) as held:
            held.examine(key, [store.model(key)] if network else [])
            if held.facts(key) is None:
                return None
            if probe.needs_network or probe.name not in FITS:
                stage = replace(planned[key], probes=frozenset([probe]))
                probe_stage(stage, held, Clock({}), lambda _: _say(run, probe, facts, planned.quiet))
            else:
                _probe_features(run, probe, held, key)
    return probe_rows(store, key, probe)


def _probe_features(run: dict[str, Any], probe: Probe, store: Store, key: str) -> None:
    """Runs a probe on cached features alone: neither the images nor the network are needed."""
    features = Features.of(load_tensors(store.features(key))[0], store.features(key))
    rows = run_probe(probe.name, probe.config, features, run["scenario"], run["tasks"], probe.seed)
    store.write_json(store.probe(key, probe.key), {"rows": rows})


def _say(run: dict[str, Any], probe: Probe, facts: dict[str, Any], quiet: bool) -> None:
    if not quiet:
        where = f"after task {facts['task']}" if facts["kind"] == "task" else facts["kind"]
        target = f" on {probe.target.name}" if probe.target else ""
        name = f"{run['strategy']}-{run['objective']}, seed {run['seed']}, {where}"
        print(f"{name}: probe {probe.name}{target}", file=sys.stderr)
