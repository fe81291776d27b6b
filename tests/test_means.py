"""What the pages say of results: means over seeds, verdicts on claims, and tables; no run is trained here."""

import numpy as np
import pytest
import scipy.stats
from helpers import row_of

from exp.reproduce import cells, claims, plan_tables, tables
from exp.reproduce.means import Mean, mean_of, paired, unpaired, verdict_on_gain, verdict_on_value
from exp.reproduce.plans import PLANS


def test_the_interval_of_a_mean_is_the_usual_one():
    found = mean_of([1.0, 2.0, 4.0])
    assert (found.mean, found.n, found.deviation) == pytest.approx((7 / 3, 3, np.std([1, 2, 4], ddof=1)))
    expected = scipy.stats.t.interval(0.95, 2, 7 / 3, scipy.stats.sem([1, 2, 4]))
    assert (found.low, found.high) == pytest.approx(expected)
    assert mean_of([]) is None and mean_of([3.0]) == Mean(3.0, 1)


def test_differences_are_taken_of_the_same_seeds():
    found = paired({0: 5.0, 1: 7.0, 3: 100.0}, {1: 4.0, 0: 1.0, 2: 100.0})
    assert (found.mean, found.n) == (3.5, 2)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_verdicts():
    for values, verdict in (
        ([], "not tested"),
        ([5.0], "undecided"),
        ([5.0, 5.001], "undecided"),  # two seeds that agree by chance
        ([0.0, 0.0, 0.0], "not tested"),  # what is compared did nothing
        ([1.0, 1.1, 0.9], "reproduced"),
        ([-1.0, -1.1, -0.9], "not reproduced"),
        ([3.0, -1.0, 0.5], "undecided"),
    ):
        assert verdict_on_gain(mean_of(values)) == verdict
    for values, verdict in (
        ([], "not tested"),
        ([99.0], "undecided"),
        ([96.9, 97.0], "undecided"),
        ([96.9, 97.0, 97.1], "reproduced"),
        ([96.4, 96.5, 96.6], "reproduced"),  # less than a point lower
        ([96.009, 96.01, 96.011], "reproduced"),
        ([95.989, 95.99, 95.991], "not reproduced"),
        ([92.0, 94.0, 98.0], "undecided"),  # a wide interval
        ([90.0, 90.5, 91.0], "not reproduced"),
    ):
        assert verdict_on_value(mean_of(values), 97.0) == verdict
    assert verdict_on_value(mean_of([90.0, 90.5, 91.0]), 97.0, is_shorter=True) == "undecided"
    assert verdict_on_value(mean_of([96.9, 97.0, 97.1]), 97.0, is_shorter=True) == "reproduced"


def test_the_unpaired_interval_is_that_of_welch():
    first, second = [92.0, 94.0, 93.0], [90.0, 91.0]
    low, high = unpaired(first, second)
    a, b = (np.var(values, ddof=1) / len(values) for values in (first, second))
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 1)
    assert (low, high) == pytest.approx(scipy.stats.t.interval(0.95, freedom, 2.5, np.sqrt(a + b)))
    assert unpaired([1.0, 2.0], [1.0]) is None


def made_up(training, aucs, msize=10, won=(1, 1), **more):
    """Entries of runs of a training, with these AUCs by seed."""
    epoch = {"queries_won": won, "separateness": 0.0, "seconds": 1800.0, "item_cosines": [0, 1]}
    return {
        f"{training}-seed{seed}": {
            "training": training,
            "flags": {"seed": seed, "msize": msize},
            "starts": [{"device": "cpu"}],
            "epochs": [epoch],
            "evaluations": {"as published": {"auc": auc, "updated": 0.0}},
            **more,
        }
        for seed, auc in enumerate(aucs)
    }


