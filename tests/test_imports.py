"""Imports point one way: cli -> commands -> engine -> models, data, evaluate -> methods."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("imports")  # of a graph that is read once
HEAVY = ("torch", "torchvision", "timm", "methods")
# A module may import what stands on its own line or above; the longest prefix that fits is its line.
LAYERS = (
    (
        *("bench.errors", "bench.files", "bench.lease", "bench.links", "bench.output", "bench.processes"),
        *("bench.seal", "bench.seeding", "bench.source", "bench.torchrun", "methods"),
    ),
    ("bench.data", "bench.evaluate.catalogue", "bench.evaluate.metrics", "bench.layers", "bench.models.resnet"),
    ("bench.config", "bench.recipes", "bench.report", "bench.paper", "bench.engine.stopping"),
    ("bench.models",),
    ("bench.evaluate", "bench.grid"),
    ("bench.engine", "bench.launch", "bench.speed"),
    ("bench.upkeep",),
    ("bench.contract", "bench.commands"),
    ("bench.cli", "bench.options", "run_bench"),
)


@cache
def modules():
    files = [ROOT / "run_bench.py", *(ROOT / "bench").rglob("*.py"), *(ROOT / "methods").rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@cache
def imports(path):
    """Modules that a file names in import statements at any depth, but not those for type checkers."""
    return tuple(_imports(path))


def _imports(path):
    tree = ast.parse(path.read_text())
    unseen = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def graph():
    """Module of the project -> modules of the project that it imports."""
    known = modules()
    return {
        name: {found for target in imports(path) if (found := owner(target, known))} for name, path in known.items()
    }


def owner(target, known):
    """The module that `from target` reads: itself, or the one that holds the name."""
    return next((word for word in (target, target.rpartition(".")[0]) if word in known), None)


def layer(module):
    fitting = [
        (len(prefix), number)
        for number, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if module == prefix or module.startswith(f"{prefix}.")
    ]
    return max(fitting)[1] if fitting else 0


def test_a_module_imports_only_its_own_layer_and_those_below():
    edges = [(module, target) for module, targets in graph().items() for target in targets]
    assert [f"{module} -> {target}" for module, target in edges if layer(target) > layer(module)] == []


def test_every_part_of_the_harness_has_a_layer():
    unplaced = [name for name in modules() if name.startswith("bench.") and layer(name) == 0]
    assert {name.removeprefix("bench.") for name in unplaced} == {
        *("errors", "files", "lease", "links", "output", "processes", "seal", "seeding", "source", "torchrun"),
    }


def test_methods_never_import_the_harness():
    guilty = {name: target for name, targets in graph().items() for target in targets if target.startswith("bench")}
    assert not [name for name in guilty if name.startswith("methods")]


def test_packages_of_one_layer_do_not_import_each_other():
    for one, other in (
        ("bench.data", "bench.models"),
        ("bench.report", "bench.models"),
        ("bench.report", "bench.data"),
    ):
        guilty = [
            n for n, targets in graph().items() if n.startswith(one) and any(t.startswith(other) for t in targets)
        ]
        assert guilty == []


def test_no_module_imports_itself_on_a_detour():
    found, remaining = set(), dict(graph())
    while remaining:
        free = {name for name, targets in remaining.items() if targets - {name} <= found}
        assert free, f"a circle among {sorted(remaining)}"
        found |= free
        remaining = {name: targets for name, targets in remaining.items() if name not in free}


def reached(start):
    """All modules that importing `start` imports, with what they import from outside."""
    known, todo, seen, outside = modules(), [start], set(), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for target in imports(known[name]):
            inside = owner(target, known)
            todo += [inside] if inside else []
            outside |= set() if inside else {target.partition(".")[0]}
    return seen, outside


@pytest.mark.parametrize(
    "module", ["bench.report.write", "bench.report.figures", "bench.commands.report", "bench.paper.render"]
)
def test_the_report_reaches_neither_torch_nor_methods(module):
    seen, outside = reached(module)
    assert not outside & set(HEAVY)
    assert not [name for name in seen if name.startswith(("methods", "bench.engine", "bench.models"))]


@pytest.mark.parametrize("module", ["bench.commands.bundle", "bench.upkeep.merging", "bench.upkeep.garbage"])
def test_records_are_moved_and_stages_freed_without_torch_and_methods(module):
    seen, outside = reached(module)
    assert not outside & set(HEAVY)
    assert not [name for name in seen if name.startswith(("methods", "bench.models"))]


def test_reporting_from_the_command_line_loads_neither_torch_nor_methods(tmp_path):
    code = (
        "import sys; from bench.cli import main; "
        f"assert main(['report', '--out', {str(tmp_path)!r}]) == 2; "
        f"print([name for name in {HEAVY} if name in sys.modules], 'bench.report.write' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[] True\n", done.stderr
