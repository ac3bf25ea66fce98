"""The list of protections follows the code; that tests notice their absence is tried by tests/soak/take_out.py."""

from pathlib import Path

import pytest

from tests.soak.protections import PROTECTIONS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda each: each.row)
def test_a_protection_stands_where_the_list_says(protection):
    assert (ROOT / protection.file).read_text().count(protection.text) == 1
    for word in protection.tests.split():
        assert not word.startswith("tests/") or (ROOT / word).exists()
