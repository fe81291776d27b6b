"""Where and how the network computes: device, precision, memory layout, processes. None of this changes the method.

With torchrun, each process has its own clips, and all have the same network and memory. DistributedDataParallel
averages the gradients, and the sums in the memory update run over all processes, so that all have the same items. Each
batch norm sees the clips of its own process, as many as in the released code; the running statistics of the first
process are kept. In a single process, the functions that communicate return their input.
"""

import copy
import ctypes
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.convae import ConvAE
from utils import InputError

PRECISIONS = ("fp32", "tf32", "bf16")
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # of mallopt, as in malloc.h


def pick_device(name: str, gpus: list[int] | None = None) -> torch.device:
    """The torch.device that --device and --gpus select, ready to use; each of several processes gets its own GPU.

    Raises InputError when there is no such device.
    """
    if gpus is not None:
        name = _choose_gpus(name, gpus)
    own = int(os.environ.get("LOCAL_RANK", 0))  # the GPU of this process, where each has its own
    if name == "auto" and torch.cuda.is_available() and not unusable_gpu(own):
        name = "cuda"
    elif name == "auto":
        if shutil.which("nvidia-smi") and (why := unusable_gpu(own)):
            print(f"warning: the GPU cannot be used, so the CPU is used: {why}", file=sys.stderr)
        name = "mps" if torch.backends.mps.is_available() else "cpu"
    shares_gpus = name == "cuda"  # among the processes; cuda:N is one GPU for all
    if shares_gpus:
        name = f"cuda:{own}"
    kind, _, index = name.partition(":")
    if not re.fullmatch(r"cpu|mps|cuda:\d+", name):
        raise InputError(f"--device {name}: give auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and (why := unusable_gpu(int(index))):
        raise InputError(f"--device {name}: {why}; --device cpu works everywhere")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(index or 0) >= there:
        found = f"{kind.upper()} devices found: {there}"
        raise InputError(f"--device {name}: there is no such device ({found}); --device cpu works everywhere")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and (kind == "mps" or (kind == "cuda" and not shares_gpus)):
        raise InputError(f"--device {name}: several processes need --device cuda, which gives each its own GPU, or cpu")
    return torch.device(name)


def _choose_gpus(name: str, gpus: list[int]) -> str:
    """Let this process see only these GPUs. Returns the name of the device. Raises InputError."""
    if name in ("cpu", "mps"):
        raise InputError(f"--gpus needs CUDA, not --device {name}")
    if len(gpus) > int(os.environ.get("WORLD_SIZE", 1)):
        raise InputError(
            f"--gpus names {len(gpus)} GPUs: start with torchrun --nproc_per_node {len(gpus)} Train.py ..."
        )
    before, now = os.environ.get("CUDA_VISIBLE_DEVICES"), ",".join(map(str, gpus))
    if before not in (None, now):
        print(f"warning: --gpus replaces CUDA_VISIBLE_DEVICES={before} by {now}", file=sys.stderr)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = now
    return "cuda" if name == "auto" else name


def unusable_gpu(index: int = 0) -> str:
    """Why this NVIDIA GPU cannot be used, and what to install; "" if it can be, or does not exist."""
    if torch.version.cuda is None:
        return "this PyTorch was built without CUDA: install one with it (pytorch.org lists them)"
    try:
        torch.cuda.init()
        if index >= torch.cuda.device_count():
            return ""
        capability = torch.cuda.get_device_capability(index)
    except (RuntimeError, AssertionError) as error:  # no driver, or one that is too old
        first = str(error).splitlines()[0]
        return f"{first} PyTorch is built for CUDA {torch.version.cuda}: update the driver or install an older build"
    built = [arch for arch in torch.cuda.get_arch_list() if arch.partition("_")[2].rstrip("af").isdecimal()]
    fits = any(_runs_on(arch, capability) for arch in built)
    if built and not fits:
        name = ".".join(map(str, capability))
        return f"its capability is {name}, and this PyTorch is built for {' '.join(built)}: install an older build"
    return ""


def _runs_on(arch: str, capability: tuple[int, int]) -> bool:
    """Whether code built for an architecture, such as sm_80 or compute_90, runs on a GPU of this capability."""
    kind, _, version = arch.partition("_")
    major, minor = divmod(int(version.rstrip("af")), 10)
    return (major, minor) <= capability and (kind == "compute" or major == capability[0])


def describe(device: torch.device) -> str:
    """The device in words: "cuda, NVIDIA A100", or "cpu, 2 cores, Intel Xeon Processor with AVX512-BF16 and AMX"."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return ", ".join(part for part in (device.type, f"{os.cpu_count()} cores", processor()) if part)


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The name of the processor and its instructions for bfloat16; "" if the system does not say."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    fields = {key.strip(): value for key, _, value in (line.partition(":") for line in text.splitlines())}
    name = " ".join(re.sub(r"\((R|TM)\)|@.*", "", fields.get("model name") or platform.processor()).split())
    has = fields.get("flags", "").split()
    extras = [label for flag, label in (("avx512_bf16", "AVX512-BF16"), ("amx_bf16", "AMX")) if flag in has]
    return f"{name} with {' and '.join(extras)}" if name and extras else name


def keep_freed_memory(device: torch.device) -> None:
    """From here on, freed blocks of memory stay with this process for reuse, if it computes on the CPU.

    Otherwise the C library returns the activations of 256 x 256 frames to the system each time, which clears memory
    before it hands it out again: a sixth to a third of a training step. Without glibc, this does nothing. Only the
    scripts call it: a program that scores frames from Python may need its memory for something else.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


def make_deterministic() -> None:
    """From here on, the same flags give the same numbers on one machine, also on CUDA; on a CPU they always do.

    It slows CUDA down by an amount that has not been measured. Call it before anything is computed.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it, PyTorch refuses matrix products on CUDA
    torch.backends.cudnn.benchmark = False  # it times algorithms, and which one wins varies
    torch.use_deterministic_algorithms(True)


def place(model: ConvAE, device: torch.device, precision: str, compiled: bool = False) -> ConvAE:
    """Move the network to the device, with the given precision and the fastest memory layout for convolutions.

    Raises InputError when the device has no such precision, or when there is no compiler for `compiled`.
    """
    if device.type == "cuda":
        if precision == "bf16" and torch.cuda.get_device_capability(device) < (8, 0):
            raise InputError("--precision bf16: this GPU has no bfloat16 arithmetic (capability 8.0 or more); use fp32")
        # cuDNN times its algorithms once for each size of batch; in training there is one, in scoring there are a few
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    elif precision == "tf32":
        raise InputError("--precision tf32 is for NVIDIA GPUs: use fp32, which computes the same elsewhere")
    if compiled and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "gcc", "clang", "cl"))):
        raise InputError("--compile needs a C++ compiler, and there is none: install g++, or leave --compile out")
    # PyTorch lets convolutions round to TF32 unless told otherwise, which moves every score; the memory stays float32
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    model.autocast = torch.bfloat16 if precision == "bf16" else None
    if compiled:
        model.encoder.compile()
        model.decoder.compile()
    return model.to(device=device).to(memory_format=torch.channels_last)


def fold_batch_norms(model: ConvAE) -> ConvAE:
    """A copy of a network in eval mode with each batch norm folded into the convolution before it; same output."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            for i in reversed(range(len(module))):
                norm, conv = module[i], module[i - 1]
                if isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                    module[i - 1] = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
                    del module[i]
    return model


# Several processes ----------------------------------------------------------------------------------------------------


_waiting: list[Any] = []  # the group in which processes wait for a long time, if there are several


def join_processes(device: torch.device) -> tuple[int, int]:
    """Join the other processes if torchrun started this one. Returns its rank and the number of processes."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, 1
    if device.type == "cuda":
        torch.cuda.set_device(device)
        distributed.init_process_group("nccl", device_id=device)
    else:
        distributed.init_process_group("gloo")
    # NCCL gives up after ten minutes; decoding a large data set takes longer
    _waiting[:] = [distributed.new_group(backend="gloo", timeout=timedelta(days=1))]
    return distributed.get_rank(), distributed.get_world_size()


def leave_processes() -> None:
    """From here on, this process works alone: no process waits for another."""
    if distributed.is_initialized():
        _waiting.clear()
        distributed.destroy_process_group()


def share_gradients(model: ConvAE, device: torch.device) -> nn.Module:
    """The network, wrapped so that gradients are averaged over processes."""
    if not distributed.is_initialized():
        return model
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Run the block on rank 0 first; the other processes run it afterwards and find the files that rank 0 made."""
    if distributed.is_initialized() and distributed.get_rank() > 0:
        distributed.barrier(group=_waiting[0])
    yield
    if distributed.is_initialized() and distributed.get_rank() == 0:
        distributed.barrier(group=_waiting[0])


def over_processes(values: Tensor, how: str) -> Tensor:
    """The "max" or the "sum" of values (...) over all processes, with the same bits in each of them."""
    if distributed.is_initialized():
        values = values.contiguous()
        distributed.all_reduce(values, distributed.ReduceOp.MAX if how == "max" else distributed.ReduceOp.SUM)
    return values


def gather(values: Tensor) -> Tensor:
    """The tensors (n, ...) of all processes as one, (processes · n, ...), in order of rank."""
    if not distributed.is_initialized():
        return values
    everyone = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyone, values.contiguous())
    return torch.cat(everyone)


def check_same(items: Tensor) -> None:
    """Raise RuntimeError when the processes hold different items: a bug, or a broken machine."""
    if not distributed.is_initialized():
        return
    if not torch.equal(gather(items[None]), items.expand(distributed.get_world_size(), *items.shape)):
        raise RuntimeError("the processes hold different memory items")
