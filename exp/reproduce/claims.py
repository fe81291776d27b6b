"""Tables over several plans: the claims of the paper with verdicts, the effect of the frame size, the compute."""

from collections.abc import Callable
from typing import Any, NamedTuple

from exp.flags import ANY_DATASET
from exp.reproduce.cells import (
    NOTHING,
    Results,
    by_seed,
    ends,
    hours,
    items_in_use,
    markdown,
    measured,
    percent,
    runs_of,
    signed,
)
from exp.reproduce.means import (
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    Mean,
    mean_of,
    paired,
    verdict_on_gain,
    verdict_on_value,
)
from exp.reproduce.plan_tables import copied
from exp.reproduce.plans import DISTANCE_ALONE, PAPER, PLANS, PSNR_ALONE, PUBLISHED, SIZES, THRESHOLD_AUTO, UPDATE_OFF

AT_PAPER_SIZE = ("ped2_paper", "ped2_cpu_256")  # plans at 256x256, which alone judge a published AUC; the longest first
ABLATIONS = "ped2_cpu"  # the plan with the ablations
CALLED = {"ped2": "Ped2", "avenue": "Avenue", "shanghai": "ShanghaiTech"}
AllResults = dict[str, Results]  # by the names of plans


class Claim(NamedTuple):
    """A claim that a component raises the AUC: the training that has it, and the AUC to compare it with."""

    text: str
    training: str  # by its name in the plan
    without: Callable[[Results], dict[int, float]]  # {seed: AUC in percent} without the component
    way: str = PUBLISHED  # how the training that has it is evaluated


def _training(name: str) -> Callable[[Results], dict[int, float]]:
    return lambda results: by_seed(runs_of(results, name))


def _way(method: str, way: str) -> Callable[[Results], dict[int, float]]:
    return lambda results: by_seed(runs_of(results, method), way)


def _lesion(method: str, lesion: str) -> Callable[[Results], dict[int, float]]:
    def find(results: Results) -> dict[int, float]:
        there = [entry for entry in runs_of(results, method) if "lesions" in entry]
        return {entry["flags"]["seed"]: 100 * entry["lesions"][lesion]["both"] for entry in there}

    return find


CLAIMS = (
    *(Claim("memory helps", method, _training(f"{method}-no_memory")) for method in ("pred", "recon")),
    *(  # without a memory there is no feature distance, so PSNR is compared with PSNR, too
        Claim("memory helps, by PSNR alone", method, _training(f"{method}-no_memory"), PSNR_ALONE)
        for method in ("pred", "recon")
    ),
    Claim("the two memory losses help", "pred", _training("pred-no_memory_losses")),
    Claim("separateness helps, added to compactness", "pred-bf16", _training("pred-bf16-compactness_alone")),
    Claim("compactness helps, added to separateness", "pred-bf16", _training("pred-bf16-separateness_alone")),
    *(
        Claim("updating the memory at test time helps", method, _way(method, UPDATE_OFF))
        for method in ("pred", "recon")
    ),
    Claim("updating helps with a γ for this frame size, `--th auto`", "pred", _way("pred", UPDATE_OFF), THRESHOLD_AUTO),
    *(Claim("the feature distance adds to PSNR", method, _way(method, PSNR_ALONE)) for method in ("pred", "recon")),
    *(
        Claim(f"items are prototypes: better than {lesion}", method, _lesion(method, lesion))
        for lesion in ("random items", "permuted items")
        for method in ("pred", "recon")
    ),
)


def claims(results: AllResults) -> list[str]:
    """One row per claim: the measurement, its interval and number of seeds, and the verdict."""
    rows = [_value_row(*key, published, results) for key, published in PAPER.items()]
    for claim in CLAIMS:
        there = results[ABLATIONS]
        difference = paired(by_seed(runs_of(there, claim.training), claim.way), claim.without(there))
        text = f"{claim.text}: `{PLANS[ABLATIONS].training(claim.training).method}`"
        rows.append(_row(text, NOTHING, _trained_at(ABLATIONS, claim.training), difference, "+"))
    rows.append(_items_row(results[ABLATIONS]))
    rows.append(("67 frames per second on a GPU", "67", NOTHING, NOTHING, 0, NOTHING, NOT_TESTED))
    header = ("claim of the paper", "paper", "measured here", "95 % interval", "n", "trained at", "verdict")
    return markdown(header, [(*row[:-1], f"**{row[-1]}**") for row in rows])


