"""The probes by name: what each needs and how tables and figures describe it. Imports no torch: reports read it."""

import re
from typing import Literal, NamedTuple

Kind = Literal["features", "images", "training"]


class Entry(NamedTuple):
    """A probe: what it runs on, one line for lists, and its classifier as a report describes it.

    kind: `features` (cached ones), `images` (through the frozen encoder) or `training` (its results are written while
    the stage trains, and cannot be made afterwards).
    """

    kind: Kind
    text: str
    classifier: str


PROBES: dict[str, Entry] = {
    "linear": Entry(
        "features",
        "logistic regression on standardised features by L-BFGS, all classes (default headline)",
        "L-BFGS logistic regression on cached features",
    ),
    "knn": Entry(
        "features",
        "cosine k-nearest neighbours, weighted votes",
        "weighted votes of the nearest cached features by cosine",
    ),
    "ncm": Entry("features", "nearest class mean, cosine", "nearest class mean of cached features by cosine"),
    "linear_1pct": Entry(
        "features",
        "as linear, on 1 % of the labels, equally many of each class",
        "L-BFGS logistic regression on cached features with 1 % of the labels, drawn class-balanced",
    ),
    "linear_10pct": Entry(
        "features",
        "as linear, on 10 % of the labels, equally many of each class",
        "L-BFGS logistic regression on cached features with 10 % of the labels, drawn class-balanced",
    ),
    "linear_online": Entry(
        "training",
        "linear classifier trained beside the encoder, all classes (online.run=true)",
        "linear classifier trained by SGD beside the encoder, on detached features",
    ),
    "linear_offline": Entry(
        "images",
        "linear classifier by SGD on augmented images through the frozen encoder, 100 epochs (slow)",
        "linear classifier trained by SGD on randomly cropped and flipped images through the frozen encoder",
    ),
}

KINDS: dict[Kind, str] = {
    "features": "on cached features",
    "images": "on images",
    "training": "during training",
}
ON_FEATURES = tuple(name for name, entry in PROBES.items() if entry.kind == "features")
AWARE = "_aware"


class Label(NamedTuple):
    """The parts of a record's probe name: `knn(k=50)_aware` is (`knn`, `k=50`, True)."""

    name: str
    settings: str
    aware: bool


def parsed(label: str) -> Label:
    """A record's probe name in its parts; a name that is in no registry is kept whole."""
    plain = label.removesuffix(AWARE)
    found = re.fullmatch(r"(\w+)\((.*)\)", plain)
    name, settings = (found[1], found[2]) if found else (plain, "")
    return Label(name, settings, plain != label)


def probe_description(label: str) -> str:
    """What a table or figure says of the probe behind its numbers, from the probe's name in the records."""
    name, settings, aware = parsed(label)
    if name not in PROBES:
        return f"{label} probe"
    scope = (
        "by the classes of the task, or fitted on its domain alone (task-aware)"
        if aware
        else "one for all classes and tasks (task-agnostic)"
    )
    return f"{name} probe: {PROBES[name].classifier}; {scope}{_said(settings)}"


def transfer_description(label: str, target: str) -> str:
    """The same of a probe on another dataset."""
    name, settings, _ = parsed(label)
    classifier = PROBES[name].classifier if name in PROBES else name
    return f"{name} probe: {classifier} of {target}, all its classes{_said(settings)}"


def _said(settings: str) -> str:
    return "; " + re.sub(r",\s*", ", ", settings) if settings else ""
