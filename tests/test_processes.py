"""Training in two processes: one network, one memory, one writer; and what happens when one of them dies.

The processes talk over gloo on the CPU, where each has batch norm statistics of its own clips. What two compute is
compared with what one does in float64: in float32 Adam turns the rounding of gradients that should be 0, as those of
biases before a batch norm, into steps of full length, and runs that add in another order are far apart after 20 steps.
"""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import forked
import pytest
import small
import torch
import torch.nn.functional as F
from helpers import ROOT, TINY, assert_same, contents, run_of

import Train
from data.clips import normalise, open_clips, training_loader
from exp import meter
from exp.checkpoints import build_model
from exp.scoring import score
from model import memory
from utils import run_script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("small_network"),
    pytest.mark.skipif(
        "forkserver" not in multiprocessing.get_all_start_methods() or not torch.distributed.is_gloo_available(),
        reason="needs forkserver and gloo",
    ),
]
EPOCHS, STEPS, BATCH = 2, 10, 2  # 20 steps in all


@pytest.fixture
def videos(tmp_path, make_videos, monkeypatch):
    """dataset/own: 40 training clips, which are 10 steps of two processes with 2 clips each."""
    monkeypatch.chdir(tmp_path)
    return make_videos(tmp_path / "dataset" / "own" / "training" / "frames", {"1": 24, "2": 24})


def command(exp_dir, *arguments):
    return [
        "Train.py",
        *TINY,
        "--no_figures",
        "--epochs",
        EPOCHS,
        "--batch_size",
        BATCH,
        "--exp_dir",
        exp_dir,
        *arguments,
    ]


def in_float64(clips):
    return normalise(clips).double()


def as_rank(rank, port, folder, arguments, dtype):
    """Train.py as one of two processes. Returns the exit status, the losses and items of each step, what it wrote."""
    import torch._dynamo  # it makes a folder for its cache as it is imported, which is not what is watched for below

    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    torch.set_default_dtype(dtype)
    if dtype == torch.float64:
        Train.normalise = score.normalise = in_float64
    os.chdir(folder)
    losses, items, written = [], [], []
    gather, check_same = meter.gather, Train.check_same

    def gathered(values):
        everyone = gather(values)
        if values.ndim == 3:  # losses: (1, steps, 4) of this process
            losses.extend(everyone.mean(dim=0).tolist())
        return everyone

    def checked(now):
        check_same(now)
        items.append(now.tolist())

    def watch(event, details):
        changes = event in ("os.mkdir", "os.remove", "os.rename", "os.truncate", "os.rmdir")
        if changes or (event == "open" and isinstance(details[1], str) and set(details[1]) & set("wax+")):
            written.append(f"{event} {details[0]}")

    meter.gather, Train.check_same = gathered, checked
    sys.addaudithook(watch)
    sys.argv = [str(argument) for argument in arguments]
    try:
        run_script(Train.main)
    except SystemExit as end:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return end.code or 0, losses, items, [name for name in written if "/dev/" not in name]


