"""Batched scoring equals scoring one frame at a time, whatever the chunk and however often memory is updated."""

import numpy as np
import pytest
import torch
from noisy import LENGTHS, SCORES, loader, set_up

from exp.scoring.score import Scoring, batches_of, published, replay, score, score_clips, score_one_by_one


@pytest.fixture(scope="module", params=["pred", "recon"])
def setup(request):
    return set_up(request.param == "pred")


def scored(rule, setup, scoring, batch_size):
    """What a rule (score or score_one_by_one) gives for all clips: {name: (N,)}."""
    model, items, clips = setup
    parts = list(rule(model, items, batches_of(clips, loader(clips, batch_size)), scoring))
    return {name: torch.cat([getattr(part, name) for part in parts]).numpy() for name in SCORES}


def middle(setup):
    """The γ at which decisions flip most: the median of the regular scores."""
    return float(np.median(scored(score_one_by_one, setup, Scoring(0, 0.6), 24)["regular"])) + 1e-6


def assert_any_chunk_scores_alike(setup, scoring, batch_sizes):
    """Each size gives the scores of one frame at a time. Returns which frames updated the memory."""
    expected = scored(score_one_by_one, setup, scoring, 5)
    for batch_size in batch_sizes:
        actual = scored(score, setup, scoring, batch_size)
        assert (actual["updated"] == expected["updated"]).all()
        for name in ("psnr", "distance", "regular"):
            np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-6)
    return expected["updated"]


def flips(updated):
    return np.abs(np.diff(updated.astype(int))).sum()


@pytest.mark.parametrize("reset_memory", [False, True])
def test_any_chunk_gives_the_scores_of_one_frame_at_a_time(setup, reset_memory):
    for th in (middle(setup), 10):
        scoring = Scoring(th, 0.6, reset_memory=reset_memory)
        updated = assert_any_chunk_scores_alike(setup, scoring, (1, 2, 7, 24))
        assert flips(updated) >= 5 if th < 10 else updated.all()  # guesses do fail; all update


def test_no_threshold_tells_chunks_apart(setup):
    """Each one that decides otherwise, so that guesses fail at any frame, also at the first of a video."""
    usual = Scoring(0, 0.6, reset_memory=True)
    levels = np.sort(scored(score_one_by_one, setup, usual, 24)["regular"])
    for th in (levels[1:] + levels[:-1]) / 2:
        assert_any_chunk_scores_alike(setup, usual._replace(th=float(th)), (7, 24))


@pytest.mark.parametrize("skips", [True, False])
def test_chunks_change_no_score_of_the_network_of_the_paper(skips):
    setup = set_up(skips, small=False)
    assert flips(assert_any_chunk_scores_alike(setup, Scoring(middle(setup), 0.6), (7,))) >= 5


def test_memory_matters_in_this_test(setup):
    on, reset, off = (
        scored(score_one_by_one, setup, Scoring(10, 0.6, **other), 24)["distance"]
        for other in ({}, {"reset_memory": True}, {"memory_update": False})
    )
    assert not np.allclose(on, reset, rtol=1e-3)
    assert not np.allclose(on, off, rtol=1e-3)


def test_memory_update_off(setup):
    scoring = Scoring(10, 0.6, memory_update=False)
    expected, actual = scored(score_one_by_one, setup, scoring, 24), scored(score, setup, scoring, 7)
    assert not actual["updated"].any()
    np.testing.assert_allclose(actual["distance"], expected["distance"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("skips", [True, False])
def test_without_a_memory_both_rules_give_the_same(skips):
    setup, scoring = set_up(skips, msize=0), published({"method": "pred" if skips else "recon", "msize": 0})
    expected, actual = scored(score_one_by_one, setup, scoring, 24), scored(score, setup, scoring, 7)
    assert not expected["updated"].any() and not actual["updated"].any()
    for name in ("psnr", "distance", "regular"):
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-6)


def test_both_rules_know_the_previous_frame(setup):
    model, items, clips = setup
    for rule in (score_one_by_one, score):
        parts = list(rule(model, items, batches_of(clips, loader(clips, 7)), Scoring(middle(setup), 0.6)))
        if not model.skips:  # its input is the frame itself
            assert all(part.previous is None and part.psnr_of_copy() is None for part in parts)
            continue
        previous = torch.cat([part.previous for part in parts])
        torch.testing.assert_close(previous, clips.clips[:, -6:-3] / 255)
        error = (clips.clips[:, -6:-3].double() - clips.clips[:, -3:].double()).square().mean(dim=(1, 2, 3)) / 255**2
        of_copy = torch.cat([part.psnr_of_copy() for part in parts]).double()
        torch.testing.assert_close(of_copy, -10 * error.log10(), rtol=1e-5, atol=1e-4)


def test_places_travel_with_the_scores(setup):
    model, items, clips = setup
    for batch_size in (1, 7):
        parts = score(model, items, batches_of(clips, loader(clips, batch_size)), Scoring(middle(setup), 0.6))
        places = [place for part in parts for place in part.places]
        last = clips.t_length - 1
        assert [place[:2] for place in places] == [(v, k + last) for v, n in enumerate(LENGTHS) for k in range(n)]


def test_a_replayed_video_has_the_scores_of_the_whole_run(setup):
    model, items, clips = setup
    scoring = Scoring(middle(setup), 0.6)
    scores = score_clips(model, items, loader(clips, 7), scoring)
    assert [len(values) for values in scores.distance] == LENGTHS
    assert len(scores.items) == 3
    assert torch.equal(scores.items[0], items)
    again = torch.cat([part.distance for part in replay(model, scores.items[2], clips, 2, scoring)])
    np.testing.assert_allclose(again.numpy(), scores.distance[2], rtol=1e-5, atol=1e-6)


def test_scoring_keeps_no_gradient_graph(setup):
    model, items, clips = setup
    for part in score(model, items, batches_of(clips, loader(clips, 8)), Scoring(0.1, 0.6)):
        assert not part.predicted.requires_grad
        assert len(part.places) == len(part.predicted) == len(part.items) == len(part.psnr)
