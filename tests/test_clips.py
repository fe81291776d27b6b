"""Clips and the loader of them: which frames are in a clip, in which order, and which clips in a batch."""

import gc
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset

from data import clips as clips_module
from data.cache import KEPT, NO_CACHE
from data.clips import WORKERS, Clips, normalise, one_ahead, open_clips, testing_loader, training_loader
from data.frames import Video
from utils import InputError, run_script

testing_loader.__test__ = False  # its name looks like that of a test

SIZE = (4, 6, 3)  # height, width, channels


def videos_of(*lengths):
    return [Video(f"{v}", Path("frames") / f"{v}", tuple(map(str, range(n)))) for v, n in enumerate(lengths)]


def value(video, index, channel):
    """What all pixels of a channel of a frame are here: it tells all three."""
    return 60 * video + 3 * index + channel


def frames_of(*lengths):
    values = [[value(v, i, c) for c in range(3)] for v, n in enumerate(lengths) for i in range(n)]
    return np.broadcast_to(np.array(values, np.uint8)[..., None, None], (len(values), 3, *SIZE[:2]))


def clips_of(*lengths, t_length):
    return Clips(videos_of(*lengths), frames_of(*lengths), t_length)


def what_is_in(clip):
    """The value of each channel of a clip (T·c, H, W); everywhere the same."""
    assert (clip == clip[:, :1, :1]).all()
    return clip[:, 0, 0].tolist()


def stack(video, first, t_length):
    """The values a clip should have: the oldest frame first, of each frame the channels in their order."""
    return [value(video, first + t, c) for t in range(t_length) for c in range(3)]


def in_order(loader):
    """The first value of each clip a loader gives: which clip it is."""
    return [int(clip[0, 0, 0]) for batch in loader for clip in batch]


# clips


@pytest.mark.parametrize("t_length", [1, 2, 3, 5])
def test_clips_are_all_runs_of_frames_of_one_video_the_oldest_first(t_length):
    lengths = (5, 7, 6)
    clips = clips_of(*lengths, t_length=t_length)
    expected = [stack(v, first, t_length) for v, n in enumerate(lengths) for first in range(n - t_length + 1)]
    assert len(clips) == len(expected)
    assert [what_is_in(clips[index]) for index in range(len(clips))] == expected
    assert clips.lengths == [n - t_length + 1 for n in lengths]


def test_a_clip_is_eight_bits_and_its_own(tmp_path):
    clips = clips_of(5, t_length=3)
    clip = clips[1]
    assert clip.dtype == torch.uint8
    assert clip.shape == (9, 4, 6)
    clip.zero_()
    assert what_is_in(clips[1]) == stack(0, 1, 3)


def test_short_videos_are_skipped_and_named(capsys):
    clips = clips_of(2, 3, 1, 4, t_length=3)
    assert [video.name for video in clips.videos] == ["1", "3"]
    assert clips.lengths == [1, 2]
    assert [what_is_in(clips[i]) for i in range(3)] == [stack(1, 0, 3), stack(3, 0, 3), stack(3, 1, 3)]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: video 0 is skipped: it has 2 frames")
    assert second.startswith("warning: video 2 is skipped: it has 1 frames")


def test_only_short_videos_are_an_error():
    with pytest.raises(InputError, match="5 consecutive frames"):
        clips_of(2, 4, t_length=5)


@pytest.mark.parametrize("cache", [KEPT, NO_CACHE])
@pytest.mark.parametrize("channels", [3, 1])
def test_clips_of_files_are_those_of_the_frames(tmp_path, make_videos, cache, channels):
    def picture(video, index, size):
        if channels == 1:
            return np.full(size, value(int(video), index, 0), np.uint8)
        return np.broadcast_to(np.array([value(int(video), index, c) for c in range(3)], np.uint8), (*size, 3))

    root = tmp_path / "shop" / "testing" / "frames"
    videos = make_videos(root, {"0": 3, "1": 12, "2": 2, "3": 4}, size=(8, 9), ext=".png", picture=picture)
    clips = open_clips(videos, "testing", 3, (*SIZE[:2], channels), cache)
    expected = [stack(v, first, 3) for v, n in ((0, 3), (1, 12), (3, 4)) for first in range(n - 2)]
    assert [what_is_in(clip) for clip in clips] == [clip[:: 4 - channels] for clip in expected]


