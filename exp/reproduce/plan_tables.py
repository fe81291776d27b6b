"""Tables of one plan: functions that turn its name and its results into lines of Markdown."""

import statistics
from collections.abc import Iterable
from typing import Any

from exp.diagnose import DEAD
from exp.reproduce.cells import (
    NOTHING,
    Results,
    by_seed,
    columns,
    command,
    ends,
    gain,
    hours,
    items_in_use,
    markdown,
    measured,
    not_run,
    percent,
    read_results,
    runs_of,
    signed,
    source,
)
from exp.reproduce.means import mean_of, paired, unpaired
from exp.reproduce.plans import (
    CLIPS,
    EVALUATIONS,
    PAPER,
    PLANS,
    PSNR_ALONE,
    PUBLISHED,
    RELEASED_CODE,
    RETRAININGS,
    UNTRAINED_SEEDS,
    Training,
)

COMPARED = ("pred", "pred-no_memory", "recon")  # the trainings that are compared with the baselines
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
    missing = []
    for training, entries in columns(name, results).items():
        seeds = [str(seed) for seed in training.seeds if seed not in by_seed(entries)]
        if seeds:
            missing.append(f"{called(training)} (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})")
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
            ours, theirs = by_seed(entries), by_seed(there[base])
            of_all = unpaired(list(ours.values()), list(theirs.values()))
            counts = f"{len(ours)} and {len(theirs)}"
            what = f"{called(training)} instead of {called(base)}"
            rows.append((what, *gain(paired(ours, theirs)), ends(*of_all, "+") if of_all else NOTHING, counts))
    header = ("change in AUC, percentage points", "mean", "95 % interval", "n")
    return [
        *markdown((*header, "95 % interval without pairing", "n of each"), rows),
        "",
        "The mean and the first interval are of the differences seed by seed; the interval without pairing compares"
        " all seeds of both (Welch's t-test). Where an interval contains zero, the direction is undecided.",
    ]


# Baselines ------------------------------------------------------------------------------------------------------------


def copied(entries: list[Any]) -> float | None:
    """The AUC in percent of copying the previous frame, the same for every run; None where it was not scored."""
    found = [e["evaluations"][PUBLISHED].get("protocols", {}).get("copy", {}).get("published") for e in entries]
    return next((100 * estimate["auc"] for estimate in found if estimate), None)


def baseline_rows(name: str, results: Results) -> list[tuple]:
    """The scores without training: name and AUC, then what is compared with it: its gain, the interval and n."""
    there = columns(name, results)
    trained = {called(training): by_seed(entries) for training, entries in there.items() if training.name in COMPARED}
    trained["`pred`, PSNR alone"] = by_seed(runs_of(results, "pred"), PSNR_ALONE)
    rows: list[tuple] = []

    def compare(baseline: str, auc: float) -> None:
        for what, aucs in trained.items():
            if aucs:
                more = mean_of([value - auc for value in aucs.values()])
                rows.append((baseline, f"{auc:.1f}", what, *gain(more)))

    of_copy = copied(runs_of(results, "pred"))
    if of_copy is not None:
        compare("copying the previous frame, PSNR alone", of_copy)
    if "place" in results["baselines"]:
        compare("position of the frame in its video", 100 * results["baselines"]["place"]["auc"])
    for method in PLANS[name].untrained:
        names = {seed: f"untrained-{method}-seed{seed}" for seed in UNTRAINED_SEEDS}
        aucs = {seed: results["baselines"][key]["auc"] for seed, key in names.items() if key in results["baselines"]}
        if aucs:
            more = paired(by_seed(runs_of(results, method)), {seed: 100 * auc for seed, auc in aucs.items()})
            rows.append((f"untrained `{method}`", percent(list(aucs.values())), f"`{method}`", *gain(more)))
    return rows


def baselines_table(name: str, results: Results) -> list[str]:
    """One row per baseline and trained score: how much higher the AUC of the trained score is."""
    rows = baseline_rows(name, results)
    if not rows:
        return not_run(name)
    return markdown(("baseline", "its AUC, %", "compared with", "gain over the baseline", "95 % interval", "n"), rows)


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
    note = (
        "Losses, items and cosines are those of the last epoch; an item is in use if it is nearest to at least"
        f" {100 * DEAD:g} % of the queries. Seconds include time spent on other programs."
    )
    return [*markdown(tuple(row), rows), "", note]


def memory_cells(entry: dict[str, Any]) -> dict[str, str]:
    """The state of the memory after training; empty cells for a run without one."""
    names = ("compactness", "separateness", "items in use", "cosines between items")
    if not entry["flags"]["msize"]:
        return dict.fromkeys(names, NOTHING)
    last = entry["epochs"][-1]
    lowest, highest = last["item_cosines"]
    return {
        "compactness": f"{last['compactness']:.6f}",
        "separateness": f"{last['separateness']:.4f}",
        "items in use": "{} of {}".format(*items_in_use(entry)),
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
