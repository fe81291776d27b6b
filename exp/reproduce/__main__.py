"""The numbers: `python -m exp.reproduce PLAN` trains and evaluates the runs of a plan that are missing.

Train.py trains a run to exp/<dataset>/<method>/<plan>-seed<n>/; it goes on where it was stopped, and a finished run is
passed over. Its last epoch is evaluated in all ways of EVALUATIONS. After each run exp/results/<plan>.json holds what
is known so far; of that, what has the same flags and weights is kept. In the end, and with --tables alone, the tables
of README.md and exp/README.md are made again from those files (exp/reproduce/tables.py).
"""

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

import Train
from data.cache import Cache
from data.clips import Source, open_split, split_videos, testing_loader
from data.labels import frame_labels
from exp import calibrate
from exp.device import pick_device
from exp.pack import sha256
from exp.reproduce import tables
from exp.reproduce.plans import EVALUATIONS, PLANS, Way
from exp.run import FREE, call, contradiction, environment, read_record, run_directory
from exp.scoring import calibration, evaluation
from exp.scoring.evaluation import Metrics
from exp.scoring.trained import load_trained
from utils import InputError, Parser, run_script, write_text


class PlannedRun(NamedTuple):
    """One run of a plan."""

    name: str
    training: str  # the name of its Training
    command: list[str]  # flags of Train.py
    flags: dict[str, Any]  # all flags it comes to, by name
    directory: Path
    curves: bool  # see exp.reproduce.plans.Training

    @property
    def begun(self) -> bool:
        return (self.directory / "flags.json").is_file()

    def epochs(self) -> int:
        """How many it has finished. Raises InputError when another run is in its place."""
        if not self.begun:
            return 0
        record = read_record(self.directory)
        name = contradiction(record.flags, self.flags)
        if name:
            what = f"has --{name} {record.flags[name]}, the plan {self.flags[name]}"
            raise InputError(f"the run in {self.directory} {what}: move it away")
        return len(record.history)

    def finished(self) -> bool:
        return self.epochs() >= self.flags["epochs"]


def jobs(plan_name: str, only: list[str] | None = None) -> list[PlannedRun]:
    """The runs of a plan, or those of them whose name starts with one of `only`. Raises InputError when none does."""
    plan, found = PLANS[plan_name], []
    for training in plan.trainings:
        for seed in training.seeds:
            exp_dir = "-".join(filter(None, (plan_name, training.option, f"seed{seed}")))
            command = [*plan.training_flags(training), "--seed", str(seed), "--exp_dir", exp_dir]
            settings = {**vars(Train.parse(command)), "processes": 1}
            directory = run_directory(plan.dataset_type, training.method, exp_dir)
            name = f"{training.name}-seed{seed}"
            found.append(PlannedRun(name, training.name, command, settings, directory, training.curves))
    chosen = [job for job in found if only is None or job.name.startswith(tuple(only))]
    if only and not chosen:
        raise InputError(f"--only {' '.join(only)}: the runs of {plan_name} are {', '.join(job.name for job in found)}")
    return chosen


def train_run(job: PlannedRun, passed_on: list[str]) -> None:
    """Bring the run to its last epoch. Raises InputError when Train.py fails."""
    call("Train.py", *job.command, *passed_on, *(["--resume"] if job.begun else []))


# Evaluation ----------------------------------------------------------------------------------------------------------


