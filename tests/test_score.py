"""Batched scoring equals scoring one frame at a time, whatever the chunk and however often memory is updated."""

import numpy as np
import pytest
import torch

from exp.scoring.score import replay, score, score_clips
from model import memory
from model.convae import ConvAE
from utils import psnr, regular_score

LENGTHS = [9, 1, 14]  # clips of three videos


class FakeClips(torch.utils.data.Dataset):
    """Noisy clips in place of data.clips.Clips, so that regular scores are spread out."""

    def __init__(self, lengths, t_length):
        self.lengths, self.t_length, self.videos = lengths, t_length, list(lengths)
        rng = np.random.RandomState(0)
        n = sum(lengths)
        smooth = rng.uniform(60, 200, (n, 3 * t_length, 2, 2)).repeat(8, axis=2).repeat(8, axis=3)
        noise = rng.randn(n, 3 * t_length, 16, 16) * rng.uniform(0, 60, (n, 1, 1, 1))
        self.clips = torch.from_numpy((smooth + noise).clip(0, 255).astype(np.uint8))

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        return self.clips[index]


@pytest.fixture(scope="module", params=["pred", "recon"])
def setup(request):
    torch.manual_seed(0)
    skips = request.param == "pred"
    model = ConvAE(feature_dim=16, skips=skips, t_length=5 if skips else 1).eval()
    return model, memory.initial_items(5, 16), FakeClips(LENGTHS, 5 if skips else 1)


@torch.no_grad()
def one_at_a_time(model, items, clips, th, memory_update, reset_memory):
    """METHOD's test loop, literally."""
    trained, rows = items, []
    starts = np.cumsum([0, *clips.lengths])
    for index in range(len(clips)):
        if reset_memory and index in starts:
            items = trained
        frames, target = model.split(clips[index][None].float() / 127.5 - 1)
        output = model(frames, items)
        predicted, target = (output.frame + 1) / 2, (target + 1) / 2
        e = regular_score(predicted, target).item()
        update = memory_update and e < th
        rows.append((psnr(predicted, target).item(), output.compactness.item(), e, update))
        if update:
            items = memory.update(output.queries.flatten(0, 2), items)
    return dict(zip(("psnr", "distance", "regular", "updated"), map(np.array, zip(*rows, strict=True)), strict=True))


def loader(clips, batch_size):
    return torch.utils.data.DataLoader(clips, batch_size)


def middle(setup):
    """The γ at which decisions flip most: the median of the regular scores."""
    return float(np.median(one_at_a_time(*setup, 0, True, False)["regular"])) + 1e-6


@pytest.mark.parametrize("reset_memory", [False, True])
def test_any_chunk_gives_the_scores_of_one_frame_at_a_time(setup, reset_memory):
    model, items, clips = setup
    for th in (middle(setup), 10):
        expected = one_at_a_time(model, items, clips, th, True, reset_memory)
        flips = np.abs(np.diff(expected["updated"].astype(int))).sum()
        assert flips >= 5 if th < 10 else expected["updated"].all()  # guesses do fail; all update
        for batch_size in (2, 7, 24):
            actual, _ = score_clips(model, items, loader(clips, batch_size), LENGTHS, th, True, reset_memory)
            assert (actual["updated"] == expected["updated"]).all()
            for name in ("psnr", "distance", "regular"):
                np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-6)


def test_memory_matters_in_this_test(setup):
    model, items, clips = setup
    on = one_at_a_time(model, items, clips, 10, True, False)["distance"]
    assert not np.allclose(on, one_at_a_time(model, items, clips, 10, True, True)["distance"], rtol=1e-3)
    assert not np.allclose(on, one_at_a_time(model, items, clips, 10, False, False)["distance"], rtol=1e-3)


def test_memory_update_off(setup):
    model, items, clips = setup
    expected = one_at_a_time(model, items, clips, 10, False, False)
    actual, _ = score_clips(model, items, loader(clips, 7), LENGTHS, 10, memory_update=False)
    assert not actual["updated"].any()
    np.testing.assert_allclose(actual["distance"], expected["distance"], rtol=1e-5, atol=1e-6)


def test_a_replayed_video_has_the_scores_of_the_whole_run(setup):
    model, items, clips = setup
    th = middle(setup)
    scores, begun = score_clips(model, items, loader(clips, 7), LENGTHS, th)
    assert len(begun) == 3
    assert torch.equal(begun[0], items)
    again = torch.cat([part.distance for part in replay(model, begun[2], clips, 2, th, batch_size=4)])
    np.testing.assert_allclose(again.numpy(), scores["distance"][-14:], rtol=1e-5, atol=1e-6)


def test_scoring_keeps_no_gradient_graph(setup):
    model, items, clips = setup
    for scored in score(model, items, loader(clips, 8), LENGTHS, 0.1):
        assert not scored.predicted.requires_grad
        assert len(scored.predicted) == len(scored.items) == len(scored.psnr)
