"""`eval`: probes on the cached features of finished stages."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from bench.commands.report import check_formats, render
from bench.config import ProbeConfig
from bench.engine.checkpoint import load_tensors
from bench.engine.plan import Probe
from bench.engine.records import accuracy_row, append_rows, probe_rows
from bench.engine.store import Busy, Store, write_json
from bench.errors import UserError, nearest
from bench.evaluate.features import Features
from bench.evaluate.probes import PROBES, run_probe
from bench.layers import fill, leaves, parse_set


def evaluate(args: argparse.Namespace) -> int:
    """Runs the probes on every finished stage of every run in --out, appends their rows, and reports."""
    names = args.probe or list(PROBES)
    for name in names:
        if name not in PROBES:
            raise UserError(f"unknown probe '{name}'{nearest(name, PROBES)}")
    config = _probe_config(args.set, names)
    check_formats(args.format)
    store = Store(args.out)
    paths = sorted((args.out / "records").glob("*.jsonl"))
    if not paths:
        raise UserError(f"no records in {args.out / 'records'}: run something first, or name another --out")
    missing = 0
    for path in paths:
        run = _first_row(path)
        torch.set_num_threads(run["config"]["settings"]["numerics"]["threads"])
        for name in names:
            missing += _probe_run(run, Probe(name, getattr(config, name), run["config"]["seeds"]["probe"]), store)
    if missing:
        print(
            f"{missing} stages have no cached features (not trained yet, in work, or removed): left out",
            file=sys.stderr,
        )
    render(args.out, args.format, args.quiet)
    return 0


def _first_row(path: Path) -> dict[str, Any]:
    """The config row of a run; raises UserError where the file does not begin with one."""
    try:
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").partition("\n")[0])
        if run["kind"] == "config":
            return run
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path}: does not begin with a config row: repeat the run, or remove the file")


def _probe_config(assignments: list[str], names: list[str]) -> ProbeConfig:
    given = dict(parse_set(text) for text in assignments)
    known = {f"probe.{key}" for key, _ in leaves(ProbeConfig)}
    for key in given:
        if key not in known:
            raise UserError(f"--set: unknown key '{key}'{nearest(key, known)}")
        if key.split(".")[1] not in names:
            raise UserError(f"--set {key}: --probe does not name '{key.split('.')[1]}'")
    config: ProbeConfig = fill(ProbeConfig, given, "probe.")
    return config


def _probe_run(run: dict[str, Any], probe: Probe, store: Store) -> int:
    """Rows of one probe for one run, computed where they are not cached; returns the number of stages left out."""
    rows, missing = [], 0
    after = run.get("after", range(-2, run["tasks"]))
    for task, key in zip(after, run["stages"], strict=True):
        try:
            found = _rows_of(run, probe, store, key)
        except Busy:
            found = None
        if found is None:
            missing += 1
        else:
            rows += [accuracy_row(row, task) for row in found]
    append_rows(store.record(run["run_id"]), rows)
    return missing


def _rows_of(run: dict[str, Any], probe: Probe, store: Store, key: str) -> list[dict[str, Any]] | None:
    """Rows of a probe on a finished stage, or None where it is unfinished or its features are gone."""
    if store.facts(key) is None:
        return None
    if probe_rows(store, key, probe) is None:
        if not store.features(key).exists():
            return None
        with store.lock(key):
            features = Features(**load_tensors(store.features(key))[0])
            rows = run_probe(probe.name, probe.config, features, run["scenario"], run["tasks"], probe.seed)
            write_json(store.probe(key, probe.key), {"rows": rows})
    return probe_rows(store, key, probe)
