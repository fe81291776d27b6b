"""How normal frames score: kept in the end of training or made later, of the right model, and what comes of it."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import evaluate, one_line, run_of, train, trained

import Train
from data.cache import NO_CACHE
from data.clips import Clips, open_clips, testing_loader
from data.frames import find_videos
from exp import calibrate
from exp.checkpoints import SHAPE, load_model
from exp.flags import Span
from exp.scoring import calibration
from exp.scoring.calibration import Calibration, hold_out
from exp.scoring.evaluation import evaluate as evaluate_clips
from exp.scoring.score import Scoring, score_clips
from utils import InputError, run_script, smooth

pytestmark = pytest.mark.usefixtures("small_network")


def made_up(n=1000, held_out=False):
    rng = np.random.default_rng(0)
    return Calibration(
        psnr=[rng.normal(30, 2, n), rng.normal(30, 2, n)],
        distance=[rng.normal(0.002, 0.0001, n), rng.normal(0.002, 0.0001, n)],
        regular=[rng.uniform(0, 0.04, n), rng.uniform(0, 0.04, n)],
        th=0.01,
        held_out=held_out,
    )


def command(*arguments):
    """python -m exp.calibrate"""
    sys.argv = ["calibration.py", *map(str, arguments)]
    with pytest.raises(SystemExit) as end:
        run_script(calibrate.main)
    return end.value.code or 0


def stored(run=None):
    return torch.load((run or run_of()) / "calibration.pt", weights_only=True)


# numbers


def test_abnormality_counts_spreads_from_the_mean():
    normal = Calibration([np.array([28.0, 32.0])], [np.array([1.0, 3.0])], [np.zeros(2)], 0.01, False)
    scores = normal.abnormality(np.array([30.0, 26.0, 30.0]), np.array([2.0, 2.0, 5.0]), alpha=0.6)
    np.testing.assert_allclose(scores, [0, 0.6 * 4 / 2, 0.4 * 3 / 1])


def test_scores_without_spread_divide_by_one():
    normal = Calibration([np.full(3, np.float32(30.1))], [np.full(3, np.float32(0.1))], [np.zeros(3)], 0.01, False)
    assert normal.threshold(Scoring(0.01, 0.6), 0.001, 25) == 0
    assert normal.abnormality(np.array([29.1]), np.array([np.float32(0.1)]), 0.6) == pytest.approx(0.6, rel=1e-5)


def test_scores_of_a_broken_model_are_refused():
    with pytest.raises(InputError, match="NaN"):
        made_up().abnormality(np.array([np.nan]), np.array([0.002]), 0.6)


@pytest.mark.parametrize("sigma", [None, Span(3), Span(0.3, "s")])
def test_the_threshold_is_exceeded_as_often_as_asked_for(sigma):
    normal, scoring = made_up(), Scoring(0.01, 0.6, sigma=sigma, causal=True)
    for rate in (0.5, 0.05, 0.001):
        above = normal.own_scores(scoring, 10) > normal.threshold(scoring, rate, 10)
        assert above.mean() == pytest.approx(rate, abs=1e-3)
    assert normal.threshold(scoring, 0.01, 10) > normal.threshold(scoring, 0.1, 10)


def test_smoothed_thresholds_do_not_mix_videos():
    normal = made_up(n=50)
    alone = [normal.abnormality(p, d, 0.6) for p, d in zip(normal.psnr, normal.distance, strict=True)]
    expected = np.quantile(np.concatenate([smooth(values, 4, causal=True) for values in alone]), 0.9)
    for sigma in (Span(4), Span(0.4, "s")):
        assert normal.threshold(Scoring(0.01, 0.6, sigma=sigma, causal=True), 0.1, fps=10) == pytest.approx(expected)


def test_under_auto_th_most_normal_frames_update():
    normal = made_up()
    assert (np.concatenate(normal.regular) < normal.auto_th()).mean() == pytest.approx(0.95, abs=1e-3)


def test_caveats():
    usual = Scoring(0.01, 0.6)
    assert made_up(held_out=True).caveat(usual, 0.001) == ""
    assert "optimistic" in made_up().caveat(usual, 0.001)
    assert "γ = 0.01" in made_up(held_out=True).caveat(usual._replace(th=0.02), 0.001)
    assert "γ = 0.01" in made_up(held_out=True).caveat(usual._replace(memory_update=False), 0.001)
    assert "2000 frames" in made_up(held_out=True).caveat(usual, 0.0001)


@pytest.mark.parametrize(("share", "held"), [(0.01, 1), (0.25, 1), (0.5, 2), (0.99, 3)])
def test_holding_out_takes_whole_videos_never_none_or_all(share, held, make_videos, tmp_path):
    clips = open_clips(make_videos(tmp_path, {"1": 7, "2": 8, "3": 9, "4": 10}), "training", 5, (16, 16, 3), NO_CACHE)
    kept, normal = hold_out(clips, share, seed=0)
    assert len(normal.videos) == held
    assert sorted(v.name for v in (*kept.videos, *normal.videos)) == ["1", "2", "3", "4"]
    assert len(kept) + len(normal) == len(clips) and len(normal) == sum(normal.lengths)
    of_video = dict(
        zip((v.name for v in clips.videos), np.split(np.arange(len(clips)), np.cumsum(clips.lengths)), strict=False)
    )
    for some in (kept, normal):
        places = np.concatenate([of_video[video.name] for video in some.videos])
        assert all(torch.equal(some[k], clips[int(place)]) for k, place in enumerate(places))


def test_the_seed_chooses_what_is_held_out(make_videos, tmp_path):
    clips = Clips(make_videos(tmp_path, dict.fromkeys("abcdefgh", 5)), np.zeros((40, 3, 8, 8), np.uint8), 5)
    chosen = [[v.name for v in hold_out(clips, 0.3, seed)[1].videos] for seed in (0, 0, 1, 2)]
    assert chosen[0] == chosen[1]
    assert len(set(map(tuple, chosen))) > 1
    assert hold_out(clips, 0, 0) == (clips, clips)


def test_one_video_cannot_be_held_out(make_videos, tmp_path):
    clips = Clips(make_videos(tmp_path, {"a": 5}), np.zeros((5, 3, 8, 8), np.uint8), 5)
    with pytest.raises(InputError, match="--calibration_share"):
        hold_out(clips, 0.5, 0)


# runs


def test_training_ends_with_the_scores_of_its_clips(dataset):
    trained()
    found, run = stored(), run_of()
    assert found["videos"] == ["1", "2"] and found["lengths"] == [6, 6] and not found["held_out"]
    assert "optimistic" in found["about"] and "optimistic" in (run / "train.log").read_text()
    assert found["summary"]["psnr"]["mean"] == pytest.approx(found["psnr"].mean().item())
    assert found["summary"]["distance"]["deviation"] == pytest.approx(found["distance"].std(correction=0).item())
    assert found["summary"]["regular"]["quantiles"][0.5] == pytest.approx(found["regular"].quantile(0.5).item())
    model, items, _ = load_model(run / "model.pth", run / "m_items.pt", dict.fromkeys(SHAPE))
    clips = open_clips(find_videos(dataset / "training" / "frames"), "training", 5, (16, 16, 3))
    for place, name in ((0, "psnr"), (1, "distance")):  # each video as if it were the only one
        alone = score_clips(model, items, testing_loader(clips.select([place])), Scoring(0.01, 0.6))
        part = found[name].split(found["lengths"])[place]
        np.testing.assert_allclose(part, getattr(alone, name)[0], rtol=1e-4)


def test_a_training_in_bf16_is_calibrated_in_float32_as_it_is_evaluated(dataset):
    assert train("--precision", "bf16") == 0
    found = stored()["psnr"]
    (run_of() / "calibration.pt").unlink()
    assert command(run_of(), "--num_workers_test", 0) == 0
    np.testing.assert_allclose(stored()["psnr"], found, rtol=1e-5)


def test_held_out_videos_are_calibrated_on_and_not_trained_on(dataset):
    assert train("--calibration_share", 0.5) == 0
    found = stored()
    assert found["held_out"] and found["lengths"] == [6] and "held back" in found["about"]
    wins = json.loads((run_of() / "metrics.jsonl").read_text())["queries_won"]
    assert sum(wins) == 4 * 4  # one step of 4 of the 6 clips of the other video
    (run_of() / "calibration.pt").unlink()
    assert command(run_of(), "--num_workers_test", 0) == 0  # knows what was held out
    again = stored()
    assert again["held_out"] and again["videos"] == found["videos"]
    np.testing.assert_allclose(again["psnr"], found["psnr"], rtol=1e-4)


def test_nothing_counts_as_held_out_when_the_training_videos_have_changed(dataset, capsys):
    assert train("--calibration_share", 0.5) == 0
    frames = dataset / "training" / "frames"
    shutil.copytree(frames / "1", frames / "3")
    assert command(run_of(), "--num_workers_test", 0) == 0
    assert "none counts as held back" in capsys.readouterr().out
    assert not stored()["held_out"] and stored()["videos"] == ["1", "2", "3"]


def test_a_flag_for_the_cache_replaces_that_of_the_run(dataset):
    run = trained("--no_cache")
    assert calibrate.parse([str(run)]).no_cache
    args = calibrate.parse([str(run), "--cache_dir", "elsewhere"])
    assert (args.cache_dir, args.no_cache) == ("elsewhere", False)


class Killed(BaseException):
    """Stands for a process that ends at once: no handler of the scripts catches it."""


def kill(*args, **settings):
    raise Killed


def test_a_kill_while_calibrating_is_made_good_by_resuming(dataset, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(calibration, "calibrate", kill)
        train()
    weights = torch.load(run_of() / "m_items.pt", weights_only=True)["items"]
    assert not (run_of() / "calibration.pt").exists()
    assert train("--resume") == 0
    assert torch.equal(stored()["items"], weights)
    changed = (run_of() / "calibration.pt").stat().st_mtime_ns
    assert train("--resume") == 0
    assert (run_of() / "calibration.pt").stat().st_mtime_ns == changed  # it is there: nothing to do


def test_no_calibration_outlives_its_epoch(dataset, monkeypatch):
    real, calls = Train.train_epoch, []

    def until_epoch_2(*arguments):
        calls.append(1)
        return real(*arguments) if len(calls) == 1 else kill()

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Train, "train_epoch", until_epoch_2)
        train("--msize", 0, epochs=2)
    assert command(run_of()) == 0 and (run_of() / "calibration.pt").exists()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(calibration, "calibrate", kill)
        train("--msize", 0, "--resume", epochs=2)
    assert not (run_of() / "calibration.pt").exists()


def test_overwriting_leaves_nothing_of_the_old_run(dataset, monkeypatch):
    trained()
    assert evaluate() == 0
    (run_of() / "figures").mkdir()
    (run_of() / "figures" / "training.png").write_bytes(b"")
    monkeypatch.setattr(calibration, "calibrate", kill)
    with pytest.raises(Killed):
        train("--overwrite")
    left = {path.name for path in run_of().iterdir()}
    assert not left & {"calibration.pt", "scores.csv", "alarms.csv", "evaluation.json"}
    assert not list((run_of() / "figures").iterdir())
    assert "model.pth" in left


# evaluation


def test_results_name_what_is_beyond_the_paper(dataset, capsys):
    trained()
    lines = {}
    for name, given in {
        "faithful": [],
        "auto": ["--th", "auto"],
        "smooth": ["--smooth", "0.08s", "--smooth_kind", "causal"],  # 2 frames at 25 per second
        "both": ["--smooth", 2, "--th", "auto", "--fps", 10],
    }.items():
        capsys.readouterr()
        assert evaluate("--output_dir", name, *given) == 0
        out = capsys.readouterr().out.splitlines()
        about = json.loads((Path(name) / "evaluation.json").read_text())
        (lines[name],) = (line.split(": ")[0] for line in out if line.startswith("AUC"))
        assert f"{lines[name]}: {100 * about['auc']:.4f} %" in out
        (place,) = (k for k, line in enumerate(out) if line.startswith("calibrated threshold"))
        assert "optimistic" in out[place + 1]
        assert about["calibrated"]["events"] == 2
        assert about["auc_of_videos"].keys() == {"1", "2"}
    th = np.quantile(stored()["regular"].numpy(), 0.95)
    assert lines == {
        "faithful": "AUC",
        "auto": f"AUC (th {th:.4g})",
        "smooth": "AUC (smooth 0.08s causal)",
        "both": f"AUC (th {th:.4g}, smooth 2 centred)",
    }
    assert json.loads(Path("both/evaluation.json").read_text())["settings"]["th"] == pytest.approx(th)


def test_each_video_is_smoothed_at_its_own_rate(dataset):
    trained()
    run = run_of()
    model, items, _ = load_model(run / "model.pth", run / "m_items.pt", dict.fromkeys(SHAPE))
    clips = open_clips(find_videos(dataset / "testing" / "frames"), "testing", 5, (16, 16, 3))
    seconds = [np.arange(12) / 10, np.arange(9) / 20]
    plain, smoothed = (
        evaluate_clips(model, items, testing_loader(clips), scoring, None, seconds)
        for scoring in (Scoring(0.01, 0.6), Scoring(0.01, 0.6, sigma=Span(0.1, "s"), causal=True))
    )
    for video, sigma in enumerate((1, 2)):
        expected = smooth(plain.abnormality[video], sigma, causal=True)
        np.testing.assert_allclose(smoothed.abnormality[video], expected)


def test_without_a_calibration_it_is_said_how_to_make_one(dataset, capsys):
    trained()
    (run_of() / "calibration.pt").unlink()
    capsys.readouterr()
    assert evaluate() == 0
    assert f"python -m exp.calibrate {run_of() / 'model.pth'}" in capsys.readouterr().out
    assert json.loads((run_of() / "evaluation.json").read_text())["calibrated"] is None
    for wanted in (["--th", "auto"], ["--video", "0"]):
        assert evaluate(*wanted) == 2
        one_line(capsys, "no calibration", f"python -m exp.calibrate {run_of() / 'model.pth'}")
    assert command(run_of() / "model.pth", "--num_workers_test", 0) == 0
    assert evaluate("--th", "auto") == 0


def test_another_threshold_of_the_memory_update_is_kept(dataset):
    trained()
    assert command(run_of(), "--th", 1, "--num_workers_test", 0) == 0
    assert stored()["th"] == 1


def test_a_calibration_of_another_model_or_a_damaged_one_is_refused(dataset, capsys):
    trained()
    trained("--seed", 1, exp_dir="other")
    shutil.copy(run_of(exp_dir="other") / "calibration.pt", run_of() / "calibration.pt")
    assert evaluate("--th", "auto") == 2
    one_line(capsys, run_of() / "calibration.pt", "does not belong to", "makes it")
    (run_of() / "calibration.pt").write_bytes(b"garbage")
    assert evaluate("--th", "auto") == 2
    one_line(capsys, run_of() / "calibration.pt", "torch.save")


def test_a_calibration_of_weights_alone_needs_a_data_set(dataset, capsys):
    trained()
    for name in ("model.pth", "m_items.pt"):
        Path("weights").mkdir(exist_ok=True)
        shutil.copy(run_of() / name, "weights")
    assert command("weights") == 2
    one_line(capsys, "--dataset_type")
    assert command("weights", "--dataset_type", "own", "--num_workers_test", 0) == 0
    assert not stored(Path("weights"))["held_out"]
    np.testing.assert_allclose(stored(Path("weights"))["psnr"], stored()["psnr"], rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--smooth", "0"], ["--smooth", "0.4s"]),
        (["--smooth", "2m"], ["--smooth", "'2m'"]),
        (["--merge_gap", "-1s"], ["--merge_gap"]),
        (["--false_alarm_rate", "1"], ["--false_alarm_rate", "between 0 and 1"]),
        (["--fps", "0"], ["--fps"]),
        (["--th", "automatic"], ["--th"]),
        (["--smooth_kind", "causal"], ["--smooth_kind", "--smooth"]),
        (["--video", "a.mp4", "--smooth", "2", "--smooth_kind", "centred"], ["--smooth_kind", "causal"]),
        (["--video", "a.mp4", "--reset_memory"], ["--reset_memory", "--video"]),
        (["--patience", "5"], ["--patience", "--video"]),
        (["--latency", "0"], ["--latency", "--video"]),
        (["--th", "0.02", "--memory_update", "off"], ["--th", "--memory_update off"]),
        (["--model_dir", "model.pth", "--exp_dir", "log"], ["--exp_dir", "--model_dir"]),
        (["--avenue_labels", "paper"], ["--avenue_labels", "--dataset_type avenue"]),
        (["--cache_dir", "cache", "--no_cache"], ["--no_cache", "--cache_dir"]),
    ],
)
def test_mistakes_in_flags(given, words, in_its_own_folder, capsys):
    assert evaluate(*given) == 2
    one_line(capsys, *words)


@pytest.mark.parametrize("share", ["1", "-0.1"])
def test_mistakes_in_the_share(share, in_its_own_folder, capsys):
    assert train("--calibration_share", share) == 2
    one_line(capsys, "--calibration_share")
