"""Records that may hold anything: they are reported, or refused in one line that names the file."""

import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import cli
from bench.seal import sealed
from tests.report.recording import config, rows_of, write

TEXTS = st.text(max_size=12) | st.sampled_from(
    ["../../out", "/etc/passwd", "[bold]x[/]", r"\input{x}", "=1+1", "a\x1b[31mb", "nan", "\ud800", "x" * 5000, ""]
)
NUMBERS = st.sampled_from([0, -1, 1, 2**63, 10**400, 1e308, -0.0, float("nan"), float("inf"), True])
VALUES = st.recursive(
    st.none() | NUMBERS | TEXTS | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
HEADS = [
    config(strategy, seed=seed, tasks=2, probes=("linear",)) for strategy in ("finetune", "sycon") for seed in (0, 1)
]
FIELDS = sorted({(row["kind"], name) for row in rows_of(HEADS[0]) for name in row})
COMMANDS = (
    ("report", "--format", "md,tex,csv"),
    ("doctor",),
    ("doctor", "--repair"),
    ("gc",),
    ("export", "BUNDLE"),
    ("eval", "--probe", "knn", "--format", "md"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder around the results folder, which has a file that nothing may touch."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "etc").mkdir()
    (folder / "etc" / "passwd").write_text("root")
    return folder


def around(folder: Path, out: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_relative_to(out) and path.name != "bundle.zip"
    }


@settings(max_examples=120, deadline=None)
@given(
    changes=st.lists(st.tuples(st.sampled_from(FIELDS), VALUES, st.booleans()), min_size=1, max_size=3),
    whole=st.booleans(),
    command=st.sampled_from(COMMANDS),
)
def test_any_value_of_any_field_is_reported_or_refused_in_a_line(place, changes, whole, command):
    out = empty(place)
    for head in HEADS[1:]:
        seal(write(out, rows_of(head)))
    rows = deepcopy(rows_of(HEADS[0]))
    for (kind, name), value, everywhere in changes:
        for row in [row for row in rows if row.get("kind") == kind][: None if everywhere else 1]:
            row[name] = value
    path = write(out, rows_of(HEADS[0]))
    path.write_bytes(lines(rows, whole))
    before = around(place, out)
    status, said = called(place, command, out)
    assert status in (0, 1, 2), said
    assert "Traceback" not in said
    if status == 2:
        assert len(said.splitlines()) == 1, said
        assert str(out) in said
    assert around(place, out) == before
    assert "\x1b[31m" not in said


@settings(max_examples=60, deadline=None)
@given(content=st.lists(VALUES | st.binary(max_size=30), max_size=4), command=st.sampled_from(COMMANDS))
def test_any_line_is_reported_or_refused_in_a_line(place, content, command):
    out = empty(place)
    path = write(out, rows_of(HEADS[0]))
    hostile = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in content]
    path.write_bytes(b"\n".join([*hostile, path.read_bytes()]))
    before = around(place, out)
    status, said = called(place, command, out)
    assert status in (0, 1, 2), said
    assert around(place, out) == before


def empty(place: Path) -> Path:
    shutil.rmtree(place / "out", ignore_errors=True)
    return place / "out"


def seal(path: Path) -> None:
    path.write_bytes(lines([json.loads(line) for line in path.read_text().splitlines()], True))


def lines(rows: list[dict], whole: bool) -> bytes:
    return b"".join((sealed(row) if whole else json.dumps(row).encode()) + b"\n" for row in rows)


def called(place: Path, command: tuple[str, ...], out: Path) -> tuple[int, str]:
    """Status and stderr of a command on the results folder."""
    said = StringIO()
    with redirect_stderr(said), redirect_stdout(StringIO()):
        status = cli.main([*(word.replace("BUNDLE", str(place / "bundle.zip")) for word in command), "--out", str(out)])
    return status, said.getvalue()
