"""Where and how the network computes: device, precision, layout, several processes; none of it part of the method.

Started by torchrun, each process has its own clips and the same network and memory: gradients are averaged by
DistributedDataParallel, and the memory's queries are gathered from all, so that every process computes the same update.
Alone, the functions that talk to other processes give back what they were given.
"""

import copy
import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.convae import ConvAE
from utils import InputError

PRECISIONS = ("fp32", "tf32", "bf16")
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # of mallopt, as in malloc.h


def pick_device(name: str, gpus: list[int] | None = None) -> torch.device:
    """The torch.device that --device and --gpus ask for, made ready; of several processes each gets its own GPU.

    Raises InputError when it is not there.
    """
    if gpus is not None:
        if name in ("cpu", "mps"):
            raise InputError(f"--gpus goes with CUDA, not with --device {name}")
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        name = "cuda" if name == "auto" else name
        if len(gpus) > int(os.environ.get("WORLD_SIZE", 1)):
            raise InputError(
                f"--gpus names {len(gpus)} GPUs: start with torchrun --nproc_per_node {len(gpus)} Train.py ..."
            )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise InputError(f"--device {name}: give auto, cpu, cuda, cuda:N or mps")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(index or 0) >= there:
        raise InputError(f"--device {name} is not there ({there} of kind {kind} found): --device cpu works everywhere")
    if kind == "cpu":
        keep_freed_memory()
    return torch.device(name)


def keep_freed_memory() -> None:
    """From here on, blocks of memory that are freed stay with the process, however large, for the next to use.

    Otherwise the C library hands activations of 256 x 256 pixels back each time, and the system clears all it gives
    out: a third of a training step there. Nothing changes where the library is not glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


def make_deterministic() -> None:
    """From here on the same flags give the same numbers on one machine, on CUDA too; those of a CPU are so anyway.

    Slower on CUDA, where it has not been measured. Call it before anything is computed.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it, PyTorch refuses matrix products on CUDA
    torch.backends.cudnn.benchmark = False  # it times algorithms, and which one wins varies
    torch.use_deterministic_algorithms(True)


def place(model: ConvAE, device: torch.device, precision: str, compiled: bool = False) -> ConvAE:
    """The network on the device, computing in the precision, in the layout its convolutions are fastest in."""
    # PyTorch lets convolutions round to TF32 unless told otherwise, which moves every score
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    model.autocast = torch.bfloat16 if precision == "bf16" else None
    if compiled:
        model.encoder.compile()
        model.decoder.compile()
    return model.to(device=device).to(memory_format=torch.channels_last)


def fold_batch_norms(model: ConvAE) -> ConvAE:
    """A copy of a network in eval mode with each batch norm folded into the convolution before it: the same values."""
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


def join_processes(device: torch.device) -> tuple[int, int]:
    """Join the other processes when torchrun started this one. Returns this one's rank and how many there are."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, 1
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return distributed.get_rank(), distributed.get_world_size()


def share_gradients(model: ConvAE, device: torch.device) -> nn.Module:
    """The network wrapped so that gradients are averaged over processes and, on CUDA, batch norms see all clips."""
    if not distributed.is_initialized():
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """The block is run by rank 0, and by the others after it, when they find on disk what it made."""
    if distributed.is_initialized() and distributed.get_rank() > 0:
        distributed.barrier()
    yield
    if distributed.is_initialized() and distributed.get_rank() == 0:
        distributed.barrier()


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