def two_processes(folder, *arguments, dtype=torch.float32):
    """What `as_rank` returns, of both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forked.start_server()
    with ExitStack() as stack:
        ranks = [stack.enter_context(ProcessPoolExecutor(1, forked.CONTEXT, small.shrink)) for _ in range(2)]
        running = [ranks[r].submit(as_rank, r, port, str(folder), arguments, dtype) for r in range(2)]
        return [process.result(timeout=600) for process in running]


def one_process(videos):
    """The losses and items of each step, of a process that is fed what the two are fed."""
    args = Train.parse(list(map(str, command("alone")[1:])))
    clips = open_clips(videos, "training", 5, (16, 16, 3))
    shards = [training_loader(clips, BATCH, 0, args.seed, (rank, 2)) for rank in range(2)]
    torch.manual_seed(args.seed)
    model = build_model(vars(args)).train()
    items = memory.initial_items(args.msize, args.mdim)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    all_losses, all_items = [], []
    for epoch in range(EPOCHS):
        for shard in shards:
            shard.sampler.set_epoch(epoch)
        for both in zip(*shards, strict=True):
            losses, queries = [], []
            for batch in both:  # apart, for batch norm sees the clips of one process
                frames, target = model.split(in_float64(batch))
                output = model(frames, items)
                pixel = F.mse_loss(output.frame, target)
                loss = pixel + 0.1 * output.compactness + 0.1 * output.separateness
                losses.append(torch.stack((pixel, output.compactness, output.separateness, loss)))
                queries.append(output.queries.detach().flatten(0, 2))
            mean = torch.stack(losses).mean(dim=0)
            optimizer.zero_grad()
            mean[3].backward()
            optimizer.step()
            items = memory.update(torch.cat(queries), items)
            all_losses.append(mean.tolist())
            all_items.append(items.tolist())
        scheduler.step()
    return all_losses, all_items


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_two_processes_train_as_one_that_is_fed_the_same(videos, tmp_path, float64):
    (first, second) = two_processes(tmp_path, *command("two"), dtype=torch.float64)
    assert first[0] == second[0] == 0
    losses, items = one_process(videos)
    assert len(losses) == EPOCHS * STEPS
    assert first[1] == second[1]  # the losses are means of both
    assert first[2] == second[2]  # every process ends each step with the same items
    torch.testing.assert_close(torch.tensor(first[1]), torch.tensor(losses), rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.tensor(first[2]), torch.tensor(items), rtol=0, atol=1e-9)

    run = run_of(exp_dir="two")
    assert first[3] and second[3] == []  # only rank 0 writes
    _, saved, lines = contents(run)
    torch.testing.assert_close(saved, torch.tensor(items[-1]), rtol=0, atol=1e-9)
    for line in lines:
        assert sum(line["queries_won"]) == 40 * 4  # of both processes: 40 clips of 2 x 2 queries
    log = (run / "train.log").read_text()
    assert "40 clips, 4 per step" in log  # the global batch
    assert "2 x cpu" in log
    assert json.loads((run / "flags.json").read_text())["processes"] == 2


def test_a_loss_that_is_not_finite_is_a_mistake_and_no_difference_between_processes(videos, tmp_path):
    """NaN is not equal to itself, so items that are NaN everywhere would count as different."""
    assert [status for status, *_ in two_processes(tmp_path, *command("nan", "--lr", 1e30))] == [2, 2]


def test_items_that_differ_stop_the_run(tmp_path, monkeypatch):
    from exp import device

    monkeypatch.setattr(device.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(device.distributed, "get_world_size", lambda: 2)
    items = torch.rand(4, 16)
    monkeypatch.setattr(device, "gather", lambda values: torch.cat((values, values)))
    device.check_same(items)
    monkeypatch.setattr(device, "gather", lambda values: torch.cat((values, values + 1e-7)))
    with pytest.raises(RuntimeError, match="different memory items"):
        device.check_same(items)


PAUSING = f"""
import functools, sys
import forked, small

small.shrink()
say = functools.partial(print, flush=True)
forked.run_and_pause(say, "Train.train_step", {STEPS + STEPS // 2}, "Train", sys.argv[1:])  # in the second epoch
"""


def processes_below(pid):
    """Ids of the processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return sorted(found)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_process_that_dies_ends_the_run_and_resume_picks_it_up(videos, tmp_path):
    assert [status for status, *_ in two_processes(tmp_path, *command("whole"))] == [0, 0]

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [str(argument) for argument in command("killed")[1:]]
    Path("pausing.py").write_text(PAUSING)
    process = subprocess.Popen(
        [*torchrun, "pausing.py", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert any("paused" in line for line in process.stdout)
        os.kill(processes_below(process.pid)[-1], signal.SIGKILL)
        out, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode != 0, out
    assert len(contents(run_of(exp_dir="killed"))[2]) < EPOCHS

    assert [status for status, *_ in two_processes(tmp_path, *command("killed", "--resume"))] == [0, 0]
    assert_same(run_of(exp_dir="killed"), run_of(exp_dir="whole"))
