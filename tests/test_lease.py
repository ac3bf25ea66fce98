"""A folder belongs to one at a time, to nobody dead, and who has lost it can write no more."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import lease as leases
from bench import processes
from bench.errors import UserError
from bench.files import NoSpace
from bench.lease import Busy, LostLease, hold, hold_briefly, holder_of, is_held, take, until_kept

RACE = Path(__file__).parent / "lease_race.py"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "held"


def change(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def grow_old(lease, seconds):
    """Its last sign of life was so long ago."""
    then = time.time() - seconds
    os.utime(lease.folder / "beat", (then, then))


def test_in_a_race_nobody_shares_the_lease_and_nobody_writes_without_it(tmp_path):
    command = [sys.executable, str(RACE), str(tmp_path)]
    racers = [subprocess.Popen([*command, seed, "15"], stdout=subprocess.PIPE, text=True) for seed in "12"]
    assert [racer.communicate(timeout=120)[0] for racer in racers] == ["", ""]


def test_a_held_folder_is_busy_and_who_asks_writes_nothing(folder):
    with hold(folder) as lease:
        assert is_held(folder)
        before = folder.stat().st_mtime_ns, sorted(folder.rglob("*"))
        with pytest.raises(Busy):
            take(folder)
        assert (folder.stat().st_mtime_ns, sorted(folder.rglob("*"))) == before
        lease.tell({"step": 3})
        lease.beat()
        who, progress = holder_of(folder)
        assert (who["pid"], progress) == (os.getpid(), {"step": 3})
    assert not is_held(folder)
    assert list(folder.iterdir()) == []


def test_a_killed_owner_blocks_nobody(folder):
    program = (
        "import os, sys; from pathlib import Path; from bench.lease import take; take(Path(sys.argv[1])); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], cwd=RACE.parent.parent, check=False)
    assert len(leases.owners_of(folder)) == 1
    with hold(folder) as mine:
        assert leases.owners_of(folder) == [mine.folder]


def test_a_process_that_has_the_number_of_a_dead_one_is_not_it(folder):
    change(take(folder).folder / "who.json", started="before")
    take(folder)


def test_an_owner_elsewhere_is_dead_when_it_gives_no_sign_of_life_for_long(folder):
    lease = take(folder)
    change(lease.folder / "who.json", machine="another", pid=2**30)  # here there is no such process
    for age in (0, 0.45 * leases.EXPIRY_SECONDS, leases.EXPIRY_SECONDS - 5):
        grow_old(lease, age)
        assert is_held(folder)
        with pytest.raises(Busy):
            take(folder)
    grow_old(lease, leases.EXPIRY_SECONDS + 5)
    assert not is_held(folder)
    take(folder)


def test_signs_of_life_keep_a_lease(folder, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    with hold(folder) as lease:
        grow_old(lease, 1000)
        end = time.monotonic() + 20
        while not is_held(folder):
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize("holders_since", [1, 2])
def test_who_has_lost_the_lease_can_change_nothing(folder, holders_since):
    folder.mkdir()
    lost, file = take(folder), folder / "file"
    for _ in range(holders_since):
        grow_old(leases.Lease(folder, leases.owners_of(folder)[0].name), 1000)
        mine = take(folder)
        mine.write(file, b"mine")
    acts = [
        lost.check,
        lambda: lost.write(file, b"lost"),
        lambda: lost.remove(file),
        lambda: lost.move(file, folder / "elsewhere"),
        lambda: lost.writing(file).__enter__(),
    ]
    for act in acts:
        with pytest.raises(LostLease):
            act()
    with pytest.raises(FileNotFoundError):
        lost.beat()
    lost.release()
    assert leases.owners_of(folder) == [mine.folder]
    assert sorted(path.name for path in folder.iterdir()) == ["file", "owner"]
    assert file.read_bytes() == b"mine"


def test_a_large_file_of_a_lease_that_is_lost_meanwhile_never_appears(folder):
    lost = take(folder)
    with pytest.raises(LostLease), lost.writing(folder / "file") as file:  # noqa: PT012 (lost inside the block)
        file.write(b"half")
        grow_old(lost, 1000)
        take(folder)
    assert not (folder / "file").exists()


def test_work_that_has_lost_its_lease_begins_again_with_what_is_there(folder, tmp_path):
    pauses = iter([True, False])

    @until_kept
    def add_a_letter():
        with hold_briefly(folder) as lease:
            content = (tmp_path / "file").read_bytes() if (tmp_path / "file").exists() else b""
            if next(pauses):
                grow_old(lease, 1000)
                with hold_briefly(folder) as other:
                    other.write(tmp_path / "file", b"a")
            lease.write(tmp_path / "file", content + b"b")

    add_a_letter()
    assert (tmp_path / "file").read_bytes() == b"ab"
    assert not folder.exists()


def test_what_killed_claims_and_owners_have_left_goes_with_the_next_lease(folder):
    dead = json.dumps({**leases.identity(os.getpid()), "started": "before"})
    for left in (".claim-a", ".claim-b", ".gone-c"):
        (folder / left / "token").mkdir(parents=True)
        (folder / left / "token" / "who.json").write_text(dead if left != ".claim-b" else "{}")
    (folder / "owner").mkdir()
    take(folder)
    assert sorted(path.name for path in folder.iterdir()) == [".claim-b", "owner"]  # it may be at it


def test_a_rename_that_is_done_and_reported_as_failed_counts(folder, monkeypatch):
    real = Path.rename

    def rename(self, target):
        real(self, target)
        if self.name.startswith(".claim-"):
            raise FileNotFoundError(errno.ENOENT, "as a network file system has it when an answer is lost")

    monkeypatch.setattr(Path, "rename", rename)
    assert leases.owners_of(folder) == [] != [take(folder).folder] == leases.owners_of(folder)


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, NoSpace), (errno.EACCES, PermissionError)])
def test_what_is_wrong_with_the_disk_is_not_taken_for_another_owner(folder, monkeypatch, number, error):
    def rename(self, target):
        raise OSError(number, "no", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(error):
            take(folder)
    lease = take(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        lease.release()
    assert not is_held(folder)
    assert list(folder.iterdir()) == []


def test_a_missing_place_is_not_taken_for_a_lost_lease(folder, tmp_path):
    with hold(folder) as lease, pytest.raises(FileNotFoundError):
        lease.write(tmp_path / "missing" / "file", b"")


def test_a_link_in_the_place_of_owners_leads_nowhere(folder, tmp_path):
    (tmp_path / "outside" / "inside").mkdir(parents=True)
    folder.mkdir()
    (folder / "owner").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="symbolic link"):
        take(folder)
    assert (tmp_path / "outside" / "inside").exists()


@pytest.mark.parametrize("end", ["asked", "killed"])
def test_a_file_on_its_way_to_another_name_is_never_lost(tmp_path, monkeypatch, end):
    folder, path = tmp_path / "stage", tmp_path / "stage" / "model.safetensors"
    lease = leases.take(folder)
    path.write_bytes(b"weeks of work")
    real = Path.replace

    def ends_between(source, target):
        if target == tmp_path / "aside":
            raise KeyboardInterrupt
        if end == "killed" and source != path:
            raise OSError  # nothing is put back
        return real(source, target)

    monkeypatch.setattr(Path, "replace", ends_between)
    with pytest.raises(KeyboardInterrupt):
        lease.move(path, tmp_path / "aside")
    if end == "killed":
        assert not path.exists()
        grow_old(lease, leases.EXPIRY_SECONDS + 5)
        leases.take(folder).release()
    lease.release()
    assert path.read_bytes() == b"weeks of work"


def test_a_folder_that_cannot_be_made_is_an_error_and_no_endless_wait():
    with pytest.raises(FileNotFoundError):
        leases.take(Path("/proc/nowhere/at/all"))


def test_a_process_of_somebody_else_that_is_hidden_lives(monkeypatch):
    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(processes.os, "kill", refused)
    who = {"pid": 2**30, "started": "123"}  # of which nothing is found in /proc
    assert processes.lives(who)
