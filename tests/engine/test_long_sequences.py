"""Twenty and fifty tasks: whole records, metrics and figures, and no more work per task."""

import pytest

from bench.report.records import read_run
from bench.report.statistics import summarise
from tests.data.image_folders import fill
from tests.engine.tiny import run, words

CLASSES = tuple(f"class-{number:02}" for number in range(50))


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory):
    """Fifty classes of four training images and one test image each."""
    root = tmp_path_factory.mktemp("many")
    fill(root / "train", classes=CLASSES, count=4)
    fill(root / "test", classes=CLASSES, count=1)
    return root


@pytest.mark.parametrize("tasks", [20, 50])
def test_a_long_sequence_is_recorded_whole_and_reported(many_classes, tmp_path, trained, tasks):
    line = words(many_classes, tmp_path, "cassle-simclr", "--batch", "4", "--epochs", "1", tasks=tasks)
    probe = ["--probes", "ncm", "--set", "probe.headline=ncm"]
    assert run(*line, *probe, "--format", "md,csv,png" if tasks == 20 else "md", "--quiet") == 0
    assert trained == dict.fromkeys(range(tasks), 1)
    (path,) = (tmp_path / "records").glob("*.jsonl")
    record = read_run(path, [])
    assert record.status == "complete"
    assert record.matrix("ncm").shape == (tasks, tasks)
    assert {"forgetting", "average_accuracy"} <= set(summarise(tmp_path).cells.metric)
    assert len(list((tmp_path / "report").glob("*.png"))) == (4 if tasks == 20 else 0)
