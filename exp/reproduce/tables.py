"""Markdown tables of exp/results/*.json. Pages hold them between `<!-- table: NAME -->` and `<!-- end -->`.

NAME is that of a plan (its main results), <plan>/evaluations, <plan>/videos, <plan>/runs, benchmark (ours beside the
plain way) or benchmark/ways (what each part of ours is worth). `python -m exp.reproduce --tables` makes all of them
again; a test compares the pages with the results.
"""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exp.reproduce.plans import CLIPS, EVALUATIONS, PAPER, PLANS, RELEASED_CODE, RETRAININGS, Training
from utils import InputError, read_json, write_text

Results = dict[str, Any]  # of a file in exp/results
RESULTS = Path(__file__).parents[1] / "results"
PAGES = (Path(__file__).parents[2] / "README.md", Path(__file__).parents[1] / "README.md")
BLOCK = re.compile(r"(<!-- table: (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
PUBLISHED = next(iter(EVALUATIONS))  # the way of evaluating that is


def results_path(name: str) -> Path:
    return RESULTS / f"{name}.json"


def read_results(name: str) -> dict[str, Any]:
    """exp/results/<name>.json, of a plan {run: entry} (exp.reproduce.conclude); an empty dict when it is not there."""
    path = results_path(name)
    results = read_json(path) if path.is_file() else {}
    if not isinstance(results, dict):
        raise InputError(f"{path} is damaged: it holds no results by name")
    return results


# Cells ---------------------------------------------------------------------------------------------------------------

NOTHING = "–"


def mean_and_deviation(values: Sequence[float], form: str = ".1f") -> str:
    """Mean ± sample standard deviation; of one value the value itself, of none that it was not run."""
    if not values:
        return "not run"
    mean = f"{statistics.mean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean


def percent(values: Sequence[Any]) -> str:
    """`mean_and_deviation` in percent of shares of 1; NOTHING when one of them is None, the mean over no video."""
    return NOTHING if None in values else mean_and_deviation([100 * value for value in values])


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The lines of a table, without the columns that say nothing; the first column is text, the others are centred."""
    says = [any(row[i] != NOTHING for row in rows) for i in range(len(header))]
    table = [header, ["---", *[":-:"] * (len(header) - 1)], *rows]
    return [f"| {' | '.join(str(cell) for cell, shown in zip(row, says, strict=True) if shown)} |" for row in table]


# Tables of a plan: functions of its name and its results -> lines -----------------------------------------------------


def columns(name: str, results: Results) -> dict[Training, list[Any]]:
    """{training: the entries of its runs} of the trainings of a plan."""
    return {t: [e for e in results.values() if e["training"] == t.name] for t in PLANS[name].trainings}


def measured(entries: list[Any], evaluation: str, metric: str = "auc") -> list[Any]:
    return [entry["evaluations"][evaluation][metric] for entry in entries if evaluation in entry["evaluations"]]


def command(name: str) -> str:
    plan = PLANS[name]
    flags = f"`{plan.flags}`" if plan.flags else "the defaults"
    return f"`python -m exp.reproduce {name}`: {plan.dataset_type}, {flags}"


def source(environment: dict[str, Any]) -> str:
    return f"commit {environment['commit']}, PyTorch {environment['torch']}, {environment['device']}"


def summary(name: str, results: Results) -> list[str]:
    """One row per training: evaluated in the published way, beside the numbers of others."""
    rows = []
    for training, entries in columns(name, results).items():
        key, metrics = (PLANS[name].dataset_type, training.name), ("auc", "macro_auc", "eer", "average_precision")
        auc, *ours = (percent(measured(entries, PUBLISHED, metric)) for metric in metrics)
        others = (RELEASED_CODE.get((name, training.name)), PAPER.get(key), RETRAININGS.get(key))
        called = f"{training.name}: `{training.flags}`" if training.flags else training.name
        rows.append((called, f"**{auc}**", len(entries), *ours, *(other or NOTHING for other in others)))
    header = (
        "%",
        "AUC",
        "n",
        "macro AUC",
        "EER",
        "average precision",
        "released code",
        "paper",
        "others' re-trainings",
    )
    evaluated = [entry["evaluated"] for entry in results.values()]
    days = sorted({environment["date"] for environment in evaluated})
    return [
        *markdown(header, rows),
        "",
        f"{command(name)}. Frame-level, of the last epoch: mean ± sample standard deviation over n seeds. Evaluated "
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}, {'; '.join(dict.fromkeys(map(source, evaluated)))}.",
    ]


def front(name: str, results: Results) -> list[str]:
    """The few columns of `summary` that the front page shows."""
    rows = []
    for training, entries in columns(name, results).items():
        auc = percent(measured(entries, PUBLISHED))
        key = PLANS[name].dataset_type, training.name
        others = (RELEASED_CODE.get((name, training.name)), PAPER.get(key), RETRAININGS.get(key))
        rows.append(
            (f"`{training.method}` {training.flags}", auc, len(entries), *(other or NOTHING for other in others))
        )
    header = ("frame-level AUC, %", "here", "n", "released code", "paper", "others' re-trainings")
    return [*markdown(header, rows), "", f"Here: {command(name)}, mean ± sample standard deviation over n seeds."]


def evaluations(name: str, results: Results) -> list[str]:
    """One row per way to evaluate, one column per training: AUC, and how it differs from the published way's."""
    found = {training: entries for training, entries in columns(name, results).items() if entries and training.curves}

    def cell(entries: list[Any], way: str) -> str:
        there = [entry for entry in entries if way in entry["evaluations"]]
        values = measured(there, way)
        if not values or way == PUBLISHED:
            return percent(values) if values else NOTHING
        published = measured(there, PUBLISHED)
        change = 100 * statistics.mean(a - b for a, b in zip(values, published, strict=True))
        fewer = f", n = {len(values)}" if len(values) < len(entries) else ""
        return f"{percent(values)} ({round(change, 1) + 0:+.1f}{fewer})"  # + 0: no -0.0

    rows = [(way, *(cell(entries, way) for entries in found.values())) for way in EVALUATIONS]
    header = ("AUC, %", *(f"{training.name}, n = {len(entries)}" for training, entries in found.items()))
    return markdown(header, [row for row in rows if set(row[1:]) != {NOTHING}])


def videos(name: str, results: Results) -> list[str]:
    """One row per test video, one column per training: the video's own AUC."""
    found = {training: entries for training, entries in columns(name, results).items() if entries}
    names = dict.fromkeys(video for e in results.values() for video in e["evaluations"][PUBLISHED]["videos"])

    def cell(entries: list[Any], video: str) -> str:
        values = [each.get(video) for each in measured(entries, PUBLISHED, "videos")]
        return "one class" if None in values else percent(values)

    rows = [(video, *(cell(entries, video) for entries in found.values())) for video in names]
    return markdown(("AUC of the video alone, %", *(training.name for training in found)), rows)


def runs(name: str, results: Results) -> list[str]:
    """One row per run: how its training went, and what made it."""
    rows = []
    for run, entry in results.items():
        epochs, last = entry["epochs"], entry["epochs"][-1]
        won, (lowest, highest) = last["queries_won"], last["item_cosines"]
        row = {
            "run": run,
            "epochs": len(epochs),
            "seconds per epoch": f"{statistics.mean(epoch['seconds'] for epoch in epochs):.0f}",
            "clips per second": f"{statistics.harmonic_mean([epoch['clips_per_second'] for epoch in epochs]):.1f}",
            "pixel loss": f"{last['pixel']:.5f}",
            "compactness": f"{last['compactness']:.6f}",
            "separateness": f"{last['separateness']:.4f}",
            "items that won queries": f"{sum(count > 0 for count in won)} of {len(won)}",
            "cosines of items": f"{lowest:.2f} to {highest:.2f}",
            "test frames that updated memory, %": percent(measured([entry], PUBLISHED, "updated")),
            "trained with": "; ".join(dict.fromkeys(map(source, entry["starts"]))),
        }
        rows.append(tuple(row.values()))
    note = "Losses, items and cosines are of the last epoch. Seconds include what else the machine did in that time."
    return [*markdown(tuple(row), rows), "", note]


def cost(name: str) -> list[str]:
    """What a plan would take, where the benchmark has trained at that size; otherwise nothing."""
    plan, speed = PLANS[name], read_results("benchmark")
    trained = [t for t in speed.get("tables", ()) if (t["title"], t["size"]) == ("training", plan.setting("--h"))]
    if not trained:
        return []
    runs = sum(len(training.seeds) for training in plan.trainings)
    clips = sum(len(training.seeds) * CLIPS[plan.dataset_type, training.method] for training in plan.trainings)
    clips *= plan.setting("--epochs") or 0
    hours = clips / trained[0]["ways"]["ours"]["clips_per_second"] / 3600
    on_gpu = clips * trained[0]["flops_per_clip"] / 100e12 / 3600
    elsewhere = f"; for {on_gpu:.1f} hours at 100 TFLOP/s" if on_gpu >= 0.1 else ""
    return [
        "",
        f"Its {runs} runs would train for about {hours:.0f} hours where the benchmark ran ({speed['device']}), were"
        f" all as fast as `pred` is there in float32{elsewhere}.",
    ]


# Tables of the benchmark ---------------------------------------------------------------------------------------------


def median_and_range(times: dict[str, float], scale: float = 1) -> str:
    """The median and the smallest and largest value; times: exp.benchmark.spread."""
    middle, low, high = (scale * times[name] for name in ("median", "min", "max"))
    places = 2 if middle < 10 else 0
    return f"{middle:.{places}f} ({low:.{places}f}–{high:.{places}f})"


def gigabytes(way: dict[str, Any]) -> str:
    return f"{way['peak_memory'] / 1e9:.2f}" if way.get("peak_memory") else NOTHING


def titles(results: Results) -> list[str]:
    return [f"{table['title']}, {table['size']}x{table['size']}" for table in results["tables"]]


def benchmark(_: str, results: Results) -> list[str]:
    """One row per comparison: this project beside the plain way."""
    rows = []
    for title, table in zip(titles(results), results["tables"], strict=True):
        plain, ours = table["ways"]["plain"], table["ways"]["ours"]
        share = f"{ours['share_of_peak']:.0%}" if "share_of_peak" in ours else NOTHING
        times = (
            f"**{median_and_range(ours['times_plain'])}**",
            median_and_range(plain["seconds"], 1000),
            median_and_range(ours["seconds"], 1000),
        )
        rows.append(
            (title, table["clips"], *times, f"{ours['clips_per_second']:.1f}", share, *map(gigabytes, (plain, ours)))
        )
    header = (
        "",
        "clips",
        "times plain",
        "plain, ms",
        "ours, ms",
        "ours, clips per second",
        "ours, share of the machine's peak",
    )
    return [
        *markdown((*header, "plain, GB", "ours, GB"), rows),
        "",
        f"`python -m exp.benchmark`: medians of rounds in which all take turns, in brackets the smallest and largest."
        f" {results['date']}, {source(results)}.",
    ]


def benchmark_ways(_: str, results: Results) -> list[str]:
    """One row per way to compute, one column per comparison: how many times as fast as ours it is."""
    ways = dict.fromkeys(way for table in results["tables"] for way in table["ways"] if way != "ours")

    def cell(table: dict[str, Any], way: str) -> str:
        return median_and_range(table["ways"][way]["times_ours"]) if way in table["ways"] else NOTHING

    rows = [(way, *(cell(table, way) for table in results["tables"])) for way in ways]
    return markdown(("times as fast as ours", *titles(results)), rows)


# Pages ---------------------------------------------------------------------------------------------------------------

PARTS = {"": summary, "front": front, "evaluations": evaluations, "videos": videos, "runs": runs}
BENCHMARK_PARTS = {"": benchmark, "ways": benchmark_ways}


def make(name: str) -> list[str]:
    """The lines of the table of that name. Raises InputError when there is no such table."""
    stem, _, part = name.partition("/")
    parts = BENCHMARK_PARTS if stem == "benchmark" else PARTS if stem in PLANS else {}
    if part not in parts:
        there = [f"{stem}/{part}".rstrip("/") for stem in PLANS for part in PARTS]
        raise InputError(f"no table {name}: there are benchmark, benchmark/ways, {', '.join(there)}")
    results = read_results(stem)
    if results:
        return parts[part](stem, results)
    if stem == "benchmark":
        return ["Not run. `python -m exp.benchmark`."]
    return [f"Not run. {command(stem)}.", *([] if part else cost(stem))]


def filled(text: str) -> str:
    """A page with its tables made again. Raises InputError for a table that does not exist."""
    return BLOCK.sub(lambda block: "\n".join((block[1], *make(block["name"]), "", block[3])), text)


def write_pages() -> None:
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            write_text(page, after)
