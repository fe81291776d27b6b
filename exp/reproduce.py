"""The numbers: `python -m exp.reproduce PLAN` trains and evaluates the runs of a plan (exp/plans.py) that are missing.

Train.py trains a run to exp/<dataset>/<method>/<plan>-seed<n>/; it goes on where it was stopped, and a finished run is
passed over. Its last epoch is evaluated in all ways of EVALUATIONS. After each run exp/results/<plan>.json holds what
is known so far; of that, what has the same flags and weights is kept. In the end, and with --tables alone, the tables
of README.md and exp/README.md are made anew from those files (exp/tables.py).
"""

import json
import shlex
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import Train
import utils
from data.clips import open_clips, split_videos
from data.labels import frame_labels
from exp import calibration, evaluation, flags, tables
from exp.device import fold_batch_norms, pick_device, place
from exp.plans import EVALUATIONS, PLANS
from exp.run import FREE, SHAPE, call, contradiction, environment, load_model, read_record, run_directory, write_whole
from exp.weights import sha256
from utils import InputError, Parser, run_script


class Job(NamedTuple):
    """One run of a plan."""

    name: str
    training: str  # the name of its Training
    command: list  # flags of Train.py
    flags: dict  # all flags it comes to, by name
    directory: Path
    curves: bool  # see exp.plans.Training

    @property
    def begun(self):
        return (self.directory / "flags.json").is_file()

    def epochs(self):
        """How many it has finished. Raises InputError when another run is in its place."""
        if not self.begun:
            return 0
        record = read_record(self.directory)
        name = contradiction(record.flags, self.flags)
        if name:
            what = f"has --{name} {record.flags[name]}, the plan {self.flags[name]}"
            raise InputError(f"the run in {self.directory} {what}: move it away")
        return len(record.history)

    def finished(self):
        return self.epochs() >= self.flags["epochs"]


def jobs(plan_name, only=None):
    """The runs of a plan, or those of them whose name starts with one of `only`. Raises InputError when none does."""
    plan, found = PLANS[plan_name], []
    for training in plan.trainings:
        for seed in training.seeds:
            exp_dir = "-".join(filter(None, (plan_name, training.option, f"seed{seed}")))
            command = [*plan.training_flags(training), "--seed", str(seed), "--exp_dir", exp_dir]
            settings = {**vars(Train.parse(command)), "processes": 1}
            directory = run_directory(plan.dataset_type, training.method, exp_dir)
            name = f"{training.name}-seed{seed}"
            found.append(Job(name, training.name, command, settings, directory, training.curves))
    chosen = [job for job in found if only is None or job.name.startswith(tuple(only))]
    if not chosen:
        raise InputError(f"--only {' '.join(only)}: the runs of {plan_name} are {', '.join(job.name for job in found)}")
    return chosen


def train(job, passed_on):
    """Bring the run to its last epoch. Raises InputError when Train.py fails."""
    call("Train.py", *job.command, *passed_on, *(["--resume"] if job.begun else []))


# Evaluation ----------------------------------------------------------------------------------------------------------