def test_normalise_maps_bytes_to_minus_one_to_one():
    clips = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    result = normalise(clips)
    assert result.dtype == torch.float32
    assert result.shape == clips.shape
    np.testing.assert_allclose(result.flatten().numpy(), np.arange(256) / 127.5 - 1, rtol=0, atol=1.2e-7)
    assert result.min() == -1
    assert result.max() == 1
    assert clips.flatten().tolist() == list(range(256))  # as it was


# loaders


def test_training_batches_are_whole_and_shuffled():
    clips = clips_of(10, 10, t_length=5)  # 12 clips
    batches = list(training_loader(clips, 5, 0, seed=0))
    assert [tuple(batch.shape) for batch in batches] == [(5, 15, 4, 6)] * 2
    assert all(batch.dtype == torch.uint8 for batch in batches)
    order = in_order(batches)
    assert len(set(order)) == 10
    assert set(order) < set(in_order(testing_loader(clips, 5, 0)))
    assert order != sorted(order)


def test_the_order_of_training_depends_on_seed_and_epoch_alone():
    def order(seed, epoch, before=()):
        loader = training_loader(clips_of(20, 20, t_length=3), 4, 0, seed=seed)
        for earlier in before:
            loader.sampler.set_epoch(earlier)
            in_order(loader)
        torch.manual_seed(np.random.default_rng().integers(2**31))  # what else draws random numbers
        loader.sampler.set_epoch(epoch)
        return in_order(loader)

    assert order(0, 3) == order(0, 3)
    assert order(0, 3, before=(0, 1, 2)) == order(0, 3)  # as a resumed run starts
    assert len({tuple(order(seed, epoch)) for seed in (0, 7) for epoch in (0, 1)}) == 4


def test_testing_batches_are_all_clips_in_order():
    loader = testing_loader(clips_of(5, 3, 6, t_length=3), 4, 0)
    assert [len(batch) for batch in loader] == [4, 4]
    loader = testing_loader(clips_of(5, 3, 6, t_length=3), 5, 0)
    assert [len(batch) for batch in loader] == [5, 3]
    expected = [value(v, first, 0) for v, n in ((0, 3), (1, 1), (2, 4)) for first in range(n)]
    assert in_order(loader) == expected


def test_workers_change_nothing(tmp_path, make_videos):
    root = tmp_path / "shop" / "training" / "frames"
    clips = open_clips(make_videos(root, {"01": 9, "02": 7}), "training", 3, SIZE)

    def batches(workers):
        loader = training_loader(clips, 4, workers, seed=1)
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            yield from loader
        yield from testing_loader(clips, 4, workers)

    for alone, working in zip(batches(0), batches(2), strict=True):
        assert torch.equal(alone, working)


def test_with_a_cache_this_process_loads_and_without_one_workers_do(tmp_path, make_videos):
    videos = make_videos(tmp_path / "shop" / "training" / "frames", {"01": 9})
    for cache, workers in ((KEPT, 0), (NO_CACHE, WORKERS)):
        clips = open_clips(videos, "training", 3, SIZE, cache)
        assert training_loader(clips, 2, None, seed=0).num_workers == workers
        assert testing_loader(clips, 2, None).num_workers == workers
        assert testing_loader(Subset(clips, [0, 1]), 2, None).num_workers == workers
        assert testing_loader(clips, 2, 1).num_workers == 1


@pytest.mark.parametrize(
    ("device", "workers", "pinned", "ahead"), [("cpu", 0, 0, 0), ("mps", 0, 0, 0), ("cuda", 0, 1, 1), ("cuda", 1, 1, 0)]
)
def test_batches_are_pinned_and_prepared_by_a_thread_for_cuda_alone(device, workers, pinned, ahead):
    loader = testing_loader(clips_of(9, t_length=3), 2, workers, torch.device(device))
    assert (loader.pin_memory, loader.ahead) == (pinned, ahead)