def evaluate_run(
    job: PlannedRun, wanted: dict[str, Way], dataset_path: str, cache_dir: str | None, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Evaluate the last epoch of a run in the ways `wanted`, {name: Way}. Returns {name: result, a dict}."""
    dataset_type = job.flags["dataset_type"]
    trained = load_trained(job.directory, device=device)
    if trained.normal is None:
        raise InputError(trained.no_calibration)
    videos = split_videos(dataset_path, dataset_type, "testing")
    labels = frame_labels(dataset_path, dataset_type, videos)
    if labels is None:
        raise InputError(f"no labels for {dataset_type}, so no AUC: data/README.md says how to give them")
    source = Source(dataset_path, dataset_type, Cache(Path(cache_dir) if cache_dir else None))
    clips = open_split(source, "testing", trained.shape)
    regular = np.concatenate(trained.normal.regular)
    seconds = [np.arange(len(video.frames), dtype=float) for video in clips.videos]  # σ counts frames
    scored, results = {}, {}
    for name, way in wanted.items():
        scoring = way.scoring(trained.scoring(), regular)
        key = scoring.th, scoring.memory_update
        if key not in scored:  # λ and smoothing work on scores, so those that differ in nothing else share them
            loader = testing_loader(clips)
            scored[key] = evaluation.evaluate(trained.model, trained.items, loader, scoring, labels, seconds)
        found = scored[key]
        abnormality = evaluation.abnormality(found.psnr, found.distance, seconds, scoring)
        result = found._replace(abnormality=abnormality, metrics=evaluation.measure(found.labels or [], abnormality))
        results[name] = {
            "settings": way.settings(),
            "th": scoring.th,
            "alpha": scoring.alpha,
            **cast(Metrics, result.metrics)._asdict(),
            "updated": float(np.concatenate(found.updated).mean()),
            "videos": evaluation.auc_by_video(result),
        }
    return results


def entry_of(
    job: PlannedRun, before: dict[str, Any] | None, dataset_path: str, cache_dir: str | None, device: torch.device
) -> dict[str, Any]:
    """The entry of a finished run in the results. before: its entry so far, or None; what still fits of it is kept."""
    record = read_record(job.directory)
    entry: dict[str, Any] = {
        "training": job.training,
        "flags": {name: value for name, value in record.flags.items() if name not in FREE},
        "starts": record.starts,
        "weights": {name: sha256(job.directory / name) for name in ("model.pth", "m_items.pt")},
        "epochs": record.history,
    }
    ways = EVALUATIONS if job.curves else {tables.PUBLISHED: EVALUATIONS[tables.PUBLISHED]}
    kept: dict[str, Any] = {}
    if before is not None and all(before[key] == entry[key] for key in ("flags", "weights")):
        kept = before["evaluations"]
    wanted = {name: way for name, way in ways.items() if kept.get(name, {}).get("settings") != way.settings()}
    if before is not None and not wanted:
        return before
    if not calibration.path_beside(job.directory / "model.pth").is_file():
        where = ("--dataset_path", dataset_path, *(("--cache_dir", cache_dir) if cache_dir else ()))
        calibrate.main([str(job.directory), *where, "--device", str(device)])
    found = {**kept, **evaluate_run(job, wanted, dataset_path, cache_dir, device)}
    entry["evaluated"] = {"date": time.strftime("%Y-%m-%d"), **environment(device)}
    return {**entry, "evaluations": {name: found[name] for name in ways}}


# Command line --------------------------------------------------------------------------------------------------------


def run_plan(name: str, chosen: list[PlannedRun], args: argparse.Namespace) -> None:
    device = pick_device(args.device)
    path = tables.results_path(name)
    results = tables.read_results(name)
    passed_on = ["--dataset_path", args.dataset_path, "--device", args.device]
    passed_on += ["--cache_dir", args.cache_dir] if args.cache_dir else []
    for job in chosen:
        done, epochs = job.epochs(), job.flags["epochs"]
        known = len(results.get(job.name, {}).get("evaluations", {}))
        print(
            f"{job.name}: {done} of {epochs} epochs in {job.directory}, {known} evaluations in {path.name}", flush=True
        )
        if args.dry_run:
            print(f"    python Train.py {shlex.join([*job.command, *passed_on])}")
            continue
        if not job.finished():
            train_run(job, passed_on)
        results[job.name] = entry_of(job, results.get(job.name), args.dataset_path, args.cache_dir, device)
        ordered = {job.name: results[job.name] for job in jobs(name) if job.name in results}
        text = json.dumps(ordered, indent=1, ensure_ascii=False) + "\n"
        path.parent.mkdir(exist_ok=True)
        write_text(path, text)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="python -m exp.reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("plan", nargs="?", choices=PLANS, help="a plan of exp/reproduce/plans.py")
    parser.add_argument(
        "--tables", action="store_true", help="only write the tables of README.md and exp/README.md again"
    )
    parser.add_argument("--only", nargs="+", metavar="RUN", help="runs whose name starts so, such as pred-seed0")
    parser.add_argument("--dry_run", action="store_true", help="only say what is there and what would be run")
    parser.add_argument("--dataset_path", default="./dataset", help="the folder that holds data sets")
    parser.add_argument("--cache_dir", help="where decoded frames are kept; beside the data when not given")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    args = parser.parse_args(arguments)
    if (args.plan is None) != args.tables:
        parser.error("give either a plan or --tables")
    return args


def main() -> None:
    args = parse()
    if args.plan:
        run_plan(args.plan, jobs(args.plan, args.only), args)
        print("\n".join(tables.make(args.plan)))
    if not args.dry_run:
        tables.write_pages()


if __name__ == "__main__":
    run_script(main)
