"""Devices as flags name them, on machines whose GPU can or cannot be used; a GPU is stood in for by its answers."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from exp import device
from exp.device import describe, pick_device, place, processor, unusable_gpu
from model.convae import ConvAE
from utils import InputError


@pytest.fixture
def gpu(monkeypatch):
    """gpu(...) makes torch.cuda answer as on a machine with such a GPU; error: what its initialisation raises."""

    def stand_in(capability=(8, 0), built=("sm_80", "sm_90", "compute_120"), error=None):
        def init():
            if error:
                raise error

        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: error is None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: int(error is None))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(built))
        monkeypatch.setattr(device.shutil, "which", lambda name: "/usr/bin/nvidia-smi")

    return stand_in


OLD = RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it.")


def test_a_usable_gpu_is_taken(gpu):
    gpu()
    assert unusable_gpu() == ""
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:0")


@pytest.mark.parametrize(
    ("capability", "usable"), [((8, 0), True), ((8, 6), True), ((7, 5), False), ((12, 1), True), ((13, 0), True)]
)
def test_the_architectures_that_a_build_runs_on(capability, usable, gpu):
    gpu(capability)
    assert (unusable_gpu() == "") == usable


def test_auto_says_why_a_gpu_that_is_there_is_not_used(gpu, capsys):
    gpu(error=OLD)
    assert pick_device("auto") == torch.device("cpu")
    (line,) = capsys.readouterr().err.splitlines()
    assert "too old" in line and "CUDA 13.0" in line and "driver" in line


@pytest.mark.parametrize("settings", [{"error": OLD}, {"capability": (3, 5)}])
def test_cuda_that_cannot_be_used_is_one_line(settings, gpu):
    gpu(**settings)
    with pytest.raises(InputError, match="install an older build") as error:
        pick_device("cuda")
    assert "\n" not in str(error.value)


def test_an_old_gpu_does_not_hide_a_newer_one(gpu, monkeypatch):
    gpu()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: [(3, 5), (8, 0)][index])
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match=r"cuda:0: its capability is 3\.5"):
        pick_device("cuda:0")
    with pytest.raises(InputError, match="cuda:2: there is no such device"):
        pick_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps:0", ""])
def test_an_unknown_device_is_one_line(name, gpu):
    gpu()
    with pytest.raises(InputError, match="give auto, cpu, cuda, cuda:N or mps"):
        pick_device(name)


def test_gpus_say_that_they_replace_what_a_scheduler_chose(gpu, monkeypatch, capsys):
    gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    pick_device("auto", [0])
    assert "CUDA_VISIBLE_DEVICES=3" in capsys.readouterr().err


def test_bf16_is_refused_where_the_gpu_has_none(gpu):
    gpu((7, 5), ("sm_75",))
    with pytest.raises(InputError, match=r"capability 8\.0"):
        place(ConvAE(feature_dim=8), torch.device("cuda"), "bf16")


def test_tf32_is_refused_where_there_is_none():
    with pytest.raises(InputError, match="--precision tf32 is for NVIDIA GPUs"):
        place(ConvAE(feature_dim=8), torch.device("cpu"), "tf32")


def test_freed_memory_stays_with_scripts_that_compute_on_a_cpu_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *of: calls.append(of)))
    monkeypatch.setattr(device.platform, "libc_ver", lambda: ("glibc", "2.36"))
    assert pick_device("cpu") == torch.device("cpu")  # as other programs call it
    device.keep_freed_memory(torch.device("cuda"))
    assert not calls
    device.keep_freed_memory(torch.device("cpu"))
    assert len(calls) == 2


def test_one_gpu_is_not_for_several_processes(gpu, monkeypatch):
    gpu()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert pick_device("cuda") == torch.device("cuda:0")
    with pytest.raises(InputError, match="--device cuda:0: several processes"):
        pick_device("cuda:0")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_how_a_gpu_computes(precision, deterministic, gpu, monkeypatch):
    gpu()
    monkeypatch.setattr(ConvAE, "to", lambda model, *_, **__: model)  # there is no GPU to go to
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    try:
        model = place(ConvAE(feature_dim=8), torch.device("cuda"), precision)
        # TF32 rounds convolutions alone: the memory stays float32
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (precision == "tf32", False)
        assert cudnn.benchmark != deterministic
        assert model.autocast == (torch.bfloat16 if precision == "bf16" else None)
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


# Several processes; what they say to each other is in test_processes.py


@pytest.fixture
def group(monkeypatch):
    """group(rank) makes torch.distributed answer to one of two processes; .calls is what it was asked for, in order."""
    calls = []

    def noted(name, gives=None):
        return lambda *given, **named: calls.append((name, *given, *named.items())) or gives

    def stand_in(rank):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr(torch.cuda, "set_device", noted("set_device"))
        for name, gives in {
            "init_process_group": None,
            "new_group": "patient",
            "barrier": None,
            "destroy_process_group": None,
        }.items():
            monkeypatch.setattr(distributed, name, noted(name, gives))
        for name, gives in {"is_initialized": True, "get_rank": rank, "get_world_size": 2}.items():
            monkeypatch.setattr(distributed, name, lambda gives=gives: gives)
        monkeypatch.setattr(device, "_waiting", [])

    return SimpleNamespace(stand_in=stand_in, calls=calls)


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_with_gpus_of_their_own_wait_for_the_first_for_a_day(rank, group):
    """NCCL gives up a barrier after ten minutes, and decoding a large data set takes longer."""
    group.stand_in(rank)
    assert device.join_processes(torch.device("cuda:1")) == (rank, 2)
    with device.rank_zero_first():
        group.calls.append("work")
    device.leave_processes()
    wait = ("barrier", ("group", "patient"))
    assert group.calls == [
        ("set_device", torch.device("cuda:1")),
        ("init_process_group", "nccl", ("device_id", torch.device("cuda:1"))),
        ("new_group", ("backend", "gloo"), ("timeout", timedelta(days=1))),
        *(["work", wait] if rank == 0 else [wait, "work"]),
        ("destroy_process_group",),
    ]


def test_gradients_are_shared_and_running_statistics_are_not(group, monkeypatch):
    group.stand_in(0)
    monkeypatch.setattr(device, "DistributedDataParallel", lambda model, **named: named)
    shared = device.share_gradients(ConvAE(feature_dim=8), torch.device("cuda:1"))
    assert shared == {"device_ids": [torch.device("cuda:1")], "broadcast_buffers": False}


# One process


def test_compiling_without_a_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="compiler"):
        place(ConvAE(feature_dim=8), torch.device("cpu"), "fp32", compiled=True)


CPUINFO = """processor	: {number}
model name	: Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz
flags		: fpu sse4_2 {flags}

