"""Processes of their own that inherit nothing from the tests before, and need not import PyTorch, which takes seconds:
a server that has imported it starts them.
"""

import atexit
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

import small

from utils import run_script

ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["Train", "helpers", "torch._dynamo"])  # and what Adam imports


def start_server():
    """It runs as long as the tests, and imports what is named above if it finds it."""
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join((str(ROOT), str(ROOT / "tests")))):
        forkserver.ensure_running()


def start(target, *arguments):
    """target(*arguments) in a process, in this working directory; target is a function of a module."""
    start_server()
    process = CONTEXT.Process(target=_run, args=(Path.cwd(), small.is_small(), target, arguments))
    process.start()
    atexit.register(process.kill)  # one that a failing test leaves behind would be waited for
    return process


def _run(folder, is_small, target, arguments):
    os.chdir(folder)
    if is_small:
        small.shrink()
    target(*arguments)


class Paused:
    """A process that waits for ever at a known point, as start_and_pause says."""

    def __init__(self, *what):
        self.folder = tempfile.TemporaryDirectory(prefix="paused-")
        self.files = [Path(self.folder.name) / name for name in ("out", "err")]
        there, here = CONTEXT.Pipe(duplex=False)
        self.process = start(_pause, self.files, here, *what)
        here.close()
        try:
            there.recv()
        except EOFError:
            raise AssertionError(self.communicate()[1]) from None
        self.pid = self.process.pid

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self):
        """What it said, once it has ended."""
        self.process.join()
        return tuple(path.read_text() for path in self.files)

    @property
    def returncode(self):
        return self.process.exitcode


def _pause(files, here, *what):
    os.setsid()  # so that a signal can be sent to it and to the processes that it starts
    for descriptor, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    run_and_pause(here.send, *what)


def run_and_pause(say, target, number, script, arguments):
    """Run a script as start_and_pause says, in this process; say("paused") comes once it waits."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may have it ignored
    name = target.rpartition(".")
    module, calls = importlib.import_module(name[0]), 0
    real = getattr(module, name[2])

    def pausing(*args, **settings):
        nonlocal calls
        calls += 1
        if calls == number:
            say("paused")
            threading.Event().wait()
        return real(*args, **settings)

    setattr(module, name[2], pausing)
    sys.argv = [f"{script}.py", *arguments]
    run_script(importlib.import_module(script).main)


def start_and_pause(target, number, script, *arguments):
    """A script ("Train") in its own process that waits for ever in the number-th call of a function, which is named
    with its module ("Train.train_step"). Returns the process once it is there: a signal finds it at a known point.
    """
    return Paused(target, number, script, [str(argument) for argument in arguments])
