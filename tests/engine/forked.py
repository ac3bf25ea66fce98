"""Command lines as processes forked from the server of workers, which has imported all there is: they start fast."""

import os
import signal
import sys
import time
from multiprocessing import forkserver

from bench import cli
from bench.engine import packing, runner, stage
from bench.engine.stopping import SIGNALS, asked

packing.PRELOAD = (*packing.PRELOAD, "bench.commands.grid")


def start(line, prepare=None, *args):
    """Starts a command line after `prepare(*args)`, which its workers call too; what it prints goes to OUT.log."""
    log = f"{line[line.index('--out') + 1]}.log"
    process = packing.start_server().Process(target=_main, args=(line, log, prepare, args))
    process.start()
    return process


def _main(line, log, prepare, args):
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    # As a child of the server it has no server of its own, but a way to the same one.
    forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if prepare is not None:
        prepare(*args)
        real = runner.start_worker
        runner.start_worker = lambda serve, *more: real(_serve, prepare, args, serve, *more)
    status = cli.main(line)
    sys.stdout.flush()
    raise SystemExit(status)


def _serve(pipe, prepare, args, serve, *more):
    prepare(*args)
    serve(pipe, *more)


def wait_until(come, seconds=60):
    end = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < end
        time.sleep(0.01)


def end(process, number=None):
    """The exit status of a process that gets a signal; at the end within ten seconds."""
    if number is not None:
        os.kill(process.pid, number)
    process.join(10 if number is not None else 120)
    assert process.exitcode is not None
    return process.exitcode


# --- what a process does before its line ------------------------------------------------------------------------------


def pause_in_step(step, sign, how="until a signal"):
    """Once, step `step` of the second task says its process in a file and lasts until a signal comes, or "for good", or
    "for a while": until there is a file SIGN.end."""
    real = stage._Saver.__call__

    def call(saver, progress):
        pauses = saver.stage.task == 1 and progress.step == step and not sign.exists()
        if pauses:
            sign.write_text(str(os.getpid()))
            while not (sign.with_suffix(".end").exists() if how == "for a while" else asked() and how != "for good"):
                time.sleep(0.005)
        try:
            real(saver, progress)
        finally:
            if pauses:
                sign.write_text(f"{os.getpid()} goes on")

    stage._Saver.__call__ = call


def pause_in(module, name, sign):
    """A function says its process in a file, and lasts for ever."""

    def call(*_, **__):
        sign.write_text(str(os.getpid()))
        while True:
            time.sleep(0.005)

    setattr(module_of(module), name, call)


def module_of(name):
    return sys.modules[name]
