"""The numerics against their formulas, their edges, how files are written, and what a script says of a mistake."""

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

import utils
from utils import InputError, Parser, run_script


def pair(shape=(2, 3, 4, 5), spread=0.2, seed=0):
    """A prediction and its target in [0, 1], float64."""
    rng = np.random.default_rng(seed)
    target = rng.uniform(size=shape)
    prediction = np.clip(target + rng.normal(scale=spread, size=shape), 0, 1)
    return torch.from_numpy(prediction), torch.from_numpy(target)


# errors of a frame


@pytest.mark.parametrize("spread", [1e-3, 0.05, 0.5])
def test_frame_errors_are_their_formulas(spread):
    prediction, target = pair(spread=spread)
    for p, t, *found in zip(
        prediction.numpy(),
        target.numpy(),
        utils.rmse(prediction, target),
        utils.psnr(prediction, target),
        utils.regular_score(prediction, target),
        strict=True,
    ):
        errors = [(float(a) - float(b)) ** 2 for a, b in zip(p.flat, t.flat, strict=True)]
        mse = sum(errors) / len(errors)
        weights = [1 - np.exp(-e) for e in errors]
        regular = sum(w * e for w, e in zip(weights, errors, strict=True)) / sum(weights)
        np.testing.assert_allclose(found, [np.sqrt(mse), 10 * np.log10(1 / mse), regular], rtol=1e-9)


