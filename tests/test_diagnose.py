"""What exp.diagnose says of a memory: counts, diagnosis, figures of the stated sizes, and mistakes."""

import json

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn import differ
from helpers import call, make_run, one_line

from data.cache import NO_CACHE
from data.clips import normalise, open_clips, split_videos
from exp import diagnose
from exp.checkpoints import SHAPE, load_model
from exp.report.memory_figures import draw_cosines
from model import memory

pytestmark = pytest.mark.usefixtures("small_network")


@pytest.fixture
def dataset(tmp_path, make_videos):
    """dataset/own: 12 training and 13 test clips of 5 frames."""
    make_videos(tmp_path / "dataset" / "own" / "training" / "frames", {"1": 10, "2": 10})
    make_videos(tmp_path / "dataset" / "own" / "testing" / "frames", {"3": 12, "4": 9})
    return tmp_path / "dataset"


@pytest.fixture
def run(tmp_path, dataset):
    return make_run(tmp_path / "run", dataset_type="own", dataset_path=str(dataset), bad_frames="fail")


def training_clips(dataset):
    videos = split_videos(dataset, "own", "training")
    return open_clips(videos, "training", 5, (24, 16, 3), cache=NO_CACHE)


def test_counts_are_those_of_the_clips(run, dataset):
    model, items, _ = load_model(run / "model.pth", run / "m_items.pt", dict.fromkeys(SHAPE))
    clips = training_clips(dataset)
    wins = diagnose.collect(model, items, clips, 100, 30, seed=0)
    expected = np.zeros((4, 3, 2), int)
    mean = 0
    with torch.no_grad():
        for k in range(len(clips)):
            frames, target = model.split(normalise(clips[k][None]))
            nearest = memory.nearest(model.encode(frames).queries[0], items)[..., 0]
            for (y, x), item in np.ndenumerate(nearest.numpy()):
                expected[item, y, x] += 1
            mean = mean + (target[0] + 1) / 2 / len(clips)
    assert (wins.clips, wins.of) == (12, 12)
    assert (wins.counts == expected).all() and wins.share.sum() == pytest.approx(1)
    assert torch.allclose(wins.frame, mean, atol=1e-5)
    assert wins.queries.shape[1] == 16 and 30 <= len(wins.queries) <= 40
    assert (wins.chosen == memory.nearest(wins.queries, items)[:, 0].numpy()).all()
    assert wins.ratio == 32 / 24


def test_the_seed_decides_what_is_drawn(run, dataset):
    model, items, _ = load_model(run / "model.pth", run / "m_items.pt", dict.fromkeys(SHAPE))
    clips = training_clips(dataset)
    first, again, other = (diagnose.collect(model, items, clips, 4, 10, seed) for seed in (0, 0, 1))
    assert (first.clips, first.of, first.counts.sum()) == (4, 12, 4 * 6)
    assert torch.equal(first.queries, again.queries) and not torch.equal(first.queries, other.queries)


def test_effective_number():
    assert diagnose.effective_number(np.full(4, 0.25)) == pytest.approx(4)
    assert diagnose.effective_number(np.array([0, 1.0, 0])) == pytest.approx(1)
    assert 1 < diagnose.effective_number(np.array([0.9, 0.1])) < 2


def test_the_share_of_the_usual_item():
    counts = np.zeros((2, 1, 3), int)
    counts[0], counts[1] = [[4, 0, 1]], [[0, 4, 3]]
    assert diagnose.usual_item_share(counts) == pytest.approx(11 / 12)


@pytest.mark.parametrize(
    ("share", "alike", "found", "words"),
    [
        ([0.25, 0.25, 0.25, 0.25], 0.9, ([], [], False), ["healthy: ", "4.0 of 4 items"]),
        ([0.4, 0.3, 0.3, 0.0], 0.9, ([3], [], False), ["dead: 3, each nearest to less than 0.1 %"]),
        ([0.4, 0.3, 0.3, 0.0], 0.96, ([3], [(1, 2)], False), ["dead: 3", "collapsed: 1 and 2 (0.960)"]),
        (
            [0.97, 0.01, 0.01, 0.01],
            0.9,
            ([], [], True),
            ["concentrated: the training queries use 1.2 of 4 items", "less than 50 %"],
        ),
    ],
)
def test_diagnosis(share, alike, found, words):
    cosines = np.eye(4)
    cosines[1, 2] = cosines[2, 1] = alike
    share = np.array(share)
    wrong = diagnose.diagnose(share, cosines)
    assert tuple(wrong[name] for name in ("dead", "collapsed", "concentrated")) == found
    lines = diagnose.verdict(wrong, share, cosines)
    assert lines[0].startswith(words[0]) and all(any(word in line for line in lines) for word in words)
    assert len(lines) == max(1, sum(map(bool, found)))


