"""Only one training at a time writes to a directory: its process keeps train.lock in it locked."""

import contextlib
import os
import platform
import sys
from pathlib import Path
from typing import IO

from utils import InputError, writing


class Lock:
    """The lock of a directory, held by a training; the system releases it when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Raises InputError, which names the process, if another training holds the lock."""
        path = directory / "train.lock"
        with writing(path):
            self.file: IO[str] = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        _lock_for(directory, self.file)
        with writing(path):
            self.file.truncate(0)
            self.file.write(f"process {os.getpid()} on {platform.node()}\n")
            self.file.flush()

    def release(self) -> None:
        self.file.close()


def check_free(directory: Path) -> None:
    """Raise InputError if another training holds the lock of a directory. Nothing is written."""
    with contextlib.suppress(FileNotFoundError), open(directory / "train.lock", "r+", encoding="utf-8") as file:
        _lock_for(directory, file)


def _lock_for(directory: Path, file: IO[str]) -> None:
    try:
        _lock(file)
    except OSError:
        file.seek(0)
        holder = file.read(200).strip() or "another process"
        file.close()
        raise InputError(f"{holder} is training in {directory}: wait for it, or choose another --exp_dir") from None


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        file.seek(2**20)  # a byte beyond the text, since other processes must be able to read the text
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
