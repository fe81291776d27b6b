"""Decoded frames that are kept: they are the frames, they follow the data, and nothing half-made is ever used."""

import itertools
import multiprocessing
import operator
import os
import pickle
import re
import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import textured
from tqdm import tqdm

from data import cache
from data.cache import KEPT, NO_CACHE, Cache, CachedFrames, DecodedFrames, content_digest, open_frames
from data.clips import open_clips
from data.frames import find_videos
from data.pictures import FrameError, decode
from data.times import times_path, write_times
from utils import InputError

SIZE = (16, 20, 3)  # height, width, channels
LENGTHS = {"01": 5, "02": 3, "10": 4}

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "shop" / "training" / "frames"


@pytest.fixture
def videos(root, make_videos):
    return make_videos(root, LENGTHS)


@pytest.fixture
def decoding(monkeypatch):
    """Call `decoding(function)` to have function(n) run before the n-th frame is decoded; returns the count, a list."""

    def watch(before=lambda n: None):
        count = []

        def counted(*arguments):
            count.append(arguments[0])
            before(len(count))
            return decode(*arguments)

        monkeypatch.setattr(cache, "decode", counted)
        return count

    return watch


def kept(root):
    return root.parents[1] / ".decoded"


def files(folder, suffix=".npy"):
    return sorted(path for path in folder.iterdir() if path.suffix == suffix) if folder.exists() else []


def only_file(root):
    (path,) = kept(root).iterdir()
    return path


def right(frames, root, size=SIZE):
    """Whether these are the frames that are under root now, decoded."""
    expected = [decode(v.path(i), *size) for v in find_videos(root) for i in range(len(v.frames))]
    return frames.shape == np.shape(expected) and np.array_equal(frames[0 : len(expected)], expected)


def reopened(root, size=SIZE, **settings):
    return open_frames(find_videos(root), "training", *size, **settings)


def said(capsys):
    """The lines on stderr that are not of a progress bar."""
    lines = re.split(r"[\r\n]", capsys.readouterr().err)
    return [line for line in lines if line.strip() and not line.startswith("decoding: ")]


def without_cache(frames, capsys, folder):
    """Whether frames are decoded each time and one line on stderr tells why; returns that line."""
    assert isinstance(frames, DecodedFrames)
    (line,) = said(capsys)
    assert line.startswith(f"warning: no cache in {folder} (")
    return line


# the cache is the frames


@pytest.mark.parametrize("size", [(16, 20, 3), (16, 20, 1), (24, 32, 3)])
def test_cached_frames_are_the_decoded_ones_to_the_bit(videos, root, size):
    for frames in (open_frames(videos, "training", *size), open_frames(videos, "training", *size, cache=NO_CACHE)):
        assert right(frames, root, size)
        assert frames[4:7].dtype == np.uint8
        assert np.array_equal(frames[4:7], frames[0:12][4:7])


def test_what_is_kept_is_one_file_of_eight_bits_a_value(videos, root):
    open_frames(videos, "training", *SIZE)
    path = only_file(root)
    assert path.name.startswith("training-16x20x3-")
    assert path.stat().st_size <= 12 * 16 * 20 * 3 + 128


def test_a_kept_file_is_used_without_decoding(videos, root, decoding):
    count = decoding()
    open_frames(videos, "training", *SIZE)
    assert len(count) == 12
    before = only_file(root).stat()
    again = reopened(root)
    assert len(count) == 12
    assert only_file(root).stat() == before
    assert right(again, root)


def test_without_a_cache_nothing_is_written(videos, root):
    open_frames(videos, "training", *SIZE, cache=NO_CACHE)[0:2]
    assert not kept(root).exists()


# the cache follows the data


def rewrite(root, other="01/000.jpg"):
    shutil.copyfile(root / "10/003.jpg", root / other)


def rewrite_keeping_the_time(root):
    before = (root / "01/000.jpg").stat()
    rewrite(root)
    os.utime(root / "01/000.jpg", ns=(before.st_atime_ns, before.st_mtime_ns))


def rewrite_at_the_same_size(root):
    path = root / "01/000.jpg"
    content = bytearray(path.read_bytes())
    content[-20] ^= 8  # within the picture
    path.write_bytes(content)


