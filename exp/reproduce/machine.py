"""What a machine can do, for exp.benchmark: a function in a process of its own, memory taken, operations per second."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, cast

import torch

START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def alone(function: Callable, *arguments: Any) -> Any:
    """What the function returns, called in a process of its own."""
    context = multiprocessing.get_context(START)
    if START == "forkserver":
        context.set_forkserver_preload(["exp.benchmark"])  # which takes seconds to import: once for all
    with ProcessPoolExecutor(1, context, _end_with_parent) as pool:
        return pool.submit(function, *arguments).result()


def _end_with_parent() -> None:
    """What a process does first: it will end when the one that started it does, even by a kill."""
    parent = cast(multiprocessing.process.BaseProcess, multiprocessing.parent_process())
    wait = multiprocessing.connection.wait
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def peak_memory(device: torch.device) -> int | None:
    """The most memory this process has held so far, bytes: of the GPU, or in all; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def peak_flops_per_second(device: torch.device) -> float:
    """The most floating-point operations per second in a large matrix product in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    size, times = 1024 if device.type == "cpu" else 8192, []
    matrix = torch.rand(size, size, device=device)
    for _ in range(5):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)
