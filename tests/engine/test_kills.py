"""Grids that are killed and started again end up with the bytes of an undisturbed one."""

import os
import signal
import sys

import pytest

from bench.engine import packing
from bench.engine.stopping import SIGNALS
from tests.soak import kill

pytestmark = pytest.mark.xdist_group("processes")


def soak(words, log):
    """In a process forked from the server of workers, which has imported all there is."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(1, 2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    sys.argv[1:] = words
    raise SystemExit(kill.main())


def test_killed_and_restarted_grids_write_the_bytes_of_undisturbed_ones(tmp_path):
    shape = ["--kills", "8", "--company", "2", "--real", "0", "--pairs", "sycon-byol", "--folder", str(tmp_path)]
    process = packing.start_server().Process(target=soak, args=(shape, tmp_path / "said.txt"), daemon=True)
    process.start()
    process.join(300)
    said = (tmp_path / "said.txt").read_text()
    assert process.exitcode == 0, said
    assert ", 0 divergences, " in said
    assert "sycon-byol training: " in said
    assert "sycon-byol evaluating: " in said
