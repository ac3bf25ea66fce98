"""A SLURM for the length of a test session: a controller and virtual nodes on this machine, as ordinary processes.

It needs the programs of the Debian packages slurmctld, slurmd, slurm-client and munge, and no systemd, cgroups,
database or accounting. All it writes lies in one folder, all it listens on is loopback.
"""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MOST_IN_ARRAY = 5
"""Jobs that an array may have in tests."""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONFIGURATION = """
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
# A job that queues again waits until its old credential has expired: 120 seconds, unless told otherwise; at least 5.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=3,bf_interval=3
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=2
SlurmdTimeout=8
KillWait=5
MaxArraySize={array}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=9 PreemptMode=OFF
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=1000"


class Cluster:
    """The running cluster; `environment` is what a process needs to be its user."""

    def __init__(self, folder: Path, nodes: int, array: int) -> None:
        """Starts it with that many nodes of one CPU each; array: of SLURM's MaxArraySize."""
        missing = [name for name in PROGRAMS if subprocess.run(["which", name], capture_output=True).returncode]
        assert not missing, f"apt-get install slurmctld slurmd slurm-client munge: no {', '.join(missing)}"
        self.folder, self.nodes = folder, [f"node{number}" for number in range(1, nodes + 1)]
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._configure(array)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _configure(self, array: int) -> None:
        for name in ("state", "munge", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / name).mkdir(mode=0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        host = socket.gethostname().partition(".")[0]
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        first, *rest = free_ports(1 + len(self.nodes))
        lines = [CONFIGURATION.format(host=host, port=first, user=user, folder=self.folder, array=array)]
        lines += [NODE.format(name=name, host=host, port=port) for name, port in zip(self.nodes, rest, strict=True)]
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")

    def _start(self) -> None:
        munge = self.folder / "munge"
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        self._daemon("munged", "munged", "--foreground", "--force", *options)
        wait_until(lambda: (munge / "socket").exists(), 10, "munged")
        conf = str(self.folder / "slurm.conf")
        self._daemon("slurmctld", "slurmctld", "-D", "-c", "-f", conf)
        for node in self.nodes:
            self.start_node(node)
        wait_until(
            lambda: self.ask("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split() == ["idle"] * len(self.nodes),
            30,
            "nodes",
        )

    def start_node(self, node: str) -> None:
        """Starts the daemon of a node, at first or after its death."""
        self._daemon(node, "slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf"))

    def _daemon(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            # Killed with this process, should it be killed itself.
            line = ["setpriv", "--pdeathsig", "KILL", *command]
            self.daemons[name] = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment, start_new_session=True
            )

    def ask(self, *command: str) -> str:
        """What a client program of SLURM prints; empty where the controller does not answer."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=self.environment)
        return done.stdout.strip()

    def jobs(self, name: str = "") -> dict[str, tuple[str, str]]:
        """State and node of the jobs with a name, or of all; ended ones included, elements of arrays apart."""
        rows = self.ask("squeue", "-h", "-r", "-t", "all", "-o", "%i %T %N", *(["-n", name] if name else []))
        return {id: (state, (*node, "")[0]) for id, state, *node in map(str.split, rows.splitlines())}

    def restarts(self, job: str) -> int:
        """How often a job was queued again."""
        found = re.search("Restarts=([0-9]+)", self.ask("scontrol", "show", "job", job))
        return int(found[1]) if found else 0

    def kill_node(self, node: str) -> None:
        """Kills the daemon of a node; what runs there runs on."""
        self.daemons[node].kill()
        self.daemons.pop(node).wait()

    def processes(self, **variables: str) -> list[int]:
        """Numbers of the processes of this cluster and its jobs, those that have these variables in their environment:
        its configuration is in that of all of them."""
        wanted = {
            f"{name}={value}" for name, value in {"SLURM_CONF": self.environment["SLURM_CONF"], **variables}.items()
        }
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if wanted <= set((folder / "environ").read_text(errors="replace").split("\0")):
                    found.append(int(folder.name))
        return sorted(found)

    def signal(self, number: signal.Signals, **variables: str) -> None:
        """Sends a signal to processes of this cluster, as `processes` finds them."""
        for process in self.processes(**variables):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def stop(self) -> None:
        """Ends the jobs, the daemons, and whatever a killed daemon has left behind."""
        with suppress(subprocess.TimeoutExpired):
            self.ask("scancel", "--signal=KILL", "--full", f"--user={os.getuid()}")
            self.ask("scancel", f"--user={os.getuid()}")
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        self.signal(signal.SIGKILL)
        for daemon in self.daemons.values():
            daemon.wait(10)


def free_ports(count: int) -> list[int]:
    """Distinct ports of loopback on which nobody listens now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def wait_until(come: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)