@pytest.mark.parametrize("function", [utils.rmse, utils.psnr, utils.regular_score])
def test_frame_errors_of_a_batch_are_those_of_its_frames(function):
    prediction, target = pair((2, 4, 3, 6, 5))
    together = function(prediction, target)
    assert together.shape == (2, 4)
    alone = [[function(prediction[i, j], target[i, j]) for j in range(4)] for i in range(2)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_frames_have_the_highest_psnr_and_no_error(dtype):
    frame = pair((3, 4, 5))[0].to(dtype)
    assert utils.rmse(frame, frame) == 0
    assert utils.psnr(frame, frame) == 100
    assert utils.regular_score(frame, frame) == 0


@pytest.mark.parametrize("difference", [1e-3, 1e-6, 1e-12, 1e-25])
def test_nearly_identical_frames_have_finite_scores(difference):
    target = torch.zeros(1, 4, 5)
    prediction = target + difference
    score = difference**2 if difference > 1e-9 else 0  # below, products of errors are too small for 32 bits
    assert float(utils.regular_score(prediction, target)) == pytest.approx(score, rel=1e-4, abs=1e-40)
    expected = min(-20 * np.log10(difference), 100)
    assert float(utils.psnr(prediction, target)) == pytest.approx(expected, rel=1e-5)


def test_the_largest_difference_is_zero_decibels_and_a_score_of_one():
    black, white = torch.zeros(3, 4, 5), torch.ones(3, 4, 5)
    assert utils.psnr(black, white) == 0
    assert float(utils.regular_score(black, white)) == pytest.approx(1)


def test_a_small_region_weighs_more_in_the_regular_score_than_in_the_mean():
    target = torch.zeros(1, 10, 10)
    prediction = target + 0.01
    prediction[0, 0, 0] = 0.9
    assert utils.regular_score(prediction, target) > 10 * (prediction - target).square().mean()


def test_a_broken_prediction_stays_visible():
    prediction, target = pair((3, 4, 5))
    prediction[0, 0, 0] = torch.nan
    assert utils.psnr(prediction, target).isnan()


def test_learning_rate_is_the_one_in_use():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    assert utils.learning_rate(optimizer) == 0.5
    optimizer.step()
    scheduler.step()
    assert utils.learning_rate(optimizer) == pytest.approx(0.25)


# scores of a video


def test_min_max_maps_the_lowest_to_zero_and_the_highest_to_one():
    assert utils.min_max([30, 20, 25, 40]).tolist() == [0.5, 0, 0.25, 1]
    assert utils.min_max(np.array([-3, -1], np.float32)).tolist() == [0, 1]


@pytest.mark.parametrize("values", [[7.0], [2.5, 2.5, 2.5], [0, 0]])
def test_min_max_of_a_constant_is_zeros(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert utils.min_max(values).tolist() == [0] * len(values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_min_max_of_what_is_not_finite_is_an_error(value):
    with pytest.raises(InputError, match="NaN or infinity"):
        utils.min_max([1, value, 2])


@pytest.mark.parametrize("alpha", [0, 0.3, 0.6, 1])
def test_normality_is_its_formula(alpha):
    psnrs, distances = np.array([30, 20, 35.0, 28]), np.array([0.1, 0.5, 0.2, 0.3])
    expected = [
        alpha * (p - 20) / 15 + (1 - alpha) * (1 - (d - 0.1) / 0.4) for p, d in zip(psnrs, distances, strict=True)
    ]
    np.testing.assert_allclose(utils.normality(psnrs, distances, alpha), expected, rtol=1e-12, atol=1e-15)


def test_what_is_predicted_well_and_near_the_memory_is_most_normal():
    assert utils.normality([20, 30, 40], [3, 2, 1], 0.6).tolist() == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 3, 200])
def test_smoothing_keeps_constants_and_lengths(causal, n):
    np.testing.assert_allclose(utils.smooth(np.full(n, 0.7), 5, causal), np.full(n, 0.7))


def test_smoothing_is_a_gaussian():
    values = np.random.default_rng(0).normal(size=100)
    inside = slice(12, -12)  # farther than 4 sigma from the ends
    expected = gaussian_filter1d(values, 3, truncate=4)
    np.testing.assert_allclose(utils.smooth(values, 3)[inside], expected[inside], rtol=1e-9)
    impulse = utils.smooth(np.eye(1, 101, 50)[0], 3, causal=True)
    assert (impulse[:50] == 0).all()  # nothing before it happens
    np.testing.assert_allclose(impulse[53] / impulse[50], np.exp(-0.5))
    assert impulse[50:].sum() == pytest.approx(1)
    np.testing.assert_array_equal(utils.smooth(values, 0.01), values)


def test_causal_smoothing_needs_only_the_recent_past():
    values = np.random.default_rng(0).normal(size=60)
    whole = utils.smooth(values, 2.5, causal=True)
    for k in (0, 7, 59):
        recent = values[max(0, k - utils.smoothing_reach(2.5)) : k + 1]
        assert utils.smooth(recent, 2.5, causal=True)[-1] == pytest.approx(whole[k], rel=1e-12)


# metrics


def pairwise_auc(labels, scores):
    """How often an abnormal frame scores higher than a normal one, a tie counting half."""
    pairs = [(a > n) + 0.5 * (a == n) for a in scores[labels == 1] for n in scores[labels == 0]]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("levels", [3, 1000])  # with many ties and with few
def test_auc_is_how_often_an_abnormal_frame_scores_higher(levels):
    rng = np.random.default_rng(levels)
    labels = rng.integers(0, 2, 60)
    scores = rng.integers(0, levels, 60) / levels + 0.3 * labels
    assert utils.auc(labels, scores) == pytest.approx(pairwise_auc(labels, scores), abs=1e-12)


def test_auc_is_one_when_higher_is_abnormal():
    labels = np.array([0, 1, 0, 1], np.uint8)
    assert utils.auc(labels, [0.1, 0.8, 0.2, 0.9]) == 1
    assert utils.auc(labels, [0.9, 0.2, 0.8, 0.1]) == 0
    assert utils.auc(labels.astype(bool), [0.5] * 4) == 0.5


def test_average_precision_by_hand():
    # from the highest score down: abnormal, normal, abnormal -> precision 1 at recall 1/2, 2/3 at recall 1
    assert utils.average_precision([0, 1, 0, 1], [0.7, 0.9, 0.1, 0.5]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@pytest.mark.parametrize(
    "labels, scores, expected",
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0),  # perfect
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9], 1),  # inverted
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], 0.5),  # nothing told apart
        ([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], 0.5),
        ([0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.7, 0.6, 0.8, 0.9], 1 / 3),
        ([0, 0, 1, 1], [0, 0.5, 0.5, 1], 0.25),  # a tie, interpolated
        ([0, 0, 0, 0, 1], [0.1, 0.2, 0.3, 0.9, 0.5], 0.25),  # one abnormal frame below one of four normal ones
    ],
)
def test_equal_error_rate_by_hand(labels, scores, expected):
    assert utils.equal_error_rate(labels, scores) == pytest.approx(expected, abs=1e-12)


def test_equal_error_rate_of_random_scores_is_a_half():
    rng = np.random.default_rng(0)
    assert utils.equal_error_rate(rng.integers(0, 2, 20000), rng.uniform(size=20000)) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("metric", [utils.auc, utils.average_precision, utils.equal_error_rate])
def test_metrics_need_frames_of_both_classes(metric):
    for labels, which in (([0, 0], "normal"), ([1, 1], "abnormal")):
        with pytest.raises(InputError, match=f"are {which}"):
            metric(np.array(labels), np.linspace(0, 1, len(labels)))


@pytest.mark.parametrize("metric", [utils.auc, utils.average_precision, utils.equal_error_rate])
@pytest.mark.parametrize("labels", [[0, 2, 1], [-1, 1, 0], [0.5, 0, 1], [0, 1, np.nan]])
def test_labels_are_zero_or_one(metric, labels):
    with pytest.raises(InputError, match=r"0 \(normal\) or 1"):
        metric(labels, [0.1, 0.2, 0.3])