def test_the_next_batch_is_prepared_while_one_is_used():
    asked = [threading.Event() for _ in range(5)]

    def batches():
        for number in range(4):
            asked[number].set()
            yield torch.tensor(number)
        asked[4].set()

    taken = []
    for number, batch in enumerate(one_ahead(batches())):
        asked[number + 1].wait()  # for ever, if it were only asked for when this one is done
        taken.append(int(batch))
    assert taken == [0, 1, 2, 3]


def test_an_error_in_the_thread_is_raised_where_the_batches_are_used():
    def batches():
        yield torch.tensor(0)
        raise InputError("a broken frame")

    with pytest.raises(InputError, match="a broken frame"):
        list(one_ahead(batches()))


def test_batches_that_are_not_all_taken_end_their_thread():
    before = set(threading.enumerate())
    some = one_ahead(iter([torch.tensor(number) for number in range(4)]))
    next(some)
    some.close()
    assert set(threading.enumerate()) <= before  # earlier ones may end meanwhile


def test_shared_memory_that_is_too_small_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(clips_module, "SHARED_MEMORY", tmp_path)
    clips = clips_of(40, t_length=3)
    batch = 4 * clips[0].nbytes
    monkeypatch.setattr(clips_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * batch - 1))
    testing_loader(clips, 4, 0)
    testing_loader(clips, 4, 1)
    with pytest.raises(InputError, match="2 processes that load clips need") as caught:
        testing_loader(clips, 4, 2)
    assert "--num_workers" in str(caught.value)
    assert "--shm-size" in str(caught.value)


class Deadly(Dataset):
    """Kills the process that reads its second item, as a system without memory does."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(3, dtype=torch.uint8)


class Deaf(Dataset):
    """Says whether the process that reads it ignores Ctrl-C."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return torch.tensor(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_alone_leave_ctrl_c_to_the_process_that_started_them(workers):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what started the tests may have it ignored
    try:
        assert [bool(ignored) for ignored in testing_loader(Deaf(), 1, workers)] == [workers == 1]
    finally:
        signal.signal(signal.SIGINT, before)
    gc.collect()


def test_a_worker_that_is_killed_is_one_line():
    loader = testing_loader(Deadly(), 1, 1)
    with pytest.raises(InputError, match="a process that loads clips was killed"):
        list(loader)
    gc.collect()


def test_two_processes_share_the_clips():
    clips = clips_of(20, 17, t_length=3)  # 33 clips: 16 for each of two, one is left out
    for epoch in range(2):
        shares = []
        for rank in range(2):
            loader = training_loader(clips, 1, 0, seed=3, share=(rank, 2))
            loader.sampler.set_epoch(epoch)
            assert len(loader) == 16
            shares.append(in_order(loader))
        assert len(set(shares[0]) | set(shares[1])) == 32  # nothing twice

    every = clips_of(20, 16, t_length=3)  # 32 clips
    shares = [in_order(training_loader(every, 4, 0, seed=3, share=(rank, 2))) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == in_order(testing_loader(every, 4, 0))


@pytest.mark.parametrize("world_size", [1, 2])
def test_fewer_clips_than_a_batch_are_an_error(world_size):
    clips = clips_of(10, t_length=3)  # 8 clips
    assert len(training_loader(clips, 8 // world_size, 0, seed=0, share=(0, world_size))) == 1
    with pytest.raises(InputError, match="--batch_size"):
        training_loader(clips, 8 // world_size + 1, 0, seed=0, share=(0, world_size))


def test_a_broken_frame_met_by_a_worker_is_one_line_that_names_it(tmp_path, make_videos, capsys):
    videos = make_videos(tmp_path / "shop" / "training" / "frames", {"01": 6})
    path = videos[0].path(4)
    path.write_bytes(path.read_bytes()[:100])
    clips = open_clips(videos, "training", 2, SIZE, cache=NO_CACHE)
    loader = testing_loader(clips, 2, 1)
    with pytest.raises(SystemExit) as caught:
        run_script(lambda: list(loader))
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert f"cannot decode frame {path}: truncated;" in line
    # the errors hold the loader too; collected together with it, its worker would take 5 s to end
    del caught
    gc.collect()
