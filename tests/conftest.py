"""Two workers on two cores: one thread each, or they wait for one another. What collecting imports stays: the collector
of garbage looks through it once it is complete, and never again."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()
