"""Tables of one plan: functions that turn its name and its results into lines of Markdown."""

import statistics
from collections.abc import Iterable
from typing import Any

from exp.reproduce.cells import (
    NOTHING,
    Results,
    by_seed,
    columns,
    command,
    ends,
    gain,
    hours,
    markdown,
    measured,
    not_run,
    percent,
    read_results,
    runs_of,
    signed,
    source,
)
from exp.reproduce.means import mean_of, paired
from exp.reproduce.plans import (
    CLIPS,
    EVALUATIONS,
    PAPER,
    PLANS,
    PUBLISHED,
    RELEASED_CODE,
    RETRAININGS,
    UNTRAINED_SEEDS,
    Training,
)

METRICS = ("auc", "macro_auc", "eer", "average_precision")


def others_of(name: str, training: Training) -> list[Any]:
    """The AUC in % of the released code as run here, of the paper, and of others' re-trainings."""
    key = PLANS[name].dataset_type, training.name
    return [
        found or NOTHING for found in (RELEASED_CODE.get((name, training.name)), PAPER.get(key), RETRAININGS.get(key))
    ]


def called(training: Training) -> str:
    """The name of a training in tables: its method, with its flags if it has an option."""
    return f"`{training.method}` with `{training.flags}`" if training.option else f"`{training.method}`"


def interval_of(values: Iterable[float]) -> str:
    """The t-interval, in percent, of the mean of values in [0, 1]."""
    found = mean_of([100 * value for value in values])
    return ends(found.low, found.high) if found else NOTHING


def evaluated_with(entries: Iterable[dict[str, Any]]) -> str:
    """When and with which code, PyTorch and device entries were evaluated."""
    found = [entry["evaluated"] for entry in entries]
    days = sorted({environment["date"] for environment in found})
    return f"{' to '.join(dict.fromkeys((days[0], days[-1])))}, {source(*found)}"


def summary(name: str, results: Results) -> list[str]:
    """One row per training: its published evaluation, and the numbers of others."""
    rows = []
    for training, entries in columns(name, results).items():
        if entries:
            auc, *ours = (percent(measured(entries, metric=metric)) for metric in METRICS)
            interval = interval_of(measured(entries))
            rows.append((called(training), f"**{auc}**", interval, len(entries), *ours, *others_of(name, training)))
    missing = [called(training) for training, entries in columns(name, results).items() if not entries]
    header = ("%", "AUC", "95 % interval of the mean", "n", "macro AUC", "EER", "average precision")
    found = list(results["runs"].values())
    return [
        *markdown((*header, "released code", "paper", "others' re-trainings"), rows),
        "",
        *([f"Not run yet: {', '.join(missing)}.", ""] if missing else []),
        f"{command(name)}. Frame-level metrics after the last epoch: mean ± sample standard deviation over n seeds. "
        f"Training took {hours(found):.1f} hours in total. Evaluated {evaluated_with(found)}.",
    ]


def front(name: str, results: Results) -> list[str]:
    """The columns and rows for README.md."""
    rows = []
    for training, entries in columns(name, results).items():
        if entries and training.on_front_page:
            rows.append((called(training), percent(measured(entries)), len(entries), *others_of(name, training)))
    of_copy = copied(runs_of(results, "pred"))
    if of_copy is not None:
        rows.append(("copying the previous frame", f"{of_copy:.1f}", *[NOTHING] * 4))
    header = ("frame-level AUC, %", "here", "n", "released code", "paper", "others' re-trainings")
    return [*markdown(header, rows), "", f'"Here": {command(name)}, mean ± sample standard deviation over n seeds.']


def comparisons(name: str, results: Results) -> list[str]:
    """One row per training with an option: its difference from the training that is its base, seed by seed."""
    there = columns(name, results)
    bases = {(training.method, training.option): training for training in there}
    rows = []
    for training, entries in there.items():
        if training.option and entries:
            base = bases[training.method, training.base]
            change = paired(by_seed(entries), by_seed(there[base]))
            rows.append((f"{called(training)} instead of {called(base)}", *gain(change)))
    header = ("change in AUC, percentage points", "mean", "95 % interval", "n")
    return [
        *markdown(header, rows),
        "",
        "Differences are computed seed by seed. Where the interval contains zero, the direction is undecided.",
    ]


# Baselines ------------------------------------------------------------------------------------------------------------


def copied(entries: list[Any]) -> float | None:
    """The AUC in percent of copying the previous frame, the same for every run; None where it was not scored."""
    found = [e["evaluations"][PUBLISHED].get("protocols", {}).get("copy", {}).get("published") for e in entries]
    return next((100 * estimate["auc"] for estimate in found if estimate), None)


def baseline_rows(name: str, results: Results) -> list[tuple]:
    """The scores without training: name, AUC and n, then the gain of the trained network, its interval and n."""
    rows: list[tuple] = []
    trained = runs_of(results, "pred")
    of_copy = copied(trained)
    if of_copy is not None:
        more = mean_of([auc - of_copy for auc in by_seed(trained).values()])
        rows.append(("copying the previous frame, PSNR alone", f"{of_copy:.1f}", NOTHING, *gain(more)))
    for method in PLANS[name].untrained:
        names = {seed: f"untrained-{method}-seed{seed}" for seed in UNTRAINED_SEEDS}
        aucs = {seed: results["baselines"][key]["auc"] for seed, key in names.items() if key in results["baselines"]}
        if aucs:
            more = paired(by_seed(runs_of(results, method)), {seed: 100 * auc for seed, auc in aucs.items()})
            rows.append((f"untrained `{method}`", percent(list(aucs.values())), len(aucs), *gain(more)))
    if "place" in results["baselines"]:
        auc = 100 * results["baselines"]["place"]["auc"]
        more = mean_of([value - auc for value in by_seed(trained).values()])
        rows.append(("position of the frame in its video", f"{auc:.1f}", NOTHING, *gain(more)))
    return rows