def test_macro_auc_is_the_mean_over_videos_of_both_classes():
    labels = [np.array([0, 1]), np.array([0, 0, 0]), np.array([1, 0, 0]), np.array([1, 1])]
    scores = [np.array([0.1, 0.2]), np.array([0.3, 0.1, 0.2]), np.array([5, 9, 1]), np.array([0, 1])]
    assert utils.macro_auc(labels, scores) == (0.75, 2)
    assert utils.macro_auc(labels[1::2], scores[1::2]) == (None, 0)


# what a script says


def ends(error, capsys):
    """(exit code, stderr) of a script whose main raises this."""

    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        run_script(main)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize("result", [None, 0, 3])
def test_a_script_exits_with_what_main_returns(result, capsys):
    with pytest.raises(SystemExit) as caught:
        run_script(lambda: result)
    assert (caught.value.code, capsys.readouterr().err) == (result, "")


def test_a_mistake_of_the_user_is_one_line(capsys):
    assert ends(InputError("no videos in x: do this"), capsys) == (2, "error: no videos in x: do this\n")


def test_a_mistake_met_by_a_worker_is_one_line(capsys):
    error = InputError("Caught InputError in worker 0.\nTraceback:\n  File x\nutils.InputError: no frame x\n")
    assert ends(error, capsys) == (2, "error: no frame x\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_refuses_is_one_line(number, capsys):
    code, said = ends(OSError(number, "the disk says no", "exp/model.pth"), capsys)
    assert (code, said) == (2, "error: cannot write exp/model.pth: the disk says no\n")
    code, said = ends(OSError(number, "the disk says no"), capsys)
    assert (code, said) == (2, "error: cannot write a file: the disk says no\n")


def test_an_interrupt_is_one_line(capsys):
    assert ends(KeyboardInterrupt(), capsys) == (130, "interrupted\n")
    assert ends(KeyboardInterrupt("in epoch 2"), capsys) == (130, "interrupted: in epoch 2\n")


@pytest.mark.parametrize(
    "bug",
    [ValueError("x"), KeyError("x"), RuntimeError("x"), OSError("no number"), AssertionError("x")],
)
def test_a_bug_keeps_its_traceback(bug):
    def main():
        raise bug

    with pytest.raises(type(bug)) as caught:
        run_script(main)
    assert caught.value is bug


@pytest.mark.parametrize(
    "arguments", [["--unknown"], ["--alpha", "x"], ["--method", "gan"], ["--meth", "pred"], ["--alpha"], ["stray"]]
)
def test_a_wrong_flag_is_one_line(arguments, capsys):
    parser = Parser(description="a script")
    parser.add_argument("--alpha", type=float, default=0.6, help="weight of the PSNR")
    parser.add_argument("--method", choices=("pred", "recon"), help="task")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert arguments[0] in line
    assert "--help" in line


def test_help_shows_defaults(capsys):
    parser = Parser(description="a script")
    parser.add_argument("--alpha", type=float, default=0.6, help="weight of the PSNR")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--help"])
    assert not caught.value.code
    assert "0.6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "verb"),
    [
        (errno.ENOENT, "open"),
        (errno.ENAMETOOLONG, "open"),
        (errno.ENOTDIR, "open"),
        (errno.EISDIR, "open"),
        (errno.EMFILE, "open"),
        (errno.EEXIST, "write"),
        (errno.EDQUOT, "write"),
    ],
)
def test_every_refusal_of_the_system_is_one_line(number, verb, capsys):
    code, said = ends(OSError(number, os.strerror(number), "a/b"), capsys)
    assert code == 2 and said.startswith(f"error: cannot {verb} a/b: {os.strerror(number)}")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
    ],
)
def test_a_lack_of_memory_is_one_line(error, capsys):
    code, said = ends(error, capsys)
    assert code == 2 and said.startswith("error: out of memory") and len(said.splitlines()) == 1


def test_torch_says_a_lack_of_memory_in_words_that_are_known(capsys):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert utils.is_out_of_memory(caught.value)


def test_a_name_with_a_newline_or_bytes_does_not_cut_the_message(capsys):
    error = InputError("no file a\nb\x1b[2J/caf\udce9.mp4: give another")
    assert ends(error, capsys) == (2, "error: no file a\\nb\\x1b[2J/caf\\udce9.mp4: give another\n")
    again = InputError(
        f"Caught InputError in worker 0.\nTraceback:\n  x\nutils.InputError: {InputError('no a' + chr(10) + 'b')}\n"
    )
    assert str(again) == "no a\\nb"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_terminals_of_any_encoding_take_any_text(encoding):
    program = "import utils; utils.run_script(lambda: print('λ ± 木'))"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=Path(utils.__file__).parent, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