def replace_all(root):
    """By frames of the same names, sizes and times, as a synchronising program leaves them."""
    for path in root.glob("*/*.jpg"):
        before = path.stat()
        picture = textured("other", path.parent.name + path.name, (24, 32))
        for quality in range(90, 0, -1):
            content = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes()
            if len(content) <= before.st_size:
                break
        path.write_bytes(content.ljust(before.st_size, b"\0"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def add(root):
    rewrite(root, "02/100.jpg")


def remove(root):
    (root / "01/004.jpg").unlink()


def rename(root):
    (root / "01/000.jpg").rename(root / "01/9.jpg")


def rename_video(root):
    (root / "01").rename(root / "11")


CHANGES = [rewrite, rewrite_keeping_the_time, rewrite_at_the_same_size, replace_all, add, remove, rename, rename_video]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_data_set_is_decoded_again(videos, root, change):
    open_frames(videos, "training", *SIZE)
    old = only_file(root)
    change(root)
    assert right(reopened(root), root)
    assert only_file(root) != old  # and what was kept of the data set as it was is gone


def test_another_size_and_another_split_are_kept_beside(videos, root, decoding):
    for size in (SIZE, (16, 20, 1), (20, 16, 3)):
        assert right(reopened(root, size), root, size)
    open_frames(videos, "testing", *SIZE)
    assert len(files(kept(root))) == 4
    count = decoding()
    for size in (SIZE, (16, 20, 1), (20, 16, 3)):
        assert right(reopened(root, size), root, size)
    assert count == []


@pytest.mark.parametrize("module, name, value", [(cache, "VERSION", 0), (cv2, "__version__", "4.0")])
def test_what_another_version_kept_is_not_used(videos, root, decoding, monkeypatch, module, name, value):
    with monkeypatch.context() as other:
        other.setattr(module, name, value)
        open_frames(videos, "training", *SIZE)
    count = decoding()
    assert right(reopened(root), root)
    assert len(count) == 12
    assert len(files(kept(root))) == 1


def garbage(path):
    path.write_bytes(b"no array")


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def other_array(path):
    np.save(path, np.zeros((2, 3), np.uint8))


def hostile_header(path):
    header = ("{'descr': '|u1', 'fortran_order': False, 'shape': " + "(" * 500).ljust(1010).encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


@pytest.mark.parametrize("spoil", [garbage, empty, cut, other_array, hostile_header], ids=lambda spoil: spoil.__name__)
def test_a_spoilt_file_is_made_again(videos, root, decoding, capsys, spoil):
    open_frames(videos, "training", *SIZE)
    path = only_file(root)
    spoil(path)
    assert right(reopened(root), root)
    count = decoding()
    assert isinstance(reopened(root), CachedFrames)
    assert count == []
    assert said(capsys) == []


# a folder the user names


def test_a_named_folder_is_made_and_used(videos, root, tmp_path, decoding):
    folder = tmp_path / "fast disk" / "kept"
    open_frames(videos, "training", *SIZE, cache=Cache(folder))
    assert len(files(folder)) == 1
    assert not kept(root).exists()
    count = decoding()
    assert right(reopened(root, cache=Cache(folder)), root)
    assert count == []


def test_data_sets_that_look_alike_share_a_folder(tmp_path, make_videos, decoding):
    """Names, sizes and times of frames are the same, as an archive without times leaves them; the pictures differ."""
    roots = [tmp_path / place / "shop" / "training" / "frames" for place in ("a", "b")]
    for root, value in zip(roots, (10, 200), strict=True):
        make_videos(root, LENGTHS, picture=lambda *_, value=value: np.full((24, 32, 3), value, np.uint8), ext=".bmp")
        for path in root.glob("*/*"):
            os.utime(path, (0, 0))
    for _ in range(2):
        for root in roots:
            assert right(reopened(root, cache=Cache(tmp_path / "kept")), root)
    assert len(files(tmp_path / "kept")) == 2
    count = decoding()
    rewrite_at = roots[0] / "01/000.bmp"
    os.utime(rewrite_at, (1, 1))
    reopened(roots[0], cache=Cache(tmp_path / "kept"))
    assert len(count) == 12
    reopened(roots[1], cache=Cache(tmp_path / "kept"))
    assert len(count) == 12  # the other's was left alone
    assert len(files(tmp_path / "kept")) == 2


# builds that do not end


@forks
def test_a_killed_build_leaves_nothing_that_is_used(videos, root, decoding):
    context = multiprocessing.get_context("fork")
    under_way, never = context.Event(), context.Event()

    def stop_here(n):
        if n > 8:
            under_way.set()
            never.wait()

    def start():
        tqdm.set_lock(threading.RLock())  # the usual one is shared with forks, and the killed one may hold it
        open_frames(videos, "training", *SIZE)

    decoding(stop_here)
    build = context.Process(target=start)
    build.start()
    under_way.wait()
    (part,) = files(kept(root), ".part")
    decoding()
    add(root)
    reopened(root)
    assert part.exists()  # it is being written
    os.kill(build.pid, signal.SIGKILL)
    build.join()
    remove(root)
    assert right(reopened(root), root)
    assert [path.suffix for path in kept(root).iterdir()] == [".npy"]


def test_what_a_killed_build_left_does_not_take_the_space_of_the_next(videos, root, monkeypatch):
    kept(root).mkdir()
    left = kept(root) / "training-16x20x3-0.0.part"
    left.write_bytes(b"the beginning")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=0 if left.exists() else 10**9))
    assert isinstance(reopened(root), CachedFrames)