def evaluate(job, wanted, dataset_path, cache_dir, device):
    """Evaluate the last epoch of a run in the ways `wanted`, {name: exp.plans.Way}. Returns {name: result, a dict}."""
    model_path, dataset_type = job.directory / "model.pth", job.flags["dataset_type"]
    model, items, shape = load_model(model_path, model_path.with_name("m_items.pt"), dict.fromkeys(SHAPE))
    network, usual = fold_batch_norms(place(model, device, "fp32")), flags.METHODS[shape["method"]]
    videos = split_videos(dataset_path, dataset_type, "testing")
    labels = frame_labels(dataset_path, dataset_type, videos)
    if labels is None:
        raise InputError(f"no labels for {dataset_type}, so no AUC: data/README.md says how to give them")
    clips = open_clips(videos, "testing", shape["t_length"], (shape["h"], shape["w"], shape["c"]), cache_dir)
    normal = np.concatenate(calibration.load(model_path, items).regular)
    scored, results = {}, {}
    for name, way in wanted.items():
        alpha = usual["alpha"] if way.alpha is None else way.alpha
        th = usual["th"] if way.th is None else way.th
        th = th if way.quantile is None else float(np.quantile(normal, way.quantile))
        key = th, way.memory_update, way.psnr_region
        if key not in scored:  # λ and smoothing work on scores, so those that differ in nothing else share them
            scoring = {"memory_update": way.memory_update, "psnr_region": way.psnr_region, "num_workers": 1}
            scored[key] = evaluation.evaluate(network, items.to(device), clips, th, alpha, labels, **scoring)
        found = scored[key]
        abnormality = evaluation.abnormality(found.psnr, found.distance, alpha, way.smooth, way.causal)
        results[name] = {
            "settings": way.settings(),
            "th": th,
            "alpha": alpha,
            **evaluation.metrics(found.labels, abnormality),
            "updated": float(np.concatenate(found.updated).mean()),
            "videos": dict(zip(found.videos, utils.auc_of_videos(found.labels, abnormality), strict=True)),
        }
    return results


def conclude(job, before, dataset_path, cache_dir, device):
    """The entry of a finished run in the results. before: its entry so far, or None; what still fits of it is kept."""
    record = read_record(job.directory)
    entry = {
        "training": job.training,
        "flags": {name: value for name, value in record.flags.items() if name not in FREE},
        "starts": record.starts,
        "weights": {name: sha256(job.directory / name) for name in ("model.pth", "m_items.pt")},
        "epochs": record.history,
    }
    side = min(job.flags["h"], job.flags["w"])
    # all ways for the first seeds; the later ones, and ablations, have those that a scoring as published gives for free
    all_ways = job.curves and job.flags["seed"] < 3 and job.flags["method"] == "pred"
    ways = {name: way for name, way in EVALUATIONS.items() if all_ways or (way.th is None and way.quantile is None)}
    ways = {name: way for name, way in ways.items() if (way.psnr_region or 0) <= side}
    same = before is not None and all(before[key] == entry[key] for key in ("flags", "weights"))
    kept = before["evaluations"] if same else {}
    wanted = {name: way for name, way in ways.items() if kept.get(name, {}).get("settings") != way.settings()}
    if not wanted:
        return before
    if not calibration.path_beside(job.directory / "model.pth").is_file():
        where = ("--dataset_path", dataset_path, *(("--cache_dir", cache_dir) if cache_dir else ()))
        calibration.main([str(job.directory), *where, "--device", str(device)])
    found = {**kept, **evaluate(job, wanted, dataset_path, cache_dir, device)}
    entry["evaluated"] = {"date": time.strftime("%Y-%m-%d"), **environment(device)}
    return {**entry, "evaluations": {name: found[name] for name in ways}}


# Command line --------------------------------------------------------------------------------------------------------


def run_plan(name, chosen, args):
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
            train(job, passed_on)
        results[job.name] = conclude(job, results.get(job.name), args.dataset_path, args.cache_dir, device)
        ordered = {job.name: results[job.name] for job in jobs(name) if job.name in results}
        text = json.dumps(ordered, indent=1, ensure_ascii=False) + "\n"
        path.parent.mkdir(exist_ok=True)
        write_whole(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))


def parse(arguments=None):
    parser = Parser(prog="python -m exp.reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("plan", nargs="?", choices=PLANS, help="a plan of exp/plans.py")
    parser.add_argument(
        "--tables", action="store_true", help="only write the tables of README.md and exp/README.md anew"
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


def main():
    args = parse()
    if args.plan:
        run_plan(args.plan, jobs(args.plan, args.only), args)
        print("\n".join(tables.make(args.plan)))
    if not args.dry_run:
        tables.write_pages()


if __name__ == "__main__":
    run_script(main)
