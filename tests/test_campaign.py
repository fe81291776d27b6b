"""The attack on everything at once, small: random kills, mutations of each kind of file, wrong inputs; seeds are fixed.

Prints what was counted: python -m pytest -s tests/test_campaign.py
"""

import json
import os
import random
import resource
import shutil
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import forked
import pytest
import torch
from helpers import TINY, assert_same, call, run_of, train

import Evaluate
import Train
from exp import export, pack
from exp.checkpoints import load_file
from exp.record import read_record
from model.released import read_items
from utils import InputError, read_json, run_script

pytestmark = [pytest.mark.usefixtures("in_its_own_folder", "small_network"), pytest.mark.slow]
KILLS, MUTATIONS, EPOCHS = 20, 200, 2


def said(**counts):
    print("\n" + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()))


# Kills ----------------------------------------------------------------------------------------------------------------

STEPS = 6  # 3 in each epoch
POINTS = [("Train", "train_step", n) for n in range(1, STEPS + 1)]
POINTS += [("torch", "save", n) for n in range(1, 8)]  # three files per epoch, and the calibration
POINTS += [("os", "replace", n) for n in range(1, 12)]


def die(module, name, number, arguments):
    """Train until the number-th call of a function, and end there as by SIGKILL; a file is half written then."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1), os.dup2(silent, 2)
    real, calls = getattr(sys.modules[module], name), []

    def dying(*args, **settings):
        calls.append(args)
        if len(calls) == number:
            if name == "save":
                Path(args[1]).write_bytes(b"half of it")
            os._exit(9)
        return real(*args, **settings)

    setattr(sys.modules[module], name, dying)
    sys.argv = ["Train.py", *map(str, arguments)]
    run_script(Train.main)


def die_at(module, name, number, *arguments):
    """The exit status of a process that trains until it dies; 9 where it did."""
    process = forked.start(die, module, name, number, arguments)
    process.join()
    return process.exitcode


def test_kills(dataset):
    flags = (*TINY, "--no_figures", "--epochs", EPOCHS)
    assert train("--exp_dir", "whole", epochs=EPOCHS) == 0
    survived = 0
    for module, name, number in random.Random(0).sample(POINTS, KILLS):
        shutil.rmtree(run_of(), ignore_errors=True)
        assert die_at(module, name, number, *flags) == 9, (module, name, number)
        begun = (run_of() / "flags.json").is_file()
        assert train(*(["--resume"] if begun else []), epochs=EPOCHS) == 0
        assert_same(run_of(), run_of(exp_dir="whole"))
        assert not list(run_of().glob(".*"))
        survived += 1
    said(kills_survived=survived, of=KILLS)


# Mutations ------------------------------------------------------------------------------------------------------------

RUNS_CODE = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn")
watched: list[str] = []
watching = False


def watch(event, _):
    if watching and event in RUNS_CODE:
        watched.append(event)


sys.addaudithook(watch)


@contextmanager
def mutated(path, rng):
    """The file with some bytes changed, cut off or added, restored afterwards."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        start, end = min(size, 20_000), max(0, size - 20_000)  # where a file says what it holds
        places = [rng.choice((rng.randrange(start), rng.randrange(end, size), rng.randrange(size))) for _ in range(3)]
        places = places[: rng.randrange(1, 4)]
        before = []
        for place in places:
            file.seek(place)
            before.append((place, file.read(1)))
            file.seek(place)
            file.write(bytes([before[-1][1][0] ^ 1 << rng.randrange(8)]))
        kept, tail = size, b""
        if rng.random() < 0.25:
            kept = rng.choice((rng.randrange(size), max(0, size - rng.randrange(1, 200))))
            file.seek(kept)
            tail = file.read()
            file.truncate(kept)
        elif rng.random() < 0.1:
            file.seek(size)
            file.write(rng.randbytes(50))
    yield
    with open(path, "r+b") as file:
        file.truncate(size)
        file.seek(kept)
        file.write(tail)
        for place, byte in reversed(before):
            file.seek(place)
            file.write(byte)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.fixture
def kinds(dataset):
    """{kind of file: (path, how it is read, whether every change is seen)}, made by a real run."""
    assert train(epochs=1) == 0
    run = run_of()
    for name, form in (("zip.pt", True), ("legacy.pt", False)):
        torch.save(torch.rand(10, 16), name, _use_new_zipfile_serialization=form)
    Path("results.json").write_text(json.dumps({"pred-seed0": {"auc": 0.9}}))
    found = {
        "model.pth": (run / "model.pth", lambda path: load_file(path, "model"), True),
        "m_items.pt": (run / "m_items.pt", lambda path: load_file(path, "items"), True),
        "checkpoint.pt": (run / "checkpoint.pt", lambda path: load_file(path, "checkpoint"), True),
        "calibration.pt": (run / "calibration.pt", lambda path: load_file(path, "calibration"), True),
        "released items, zip": (Path("zip.pt"), read_items, True),
        "released items, legacy": (Path("legacy.pt"), read_items, False),  # that layout has no checksums
        "a run's logs": (run / "metrics.jsonl", lambda path: read_record(path.parent), False),
        "flags.json": (run / "flags.json", lambda path: read_record(path.parent), False),
        "results": (Path("results.json"), read_json, False),
    }
    return found