def baselines_table(name: str, results: Results) -> list[str]:
    """One row per baseline, with the gain of the trained network over it."""
    rows = baseline_rows(name, results)
    if not rows:
        return not_run(name)
    header = ("frame-level AUC, %", "AUC", "n", "gain of the trained network", "95 % interval", "n of the gain")
    return markdown(header, rows)


# Evaluations and runs -------------------------------------------------------------------------------------------------


def evaluations(name: str, results: Results) -> list[str]:
    """One row per way to evaluate, one column per training: AUC, and its difference from the published way."""
    found = {t: entries for t, entries in columns(name, results).items() if entries and len(t.ways) == len(EVALUATIONS)}

    def cell(entries: list[Any], way: str) -> str:
        there = [entry for entry in entries if way in entry["evaluations"]]
        values = measured(there, way)
        if not values or way == PUBLISHED:
            return percent(values) if values else NOTHING
        change = paired(by_seed(there, way), by_seed(there))
        fewer = f", n = {len(values)}" if len(values) < len(entries) else ""
        return f"{percent(values)} ({signed(change.mean)}{fewer})" if change else NOTHING

    rows = [(way, *(cell(entries, way) for entries in found.values())) for way in EVALUATIONS]
    header = ("AUC, %", *(f"{training.name}, n = {len(entries)}" for training, entries in found.items()))
    return markdown(header, [row for row in rows if set(row[1:]) != {NOTHING}])


def videos(name: str, results: Results) -> list[str]:
    """One row per test video, one column per training: the AUC of the video."""
    found = {training: entries for training, entries in columns(name, results).items() if entries}
    names = dict.fromkeys(video for e in results["runs"].values() for video in e["evaluations"][PUBLISHED]["videos"])

    def cell(entries: list[Any], video: str) -> str:
        values = [each.get(video) for each in measured(entries, metric="videos")]
        return "one class" if None in values else percent(values)

    rows = [(video, *(cell(entries, video) for entries in found.values())) for video in names]
    return markdown(("AUC of each video, %", *(training.name for training in found)), rows)


def runs(name: str, results: Results) -> list[str]:
    """One row per run: its training, and the code and machine behind it."""
    rows = []
    for run, entry in results["runs"].items():
        epochs, last = entry["epochs"], entry["epochs"][-1]
        row = {
            "run": run,
            "AUC, %": percent(measured([entry])),
            "epochs": len(epochs),
            "seconds per epoch": f"{statistics.mean(epoch['seconds'] for epoch in epochs):.0f}",
            "clips per second": f"{statistics.harmonic_mean([epoch['clips_per_second'] for epoch in epochs]):.1f}",
            "pixel loss": f"{last['pixel']:.5f}",
            **memory_cells(entry),
            "test frames that updated memory, %": percent(measured([entry], metric="updated")),
            "trained with": source(*entry["starts"]),
        }
        rows.append(tuple(row.values()))
    note = "Losses, items and cosines are those of the last epoch. Seconds include time spent on other programs."
    return [*markdown(tuple(row), rows), "", note]


def memory_cells(entry: dict[str, Any]) -> dict[str, str]:
    """The state of the memory after training; empty cells for a run without one."""
    names = ("compactness", "separateness", "items nearest to some query", "cosines between items")
    if not entry["flags"]["msize"]:
        return dict.fromkeys(names, NOTHING)
    last = entry["epochs"][-1]
    won, (lowest, highest) = last["queries_won"], last["item_cosines"]
    return {
        "compactness": f"{last['compactness']:.6f}",
        "separateness": f"{last['separateness']:.4f}",
        "items nearest to some query": f"{sum(count > 0 for count in won)} of {len(won)}",
        "cosines between items": f"{lowest:.2f} to {highest:.2f}",
    }


def cost(name: str) -> list[str]:
    """An estimate of the time that a plan takes, where the benchmark has trained at that size; otherwise nothing."""
    plan, speed = PLANS[name], read_results("benchmark")
    trained = [t for t in speed.get("tables", ()) if (t["title"], t["size"]) == ("training", plan.setting("--h"))]
    if not trained:
        return []
    count = sum(len(training.seeds) for training in plan.trainings)
    clips = sum(len(training.seeds) * CLIPS[plan.dataset_type, training.method] for training in plan.trainings)
    clips *= plan.setting("--epochs") or 0
    needed = clips / trained[0]["ways"]["ours"]["clips_per_second"] / 3600
    on_gpu = clips * trained[0]["flops_per_clip"] / 100e12 / 3600
    elsewhere = f", or {on_gpu:.1f} hours at 100 TFLOP/s" if on_gpu >= 0.1 else ""
    return [
        "",
        f"Training its {count} runs would take about {needed:.0f} hours on the machine of the benchmark"
        f" ({speed['device']}) at the speed of `pred` in float32{elsewhere}.",
    ]
