"""The parts of tables: reading results, formatting cells, writing Markdown."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exp.diagnose import DEAD
from exp.reproduce.means import Mean
from exp.reproduce.plans import PLANS, PUBLISHED, Training
from utils import InputError, read_json

# the content of a file in exp/results; for a plan, {"runs": {name: entry}, "baselines": {name: entry}}
Results = dict[str, Any]
RESULTS = Path(__file__).parents[1] / "results"
NOTHING = "–"
NOT_RUN = "not run"


def results_path(name: str) -> Path:
    """The file with the results of a plan or of the benchmark."""
    return RESULTS / f"{name}.json"


def read_results(name: str) -> Results:
    """The content of exp/results/<name>.json, {} when there is none. Raises InputError when it is damaged."""
    path = results_path(name)
    results = read_json(path) if path.is_file() else {}
    if not isinstance(results, dict) or (name in PLANS and results and results.keys() != {"runs", "baselines"}):
        raise InputError(f"{path} is damaged: it holds no results by name")
    return results


# Entries of a plan ----------------------------------------------------------------------------------------------------


def runs_of(results: Results, training: str) -> list[Any]:
    """The entries of the runs of a training, given its name."""
    return [entry for entry in results.get("runs", {}).values() if entry["training"] == training]


def columns(name: str, results: Results) -> dict[Training, list[Any]]:
    """{training: the entries of its runs} for the trainings of a plan."""
    return {training: runs_of(results, training.name) for training in PLANS[name].trainings}


def measured(entries: list[Any], way: str = PUBLISHED, metric: str = "auc") -> list[Any]:
    """One value per entry that was evaluated in this way."""
    return [entry["evaluations"][way][metric] for entry in entries if way in entry["evaluations"]]


def by_seed(entries: list[Any], way: str = PUBLISHED) -> dict[int, float]:
    """{seed: AUC in percent} of the entries that were evaluated in this way."""
    there = [entry for entry in entries if way in entry["evaluations"]]
    return {entry["flags"]["seed"]: 100 * entry["evaluations"][way]["auc"] for entry in there}


def items_in_use(entry: dict[str, Any]) -> tuple[int, int]:
    """How many items were not dead in the last epoch, and how many there are (exp/diagnose.py has the limit)."""
    won = entry["epochs"][-1]["queries_won"]
    return sum(count >= DEAD * sum(won) for count in won), len(won)


def hours(entries: list[Any]) -> float:
    """The hours that their training took."""
    return sum(epoch["seconds"] for entry in entries for epoch in entry["epochs"]) / 3600


def command(name: str) -> str:
    """The command that runs a plan, with its data set and flags, for captions."""
    plan = PLANS[name]
    flags = f"`{plan.flags}`" if plan.flags else "the defaults"
    return f"`python -m exp.reproduce {name}` ({plan.dataset_type}, {flags})"


def not_run(name: str) -> list[str]:
    """The text in place of a table for which no run has results yet."""
    return [f"Not run yet. {command(name)}."]


def source(*environments: dict[str, Any]) -> str:
    """The commits, PyTorch versions and devices behind a result."""
    commits: dict[tuple[str, str], dict[str, None]] = {}
    for one in environments:
        commits.setdefault((one["torch"], one["device"]), {})[one["commit"]] = None
    kinds = [(f"commit{'s' * (len(some) > 1)} {', '.join(some)}", *kind) for kind, some in commits.items()]
    return "; ".join(f"{shown}, PyTorch {torch}, {device}" for shown, torch, device in kinds)


# Cells ----------------------------------------------------------------------------------------------------------------


def mean_and_deviation(values: Sequence[float], form: str = ".1f") -> str:
    """Mean ± sample standard deviation; a single value stands as it is, and none is NOT_RUN."""
    if not values:
        return NOT_RUN
    mean = f"{statistics.mean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean


def percent(values: Sequence[Any]) -> str:
    """`mean_and_deviation`, in percent, of values in [0, 1]; NOTHING when one of them is None."""
    return NOTHING if None in values else mean_and_deviation([100 * value for value in values])


def ends(low: float | None, high: float | None, sign: str = "") -> str:
    """An interval; NOTHING where there is none."""
    return NOTHING if low is None or high is None else f"{low:{sign}.1f} to {high:{sign}.1f}"


def gain(difference: Mean | None) -> tuple[str, str, int]:
    """The cells of a mean difference in percentage points: the mean, its interval, n."""
    if difference is None:
        return NOTHING, NOTHING, 0
    return f"{signed(difference.mean)}", ends(difference.low, difference.high, "+"), difference.n


def signed(value: float) -> str:
    """A number with its sign and one decimal."""
    return f"{round(value, 1) + 0:+.1f}"  # + 0: no -0.0


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The lines of a table, without empty columns; the first column is text, the others are centred."""
    says = [any(row[i] != NOTHING for row in rows) for i in range(len(header))]
    table = [header, ["---", *[":-:"] * (len(header) - 1)], *rows]
    return [f"| {' | '.join(str(cell) for cell, shown in zip(row, says, strict=True) if shown)} |" for row in table]