def test_mutations(kinds):
    global watching
    counts: Counter[str] = Counter()
    rng = random.Random(0)
    for kind, (path, read, all_seen) in kinds.items():
        whole = read(path)
        usual = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        watching = True
        for _ in range(MUTATIONS):
            with mutated(path, rng):
                start = time.process_time()
                try:
                    found = read(path)
                    counts["harmless"] += 1
                    assert not all_seen or same(found, whole), kind
                except InputError as error:
                    counts["refused"] += 1
                    assert len(str(error).splitlines()) == 1
                counts["over_5_s"] += time.process_time() - start > 5
        watching = False
        counts["over_300_MB"] += resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - usual > 300 * 1024
        assert same(read(path), whole)
    said(
        **{
            "files_refused": counts["refused"],
            "harmless": counts["harmless"],
            "tracebacks": 0,
            "code_run": len(watched),
        }
    )
    said(over_300_MB=counts["over_300_MB"], over_5_s=counts["over_5_s"])
    assert not watched and not counts["over_5_s"] and not counts["over_300_MB"]
    assert counts["refused"] > MUTATIONS * len(kinds) / 2


# Wrong inputs ---------------------------------------------------------------------------------------------------------

LONG = "x" * 300
TRAIN = (
    *(["--h", value] for value in ("20", "0", "-8", "1e3", "9" * 400, "80000")),
    *(["--fdim", value] for value in ("0", str(10**8), str(2**31 - 1), str(2**64))),
    *(["--msize", value] for value in ("1", str(2**31 - 1), "ten")),
    *(["--seed", value] for value in ("-1", str(2**64), "9" * 5000)),
    *(["--lr", value] for value in ("0", "nan", "inf", "-1", "1e400")),
    *(["--batch_size", value] for value in ("0", "13", str(2**31 - 1))),
    *(["--exp_dir", value] for value in ("../x", "/tmp/x", "", "..", LONG, "log/model.pth", "a\0b")),
    *(["--dataset_type", value] for value in ("scoring", "weights", "../own", "", "nothing", LONG, "a\nb")),
    *(["--dataset_path", value] for value in ("nowhere", "dataset/own/frame_labels.csv", LONG, "no\nsuch")),
    ["--device", "tpu"],
    ["--device", "cuda:99"],
    ["--epochs", "0"],
    ["--t_length", "11"],
    ["--calibration_share", "1"],
    ["--resume", "--overwrite"],
)
EVALUATE = (
    *(["--model_dir", value] for value in ("nowhere", "fifo", "dataset/own/frame_labels.csv", LONG, "a\nb")),
    *(["--m_items_dir", value] for value in ("nowhere", "fifo", "exp/own/pred/log/model.pth")),
    *(["--weights", value] for value in ("none", "../x", "")),
    *(["--alpha", value] for value in ("1.5", "nan")),
    *(["--smooth", value] for value in ("1e10", "0", "9" * 400)),
    ["--output_dir", "dataset/own/frame_labels.csv"],
    ["--test_batch_size", "0"],
)
OTHERS = (
    (export, ["nowhere"]),
    (export, ["exp/own/pred/log", "--output", "/dev/null"]),
    (export, ["exp/own/pred/log", "--output", "exp/own/pred/log/model.pth"]),
    (pack, ["nowhere", "new"]),
    (pack, ["exp/own/pred/log", "../new"]),
)


def test_wrong_inputs(dataset, capsys):
    assert train() == 0
    os.mkfifo("fifo")
    before = {path: path.stat().st_mtime_ns for path in run_of().rglob("*.p*t*")}
    inputs = [(Train, [*TINY, "--no_figures", "--epochs", "1", "--overwrite", *flags]) for flags in TRAIN]
    evaluating = ["--num_workers_test", "0", "--no_figures"]
    own = ["--dataset_type", "own"]
    inputs += [(Evaluate, [*evaluating, *([] if "--weights" in flags else own), *flags]) for flags in EVALUATE]
    inputs += OTHERS
    wrong = []
    for script, arguments in inputs:
        capsys.readouterr()
        status, error = None, ""
        try:
            status = call(script, *arguments)
        except BaseException as bug:  # what would be a traceback
            error = repr(bug)[:200]
        text = capsys.readouterr().err
        lines = [line for line in text.replace("\r", "\n").splitlines() if line.startswith("error:")]
        if error or status != 2 or len(lines) != 1:
            wrong.append((script.__name__, arguments[-2:], status, error or text[-300:]))
        assert before == {path: path.stat().st_mtime_ns for path in before}, arguments
    with capsys.disabled():
        said(wrong_inputs=len(inputs), refused_in_one_line=len(inputs) - len(wrong), tracebacks=len(wrong))
    assert not wrong, "\n".join(map(str, wrong))
    assert len(inputs) >= 60
