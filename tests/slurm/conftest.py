"""One cluster for all tests of this folder, and results of one process to compare with."""

import pytest

from tests.engine.tiny import paint_folder
from tests.slurm.cluster import MOST_IN_ARRAY, Cluster, wait_until


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Three nodes of one CPU each, which take arrays of at most `MOST_IN_ARRAY` jobs."""
    running = Cluster(tmp_path_factory.mktemp("slurm"), nodes=3, array=MOST_IN_ARRAY)
    yield running
    running.stop()
    wait_until(lambda: not running.processes(), 10, "the end of all processes")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return paint_folder(tmp_path_factory.mktemp("data") / "pictures")
