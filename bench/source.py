"""Which code makes a stage: a hash of the files that its numbers depend on, and of no others. Imports no torch: reports
tell with it what has changed since."""

import ast
import hashlib
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COUNTED = (
    "bench/data/arrays.py",
    "bench/data/augment.py",
    "bench/data/colour.py",
    "bench/data/domains.py",
    "bench/data/images.py",
    "bench/data/scenarios.py",
    "bench/engine/checkpoint.py",
    "bench/engine/follower.py",
    "bench/engine/online.py",
    "bench/engine/probing.py",
    "bench/engine/stage.py",
    "bench/engine/task.py",
    "bench/engine/train.py",
    "bench/evaluate/features.py",
    "bench/evaluate/offline.py",
    "bench/evaluate/probes.py",
    "bench/evaluate/transfer.py",
    "bench/models/encoder.py",
    "bench/models/fold.py",
    "bench/models/gather.py",
    "bench/models/learner.py",
    "bench/models/optim.py",
    "bench/models/resnet.py",
    "bench/models/syncnorm.py",
    "bench/seeding.py",
    "methods/base.py",
    "methods/contrast.py",
    "methods/heads.py",
    "methods/losses.py",
)
"""What every stage depends on. What a key holds the result of (configuration, images of a dataset) is not among it."""


def code_hash() -> str:
    """Eight hex digits over the source of harness and methods."""
    files = [path for folder in ("bench", "methods") for path in sorted((ROOT / folder).rglob("*.py"))]
    return _digest(ROOT, (path.relative_to(ROOT).as_posix() for path in files))[:8]


def git_state() -> str:
    """The commit of this copy of the code, with a '+' where it has changed since; "none" outside of git."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "none"


def base_code() -> str:
    """Twelve hex digits over the code of a stage without a method: raw pixels, the random network."""
    return _code(ROOT, (), "")


def trained_codes(objective: str, strategy: str, count: int) -> tuple[str, ...]:
    """The same of the first `count` stages that a run trains, each over the code of those before it as well.

    The first has no strategy; neither has joint training, which is a first and only one.
    """
    return _trained_codes(ROOT, objective, strategy, count)


def following_code(start: str | None, objective: str, strategy: str) -> str:
    """The same of a stage that is trained from one that the code `start` has made; None for the first."""
    return _following_code(ROOT, start, objective, strategy)


@cache
def _trained_codes(root: Path, objective: str, strategy: str, count: int) -> tuple[str, ...]:
    codes: list[str] = []
    for _ in range(count):
        codes.append(_following_code(root, codes[-1] if codes else None, objective, strategy))
    return tuple(codes)


def _following_code(root: Path, start: str | None, objective: str, strategy: str) -> str:
    own = _method_file("objectives", objective)
    return _code(root, (own,), "") if start is None else _code(root, (own, _method_file("strategies", strategy)), start)


def _method_file(folder: str, name: str) -> str:
    """Where a method is; a record may name one that no file can hold."""
    return f"methods/{folder}/{name if name.isidentifier() else 'none'}.py"


@cache
def _code(root: Path, methods: tuple[str, ...], start: str) -> str:
    files = {*COUNTED, *methods, *(found for name in methods for found in _imported(root, name))}
    return hashlib.sha256(f"{_digest(root, sorted(files))} {start}".encode()).hexdigest()[:12]


def _digest(root: Path, names: Iterable[str]) -> str:
    h = hashlib.sha256()
    for name in names:
        h.update(name.encode() + b"\0" + _content(root, name) + b"\0")
    return h.hexdigest()


@cache
def _content(root: Path, name: str) -> bytes:
    """A file's bytes; nothing where there is none, as of a method that this copy of the code lacks."""
    path = root / name
    return path.read_bytes() if path.is_file() else b""


@cache
def _imported(root: Path, name: str) -> frozenset[str]:
    """The files of methods/ that one of them imports, and that these import."""
    found: set[str] = set()
    todo = [name]
    while todo:
        fresh = set(_imports(root, todo.pop())) - found
        found |= fresh
        todo += fresh
    return frozenset(found)


def _imports(root: Path, name: str) -> Iterator[str]:
    try:
        tree = ast.parse(_content(root, name))
    except (SyntaxError, ValueError):  # it made no stage as it stands
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in modules:
            file = module.replace(".", "/") + ".py"
            if module.startswith("methods.") and (root / file).is_file():
                yield file
