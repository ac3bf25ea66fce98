"""Submits the workers of a launch through submitit, and tells what the batch script says.

The submission itself is a process of its own, `python -m bench.launch.submit`, in a session of its own: local workers
are its children, which neither a closed terminal nor its interrupts reach.
"""

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from shlex import join, quote
from shutil import which
from typing import Any

from bench.engine.stopping import in_steps
from bench.errors import UserError
from bench.files import write_atomic
from bench.launch.launches import Launch, jobs_file, python_command, read_launch
from bench.launch.worker import Worker
from bench.processes import identity
from bench.seal import seal_file

REQUEUES = 1_000_000
"""Of a job that runs out of time: as often as it takes."""
LOCAL_MINUTES = 30 * 24 * 60
"""After which a local worker starts again, which costs it seconds."""


def check_installed(launcher: str, dry_run: bool) -> None:
    """Raises UserError where submitit or, unless it is only to be seen, SLURM is missing."""
    if find_spec("submitit") is None:
        raise UserError("--launcher needs submitit: pip install -e '.[slurm]'")
    if launcher == "slurm" and not dry_run and which("sbatch") is None:
        raise UserError("--launcher slurm: there is no sbatch on this machine (--launcher local runs workers here)")


def script(launch: Launch) -> str:
    """The text that sbatch gets."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{join(python_command())} -u -m submitit.core._submit {quote(str(launch.folder))}"
    parameters = _parameters(launch)
    if launch.workers > 1:
        parameters["map_count"] = launch.workers
    return str(_make_sbatch_string(command, launch.folder, **parameters))


def _parameters(launch: Launch) -> dict[str, Any]:
    return {"job_name": launch.name, "array_parallelism": launch.workers, **launch.settings.parameters()}


def most_in_array() -> int | None:
    """The cluster's limit on the size of an array, where it tells one."""
    if which("scontrol") is None:
        return None
    told = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True)
    for line in told.stdout.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize" and value.strip().isdigit():
            return int(value)
    return None


def submit(launch: Launch, batch: int, workers: Sequence[int]) -> None:
    """Submits those workers; signals wait meanwhile. Raises UserError with what the cluster says against it."""
    log = launch.folder / f"submit-{batch}.txt"
    numbers = ",".join(map(str, workers))
    line = [*python_command(), "-m", "bench.launch.submit", str(launch.folder), str(batch), numbers]
    with in_steps(), log.open("wb") as file:
        done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
        if done.returncode:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no word of why"]
            path = jobs_file(launch, batch)
            write_atomic(path, seal_file(path, {"jobs": {}}))
            raise UserError(f"nothing was submitted: {said[-1]} (more in {log})")


def _submit(launch: Launch, batch: int, workers: list[int]) -> None:
    import submitit

    slurm = launch.settings.launcher == "slurm"
    kind = submitit.SlurmExecutor if slurm else submitit.LocalExecutor
    executor = kind(launch.folder, max_num_timeout=REQUEUES, python=join(python_command()))
    executor.update_parameters(**(_parameters(launch) if slurm else {"timeout_min": LOCAL_MINUTES}))
    with executor.batch():
        jobs = [executor.submit(Worker(launch.command(index), launch.where)) for index in workers]
    ids = [str(job.job_id) for job in jobs]
    # A job of the local executor is a process, by its number.
    processes = [{} if slurm else identity(int(id)) for id in ids]
    made = {id: list(pair) for id, *pair in zip(ids, workers, processes, strict=True)}
    path = jobs_file(launch, batch)
    write_atomic(path, seal_file(path, {"jobs": made}))


if __name__ == "__main__":
    launched = read_launch(Path(sys.argv[1]))
    assert launched is not None
    _submit(launched, int(sys.argv[2]), [int(number) for number in sys.argv[3].split(",")])