def test_claims_are_judged_by_what_was_measured():
    results = {plan: {} for plan in PLANS}
    lines = claims.claims(results)
    assert all("**not tested**" in line for line in lines[2:])  # of nothing, nothing is said

    runs = {
        **made_up("pred", (0.95, 0.951, 0.952)),
        **made_up("pred-no_memory", (0.90, 0.902, 0.9)),
        **made_up("recon", (0.8,)),
    }
    results["ped2_cpu"] = {"runs": runs, "baselines": {}}
    lines = claims.claims(results)
    row = row_of(lines, "memory helps: `pred`")
    assert row[2] == "+5.0" and row[4:] == ["3", "64x64, 5 epochs", "**reproduced**"]
    assert row_of(lines, "memory helps: `recon`")[-1] == "**not tested**"  # without a run to compare with
    assert row_of(lines, "`pred` has an AUC of 97.0 % on Ped2")[2:] == [
        "95.1",
        "94.9 to 95.3",
        "3",
        "64x64, 5 epochs",
        "**not tested**",
    ]
    assert row_of(lines, "items are diverse: every item is in use")[-1] == "**reproduced**"

    # the paper's size in fewer epochs
    results["ped2_cpu_256"] = {"runs": made_up("pred", (0.95, 0.951, 0.952)), "baselines": {}}
    row = row_of(claims.claims(results), "`pred` has an AUC of 97.0 % on Ped2")
    assert row[4:] == ["3", "256x256, 3 epochs, bf16", "**undecided**"]
    results["ped2_paper"] = {"runs": made_up("pred", (0.95, 0.951, 0.952)), "baselines": {}}
    row = row_of(claims.claims(results), "`pred` has an AUC of 97.0 % on Ped2")
    assert row[4:] == ["3", "256x256, 60 epochs, bf16", "**not reproduced**"]

    runs = made_up("pred", (0.95, 0.951), won=(9999, 1))
    results["ped2_cpu"] = {"runs": runs, "baselines": {}}
    row = row_of(claims.claims(results), "items are diverse: every item is in use")
    assert row[2] == "1 to 1 of 2 in use" and row[-1] == "**not reproduced**"


def test_sizes_and_compute():
    results = {plan: {} for plan in PLANS}
    assert claims.sizes(results) == ["Not run yet."]
    results["ped2_cpu"] = {"runs": made_up("pred", (0.95, 0.951)), "baselines": {}}
    results["ped2_cpu_256"] = {"runs": made_up("pred", (0.9,)), "baselines": {}}
    lines = claims.sizes(results)
    assert row_of(lines, "64x64, 5 epochs")[1] == "2" and row_of(lines, "256x256, 3 epochs, bf16")[2] == "90.0"
    lines = claims.compute(results)
    assert row_of(lines, "`ped2_cpu`")[1:4] == ["2", "2", "1.0"]
    assert row_of(lines, "all")[1:4] == ["3", "3", "1.5"]


def test_an_ablation_is_compared_seed_by_seed():
    results = {"runs": {**made_up("pred", (0.9, 0.8)), **made_up("pred-no_memory", (0.92, 0.83, 0.1))}, "baselines": {}}
    row = row_of(plan_tables.comparisons("ped2_cpu", results), "`pred` with `--msize 0` instead of `pred`")
    assert row[1] == "+2.5" and row[3] == "2" and row[2].startswith("-") and " to +" in row[2]
    assert row[4].startswith("-") and row[5] == "3 and 2"


def test_a_loss_alone_is_compared_with_both_in_the_same_precision():
    runs = {**made_up("pred", (0.9, 0.92)), **made_up("pred-bf16", (0.8, 0.79))}
    runs |= made_up("pred-bf16-compactness_alone", (0.78, 0.77))
    results = {plan: {} for plan in PLANS} | {"ped2_cpu": {"runs": runs, "baselines": {}}}
    text = "`pred` with `--precision bf16 --loss_separate 0` instead of `pred` with `--precision bf16`"
    assert row_of(plan_tables.comparisons("ped2_cpu", results["ped2_cpu"]), text)[1] == "-2.0"
    row = row_of(claims.claims(results), "separateness helps, added to compactness: `pred`")
    assert row[2] == "+2.0" and row[4:6] == ["2", "64x64, 5 epochs, bf16"]


def test_the_tables_of_the_pages_are_those_of_the_results():
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        assert tables.filled(text) == text, f"{page}: `python -m exp.reproduce --tables` makes its tables again"
    assert tables.BLOCK.search(tables.PAGES[1].read_text(encoding="utf-8"))


def test_cells():
    assert cells.mean_and_deviation([]) == "not run"
    assert cells.mean_and_deviation([2.34]) == "2.3"
    assert cells.mean_and_deviation([1.0, 2.0, 4.0], ".2f") == "2.33 ± 1.53"
    assert cells.percent([0.5, 0.6]) == "55.0 ± 7.1"
    assert cells.percent([0.5, None]) == cells.NOTHING
    assert cells.markdown(("a", "b", "c"), [(1, cells.NOTHING, 2), (3, cells.NOTHING, cells.NOTHING)]) == [
        "| a | c |",
        "| --- | :-: |",
        "| 1 | 2 |",
        f"| 3 | {cells.NOTHING} |",
    ]
