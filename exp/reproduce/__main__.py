"""Reproduce the numbers: `python -m exp.reproduce PLAN` trains and evaluates the missing runs of a plan.

Train.py trains a run in exp/<dataset>/<method>/<plan>-seed<n>/. A stopped run is resumed, and a finished one is not
trained again. The last epoch is evaluated in the ways of EVALUATIONS that the plan names. After each run,
exp/results/<plan>.json holds all results so far; results with the same flags and weights are kept. At the end, or with
--tables alone, the tables of README.md and exp/README.md are written again from those files.
"""

import argparse
import json
from pathlib import Path

from data.cache import Cache
from data.clips import Source
from exp.device import keep_freed_memory, pick_device
from exp.reproduce import cells, measures, tables
from exp.reproduce.plans import PLANS
from exp.reproduce.runs import planned_runs
from utils import InputError, Parser, run_script, write_text


def run_plan(name: str, args: argparse.Namespace) -> None:
    """Train and measure the missing runs and baselines of a plan, or those of them that --only names."""
    device = pick_device(args.device)
    keep_freed_memory(device)
    runs = {run.name: run for run in planned_runs(name)}
    every = [*runs, *measures.baselines(PLANS[name])]
    chosen = [one for one in every if args.only is None or one.startswith(tuple(args.only))]
    if not chosen:
        raise InputError(f"--only {' '.join(args.only)}: {name} has {', '.join(every)}")
    results = cells.read_results(name) or {"runs": {}, "baselines": {}}
    path = cells.results_path(name)
    source = Source(args.dataset_path, PLANS[name].dataset_type, Cache(args.cache_dir and Path(args.cache_dir)))
    passed_on = ["--dataset_path", args.dataset_path, "--device", args.device]
    passed_on += ["--cache_dir", args.cache_dir] if args.cache_dir else []
    for one in chosen:
        if one in runs:
            run = runs[one]
            known = len(results["runs"].get(one, {}).get("evaluations", {}))
            there = f"{run.epochs()} of {run.flags['epochs']} epochs in {run.directory}"
            print(f"{one}: {there}; {known} evaluations in {path.name}", flush=True)
            if args.dry_run:
                print(f"    {run.shown(passed_on)}")
                continue
            run.train(passed_on)
            results["runs"][one] = measures.entry_of(run, results["runs"].get(one), source, device)
        else:
            is_known = one in results["baselines"]
            print(f"{one}: {'in' if is_known else 'not in'} {path.name}", flush=True)
            if is_known or args.dry_run:
                continue
            method = next((method for method in PLANS[name].untrained if f"-{method}-" in one), "pred")
            run = next(run for run in runs.values() if run.training.method == method)
            results["baselines"][one] = measures.baseline(one, run, source, device)
        ordered = {kind: {key: found[key] for key in every if key in found} for kind, found in results.items()}
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="python -m exp.reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("plan", nargs="?", choices=PLANS, help="a plan of exp/reproduce/plans.py")
    parser.add_argument("--tables", action="store_true", help="only rewrite the tables of README.md and exp/README.md")
    parser.add_argument(
        "--only", nargs="+", metavar="RUN", help="only runs and baselines whose names start so, such as pred-seed0"
    )
    parser.add_argument("--dry_run", action="store_true", help="only report what exists and what would be run")
    parser.add_argument("--dataset_path", default="./dataset", help="the folder that contains the data sets")
    parser.add_argument("--cache_dir", help="where to keep decoded frames; beside the data if not given")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    args = parser.parse_args(arguments)
    if (args.plan is None) != args.tables:
        parser.error("give either a plan or --tables")
    return args


def main() -> None:
    args = parse()
    if args.plan:
        run_plan(args.plan, args)
        print("\n".join(tables.make(args.plan)))
    if not args.dry_run:
        tables.write_pages()


if __name__ == "__main__":
    run_script(main)
