"""The ledger: what ships is whole, and anything it does not know is refused in one line."""

import pytest

from bench.errors import UserError
from bench.paper.ledger import read_ledger

ROW = {
    "source": "A",
    "version": "v1",
    "where": "table 1",
    "protocol": "offline",
    "dataset": "cifar100",
    "scenario": "class_il",
    "tasks": 5,
    "objective": "moco",
    "strategy": "cassle",
    "metric": "final",
    "value": 50.5,
    "std": "null",
    "confidence": "exact",
    "url": "somewhere",
    "note": "''",
}
HEAD = """metrics: {final: average_accuracy}
protocols:
  offline: {description: a probe, family: linear, facts: a paper, epochs: {cifar100: 500}}
rows:
"""


def line(**changes):
    return "- {" + ", ".join(f"{k}: {v}" for k, v in (ROW | changes).items() if v is not None) + "}\n"


@pytest.fixture
def ledger_of(tmp_path):
    def read(*lines, head=HEAD):
        path = tmp_path / "ledger.yaml"
        path.write_text(head + "".join(lines))
        return read_ledger(path)

    return read


def test_the_ledger_that_ships_is_valid_and_has_the_figure_of_cassle():
    ledger = read_ledger()
    assert len(ledger.rows) == 60
    found = ledger.find(["cassle-online-probe"], "cifar100", "class_il", 5, "byol", "finetune")
    assert (found.value, found.confidence) == (52.7, "exact")
    assert {row.confidence for row in ledger.rows if row.source == "Sy-CON"} == {"quoted"}
    assert not [row for row in ledger.rows if row.source == "PNR" and row.confidence == "exact"]


def test_a_row_is_read_as_it_stands(ledger_of):
    row = ledger_of(line(std=0.4)).rows[0]
    assert (row.value, row.std, row.tasks, row.note) == (50.5, 0.4, 5, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "oflline"}, r":5: protocol: unknown 'oflline' \(did you mean 'offline'\?\)"),
        ({"metric": "finl"}, r":5: metric: unknown 'finl' \(did you mean 'final'\?\)"),
        ({"confidence": "exct"}, r":5: confidence cannot be 'exct' \(did you mean 'exact'\?\)"),
        ({"scenario": "class_ill"}, r":5: scenario cannot be 'class_ill' \(did you mean 'class_il'\?\)"),
        ({"value": 100.1}, ":5: value is a percentage, 0 to 100, not 100.1"),
        ({"value": -1}, ":5: value is a percentage"),
        ({"value": ".inf"}, ":5: value is a percentage"),
        ({"value": "high"}, ":5: value takes a number, not 'high'"),
        ({"std": 101}, ":5: std is a percentage"),
        ({"tasks": 0}, ":5: tasks must be at least 1"),
        ({"tasks": 2.5}, ":5: tasks takes a whole number"),
        ({"url": "''"}, ":5: url is empty"),
        ({"url": None}, ":5: a row lacks the field 'url'"),
        ({"vallue": 3}, r":5: unknown field 'vallue' of a row \(did you mean 'value'\?\)"),
    ],
)
def test_a_row_is_refused_in_one_line_that_names_line_and_field(changes, message, ledger_of):
    with pytest.raises(UserError, match=message) as found:
        ledger_of(line(**changes))
    assert "\n" not in str(found.value)


def test_a_number_given_twice_is_refused_with_both_places(ledger_of):
    with pytest.raises(UserError, match=r":6: the same number as in .*:5 "):
        ledger_of(line(), line(value=51, where="table 2"))
    assert len(ledger_of(line(), line(tasks=10)).rows) == 2


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HEAD.replace("average_accuracy", "avg_accuracy"), r":1: final: unknown metric 'avg_accuracy' \(did you mean"),
        (HEAD.replace("family: linear", "family: tree"), ":3: family cannot be 'tree'"),
        (HEAD.replace("facts: a paper, ", ""), ":3: protocol offline lacks the field 'facts'"),
        (HEAD.replace("500", "many"), r":3: epochs.cifar100 takes a whole number, not 'many'"),
        (HEAD.replace("protocols:", "protocol:"), r"unknown section 'protocol' \(did you mean 'protocols'\?\)"),
        (HEAD.replace("metrics: {final: average_accuracy}\n", ""), "the section 'metrics' is missing"),
        (HEAD.replace("protocols:\n", "protocols: 3\nx:\n"), "unknown section 'x'"),
        ("- 1\n", "the ledger takes `key: value` lines"),
        (HEAD + "- {a: 1, a: 2}\n", ":5: a is given twice"),
        (HEAD + "- 7\n", ":5: a row takes `key: value` lines, not 7"),
    ],
)
def test_sections_are_refused_in_one_line(head, message, ledger_of):
    with pytest.raises(UserError, match=message):
        ledger_of(line(), head=head)


def test_an_empty_list_of_rows_is_refused(ledger_of):
    with pytest.raises(UserError, match="rows takes a list of at least one item"):
        ledger_of(head=HEAD.replace("rows:\n", "rows: []\n"))


def test_the_first_protocol_that_has_the_number_is_taken(ledger_of):
    head = HEAD.replace("rows:", "  other: {description: b, family: knn, facts: c}\nrows:")
    ledger = ledger_of(line(), line(protocol="other", value=20), head=head)
    place = ("cifar100", "class_il", 5, "moco", "cassle")
    assert ledger.find(["offline", "other"], *place).value == 50.5
    assert ledger.find(["other", "offline"], *place).value == 20
    assert ledger.find([], *place) is None


def test_other_tasks_have_other_numbers_but_joint_training_has_none(ledger_of):
    ledger = ledger_of(line(), line(strategy="joint", scenario="joint", tasks=1), line(strategy="random", tasks="null"))
    assert ledger.find(["offline"], "cifar100", "class_il", 10, "moco", "cassle") is None
    assert ledger.find(["offline"], "cifar100", "data_il", 5, "moco", "cassle") is None
    assert ledger.find(["offline"], "cifar100", "class_il", 10, "moco", "joint").tasks == 1
    assert ledger.find(["offline"], "cifar100", "class_il", 10, "moco", "random").tasks is None
