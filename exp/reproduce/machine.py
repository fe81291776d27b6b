"""For exp.benchmark: a function in a process of its own, the memory it takes, and the speed of a matrix product."""

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
    """Call a function in a separate process and return its result."""
    context = multiprocessing.get_context(START)
    if START == "forkserver":
        # importing what Train.py needs takes seconds, so it is done once; each process then runs its main module itself
        context.set_forkserver_preload(["Train"])
    with ProcessPoolExecutor(1, context, _end_with_parent) as pool:
        return pool.submit(function, *arguments).result()


def _end_with_parent() -> None:
    """Make this process end when the one that started it ends, even if that was killed."""
    parent = cast(multiprocessing.process.BaseProcess, multiprocessing.parent_process())
    wait = multiprocessing.connection.wait
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def peak_memory(device: torch.device) -> int | None:
    """The peak memory of this process so far, in bytes: on the GPU, or else in total; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def product_flops_per_second(device: torch.device) -> float:
    """The floating-point operations per second of the fastest of five large matrix products in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    size, times = 1024 if device.type == "cpu" else 8192, []
    matrix = torch.rand(size, size, device=device)
    for _ in range(5):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)