"""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("avx512f", ""),
        ("avx512_bf16", " with AVX512-BF16"),
        ("amx_bf16 amx_tile", " with AMX"),
        ("amx_bf16 avx512_bf16", " with AVX512-BF16 and AMX"),
    ],
)
def test_a_processor_is_named_with_what_it_has_for_bf16(flags, words, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("".join(CPUINFO.format(number=number, flags=flags) for number in range(2)))
    assert processor(cpuinfo) == f"Intel Xeon Platinum 8480C CPU{words}"


@pytest.mark.parametrize("text", ["", "processor	: 0\nFeatures	: fp asimd bf16\n"])
def test_a_processor_without_a_model_name_is_what_python_calls_it(text, tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(device.platform, "processor", lambda: "arm")
    assert processor(cpuinfo) == "arm"
    cpuinfo.write_text(text)
    assert processor(cpuinfo) == "arm"


def test_a_device_is_described_by_its_kind_and_name(monkeypatch):
    monkeypatch.setattr(device.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(device, "processor", lambda: "")
    assert describe(torch.device("cpu")) == "cpu, 3 cores"
    monkeypatch.setattr(device, "processor", lambda: "Xeon")
    assert describe(torch.device("cpu")) == "cpu, 3 cores, Xeon"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    assert describe(torch.device("cuda")) == "cuda, NVIDIA A100"
