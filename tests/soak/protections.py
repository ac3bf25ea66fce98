"""Takes each protection that docs/reliability.md promises out of a copy of the code and shows the tests that notice.

By hand: `python tests/soak/protections.py`, some twenty minutes on two cores; `python tests/soak/protections.py NAME`
for those whose row contains NAME. Status 1 where the tests of one pass without it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
COPIED = ("bench", "methods", "configs", "tests", "docs", "run_bench.py", "pyproject.toml", "README.md", ".git")


class Protection(NamedTuple):
    """row: what may happen; file: below the root; text: of the code, which stands there once; without: what replaces
    it; tests: arguments of pytest, of which one test at least must fail."""

    row: str
    file: str
    text: str
    without: str
    tests: str


ENGINE, LAUNCH = "bench/engine", "bench/launch"
PROTECTIONS = (
    Protection(
        "killed: files appear whole or not at all",
        "bench/files.py",
        "        temporary.replace(path)\n        _sync_folder",
        "        path.write_bytes(data[:9])\n        path.write_bytes(data)\n        temporary.unlink()\n        _sync_folder",
        "tests/engine/test_kills.py tests/engine/test_full_disk.py",
    ),
    Protection(
        "killed: training goes on from what was saved",
        f"{ENGINE}/stage.py",
        "        training.restore(saved)\n",
        "",
        "tests/engine/test_kills.py tests/engine/test_signals.py",
    ),
    Protection(
        "killed: a row that is there is not added again",
        f"{ENGINE}/records.py",
        "{line.text: line for line in wanted}.values() if line.text not in known]",
        "{line.text: line for line in wanted}.values()]",
        "tests/engine/test_kills.py",
    ),
    Protection(
        "signal: the step is saved",
        f"{ENGINE}/stage.py",
        "        if signal or saves:\n",
        "        if saves:\n",
        "tests/engine/test_signals.py",
    ),
    Protection(
        "signal: the step is finished",
        f"{ENGINE}/stopping.py",
        "if again else not _in_step:",
        "if again else True:",
        "tests/engine/test_signals.py",
    ),
    Protection(
        "signal: the second interrupt stops at once",
        f"{ENGINE}/stopping.py",
        "if number == signal.SIGINT if again else",
        "if False if again else",
        "tests/engine/test_signals.py",
    ),
    Protection(
        "signal: workers are asked to end",
        f"{ENGINE}/packing.py",
        "            worker.process.terminate()\n",
        "            worker.process.kill()\n",
        "tests/engine/test_signals.py",
    ),
    Protection(
        "disk full: the run stops",
        f"{ENGINE}/runner.py",
        "        raise NoSpace(outcome.text)\n",
        "        board.fail(stage, outcome.text)\n",
        "tests/engine/test_full_disk.py",
    ),
    Protection(
        "disk full: one line with the space needed",
        "bench/files.py",
        "            raise no_space(path, len(data), error) from None\n",
        "            raise OSError(error.errno, str(error)) from None\n",
        "tests/engine/test_full_disk.py",
    ),
    Protection(
        "disk full: nothing half-written stays",
        "bench/files.py",
        "        temporary.unlink(missing_ok=True)\n        if isinstance",
        "        if isinstance",
        "tests/engine/test_full_disk.py tests/test_lease.py",
    ),
    Protection(
        "damaged: tensors that do not match their seal",
        "bench/seal.py",
        '    if h.hexdigest().encode() != header[start:end]:\n        raise Damaged(path, "does not match its seal")\n',
        "",
        "tests/test_seal.py tests/engine/test_damage.py",
    ),
    Protection(
        "damaged: JSON that does not match its seal",
        "bench/seal.py",
        '    if line != body[:-1] + _seal_of(body):\n        raise ValueError("does not match its seal")\n',
        "",
        "tests/test_seal.py tests/engine/test_damage.py",
    ),
    Protection(
        "foreign: tensors of another place",
        "bench/seal.py",
        "    if note.pop(OWNER, None) != place_of(path):",
        "    if note.pop(OWNER, None) is None:",
        "tests/test_seal.py tests/engine/test_damage.py",
    ),
    Protection(
        "foreign: JSON of another place",
        "bench/seal.py",
        "    if content.pop(OWNER, None) != place_of(path):",
        "    if content.pop(OWNER, None) is None:",
        "tests/test_seal.py tests/engine/test_damage.py",
    ),
    Protection(
        "damaged: what hangs on a damaged model is made again",
        f"{ENGINE}/store.py",
        "        if lacking & {self.model(key), self.online(key)}:\n",
        "        if False:\n",
        "tests/engine/test_damage.py",
    ),
    Protection(
        "damaged: a stage whose parent is damaged has that made first",
        f"{ENGINE}/runner.py",
        "        board.mend(stage, outcome.text)\n",
        "        board.fail(stage, outcome.text)\n",
        "tests/engine/test_damage.py",
    ),
    Protection(
        "torn: a copy of the record is set aside",
        f"{ENGINE}/records.py",
        '            keep_aside(store.out, path, "; ".join(record.faults))\n',
        "            pass\n",
        "tests/engine/test_damage.py",
    ),
    Protection(
        "torn: a line that is not whole is left out",
        "bench/seal.py",
        "        if line[-_TAIL:] != _seal_of(body):\n            return None\n",
        "",
        "tests/test_seal.py tests/engine/test_damage.py tests/report/test_report_records.py",
    ),
    Protection(
        "contradicting: refused when written",
        f"{ENGINE}/records.py",
        "        if found is not None:\n",
        "        if False:\n",
        "tests/engine/test_damage.py",
    ),
    Protection(
        "several processes: a stage has one owner",
        "bench/lease.py",
        "    if not all(_is_dead(owner, now) for owner in owners):\n        raise Busy(folder.name)\n",
        "",
        "tests/test_lease.py",
    ),
    Protection(
        "several processes: a killed owner blocks nobody",
        "bench/lease.py",
        "    return is_here(who) and not lives(who)\n",
        "    return False\n",
        "tests/test_lease.py",
    ),
    Protection(
        "several processes: an owner elsewhere that gives no sign of life blocks nobody",
        "bench/lease.py",
        "    return beat is None or now - beat > EXPIRY_SECONDS or _has_died(owner)",
        "    return beat is None or _has_died(owner)",
        "tests/test_lease.py",
    ),
    Protection(
        "several processes: an owner that was taken for dead can write no more",
        "bench/lease.py",
        "            write_atomic(path, data, self.folder)\n",
        "            write_atomic(path, data)\n",
        "tests/engine/test_takeover.py tests/test_lease.py",
    ),
    Protection(
        "several processes: no file locks are needed",
        "bench/lease.py",
        "            claim.mkdir()\n",
        '            claim.mkdir()\n            __import__("fcntl").flock(os.open(claim, os.O_RDONLY), 2)\n',
        "tests/engine/test_takeover.py",
    ),
    Protection(
        "several processes: eval waits for another eval",
        "bench/commands/probe.py",
        "                    if _trains(store, key):\n",
        "                    if True:\n",
        "tests/engine/test_takeover.py",
    ),
    Protection(
        "NaN: the run fails at that step",
        f"{ENGINE}/train.py",
        "            if not math.isfinite(loss):\n",
        "            if False:\n",
        "tests/engine/test_failures.py",
    ),
    Protection(
        "NaN: others go on",
        f"{ENGINE}/runner.py",
        "    except (Diverged, UserError) as error:\n",
        "    except UserError as error:\n        raise SystemExit(str(error)) from None\n    except Diverged as error:\n"
        "        raise SystemExit(str(error)) from None\n    except ZeroDivisionError as error:\n",
        "tests/engine/test_failures.py",
    ),
    Protection(
        "collapse: the run is marked",
        "bench/evaluate/features.py",
        "    elif spread < COLLAPSE_STD:\n",
        "    elif False:\n",
        "tests/engine/test_failures.py tests/evaluate",
    ),
    Protection(
        "collapse: since which step",
        f"{ENGINE}/stage.py",
        "            collapsed = progress.spread < COLLAPSE_STD\n",
        "            collapsed = False\n",
        "tests/engine/test_failures.py",
    ),
    Protection(
        "memory: one line with what to lower",
        f"{ENGINE}/runner.py",
        "        if is_out_of_memory(error):\n",
        "        if False:\n",
        "tests/engine/test_failures.py",
    ),
    Protection(
        "code changed: known for stale",
        f"{ENGINE}/progress.py",
        '    return done, {key for key in done if (facts(key) or {}).get("code") != plan.stages[key].code}\n',
        "    return done, set()\n",
        "tests/engine/test_retraining.py",
    ),
    Protection(
        "code changed: marked in tables and figures",
        "bench/report/records.py",
        "        return made is not None and self._present_codes.get(task) not in made\n",
        "        return False\n",
        "tests/report/test_report_stale.py",
    ),
    Protection(
        "code changed: hatched in figures",
        "bench/report/panels.py",
        "                hatch = STALE_HATCH if method.stale else None\n",
        "                hatch = None\n",
        "tests/report/test_report_stale.py",
    ),
    Protection(
        "code changed: --retrain stale makes it again",
        f"{ENGINE}/origin.py",
        " and not (terms.retrain and self.code != stage.code)\n",
        "\n",
        "tests/engine/test_retraining.py",
    ),
    Protection(
        "another environment: refused",
        f"{ENGINE}/origin.py",
        '        if last["environment"] != here["environment"] and not terms.new_environment:\n',
        "        if False:\n",
        "tests/engine/test_retraining.py",
    ),
    Protection(
        "another environment: recorded",
        f"{ENGINE}/origin.py",
        'for name in ("code", "environment", "processes")):',
        'for name in ("code", "processes")):',
        "tests/engine/test_retraining.py",
    ),
    Protection(
        "hostile: a YAML bomb",
        "bench/layers.py",
        "        if self.check_event(yaml.AliasEvent):\n",
        "        if False:\n",
        "tests/test_config.py",
    ),
    Protection(
        "hostile: a YAML file without an end",
        "bench/layers.py",
        "            data = file.read(MOST_BYTES + 1)\n        if len(data) > MOST_BYTES:\n",
        "            data = file.read(64 << 20)\n        if False:\n",
        "tests/test_config.py",
    ),
    Protection(
        "hostile: numbers",
        "bench/layers.py",
        '    elif abs(value) == float("inf") or value < 0:\n',
        "    elif False:\n",
        "tests/test_config.py",
    ),
    Protection(
        "hostile: links out of the results folder",
        "bench/links.py",
        "    if not Path(os.path.realpath(link)).is_relative_to(os.path.realpath(out)):\n",
        "    if False:\n",
        "tests/engine tests/report -k link",
    ),
    Protection(
        "hostile: rows of records",
        "bench/report/records.py",
        "from bench.report.rows import BadRow, Row, brief, checked\n",
        "from bench.report.rows import BadRow, Row, brief\n\nchecked = lambda row: row\n",
        "tests/report/test_report_hostile.py",
    ),
    Protection(
        "hostile: LaTeX in names",
        "bench/report/text.py",
        '"".join(LATEX_SPECIAL.get(character, character) for character in piece) for piece',
        "piece for piece",
        "tests/report",
    ),
    Protection(
        "hostile: names in bundles",
        "bench/upkeep/bundle.py",
        """_MEMBER = re.compile(rf"({'|'.join(FOLDERS)})/{NAME.pattern}\\.jsonl")""",
        '_MEMBER = re.compile(r".*")',
        "tests/upkeep",
    ),
    Protection(
        "torchrun: the others end when one dies",
        f"{ENGINE}/company.py",
        "    except RuntimeError as error:\n",
        "    except ZeroDivisionError as error:\n",
        "tests/engine/test_torchrun.py",
    ),
    Protection(
        "torchrun: another number of processes is recorded",
        f"{ENGINE}/origin.py",
        'for name in ("code", "environment", "processes")):',
        'for name in ("code", "environment")):',
        "tests/engine/test_torchrun.py",
    ),
    Protection(
        "torchrun: only the first writes",
        f"{ENGINE}/company.py",
        "    _in_step = processes() == 1\n",
        "    _in_step = True\n",
        "tests/engine/test_torchrun.py",
    ),
    Protection(
        "job: a cancelled one does not come back",
        f"{LAUNCH}/worker.py",
        "            if _is_wanted():\n",
        "            if True:\n",
        "tests/launch",
    ),
    Protection(
        "job: the worker saves before the job queues again",
        f"{LAUNCH}/worker.py",
        "        while self._is_running() and time.monotonic() < end:\n            time.sleep(0.05)\n",
        "",
        "tests/launch",
    ),
    Protection(
        "job: a worker that has vanished is replaced",
        f"{LAUNCH}/follow.py",
        '        gone = {job.id: job for job in jobs if job.state == "vanished"}\n',
        "        gone = {}\n",
        "tests/engine/test_launching.py",
    ),
    Protection(
        "job: it is replaced so many times",
        f"{LAUNCH}/launches.py",
        "    if batch >= BATCHES or is_claimed(launch):\n",
        "    if is_claimed(launch):\n",
        "tests/engine/test_launching.py",
    ),
    Protection(
        "job: no progress is shown of dead owners",
        f"{LAUNCH}/follow.py",
        "holder_of(folder) if is_held(folder) else None",
        "holder_of(folder)",
        "tests/engine/test_launching.py",
    ),
    Protection(
        "job: hostile heartbeats are not shown",
        f"{LAUNCH}/follow.py",
        "        if held is not None and _is_event(held[1], key):\n",
        "        if held is not None:\n",
        "tests/engine/test_launching.py",
    ),
    Protection(
        "job: failures of before are tried again",
        f"{LAUNCH}/follow.py",
        "failure_of(self.store, key, self.since)",
        "failure_of(self.store, key)",
        "tests/engine/test_launching.py",
    ),
    Protection(
        "job: not every worker fails at a stage anew",
        f"{ENGINE}/failures.py",
        "    return float(os.environ[BEGAN]) if BEGAN in os.environ else store.now()\n",
        "    return store.now()\n",
        "tests/engine/test_launching.py tests/launch",
    ),
    Protection(
        "job: another line does not join",
        "bench/commands/launch.py",
        "    if not is_of(found, args.words, numerics, args.config):\n",
        "    if False:\n",
        "tests/engine/test_launching.py",
    ),
    Protection(
        "job: living workers are joined, not doubled",
        "bench/commands/launch.py",
        "        if not is_claimed(found) and not any(job.state in AT_WORK for job in jobs):\n",
        "        if True:\n",
        "tests/engine/test_launching.py",
    ),
    Protection(
        "job: two that launch at once do not share a folder",
        f"{LAUNCH}/launches.py",
        "        raise _at_this_moment(launch.folder) from None\n",
        "        pass\n",
        "tests/engine/test_launching.py",
    ),
    Protection(
        "job: a launch under way is seen",
        f"{LAUNCH}/launches.py",
        "    if _is_fresh(folder):\n",
        "    if False:\n",
        "tests/engine/test_launching.py",
    ),
    Protection(
        "job: what `auto` means is decided once",
        f"{LAUNCH}/launches.py",
        "    return [*kept, *numerics]\n",
        "    return kept\n",
        "tests/engine/test_launching.py tests/launch",
    ),
    Protection(
        "job: the configuration is kept as it was",
        f"{LAUNCH}/launches.py",
        '            kept += ["--config", str(folder / CONFIG)]\n',
        "            kept += [word, next(rest)] if not equals else [word]\n            continue\n",
        "tests/engine/test_launching.py tests/launch",
    ),
)


def noticed(protection: Protection, copy: Path) -> list[str]:
    """The tests that fail without it."""
    path = copy / protection.file
    code = path.read_text()
    assert code.count(protection.text) == 1, f"{protection.row}: {protection.file} is no longer what it was"
    path.write_text(code.replace(protection.text, protection.without))
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "2",
        "--maxfail",
        "1",
        "-rfE",
        "--tb",
        "no",
        *protection.tests.split(),
    ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(line, cwd=copy, env=environment, capture_output=True, text=True, timeout=600)
        said = done.stdout
    except subprocess.TimeoutExpired:
        said = "FAILED (hangs)"
    finally:
        path.write_text(code)
    found = [
        row.partition(" ")[2].partition(" - ")[0] for row in said.splitlines() if row.startswith(("FAILED", "ERROR"))
    ]
    return found


def main() -> int:
    """Takes out those whose row is named, or all; prints a line for each."""
    wanted = [each for each in PROTECTIONS if all(word in each.row for word in sys.argv[1:])]
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="protections-") as folder:
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder)
        for protection in wanted:
            began = time.monotonic()
            found = noticed(protection, Path(folder))
            unnoticed += not found
            print(
                f"{protection.row}: {', '.join(found) or 'NOBODY NOTICES'} ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
    print(f"{len(wanted) - unnoticed} of {len(wanted)} are noticed")
    return 1 if unnoticed or not wanted else 0


if __name__ == "__main__":
    raise SystemExit(main())
