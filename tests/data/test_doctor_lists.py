"""List files as DomainNet's: torn lists, labels that disagree, paths listed twice."""

import pytest

from bench.data.doctor.lists import list_files, listed, slips
from bench.errors import UserError

DOMAINS = ("clipart", "real")
GOOD = {
    "clipart_train.txt": ["clipart/ant/1.jpg 0", "clipart/bee/1.jpg 1", "clipart/bee/2.jpg 1"],
    "clipart_test.txt": ["clipart/ant/2.jpg 0", "clipart/bee/3.jpg 1"],
    "real_train.txt": ["real/ant/1.jpg 0", "real/bee/1.jpg 1"],
    "real_test.txt": ["real/ant/2.jpg 0"],
}


@pytest.fixture
def folder(tmp_path):
    def write(**changes):
        for name, lines in (GOOD | {f"{key}.txt": value for key, value in changes.items()}).items():
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        return tmp_path

    return write


def told(root):
    return [(slip.what, slip.where) for slip in slips(list_files(root, DOMAINS))]


def test_lists_give_domain_split_and_class_of_every_path_in_order(folder):
    root = folder()
    entries = list(listed(list_files(root, DOMAINS)))
    assert [entry.path for entry in entries][:3] == ["clipart/ant/2.jpg", "clipart/bee/3.jpg", "clipart/ant/1.jpg"]
    assert {(entry.domain, entry.split) for entry in entries} == {
        (domain, split) for domain in ("clipart", "real") for split in ("train", "test")
    }
    assert {entry.label for entry in entries} == {"ant", "bee"}
    assert told(root) == []


def test_a_list_without_its_partner_is_named(folder):
    root = folder()
    (root / "real_test.txt").unlink()
    with pytest.raises(UserError, match=r"real_test\.txt is missing"):
        list_files(root, DOMAINS)


@pytest.mark.parametrize("line", ["real/bee/1.jpg", "real/bee/1.jpg one", "/real/bee/1.jpg 1", "../real/bee/1.jpg 1"])
def test_a_line_without_a_label_or_that_leads_out_is_named_and_left_out(folder, line):
    root = folder(real_train=["real/ant/1.jpg 0", line, "", "real/bee/2.jpg 1"])
    assert told(root) == [("broken", "real_train.txt:2: not a path below the folder and a label")]
    assert not any(entry.path.endswith("real/bee/1.jpg") for entry in listed(list_files(root, DOMAINS)))


def test_a_label_that_disagrees_with_the_folder_of_its_path_is_named(folder):
    root = folder(real_train=["real/ant/1.jpg 1", "real/bee/1.jpg 1"])
    assert told(root) == [("label", "real_train.txt:1: real/ant/1.jpg has label 1, other ant 0")]


def test_two_folders_with_one_label_are_named(folder):
    root = folder(real_train=["real/cow/1.jpg 1"])
    assert told(root) == [("label", "real_train.txt:1: real/cow/1.jpg has label 1, which is that of bee")]


def test_a_path_in_train_and_test_is_named_in_both(folder):
    root = folder(real_test=["real/ant/1.jpg 0"])
    assert told(root) == [
        ("twice", "real_test.txt:1: real/ant/1.jpg"),
        ("twice", "real_train.txt:1: real/ant/1.jpg"),
    ]