def test_collapsed_items_are_framed(tmp_path):
    cosines = np.eye(4)
    cosines[1, 2] = cosines[2, 1] = 0.96
    differ(draw_cosines, tmp_path / "cosines.png", (700, 800)[::-1], (cosines, [], 0.95), (cosines, [(1, 2)], 0.95))


def test_figures_in_another_format(run, capsys):
    assert call(diagnose, run, "--clips", 2, "--queries", 10, "--figure_format", "pdf") == 0
    names = sorted(path.name for path in (run / "figures" / "memory").iterdir())
    assert names == ["cosines.pdf", "embedding.pdf", "maps.pdf", "wins.pdf"]


def test_a_run_is_looked_at(run, capsys):
    assert call(diagnose, run, "--clips", 5, "--queries", 20) == 0
    printed = capsys.readouterr().out
    assert "queries of 5 of 12 training clips and 5 of 13 testing clips" in printed
    found = json.loads((run / "memory.json").read_text())
    for split in ("training", "testing"):
        assert sum(found[split]["queries_won"]) == 5 * 6
        assert np.sum(found[split]["map"], axis=(1, 2)).tolist() == found[split]["queries_won"]
        assert f"{split} {found[split]['effective_number']:.1f}" in printed
        place = 100 * diagnose.usual_item_share(np.array(found[split]["map"]))
        assert 100 * found[split]["usual_item_share"] == pytest.approx(place) and f"{split} {place:.1f} %" in printed
    assert np.diag(found["cosines"]) == pytest.approx(1)
    figures = run / "figures" / "memory"
    shapes = {path.stem: cv2.imread(str(path)).shape for path in figures.iterdir()}
    assert shapes.keys() == {"wins", "cosines", "embedding", "maps"}
    assert shapes["wins"] == (500, 900, 3) and shapes["cosines"] == (700, 800, 3)
    assert shapes["embedding"] == (700, 1200, 3) and shapes["maps"][1] == 1200
    assert all(cv2.imread(str(path)).std() > 5 for path in figures.iterdir())


def test_another_place_for_data_and_results(tmp_path, dataset, capsys):
    basis = F.normalize(torch.rand(4, 16), dim=1)
    basis[3] = F.normalize(basis[1] + 0.01, dim=0)  # two of a kind
    run = make_run(tmp_path / "run", "recon", items=basis, dataset_type="own", dataset_path="gone", bad_frames="fail")
    assert call(diagnose, run) == 2
    one_line(capsys, "gone/own")
    flags = ("--dataset_path", dataset, "--output_dir", tmp_path / "out", "--clips", 3, "--queries", 10)
    assert call(diagnose, run, *flags) == 0
    assert "collapsed: 1 and 3 (" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "memory.json").read_text())
    assert found["collapsed"] == [[1, 3]] and found["training"]["clips"] == 3
    assert (tmp_path / "out" / "figures" / "memory" / "maps.png").exists()
    assert not (run / "memory.json").exists() and not (run / "figures").exists()


def test_mistakes_are_one_line(run, tmp_path, capsys):
    assert call(diagnose, tmp_path / "nowhere") == 2
    one_line(capsys, "no run in", tmp_path / "nowhere")
    assert call(diagnose, run, "--clips", 0) == 2
    one_line(capsys, "--clips")
    assert call(diagnose, run, "--device", "cuda:99") == 2
    one_line(capsys, "cuda:99")
    (run / "m_items.pt").unlink()
    assert call(diagnose, run) == 2
    one_line(capsys, run / "m_items.pt")