def _value_row(dataset: str, method: str, published: float, results: AllResults) -> tuple:
    """A published AUC, judged by a plan at the paper's frame size; without one, the AUC of the ablations is shown."""
    text = f"`{method}` has an AUC of {published} % on {CALLED[dataset]}"
    if dataset != PLANS[ABLATIONS].dataset_type:
        return text, str(published), NOTHING, NOTHING, 0, NOTHING, NOT_TESTED
    at_size = [name for name in AT_PAPER_SIZE if runs_of(results[name], method)]
    plan = (at_size or [ABLATIONS])[0]
    value = mean_of(list(by_seed(runs_of(results[plan], method)).values()))
    row = _row(text, str(published), _trained_at(plan, method), value)
    is_shorter = PLANS[plan].setting("--epochs") != ANY_DATASET["epochs"]
    return (*row[:-1], verdict_on_value(value, published, is_shorter) if at_size else NOT_TESTED)


def _row(text: str, published: str, trained_at: str, found: Mean | None, sign: str = "") -> tuple:
    if found is None:
        return text, published, NOTHING, NOTHING, 0, trained_at, NOT_TESTED
    mean = signed(found.mean) if sign else f"{found.mean:.1f}"
    return text, published, mean, ends(found.low, found.high, sign), found.n, trained_at, verdict_on_gain(found)


def _trained_at(name: str, training: str) -> str:
    """The frame size, the number of epochs and, if it is not float32, the precision of a training, given its plan."""
    plan = PLANS[name]
    size, epochs = f"{plan.setting('--h')}x{plan.setting('--w')}", f"{plan.setting('--epochs')} epochs"
    return f"{size}, {epochs}{', bf16' * ('bf16' in plan.training_flags(plan.training(training)))}"


def _items_row(results: Results) -> tuple:
    """Whether the items are diverse: whether every item is in use in the last epoch."""
    entries = runs_of(results, "pred")
    row = _row("items are diverse: every item is in use", NOTHING, _trained_at(ABLATIONS, "pred"), None)
    if not entries:
        return row
    used, (_, count) = [items_in_use(entry)[0] for entry in entries], items_in_use(entries[0])
    verdict = REPRODUCED if min(used) == count else NOT_REPRODUCED
    found = f"{min(used)} to {max(used)} of {count} in use"
    return *row[:2], found, NOTHING, len(entries), row[5], verdict


def sizes(results: AllResults) -> list[str]:
    """One row per frame size: the AUC of `pred` and of the parts of its score."""
    rows = []
    for name in SIZES:
        entries = runs_of(results[name], "pred")
        if not entries:
            continue
        of_copy = copied(entries)
        more = mean_of([auc - of_copy for auc in by_seed(entries).values()]) if of_copy is not None else None
        last = [entry["epochs"][-1] for entry in entries]
        rows.append(
            (
                _trained_at(name, "pred"),
                len(entries),
                *(percent(measured(entries, way)) for way in (PUBLISHED, PSNR_ALONE, DISTANCE_ALONE)),
                f"{of_copy:.1f}" if of_copy is not None else NOTHING,
                signed(more.mean) if more else NOTHING,
                percent(measured(entries, PUBLISHED, "updated")),
                f"{sum(epoch['separateness'] for epoch in last) / len(last):.4f}",
            )
        )
    header = (
        "Ped2, `pred`",
        "n",
        "AUC, %",
        "PSNR alone",
        "feature distance alone",
        "copying the previous frame",
        "gain over copying",
        "test frames that updated memory, %",
        "separateness, last epoch",
    )
    return markdown(header, rows) if rows else ["Not run yet."]


def compute(results: AllResults) -> list[str]:
    """One row per plan that was run, and their sum: the training time."""
    rows: list[tuple[Any, ...]] = []
    for name, found in results.items():
        entries = list(found.get("runs", {}).values())
        if entries:
            devices = dict.fromkeys(start["device"] for entry in entries for start in entry["starts"])
            epochs = sum(len(entry["epochs"]) for entry in entries)
            rows.append((f"`{name}`", len(entries), epochs, f"{hours(entries):.1f}", "; ".join(devices)))
    every = [entry for found in results.values() for entry in found.get("runs", {}).values()]
    rows.append(("all", len(every), sum(len(entry["epochs"]) for entry in every), f"{hours(every):.1f}", NOTHING))
    return markdown(("plan", "runs", "epochs", "hours of training", "on"), rows)