# files


def write_text(text):
    return lambda path: path.write_text(text)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    utils.write_whole(path, write_text("one"))

    def fails(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        utils.write_whole(path, fails)
    assert path.read_text() == "one" and os.listdir(tmp_path) == ["file"]


def test_only_regular_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "fifo", tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(InputError, match="not a regular file"):
            utils.write_whole(path, write_text("x"))
    assert Path("/dev/null").is_char_device()


def test_a_symbolic_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "real").write_text("one")
    (tmp_path / "link").symlink_to("real")
    utils.write_whole(tmp_path / "link", write_text("two"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "two"


@pytest.mark.parametrize("path", ["no/file", "file/below", "x" * 300, "a\nb/file"])
def test_places_that_cannot_be_written_are_one_line(path, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as caught:
        utils.write_whole(tmp_path / path, write_text("x"))
    assert str(caught.value).startswith("cannot write ") and "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_torch_on_a_full_disk_is_called_that(tmp_path):
    def save(temporary):
        temporary.symlink_to("/dev/full")
        torch.save(torch.zeros(10**6), temporary)

    with pytest.raises(InputError, match="No space left on device"):
        utils.write_whole(tmp_path / "file", save)


WRITE_A_FILE = "utils.write_whole(pathlib.Path(sys.argv[1]) / 'file', lambda path: (path.touch(), os._exit(1)))"
WRITE_A_FOLDER = (
    "with utils.written_together(pathlib.Path(sys.argv[1]), ()) as folder: (folder / 'file').touch(), os._exit(1)"
)


@pytest.mark.parametrize("write", [WRITE_A_FILE, WRITE_A_FOLDER])
def test_temporary_files_of_dead_writers_alone_are_removed(tmp_path, write):
    program = f"import os, pathlib, sys, utils\n{write}"
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=Path(utils.__file__).parent)
    assert len(os.listdir(tmp_path)) == 1
    alive = tmp_path / f".{utils._writer()}-00{utils.PART}"
    elsewhere = tmp_path / f".ffffffff-1-00{utils.PART}"
    alive.touch(), elsewhere.touch()
    utils.remove_parts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted((alive, elsewhere))


def test_temporary_files_of_writers_that_belong_to_somebody_else_are_kept(tmp_path, monkeypatch):
    def refuse(process, number):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    part = tmp_path / f".{utils._writer().partition('-')[0]}-1-00{utils.PART}"
    part.touch()
    utils.remove_parts(tmp_path)
    assert part.exists()


RESULTS = ("scores.csv", "alarms.csv", "figures/*.png")


def results_of(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def put(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


FIRST = {"scores.csv": "1", "alarms.csv": "1", "figures/roc.png": "1"}
SECOND = {"scores.csv": "2", "figures/new.png": "2"}


def test_results_of_one_evaluation_replace_those_before(tmp_path):
    put(tmp_path, {"notes.txt": "mine"})
    for files in (FIRST, SECOND):
        with utils.written_together(tmp_path, RESULTS) as folder:
            put(folder, files)
        assert results_of(tmp_path) == {"notes.txt": "mine", **files}


def test_results_that_are_not_whole_change_nothing(tmp_path):
    put(tmp_path, FIRST)
    with pytest.raises(ZeroDivisionError), utils.written_together(tmp_path, RESULTS) as folder:
        put(folder, SECOND)
        raise ZeroDivisionError
    assert results_of(tmp_path) == FIRST


def test_a_kill_while_results_move_is_made_good_by_the_next_evaluation(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill_at(number):
        calls = []

        def replace(*paths):
            calls.append(paths)
            if len(calls) == number:
                raise Killed
            return real(*paths)

        real = os.replace
        return replace

    for number in (1, 2):
        folder = tmp_path / str(number)
        put(folder, FIRST)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "replace", kill_at(number))
            with utils.written_together(folder, RESULTS) as temporary:
                put(temporary, SECOND)
        assert not {name: text for name, text in results_of(folder).items() if text == "1"}
        with pytest.raises(ZeroDivisionError), utils.written_together(folder, RESULTS):
            raise ZeroDivisionError
        assert results_of(folder) == SECOND


def test_folders_of_the_same_name_do_not_mix(tmp_path):
    made = [utils.new_folder(tmp_path / "watched" / "door") for _ in range(3)]
    assert [path.name for path in made] == ["door", "door-2", "door-3"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        utils.new_folder(tmp_path / "file" / "door")


@pytest.mark.parametrize("content", [b"[", b"", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_one_line(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json"):
        utils.read_json(path)
