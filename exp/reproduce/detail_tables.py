"""Tables of protocols, pixel-level AUC and lesions of a plan; see plan_tables.py."""

import statistics
from collections.abc import Callable
from typing import Any

from exp.reproduce.cells import NOTHING, Results, columns, ends, markdown, not_run, percent
from exp.reproduce.plans import PUBLISHED

PROTOCOLS = {
    "published": "as published: min-max in each video",
    "whole_test_set": "min-max over all test videos together",
    "calibrated": "calibrated on normal training clips, without any test frame",
    "macro": "macro: the mean of the AUCs of the videos",
}
MAPS = {
    "error": "squared error of the frame",
    "distance": "feature distance of each query",
    "error_of_copy": "squared error of copying the previous frame",
}
LESION_PARTS = {"both": "as published", "psnr": "PSNR alone", "distance": "feature distance alone"}
Found = dict[str, list[Any]]  # {header with the name of a training and n: one result per run}


def found_of(name: str, results: Results, find: Callable[[dict[str, Any]], Any]) -> Found:
    """The results of `find` for the runs of each training of the plan, without those for which it is None."""
    found: Found = {}
    for training, entries in columns(name, results).items():
        some = [one for entry in entries if (one := find(entry))]
        if some:
            found[f"{training.name}, n = {len(some)}"] = some
    return found


def protocols_table(name: str, results: Results) -> list[str]:
    """One row per protocol, one column per training and one for copying: AUC, and its interval over test videos."""
    found = found_of(name, results, lambda entry: entry["evaluations"][PUBLISHED].get("protocols"))

    def cell(some: list[Any], who: str, protocol: str) -> str:
        estimates = [one[who][protocol] for one in some if protocol in one[who]]
        if not estimates:
            return NOTHING
        low, high = (100 * statistics.mean(estimate[end] for estimate in estimates) for end in ("low", "high"))
        return f"{percent([estimate['auc'] for estimate in estimates])} [{ends(low, high)}]"

    copies = [one for some in found.values() for one in some if one["copy"]][:1]  # the same for every run
    rows = [
        (what, *(cell(some, "network", protocol) for some in found.values()), cell(copies, "copy", protocol))
        for protocol, what in PROTOCOLS.items()
    ]
    note = (
        "In square brackets: the 95 % bootstrap interval over test videos (1,000 draws with replacement; the mean of"
        " each end over seeds). It shows the uncertainty due to the choice of test videos, which the spread over seeds"
        " does not include."
    )
    return [*markdown(("AUC, %", *found, "copying the previous frame"), rows), "", note] if found else not_run(name)


def pixels_table(name: str, results: Results) -> list[str]:
    """One row per map, one column per training: pixel-level AUC."""
    found = found_of(name, results, lambda entry: entry["evaluations"][PUBLISHED].get("pixels"))
    if not found:
        return not_run(name)
    rows = [(what, *(percent([one[key] for one in some]) for some in found.values())) for key, what in MAPS.items()]
    share, frames = (next(iter(found.values()))[0][key] for key in ("abnormal", "frames"))
    note = f"Over all pixels of {frames} test frames; {100 * share:.2f} % of the pixels are abnormal."
    return [*markdown(("pixel-level AUC, %", *found), rows), "", note]


def lesions_table(name: str, results: Results) -> list[str]:
    """One row per lesion, one column per training and part of the score."""
    found = found_of(name, results, lambda entry: entry.get("lesions"))
    if not found:
        return not_run(name)
    header = [f"{method}: {what}" for method in found for what in LESION_PARTS.values()]
    rows = [
        (lesion, *(percent([one[lesion][part] for one in some]) for some in found.values() for part in LESION_PARTS))
        for lesion in next(iter(found.values()))[0]
    ]
    return markdown(("AUC, %", *header), rows)