@linux
def test_no_file_is_moved_or_removed_while_it_is_open_on_windows(videos, root, monkeypatch):
    moved = []

    def closed(function):
        def check(path, *arguments, **settings):
            moved.append(os.fspath(path))
            assert moved[-1] not in [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
            return function(path, *arguments, **settings)

        return check

    monkeypatch.setattr(cache, "fcntl", None)
    monkeypatch.setattr(os, "replace", closed(os.replace))
    monkeypatch.setattr(Path, "unlink", closed(Path.unlink))
    reopened(root)
    add(root)
    reopened(root)
    assert len(files(kept(root))) == 1 and len(moved) >= 3


# caches that are in use


def test_a_cache_stays_while_it_is_used_and_goes_when_it_is_not(videos, root):
    used = reopened(root)
    expected = used[0:12]
    add(root)
    reopened(root)
    assert used.path.exists()
    assert np.array_equal(pickle.loads(pickle.dumps(used))[0:12], expected)  # as a worker gets it
    path = used.path
    del used
    remove(root)
    again = reopened(root)
    assert not path.exists()
    assert files(kept(root)) == [again.path]


def test_a_cache_is_mapped_when_it_is_opened(videos, root):
    frames = reopened(root)
    expected = frames[0:12]
    again = CachedFrames(frames.path)
    frames.path.unlink()
    assert np.array_equal(again[0:12], expected)


def test_a_cache_that_is_gone_for_a_worker_is_one_line(videos, root):
    sent = pickle.dumps(reopened(root))
    path = only_file(root)
    path.unlink()
    with pytest.raises(InputError, match="cannot read") as caught:
        pickle.loads(sent)
    assert str(path) in str(caught.value)


# what a run remembers of its data


def test_the_digest_of_the_content_is_that_of_a_copy_and_of_no_other(videos, root, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    first = content_digest(videos)
    assert content_digest(find_videos(copy)) == first
    for change in (replace_all, add, rename, rename_video):
        shutil.rmtree(copy)
        shutil.copytree(root, copy)
        change(copy)
        assert content_digest(find_videos(copy)) != first


def test_the_digest_of_the_content_knows_the_gaps_between_clips(videos):
    first, frames = content_digest(videos), len(videos[0].frames)
    for seconds, is_same in ((np.arange(frames), True), (np.arange(frames) + 9 * (np.arange(frames) > 2), False)):
        write_times(times_path(videos[0].directory), seconds)
        assert (content_digest(videos) == first) is is_same


def test_an_interrupted_build_leaves_nothing(videos, root, decoding):
    def interrupt(n):
        if n == 7:
            raise KeyboardInterrupt

    decoding(interrupt)
    with pytest.raises(KeyboardInterrupt):
        reopened(root)
    assert list(kept(root).iterdir()) == []
    decoding()
    assert right(reopened(root), root)


def vanish(root):
    (root / "10/003.jpg").unlink()


def vanish_after_it_was_read(root):
    (root / "01/000.jpg").unlink()


def vanish_whole(root):
    shutil.rmtree(root / "10")


@pytest.mark.parametrize(
    "change", [vanish, vanish_after_it_was_read, vanish_whole, rewrite], ids=lambda change: change.__name__
)
def test_data_that_change_while_they_are_read_are_an_error(videos, root, decoding, monkeypatch, change):
    monkeypatch.setattr(cache, "DECODED_AT_ONCE", 2)
    decoding(lambda n: change(root) if n == 5 else None)
    with pytest.raises(InputError) as caught:
        open_frames(videos, "training", *SIZE)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(kept(root).iterdir()) == []


@pytest.mark.parametrize("change", [vanish, vanish_whole], ids=lambda change: change.__name__)
def test_a_frame_that_vanishes_before_is_named(videos, root, change):
    change(root)
    with pytest.raises(FrameError) as caught:
        open_frames(videos, "training", *SIZE)
    assert str(root / "10") in str(caught.value)


def test_a_link_that_leads_nowhere_is_named(videos, root, tmp_path):
    (root / "10/003.jpg").unlink()
    try:
        (root / "10/003.jpg").symlink_to(tmp_path / "nowhere.jpg")
    except OSError:
        pytest.skip("needs links")
    with pytest.raises(FrameError) as caught:
        reopened(root)
    assert str(root / "10" / "003.jpg") in str(caught.value)


@forks
def test_two_processes_build_at_once(videos, root, monkeypatch):
    context = multiprocessing.get_context("fork")
    both_at_it, answers = context.Barrier(2), context.SimpleQueue()

    def build():
        cv2.setNumThreads(0)
        first = itertools.count()

        def decode_together(*arguments):
            if next(first) == 0:
                both_at_it.wait(300)  # the other comes, or this test fails
            return decode(*arguments)

        monkeypatch.setattr(cache, "decode", decode_together)
        answers.put(open_frames(videos, "training", *SIZE)[0:12])

    processes = [context.Process(target=build) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    expected = open_frames(videos, "training", *SIZE, cache=NO_CACHE)[0:12]
    assert all(np.array_equal(answers.get(), expected) for _ in range(2))
    assert only_file(root).suffix == ".npy"


# no place for it


@pytest.mark.parametrize("blocked", [".decoded", "fast disk"])
def test_where_no_folder_can_be_made_frames_are_decoded_each_time(videos, root, tmp_path, capsys, blocked):
    file = kept(root) if blocked == ".decoded" else tmp_path / blocked
    file.write_text("in the way")
    frames = reopened(root, cache=KEPT if blocked == ".decoded" else Cache(file))
    assert "--cache_dir" in without_cache(frames, capsys, file)
    assert right(frames, root)
    assert file.read_text() == "in the way"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs a user whom permissions stop")
def test_where_nothing_may_be_written_frames_are_decoded_each_time(videos, root, capsys):
    root.parents[1].chmod(0o555)
    try:
        frames = reopened(root)
    finally:
        root.parents[1].chmod(0o755)
    without_cache(frames, capsys, kept(root))
    assert right(frames, root)


def test_where_too_little_space_is_free_frames_are_decoded_each_time(videos, root, capsys, decoding, monkeypatch):
    count = decoding()
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=12 * 16 * 20 * 3))
    frames = reopened(root)
    assert "GB are free" in without_cache(frames, capsys, kept(root))
    assert count == []  # it is known beforehand
    assert right(frames, root)
    assert list(kept(root).iterdir()) == []


@contextmanager
def files_of_at_most(size):
    """Writing more to any file fails as a full disk does."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_the_disk_fills_frames_are_decoded_each_time(videos, root, capsys):
    with files_of_at_most(1024):
        frames = reopened(root)
    without_cache(frames, capsys, kept(root))
    assert right(frames, root)
    assert list(kept(root).iterdir()) == []
    assert isinstance(reopened(root), CachedFrames)


# other processes


def test_frames_travel_to_a_new_process(videos, root):
    cached, decoded = (open_frames(videos, "training", *SIZE, cache=where) for where in (KEPT, NO_CACHE))
    expected = cached[0:12]
    assert len(pickle.dumps(cached)) < 1000  # of the 11,520 bytes that are mapped here
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for frames in (cached, decoded):
            assert np.array_equal(pool.apply(operator.getitem, (frames, slice(0, 12))), expected)


# frames that are broken


def break_frame(path):
    path.write_bytes(path.read_bytes()[:-40])
    return path


@pytest.fixture(params=["kept beside", "kept elsewhere", "not kept"])
def where(request, tmp_path):
    return {"kept beside": KEPT, "kept elsewhere": Cache(tmp_path / "kept"), "not kept": NO_CACHE}[request.param]


def test_a_broken_frame_is_named_and_nothing_is_kept(videos, root):
    path = break_frame(root / "02/001.jpg")
    with pytest.raises(FrameError) as caught:
        open_clips(videos, "training", 3, SIZE)
    assert str(path) in str(caught.value)
    assert list(kept(root).iterdir()) == []


def test_bad_frames_skip_leaves_the_video_out(videos, root, where, tmp_path, make_videos, capsys):
    path = break_frame(root / "02/001.jpg")
    clips = open_clips(videos, "training", 3, SIZE, where, bad_frames="skip")
    (line,) = said(capsys)
    assert line.startswith("warning: video 02 is skipped")
    assert str(path) in line

    lengths = {name: length for name, length in LENGTHS.items() if name != "02"}
    expected = open_clips(make_videos(tmp_path / "other/training/frames", lengths), "training", 3, SIZE, cache=NO_CACHE)
    assert [video.name for video in clips.videos] == ["01", "10"]
    assert clips.lengths == expected.lengths
    assert all(np.array_equal(a, b) for a, b in zip(clips, expected, strict=True))


def test_bad_frames_skip_without_a_bad_frame_leaves_nothing_out(videos, where, capsys):
    clips = open_clips(videos, "training", 3, SIZE, where, bad_frames="skip")
    assert clips.lengths == [3, 1, 2]
    assert said(capsys) == []


def test_what_bad_frames_skip_keeps_is_used_again(videos, root, decoding, capsys):
    path = break_frame(root / "02/001.jpg")
    open_clips(videos, "training", 3, SIZE, bad_frames="skip")
    before, warned = sorted(kept(root).iterdir()), said(capsys)
    decoded = decoding()
    open_clips(videos, "training", 3, SIZE, bad_frames="skip")
    assert not decoded and said(capsys) == warned
    assert sorted(kept(root).iterdir()) == before and {path.suffix for path in before} == {".npy", ".json"}
    shutil.copyfile(root / "01/001.jpg", path)  # it is repaired
    assert open_clips(videos, "training", 3, SIZE, bad_frames="skip").lengths == [3, 1, 2]
    assert said(capsys) == []


def test_bad_frames_skip_with_only_bad_videos_is_an_error(videos, root, where):
    for name in LENGTHS:
        break_frame(root / name / "001.jpg")
    with pytest.raises(InputError, match="every video"):
        open_clips(videos, "training", 3, SIZE, where, bad_frames="skip")


# large data sets


def anonymous_memory():
    """Memory of this process that is not a file's, in bytes: what does not shrink when another needs it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def link_videos(root, videos, frames, make_videos):
    """A data set that takes no space: in each video, every frame is a link to one small JPEG."""
    make_videos(root, {f"{v:03d}": 1 for v in range(videos)}, size=(16, 16))
    for folder in root.iterdir():
        for index in range(1, frames):
            os.link(folder / "000.jpg", folder / f"{index:03d}.jpg")


def read_all(clips):
    return sum(int(clips[index][0, 0, 0]) for index in range(len(clips)))


@linux
def test_reading_clips_takes_no_memory(root, make_videos):
    link_videos(root, 4, 500, make_videos)
    clips = open_clips(find_videos(root), "training", 5, (64, 64, 3))
    read_all(clips)  # whatever is set up once
    before = anonymous_memory()
    again = open_clips(find_videos(root), "training", 5, (64, 64, 3))
    read_all(again)
    assert anonymous_memory() - before < 8e6  # of 24.6 MB of frames


@pytest.mark.slow  # a hundred thousand frames
@linux
def test_a_hundred_thousand_frames(root, make_videos, capsys):
    def timed(what, function, *arguments):
        start, memory = time.perf_counter(), anonymous_memory()
        result = function(*arguments)
        took[what] = time.perf_counter() - start
        with capsys.disabled():
            print(f"\n{what}: {took[what]:.2f} s, {(anonymous_memory() - memory) / 1e6:+.1f} MB", end=" ")
        return result

    took, size = {}, (32, 32, 3)
    timed("link", link_videos, root, 200, 500, make_videos)
    videos = timed("find", find_videos, root)
    timed("decode", open_clips, videos, "training", 5, size)
    before = anonymous_memory()
    clips = timed("open", open_clips, videos, "training", 5, size)
    timed("read", read_all, clips)
    assert len(clips) == 200 * 496
    assert took["find"] < 10
    assert anonymous_memory() - before < 30e6  # of 307 MB of frames
