"""What sets a run apart from the published number beside it, one sentence per difference."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bench.data.class_lists import class_list, fingerprint
from bench.data.doctor.variants import IMAGENET100
from bench.paper.ledger import Ledger, Protocol, Published
from bench.paper.suite import Sheet
from bench.report.records import Run


class Mismatch(NamedTuple):
    """A difference in protocol; where it `blocks`, the two numbers measure different things and are not subtracted."""

    text: str
    blocks: bool


def mismatches(runs: Sequence[Run], published: Published, ledger: Ledger, sheet: Sheet, probe: str) -> list[Mismatch]:
    """The differences between the averaged runs of a cell, which share their settings, and its published number.

    probe: the record name of the one that is printed.
    """
    protocol = ledger.protocols[published.protocol]
    run = runs[0]
    return [
        *_of_data(run, published, protocol),
        *_of_measure(probe, sheet.suite.metric, published, protocol, ledger),
        *_of_training(run, published, protocol, sheet),
        *_of_seeds(len(runs), protocol),
    ]


def _of_data(run: Run, published: Published, protocol: Protocol) -> Iterator[Mismatch]:
    if run.dataset != published.dataset:
        yield _differs("dataset", published.dataset, run.dataset, blocks=True)
    if published.scenario != "joint" and run.scenario != published.scenario:
        yield _differs("scenario", published.scenario, run.scenario, blocks=True)
    if published.scenario != "joint" and published.tasks is not None and run.tasks != published.tasks:
        yield _differs("tasks", published.tasks, run.tasks, blocks=True)
    yield from _of_classes(run, published, protocol)


def _of_classes(run: Run, published: Published, protocol: Protocol) -> Iterator[Mismatch]:
    """Classes of one name that are not the same: what a run says of its list stands in its note."""
    key = protocol.class_lists.get(published.dataset)
    if key is None or run.dataset != published.dataset:
        return
    here = next((part for part in run.note.split("; ") if "class list" in part), IMAGENET100["cmc"])
    if here != IMAGENET100[key] and fingerprint(sorted(class_list(key))) not in here:
        yield _differs("class list", IMAGENET100[key], here, blocks=True)


def _of_measure(
    probe: str, metric: str, published: Published, protocol: Protocol, ledger: Ledger
) -> Iterator[Mismatch]:
    if ledger.metrics[published.metric] != metric:
        yield _differs("metric", published.metric, metric, blocks=True)
    if protocol.probe != probe:
        yield _differs("probe", protocol.description, probe, blocks=protocol.family != _family(probe))


def _family(probe: str) -> str:
    """The kind of classifier of a probe: `linear` of `linear_offline(momentum=0.0)`."""
    return probe.partition("(")[0].partition("_")[0]


def _of_training(run: Run, published: Published, protocol: Protocol, sheet: Sheet) -> Iterator[Mismatch]:
    here = _section(run.config, "config")
    if run.preset != "paper":
        yield Mismatch(f"preset: here {run.preset or 'not recorded'}, not paper", True)
    if sheet.suite.recipe and here.get("recipe", "") != sheet.suite.recipe:
        yield _differs("recipe", sheet.suite.recipe, here.get("recipe") or "none", blocks=False)
    fidelity = {} if sheet.fidelity is None else {"fidelity": sheet.fidelity}
    changed = ", ".join(f"{key}={value}" for key, value in sorted(run.overrides.items()) if key not in fidelity)
    if changed:
        yield Mismatch(f"settings: here {changed} over those of the preset and recipe", False)
    settings = _section(here, "settings")
    encoder, train = _section(settings, "encoder"), _section(settings, "train")
    facts = (
        ("encoder", protocol.encoder, _encoder(encoder), True),
        ("epochs per task", protocol.epochs.get(published.dataset), train.get("epochs"), True),
        ("batch", protocol.batch, train.get("batch"), False),
        ("precision", protocol.precision, _section(settings, "numerics").get("precision"), False),
    )
    for name, theirs, ours, blocks in facts:
        if theirs is None:
            yield Mismatch(f"{name}: published number does not state it, here {_known(ours)}", False)
        elif theirs != ours:
            yield _differs(name, theirs, _known(ours), blocks)


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    """What a record says under a name; nothing where it says nothing, or something else."""
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _encoder(section: dict[str, Any]) -> str | None:
    """`resnet18`, or `resnet8 of width 16`; None where the record does not say."""
    name, width = section.get("name"), section.get("width", 64)
    return name if not isinstance(name, str) or width == 64 or name.startswith("timm:") else f"{name} of width {width}"


def _of_seeds(count: int, protocol: Protocol) -> Iterator[Mismatch]:
    if protocol.seeds is None:
        yield Mismatch(f"seeds: published number does not state them, here {count}", False)
    elif protocol.seeds != count:
        yield _differs("seeds", protocol.seeds, count, blocks=False)


def _differs(name: str, theirs: object, ours: object, blocks: bool) -> Mismatch:
    return Mismatch(f"{name}: published {theirs}, here {ours}", blocks)


def _known(value: object) -> object:
    return "not recorded" if value is None else value
