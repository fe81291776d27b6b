"""Frames on disk: order, what belongs to a video and what does not, and pictures that cannot be decoded."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from conftest import textured

from data.frames import EXTENSIONS, FrameError, decode, find_videos, natural_key, scan, split_directory
from utils import InputError

SIZE = (30, 40)  # of the pictures in the files
SHARES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)  # of a file that is left where it is cut


def folder_of(root, *names):
    """A video folder with empty files of these names; finding videos opens none."""
    root.mkdir(parents=True)
    for name in names:
        (root / name).touch()
    return root


def found(root):
    return {video.name: list(video.frames) for video in find_videos(root)}


def encoded(ext, gray=False):
    picture = textured("a", 0, SIZE)
    return cv2.imencode(ext, picture[..., 0] if gray else picture)[1].tobytes()


def written(path, content):
    path.write_bytes(content)
    return path


def not_decoded(path, channels=3):
    """The message of the FrameError that decoding raises: one line that names the file."""
    with pytest.raises(FrameError) as caught:
        decode(path, 16, 16, channels)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# finding


@pytest.mark.parametrize(
    "names",
    [
        ["1", "2", "10", "100"],
        ["0009", "0010", "0100"],
        ["3", "7", "20"],
        ["01_0014", "01_0015", "01_0063", "02_0001", "10_0001"],
        ["Test1", "Test2", "Test10"],
        ["frame 2", "frame 11"],
        ["9", "a9", "a10"],
    ],
)
def test_names_are_in_natural_order(names):
    shuffled = [*names[1:], names[0]]
    assert sorted(shuffled, key=natural_key) == names


def test_names_of_one_number_have_one_order():
    assert sorted(["01", "1", "001"], key=natural_key) == sorted(["1", "001", "01"], key=natural_key)


def test_videos_and_frames_are_found_in_natural_order(tmp_path):
    folder_of(tmp_path / "10", "2.jpg", "10.jpg", "1.jpg")
    folder_of(tmp_path / "9", "100.png", "099.png", "7.png")
    assert list(found(tmp_path).items()) == [
        ("9", ["7.png", "099.png", "100.png"]),
        ("10", ["1.jpg", "2.jpg", "10.jpg"]),
    ]
    video = find_videos(tmp_path)[1]
    assert video.path(2) == tmp_path / "10" / "10.jpg"


def test_extensions_count_in_any_case(tmp_path):
    names = [f"{i}{ext.upper() if i % 2 else ext}" for i, ext in enumerate(EXTENSIONS * 2)]
    folder_of(tmp_path / "01", *names)
    assert found(tmp_path) == {"01": names}


def test_hidden_files_and_litter_are_passed_over(tmp_path):
    folder_of(tmp_path / "01", "1.jpg", ".DS_Store", "._1.jpg", "Thumbs.db", "desktop.ini", "THUMBS.DB")
    folder_of(tmp_path / ".hidden", "1.jpg")
    (tmp_path / "notes.txt").touch()  # beside the videos, not in one
    assert found(tmp_path) == {"01": ["1.jpg"]}


@pytest.mark.parametrize("foreign", ["labels.txt", "2.jpg.part", "jpg", "clip.avi"])
def test_a_foreign_file_among_frames_is_named(tmp_path, foreign):
    folder_of(tmp_path / "01", "1.jpg", foreign)
    with pytest.raises(InputError) as caught:
        find_videos(tmp_path)
    assert str(tmp_path / "01" / foreign) in str(caught.value)
    (tmp_path / "01" / "zzz.txt").touch()
    with pytest.raises(InputError, match=r"01.* \(and 1 more there\); remove it"):
        find_videos(tmp_path)


def test_scanning_goes_on_after_a_problem(tmp_path):
    folder_of(tmp_path / "01", "1.jpg", "notes.txt", "2.jpg")
    folder_of(tmp_path / "02")
    folder_of(tmp_path / "03", "1.jpg")
    scanned = {video.name: (video.frames, problem and problem.split(":")[0]) for video, problem in scan(tmp_path)}
    nothing = f"no frames in {tmp_path / '02'}"
    assert scanned == {"01": (("1.jpg", "2.jpg"), "not a frame"), "02": ((), nothing), "03": (("1.jpg",), None)}


@pytest.mark.parametrize("names", [[], ["Thumbs.db"], [".1.jpg"]])
def test_a_video_without_frames_is_named(tmp_path, names):
    folder_of(tmp_path / "01", "1.jpg")
    folder_of(tmp_path / "02", *names)
    with pytest.raises(InputError, match=r"no frames in .*02"):
        find_videos(tmp_path)


def test_frames_that_lie_outside_of_videos_are_no_video(tmp_path):
    folder_of(tmp_path / "frames", "1.jpg", "2.jpg")
    with pytest.raises(InputError, match=r"no videos in .*frames"):
        find_videos(tmp_path / "frames")


def test_a_missing_data_set_or_split_is_named(tmp_path):
    with pytest.raises(InputError) as caught:
        split_directory(tmp_path, "ped2", "testing")
    assert str(tmp_path / "ped2") in str(caught.value)
    assert "data.prepare" in str(caught.value)
    (tmp_path / "ped2" / "testing").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        split_directory(tmp_path, "ped2", "testing")
    assert str(tmp_path / "ped2" / "testing" / "frames") in str(caught.value)
    (tmp_path / "ped2" / "testing" / "frames").mkdir()
    assert split_directory(str(tmp_path), "ped2", "testing") == tmp_path / "ped2" / "testing" / "frames"


@pytest.mark.parametrize("name", ["with a space", "größe", "监控 01", "a;b&c'd", "[01]"])
def test_names_of_every_kind_are_found_and_decoded(tmp_path, make_videos, name):
    (video,) = make_videos(tmp_path / "data ü" / "frames", {name: 2}, ext=".png")
    assert video.name == name
    assert np.array_equal(decode(video.path(1), 24, 32, 3), textured(name, 1, (24, 32)).transpose(2, 0, 1))


# decoding


@pytest.mark.parametrize("ext", EXTENSIONS)
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("channels", [3, 1])
def test_decode_is_opencvs_picture_resized(tmp_path, ext, gray, channels):
    path = written(tmp_path / f"1{ext}", encoded(ext, gray))
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    for height, width in (SIZE, (16, 16), (64, 48)):
        expected = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
        frame = decode(path, height, width, channels)
        assert frame.dtype == np.uint8
        assert frame.shape == (channels, height, width)
        assert frame.flags.c_contiguous
        assert np.array_equal(frame, expected.reshape(height, width, channels).transpose(2, 0, 1))


def test_colours_are_in_the_order_blue_green_red(tmp_path):
    blue = np.full((*SIZE, 3), (200, 100, 10), np.uint8)
    path = written(tmp_path / "1.png", cv2.imencode(".png", blue)[1].tobytes())
    assert decode(path, 4, 4, 3)[:, 0, 0].tolist() == [200, 100, 10]


def test_frames_of_different_sizes_become_one_size(tmp_path):
    for name, size in (("1", (10, 20)), ("2", (50, 30))):
        path = written(tmp_path / f"{name}.png", cv2.imencode(".png", textured(name, 0, size))[1].tobytes())
        assert decode(path, 12, 14, 3).shape == (3, 12, 14)


# files that are broken


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("ext", [".jpg", ".png", ".bmp", ".tif"])
def test_a_truncated_picture_is_an_error(tmp_path, ext, channels):
    content = encoded(ext)
    for length in [int(share * len(content)) for share in SHARES] + [len(content) - cut for cut in (2, 1)]:
        message = not_decoded(written(tmp_path / f"1{ext}", content[:length]), channels)
        assert ext not in (".jpg", ".png") or ": truncated;" in message


def test_a_truncated_jpeg_whose_space_was_reserved_is_an_error(tmp_path):
    content = encoded(".jpg")
    half = content[: len(content) // 2]
    assert ": truncated;" in not_decoded(written(tmp_path / "1.jpg", half.ljust(len(content), b"\0")))


def test_a_progressive_jpeg_that_lacks_its_last_scans_is_an_error(tmp_path):
    content = cv2.imencode(".jpg", textured("a", 0, SIZE), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert content.count(b"\xff\xda") > 2
    decode(written(tmp_path / "1.jpg", content), 16, 16, 3)
    assert ": truncated;" in not_decoded(written(tmp_path / "1.jpg", content[: content.rfind(b"\xff\xda")]))


def test_the_end_of_a_thumbnail_in_the_header_is_not_the_end_of_the_picture(tmp_path):
    content, thumbnail = encoded(".jpg"), cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    segment = b"\xff\xff\xe5" + struct.pack(">H", len(thumbnail) + 2) + thumbnail  # with a fill byte before its mark
    content = content[:2] + segment + content[2:]
    path = written(tmp_path / "1.jpg", content)
    assert np.array_equal(decode(path, *SIZE, 3), decode(written(tmp_path / "2.jpg", encoded(".jpg")), *SIZE, 3))
    for share in (0.7, 0.9, 0.99):
        assert ": truncated;" in not_decoded(written(path, content[: int(share * len(content))]))


@pytest.mark.parametrize("ext", [".jpg", ".png", ".bmp", ".tif"])
@pytest.mark.parametrize(
    "tail", [b"\0", b"\0" * 4096, b"\r\n", bytes(range(256)) * 4], ids=["0", "padding", "line", "data"]
)
def test_what_follows_a_whole_picture_does_no_harm(tmp_path, ext, tail):
    content = encoded(ext)
    whole = decode(written(tmp_path / f"1{ext}", content), 16, 16, 3)
    assert np.array_equal(decode(written(tmp_path / f"2{ext}", content + tail), 16, 16, 3), whole)


@pytest.mark.parametrize("name", ["1.jpg", "1.png", "1.tif"])
@pytest.mark.parametrize(
    "content", [b"", b"\0", b"\xff\xd8", b"video,first,last\n01,3,4\n", b"<html>404</html>"], ids=repr
)
def test_what_is_no_picture_is_an_error(tmp_path, name, content):
    not_decoded(written(tmp_path / name, content))


def test_a_picture_under_another_pictures_name_is_decoded(tmp_path):
    decode(written(tmp_path / "1.jpg", encoded(".png")), 16, 16, 3)


def test_a_header_that_asks_for_an_absurd_size_is_an_error(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    not_decoded(written(tmp_path / "1.png", content))


def test_a_file_that_is_not_there_and_a_folder_are_errors(tmp_path):
    not_decoded(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").mkdir()
    not_decoded(tmp_path / "2.jpg")
