"""Protocols: any choice of videos has the AUC that scikit-learn gives, and intervals are quantiles over choices."""

import numpy as np
import pytest
from drawn import evaluation
from sklearn.metrics import roc_auc_score

from exp.flags import Span
from exp.scoring import protocols as module
from exp.scoring.evaluation import abnormality, measure
from exp.scoring.protocols import count_pairs, macro, micro, protocols
from exp.scoring.score import Scoring
from utils import normality, smooth

SCORING = Scoring(0.01, 0.6)


def videos(lengths=(30, 50, 20, 40), seed=0):
    """Labels and rounded scores, so that many are equal; one video is all abnormal, one all normal."""
    rng = np.random.default_rng(seed)
    labels = [(rng.random(n) < 0.4).astype(np.uint8) for n in lengths]
    labels[1][:], labels[2][:] = 1, 0
    return labels, [np.round(rng.normal(size=len(y)) + y, 1) for y in labels]


def test_the_auc_of_all_frames_and_the_mean_over_videos():
    labels, scores = videos()
    pairs = count_pairs(labels, scores)
    assert micro(pairs).auc == pytest.approx(roc_auc_score(np.concatenate(labels), np.concatenate(scores)))
    own = [roc_auc_score(labels[v], scores[v]) for v in (0, 3)]
    assert macro(pairs).auc == pytest.approx(np.mean(own))


def test_intervals_are_quantiles_over_draws_of_whole_videos(monkeypatch):
    monkeypatch.setattr(module, "DRAWS", 60)
    labels, scores = videos()
    drawn = np.random.default_rng(module.SEED).multinomial(4, np.full(4, 1 / 4), size=60)
    micros, macros = [], []
    for counts in drawn:
        chosen = np.repeat(np.arange(4), counts)
        y = np.concatenate([labels[v] for v in chosen])
        if y.min() < y.max():
            micros.append(roc_auc_score(y, np.concatenate([scores[v] for v in chosen])))
        if own := [roc_auc_score(labels[v], scores[v]) for v in chosen if v in (0, 3)]:
            macros.append(np.mean(own))
    assert min(len(micros), len(macros)) < 60  # some draws have no AUC
    pairs = count_pairs(labels, scores)
    assert micro(pairs)[1:] == pytest.approx(np.quantile(micros, (0.025, 0.975)))
    assert macro(pairs)[1:] == pytest.approx(np.quantile(macros, (0.025, 0.975)))


def test_intervals_are_of_a_thousand_draws_that_are_always_the_same():
    k = np.arange(20)
    labels = [((k + v) % 3 == 0).astype(int) for v in range(12)]
    scores = [np.sin(1.7 * k + v * v) + 0.05 * v * y for v, y in enumerate(labels)]
    found = micro(count_pairs(labels, scores))  # 999 draws, or another seed, differ from the fifth digit on
    assert (found.low, found.high) == pytest.approx((0.5502662729, 0.6688494303), abs=1e-7)


def test_the_same_videos_many_times_have_a_narrower_interval():
    labels, scores = videos()
    few, many = micro(count_pairs(labels, scores)), micro(count_pairs(labels * 9, scores * 9))
    assert many.auc == pytest.approx(few.auc)
    assert few.low < many.low < many.auc < many.high < few.high


def test_one_video_has_no_interval_and_one_class_no_auc():
    labels, scores = videos()
    assert micro(count_pairs(labels[:1], scores[:1]))[1:] == (None, None)
    assert micro(count_pairs(labels[1:2], scores[1:2])) is None
    assert macro(count_pairs(labels[1:3], scores[1:3])) is None
    assert macro(count_pairs(labels[:2], scores[:2]))[1:] == (None, None)  # the second has normal frames alone
    assert micro(count_pairs([], [])) is None


@pytest.mark.parametrize("scoring", [SCORING, SCORING._replace(sigma=Span(3))])
def test_protocols_of_an_evaluation(scoring):
    found = evaluation([30, 40, 35])
    values = abnormality(found.psnr, found.distance, found.seconds, found.gaps, scoring)
    copied = [p - np.linspace(0, 3, len(p)) for p in found.psnr]
    found = found._replace(abnormality=values, metrics=measure(found.labels, values), psnr_of_copy=copied)
    calibrated = [33 - p for p in found.psnr]
    network, copy = protocols(found, scoring, calibrated)
    assert network.keys() == {"published", "macro", "whole_test_set", "calibrated"}
    assert copy.keys() == {"published", "macro", "whole_test_set"}
    assert network["published"].auc == pytest.approx(found.metrics.auc)
    assert network["macro"].auc == pytest.approx(found.metrics.macro_auc)
    y = np.concatenate(found.labels)

    def auc(videos):
        return pytest.approx(roc_auc_score(y, np.concatenate([smooth(s, 3) if scoring.sigma else s for s in videos])))

    assert network["calibrated"].auc == pytest.approx(roc_auc_score(y, np.concatenate(calibrated)))
    together = 1 - normality(np.concatenate(found.psnr), np.concatenate(found.distance), 0.6)
    assert network["whole_test_set"].auc == auc(np.split(together, [30, 70]))
    assert copy["whole_test_set"].auc == auc([-p for p in copied])
    assert copy["published"].auc == auc([1 - normality(p, p, 1) for p in copied])
    for estimate in (*network.values(), *copy.values()):
        assert 0 <= estimate.low <= estimate.high <= 1


def test_unlabelled_videos_count_in_no_auc():
    found = evaluation([30, 40, 35])
    part = evaluation([30, 40, 35])._replace(labels=[found.labels[0], None, found.labels[2]])
    expected = micro(count_pairs(part.labels[::2], part.abnormality[::2]))
    assert protocols(part, SCORING, None).network["published"] == expected
    assert protocols(evaluation([30], labelled=False), SCORING, None) == ({}, {})
