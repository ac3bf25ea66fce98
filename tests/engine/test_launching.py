"""Launched grids on this machine, and a follower whose workers vanish, fail, are cancelled or leave it alone."""

import json
import os
import shutil
from pathlib import Path
from threading import Timer

import pytest

from bench import options
from bench.commands import launch as command
from bench.engine.failures import mark_failure
from bench.engine.progress import is_done
from bench.engine.store import Store
from bench.errors import UserError
from bench.launch import follow, jobs, submit
from bench.launch.follow import Deserted, Follower
from bench.launch.jobs import Job
from bench.launch.launches import begin, draft, jobs_file, latest
from bench.launch.settings import LaunchSettings
from bench.lease import hold
from bench.processes import identity
from bench.seal import seal_file
from tests.engine.tiny import differing, planned, records, results, run, without, words

pytestmark = pytest.mark.xdist_group("processes")
NUMERICS = ("--device", "cpu", "--precision", "fp32")


def test_local_workers_make_what_one_process_makes_and_failures_are_told(grid, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    line = words(pictures, out, "finetune,cassle,sycon", "--quiet")
    assert run(*line, "--launcher", "local") == 0
    assert differing(results(grid.out), results(out)) == []
    assert (out / "report" / "table.md").read_bytes() == (grid.out / "report" / "table.md").read_bytes()
    shown = capsys.readouterr()
    assert run(*line, "--launcher", "local") == 0  # there is nothing left to launch
    assert shown == capsys.readouterr()
    assert [path.name for path in (out / "launcher").iterdir()] == ["1"]
    assert run("plan", *(word for word in line if word not in ("--format", "md"))) == 0
    assert f"launched 1 time; logs of the last workers: {out}/launcher/1/*_log.err" in capsys.readouterr().out


class Display:
    """Keeps what is shown."""

    def __init__(self):
        self.said, self.ended, self.events = [], {}, []

    def begin(self):
        pass

    def say(self, text):
        self.said.append(text)

    def finished(self, stage, result):
        self.ended[stage.key] = result

    def emit(self, event):
        self.events.append(event)


class Open:
    """A launched grid of which one last stage is not done; its workers are up to the test."""

    def __init__(self, copied, launcher, patch):
        self.line, self.out, self.store, made = copied.line, copied.out, Store(copied.out), planned(*copied.line)
        self.key = records(copied.out)["sycon-moco"][0]["stages"][-1]
        self.store.end(self.key).rename(copied.out / "kept")
        self.launch = draft(copied.out, LaunchSettings(launcher, {}), copied.line, NUMERICS, 1)
        begin(self.launch, None)
        done = {key for key, stage in made.stages.items() if is_done(stage, self.store)}
        self.display, self.submitted = Display(), []
        self.follower = Follower(made, self.store, self.launch, self.display, done)
        patch.setattr(
            follow, "submit", lambda _, batch, workers: self.submitted.append((batch, workers)) or self.note({})
        )
        patch.setattr(follow, "LOOK_SECONDS", 0.01)
        patch.setattr(follow, "ASK_SECONDS", 0.0)
        self.patch = patch

    def note(self, jobs):
        """Writes down what was submitted last."""
        path = jobs_file(self.launch, len(list(self.launch.folder.glob("batch-*"))) - 1)
        path.write_bytes(seal_file(path, {"jobs": jobs}))

    def workers_are(self, *looks):
        """What the cluster answers, time after time; the last answer stays."""
        answers = list(looks)
        self.patch.setattr(follow, "jobs_of", lambda _: answers.pop(0) if len(answers) > 1 else answers[0])

    def finish(self):
        (self.out / "kept").rename(self.store.end(self.key))


@pytest.fixture
def unfinished(copied, monkeypatch):
    found = Open(copied, "slurm", monkeypatch)
    found.note({})
    return found


def test_vanished_workers_are_replaced_so_many_times(unfinished):
    unfinished.workers_are([Job("1", 0, "running"), Job("2", 1, "vanished", "NODE_FAIL")])
    Timer(0.5, unfinished.workers_are, [[Job("1", 0, "vanished"), Job("2", 1, "vanished")]]).start()
    with pytest.raises(
        Deserted, match=r"no worker is left \(2 vanished\) and 1 stage is not done: logs in .*launcher/1"
    ):
        unfinished.follower.follow()
    assert unfinished.submitted == [(1, [1]), (2, [1]), (3, [1])]
    assert sum("the worker 2 has vanished (NODE_FAIL); its log:" in text for text in unfinished.display.said) == 1


def test_a_worker_is_missed_only_when_two_looks_agree(unfinished):
    gone, there = [Job("1", 0, "vanished")], [Job("1", 0, "running")]
    unfinished.workers_are(gone, there, gone, there, None)
    Timer(0.5, unfinished.finish).start()
    assert unfinished.follower.follow() == {}
    assert unfinished.submitted == []
    assert unfinished.display.ended == {unfinished.key: "done"}
    assert unfinished.display.said.count("the cluster does not answer; its jobs go on meanwhile") == 1


@pytest.mark.parametrize("state", ["cancelled", "failed", "through"])
def test_workers_that_ended_otherwise_are_not_replaced(unfinished, state):
    unfinished.workers_are([Job("1", 0, state)])
    with pytest.raises(Deserted, match=rf"\(1 {state}\)"):
        unfinished.follower.follow()
    assert unfinished.submitted == []


def test_what_has_failed_once_is_not_tried_by_every_worker_of_a_launch(copied, trained, monkeypatch, capsys):
    found = Open(copied, "local", monkeypatch)
    for path in found.store.stage(found.key).iterdir():
        path.unlink()
    mark_failure(found.store, found.key, "no luck")
    monkeypatch.setenv("BENCH_LAUNCH_BEGAN", "9")
    assert run(*copied.line) == 1
    assert "no luck" in capsys.readouterr().err
    assert not trained
    monkeypatch.delenv("BENCH_LAUNCH_BEGAN")
    assert run(*copied.line) == 0
    assert trained == {1: 1}


def test_a_cancelled_job_is_remembered_when_the_cluster_has_forgotten_it(unfinished):
    unfinished.patch.setattr(jobs, "_listed", lambda launch: listed)
    unfinished.note({"7_0": [0, {}], "7_1": [1, {}]})
    listed = {"7_0": ("CANCELLED", ""), "7_1": ("RUNNING", "")}
    expected = [Job("7_0", 0, "cancelled"), Job("7_1", 1, "running")]
    assert jobs.jobs_of(unfinished.launch) == expected
    listed = {"7_1": ("RUNNING", "")}
    assert jobs.jobs_of(unfinished.launch) == expected


def test_what_was_merged_is_not_waited_for(copied, grid, capsys):
    head = records(copied.out)["sycon-moco"][0]
    shutil.rmtree(Store(copied.out).stage(head["stages"][-1]))
    (copied.out / "records" / f"{head['run_id']}.jsonl").unlink()
    assert run("merge", str(grid.out), "--out", str(copied.out)) == 0
    assert run(*copied.line, "--launcher", "local") == 0
    assert "1 of 3 runs are merged from elsewhere" in capsys.readouterr().err
    assert not (copied.out / "launcher").exists()


def test_progress_and_failures_come_from_the_results_folder(unfinished, capsys):
    key, event = unfinished.key, {"step": 3, "steps": 9, "epoch": 0, "epochs": 1, "loss": None, "rate": 2.5}
    unfinished.workers_are([Job("1", 0, "running")])
    mark_failure(unfinished.store, key, "of a launch before")
    os.utime(unfinished.out / "logs" / f"{key}.json", (9, 9))
    dead = unfinished.store.stage(key) / "owner" / "0"
    dead.mkdir(parents=True)
    (dead / "who.json").write_text(json.dumps({**identity(os.getpid()), "started": "before"}))
    (dead / "beat").write_text(json.dumps({**event, "stage": key}))
    unfinished.follower._look()
    with hold(unfinished.store.stage(key)) as lease:
        for told in ({"stage": key, "step": "many"}, {"stage": "another", "phase": "x"}, {**event, "stage": key}):
            lease.tell(told)
            lease.beat()
            unfinished.follower._look()
        mark_failure(unfinished.store, key, "not while another tries")
        unfinished.follower._look()
    assert unfinished.display.events == [{**event, "stage": key}] * 2
    assert unfinished.display.ended == {}
    os.environ["BENCH_WORKER_LOG"] = "/somewhere/1_0_log.err"
    mark_failure(unfinished.store, key, "no luck")
    del os.environ["BENCH_WORKER_LOG"]
    assert unfinished.follower.follow() == {key: "no luck"}
    assert run("plan", *(word for word in unfinished.line if word not in ("--format", "md"))) == 0
    shown = capsys.readouterr().out
    assert "failed: class_il, sycon-moco, seed 0, task 2: no luck; log of its worker: /somewhere/1_0_log.err" in shown


def test_a_line_joins_its_own_workers_and_no_others(copied, monkeypatch, capsys):
    found = Open(copied, "local", monkeypatch)
    line = [*copied.line, "--launcher", "local"]
    found.note({str(os.getpid()): [0, identity(os.getpid())]})
    monkeypatch.chdir("/")
    assert run(*line) == 2
    monkeypatch.undo()
    assert run(*line, "--seeds", "3") == 2
    shown = capsys.readouterr()
    assert shown.err.count("was launched with another line, --config or working directory") == 2
    Timer(0.5, found.finish).start()
    assert run(*line) == 0
    assert [path.name for path in (copied.out / "launcher").iterdir()] == ["1"]


def test_two_processes_do_not_launch_at_once(copied, monkeypatch, capsys):
    found = Open(copied, "local", monkeypatch)
    with pytest.raises(UserError, match="another process is launching into"):
        begin(found.launch, None)
    found.note({})
    (copied.out / "launcher" / "2").mkdir()  # and says nothing yet of what it launches
    assert run(*copied.line, "--launcher", "local") == 2
    assert "another process is launching into" in capsys.readouterr().err


def test_workers_do_what_was_planned_whatever_becomes_of_the_file_or_of_auto(pictures, tmp_path, monkeypatch, capsys):
    out, config = tmp_path / "out", tmp_path / "grid.yaml"
    config.write_text("train.epochs: 3\nlauncher: {name: local, array: 2}\n")
    line = without(without(words(pictures, out, "finetune", "--config", str(config)), "--precision"), "--device")
    monkeypatch.setattr(command, "submit", lambda *_: None)
    monkeypatch.setattr(follow, "jobs_of", lambda _: [])
    monkeypatch.setattr(follow, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(follow, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(follow, "is_claimed", lambda _: False)
    assert run(*line) == 1
    assert "no worker is left (none was submitted) and 4 stages are not done" in capsys.readouterr().err
    launch = latest(out)
    numerics = planned(*line).runs[0].config.settings.numerics
    end = ["--device", numerics.device, "--precision", numerics.precision]
    assert launch.words[-4:] == end
    kept = launch.words[launch.words.index("--config") + 1]
    config.write_text("train.epochs: 4\nlauncher: {name: local}\n")
    assert "train.epochs: 3" in Path(kept).read_text()
    assert run(*line, "--attach") == 2
    assert "was launched with another line" in capsys.readouterr().err
    worker = launch.command(0)
    made = options.build_parser().parse_args(worker[worker.index("--methods") :])
    assert (made.launcher, made.shard, made.format, made.out) == ("none", (0, 1), ["none"], out)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--launcher", "slurm"], "there is no sbatch on this machine (--launcher local runs workers here)"),
        (["--launcher", "local", "--attach"], "--attach: nothing was launched into"),
        (["--attach"], "--attach takes a --launcher"),
        (["--launcher", "slurm", "--dry-run", "--slurm", "gpus=1"], "--precision auto: this machine has no CUDA"),
        (["--launcher", "local", "--dry-run"], "--dry-run shows a batch script, of which --launcher local has none"),
        (["--launcher", "local", "--shard", "1/2"], "--shard is what workers of a launcher get"),
    ],
)
def test_what_cannot_be_launched_is_one_line(pictures, tmp_path, monkeypatch, capsys, more, said):
    monkeypatch.setattr(submit, "which", lambda program: None)
    line = without(without(words(pictures, tmp_path / "out", "finetune"), "--precision"), "--device")
    assert run(*line, *more) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "launcher").exists()


def test_a_missing_submitit_names_the_extra(copied, monkeypatch, capsys):
    monkeypatch.setattr(submit, "find_spec", lambda name: None)
    assert run(*copied.line, "--launcher", "local") == 2
    assert "pip install -e '.[slurm]'" in capsys.readouterr().err


def test_a_dry_run_shows_the_script_and_writes_nothing(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(submit, "which", lambda program: None)
    line = words(pictures, tmp_path / "out", "finetune", "--seeds", "0-5", "--launcher", "slurm", "--dry-run")
    assert run(*line, "--slurm", "array=4,partition=gpu") == 0
    shown = capsys.readouterr().out
    assert "#SBATCH --array=0-3%4" in shown
    assert "#SBATCH --partition=gpu" in shown
    assert not (tmp_path / "out" / "launcher").exists()
