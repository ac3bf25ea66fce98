"""Files of versions that put no seals into them: whole as far as can be told, and sealed on request."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.engine.checkpoint import save_tensors
from bench.engine.origin import what_counts
from bench.engine.store import Store
from bench.seal import OWNER


def is_older(path: Path) -> bool:
    """Whether a file of a stage, which does not match its seal, is of a version that had none."""
    return (_json(path) if path.suffix == ".json" else _tensors(path)) is not None


def adopt(key: str, paths: list[Path], store: Store) -> None:
    """Seals such files of a stage that is held, as they are, with what newer versions say of who made them.

    Of a stage that is not finished nobody knows that: what there is of it is set aside, and so is any training state.
    """
    facts = _json(store.end(key)) or store.facts(key) or {}
    origin = _origin(facts, store)
    for path in paths:
        if origin is None or path == store.partial(key):
            store.set_aside(path, "is of an older version, which did not say what has made it")
        elif path == store.end(key):
            store.write_json(path, {**facts, **origin})
        elif path.suffix == ".json":
            store.write_json(path, _json(path) or {})
        else:
            tensors, note = _tensors(path) or ({}, {})
            if path == store.model(key):
                note = {"collapsed_at": None, **note, "origin": origin}
            elif path == store.features(key):
                note = {**note, **origin}
            save_tensors(path, tensors, note, store.write)


def _origin(facts: dict[str, Any], store: Store) -> dict[str, Any] | None:
    """What a finished stage of an older version lets know of its origin; None where that is nothing."""
    if not isinstance(facts.get("code"), str) or not isinstance(facts.get("environment"), dict):
        return None
    start = None
    if facts.get("parent") is not None:
        end = store.end(str(facts["parent"]))
        start = (_json(end) or store.facts(end.parent.name) or {}).get("code")
    session = {"step": 0, "code": facts["code"], "environment": what_counts(facts["environment"]), "processes": 1}
    return {"code": facts["code"], "from": start, "sessions": [session]}


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and not _was_sealed(content) else None


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {})["note"])
            if not isinstance(note, dict) or _was_sealed(note):
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, note  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError):
        return None


def _was_sealed(content: dict[str, Any]) -> bool:
    """Whether it has what only sealed files have: then its seal is damaged, and it is no older one."""
    return OWNER in content or "seal" in content
