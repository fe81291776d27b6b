"""Measurements of a run (the ways of EVALUATIONS, lesions of the memory) and baselines that need no training."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

import utils
from data.clips import Clips, Source, open_split, split_videos, testing_loader
from data.labels import frame_labels
from data.masks import Masks, find_masks
from exp import calibrate
from exp.checkpoints import build_model
from exp.device import fold_batch_norms, place
from exp.pack import sha256
from exp.record import FREE, read_record
from exp.reproduce.plans import (
    DISTANCE_ALONE,
    PSNR_ALONE,
    PUBLISHED,
    UNTRAINED_SEEDS,
    Plan,
    Way,
    scoring_in,
    settings_of,
)
from exp.reproduce.runs import PlannedRun
from exp.run import environment
from exp.scoring import calibration
from exp.scoring.alarms import calibrated_scores
from exp.scoring.calibration import Calibration
from exp.scoring.evaluation import Evaluation, Metrics, abnormality, auc_by_video, evaluate, measure
from exp.scoring.lesions import LESIONS, parts_auc
from exp.scoring.pixels import PixelCounter
from exp.scoring.protocols import protocols
from exp.scoring.score import Scored, Scoring, published
from exp.scoring.trained import Trained, load_trained
from model import memory
from model.convae import ConvAE
from utils import InputError

Result = dict[str, Any]  # as it is stored in exp/results


class TestSet(NamedTuple):
    """The test videos of a data set, in the form that a network of one shape needs."""

    clips: Clips
    labels: dict[str, np.ndarray | None]
    seconds: list[np.ndarray]  # per video, the time of every frame; here its index, so that σ counts frames
    masks: Masks

    def score(
        self, model: ConvAE, items: Tensor, scoring: Scoring, look: Callable[[Scored], object] = lambda scored: None
    ) -> Evaluation:
        return evaluate(model, items, testing_loader(self.clips), scoring, self.labels, self.seconds, look)


def open_test_set(source: Source, shape: dict[str, Any]) -> TestSet:
    """The TestSet of a data set. Raises InputError without labels, or when the masks do not fit the frames."""
    videos = split_videos(source.dataset_path, source.dataset_type, "testing")
    labels = frame_labels(source.dataset_path, source.dataset_type, videos)
    if labels is None:
        raise InputError(f"no labels for {source.dataset_type}, so no AUC: data/README.md says how to give them")
    masks, wrong = find_masks(Path(source.dataset_path) / source.dataset_type, videos)
    if wrong:
        raise InputError(wrong[0])
    clips = open_split(source, "testing", shape)
    return TestSet(clips, labels, [np.arange(len(video.frames), dtype=float) for video in clips.videos], masks)


def metrics_of(result: Evaluation, scoring: Scoring) -> Result:
    """The part of an evaluation that is stored for every way."""
    return {
        "th": scoring.th,
        "alpha": scoring.alpha,
        **cast(Metrics, result.metrics)._asdict(),
        "updated": float(np.concatenate(result.updated).mean()),
        "videos": auc_by_video(result),
    }


def published_result(
    test: TestSet, model: ConvAE, items: Tensor, scoring: Scoring, normal: Calibration | None
) -> tuple[Evaluation, Result]:
    """The published evaluation, and what is stored for it: also other protocols and pixel-level metrics."""
    pixels = PixelCounter(test.masks, [video.name for video in test.clips.videos])
    result = test.score(model, items, scoring, pixels.add)
    calibrated = calibrated_scores(result, normal, scoring) if normal else None
    several, found = protocols(result, scoring, calibrated), pixels.metrics()
    return result, {
        **metrics_of(result, scoring),
        "protocols": {
            who: {name: one._asdict() for name, one in some.items()} for who, some in several._asdict().items()
        },
        "pixels": found._asdict() if found else None,
    }


def evaluate_run(trained: Trained, test: TestSet, wanted: dict[str, Way]) -> dict[str, Result]:
    """Evaluate a trained network in the ways `wanted`, {name: Way}. Returns {name: result}."""
    if trained.normal is None:
        raise InputError(trained.no_calibration)
    regular = np.concatenate(trained.normal.regular)
    scored: dict[tuple[float, bool], Evaluation] = {}
    results = {}
    for name, way in wanted.items():
        scoring = scoring_in(way, trained.scoring(), regular)
        key = scoring.th, scoring.memory_update
        if name == PUBLISHED:
            scored[key], found = published_result(test, trained.model, trained.items, scoring, trained.normal)
        else:
            if key not in scored:  # λ and smoothing act on the scores, so ways that differ only in them share a pass
                scored[key] = test.score(trained.model, trained.items, scoring)
            result = scored[key]
            values = abnormality(result.psnr, result.distance, result.seconds, result.gaps, scoring)
            found = metrics_of(
                result._replace(abnormality=values, metrics=measure(result.labels or [], values)), scoring
            )
        results[name] = {"settings": settings_of(way), **found}
    return results


def score_lesions(trained: Trained, test: TestSet, evaluations: dict[str, Result]) -> dict[str, Result]:
    """The AUC of each part of the score for each lesion in exp/scoring/lesions.py.

    evaluations: those of the run, which already have the results for the intact memory.
    """
    ways = {"psnr": PSNR_ALONE, "distance": DISTANCE_ALONE, "both": PUBLISHED}
    scoring, found = trained.scoring(), {"intact": {part: evaluations[way]["auc"] for part, way in ways.items()}}
    for name, lesion in LESIONS.items():
        if name not in found:
            model, items = lesion(trained.model, trained.items)
            found[name] = parts_auc(test.score(model, items, scoring), scoring)._asdict()
    return found


def entry_of(run: PlannedRun, before: Result | None, source: Source, device: torch.device) -> Result:
    """The entry of a finished run in the results. before: its earlier entry or None; what still applies is kept."""
    record = read_record(run.directory)
    entry: Result = {
        "training": run.training.name,
        "flags": {name: value for name, value in record.flags.items() if name not in FREE},
        "starts": record.starts,
        "weights": {name: sha256(run.directory / name) for name in ("model.pth", "m_items.pt")},
        "epochs": record.history,
    }
    fits = before is not None and all(before[key] == entry[key] for key in ("flags", "weights"))
    kept: Result = before if fits and before is not None else {"evaluations": {}}
    ways = run.training.ways_of(record.flags["seed"])
    wanted = {name: way for name, way in ways.items() if not _is_known(kept["evaluations"].get(name), name, way)}
    lesions = kept.get("lesions")
    if before is not None and not wanted and bool(lesions) >= run.training.lesions:
        return before
    if not calibration.path_beside(run.directory / "model.pth").is_file():
        where = ["--dataset_path", str(source.dataset_path)]
        where += ["--cache_dir", str(source.cache.folder)] if source.cache.folder else []
        calibrate.main([str(run.directory), *where, "--device", str(device)])
    trained = load_trained(run.directory, device=device)
    test = open_test_set(source, trained.shape)
    found = {**kept["evaluations"], **evaluate_run(trained, test, wanted)}
    entry["evaluated"] = {"date": time.strftime("%Y-%m-%d"), **environment(device)}
    entry["evaluations"] = {name: found[name] for name in ways}
    if run.training.lesions:
        entry["lesions"] = lesions or score_lesions(trained, test, found)
    return entry


def _is_known(result: Result | None, name: str, way: Way) -> bool:
    """Whether an evaluation in the results was made in this way and is complete."""
    return (
        result is not None and result["settings"] == settings_of(way) and (name != PUBLISHED or "protocols" in result)
    )


# Baselines ------------------------------------------------------------------------------------------------------------


def baselines(plan: Plan) -> list[str]:
    """The names of a plan's baselines. Copying the previous frame is not one: every run of pred scores it."""
    untrained = [f"untrained-{method}-seed{seed}" for method in plan.untrained for seed in UNTRAINED_SEEDS]
    return [*untrained, "place"] if untrained else []


def baseline(name: str, run: PlannedRun, source: Source, device: torch.device) -> Result:
    """The entry of a baseline. run: any run of the same method, for the shape of the network."""
    test = open_test_set(source, run.flags)
    if name == "place":
        found = {"auc": place_auc(test)}
    else:
        torch.manual_seed(int(name.rpartition("seed")[2]))  # as Train.py begins
        model = build_model(run.flags).eval()
        items = memory.initial_items(run.flags["msize"], run.flags["mdim"]).to(device)
        model = place(fold_batch_norms(model), device, "fp32")
        _, found = published_result(test, model, items, published(run.flags), None)
    return {"evaluated": {"date": time.strftime("%Y-%m-%d"), **environment(device)}, **found}


def place_auc(test: TestSet) -> float:
    """The AUC of a score that is the relative position of the frame in its video, from 0 to 1."""
    scored = zip(test.clips.videos, test.clips.ends, strict=True)
    labelled = [(y, ends) for video, ends in scored if (y := test.labels[video.name]) is not None]
    both = [(y[ends], np.linspace(0, 1, len(ends))) for y, ends in labelled]
    return utils.auc(*(np.concatenate(values) for values in zip(*both, strict=True)))
