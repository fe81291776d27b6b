"""Frames on disk: order, what belongs to a video and what does not, and pictures that cannot be decoded."""

import errno
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from conftest import textured
from PIL import Image

from data import pictures
from data.frames import EXTENSIONS, find_videos, in_order, natural_key, scan, split_directory
from data.pictures import FrameError, decode, read_picture, to_planes
from utils import InputError

PICTURES = Path(__file__).parent / "pictures"
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
        ["X", "X_fog"],
        ["cam", "cam2", "cam10"],
        ["01", "01_2", "01_10", "02"],
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


@pytest.mark.parametrize(
    "names",
    [
        ["1700000000.04", "1700000000.12", "1700000000.5", "1700000001.04"],
        ["cam1_0.04", "cam1_0.4", "cam1_0.45", "cam1_12.1"],
        ["X", "X_2", "X_fog"],  # the extension is not part of the name
        ["1.9.jpg", "1.10.jpg", "2"],  # not all are decimals
    ],
)
def test_frames_are_in_the_order_of_time(tmp_path, names, capsys):
    names = [f"{name}.jpg" for name in names]
    folder_of(tmp_path / "01", *reversed(names))
    assert found(tmp_path) == {"01": names}
    assert capsys.readouterr().err == ""


def test_names_that_may_be_decimals_or_pairs_are_said(tmp_path, capsys):
    folder_of(tmp_path / "01", "1.9.jpg", "1.10.jpg", "1.11.jpg")
    assert found(tmp_path) == {"01": ["1.10.jpg", "1.11.jpg", "1.9.jpg"]}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: the frames of {tmp_path / '01'} are sorted as decimals, 1.10.jpg first")


def test_a_name_of_thousands_of_digits_has_an_order(tmp_path):
    names = ["7" * 5000, "8" * 5000, "1." + "2" * 5000]
    assert set(in_order(names)) == set(names)
    assert in_order([f"{name}.5.jpg" for name in names[:2]]) == [f"{name}.5.jpg" for name in names[:2]]


def test_a_link_among_the_videos_that_leads_nowhere_is_named(tmp_path):
    folder_of(tmp_path / "01", "1.jpg")
    (tmp_path / "02").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"02 is a link to something that does not exist"):
        find_videos(tmp_path)


def test_a_fifo_among_the_videos_is_no_video(tmp_path):
    folder_of(tmp_path / "01", "1.jpg")
    os.mkfifo(tmp_path / "02")
    assert found(tmp_path) == {"01": ["1.jpg"]}


def test_a_name_that_is_too_long_for_the_system_is_a_data_set_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no data set folder"):
        split_directory(tmp_path, "x" * 300, "testing")


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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("caf\udce9", "caf%E9"),  # Latin-1
        ("\udcbc\udce0\udcbf\udcd8", "%BC%E0%BF%D8"),  # GBK
        *((name, name) for name in ("with a space", "größe", "监控 01", "a;b&c'd", "[01]")),
    ],
)
def test_names_of_every_kind_are_found_and_decoded(tmp_path, make_videos, name, shown):
    (video,) = make_videos(tmp_path / "data ü" / "frames", {name: 2}, ext=".png")
    assert video.name == shown
    assert np.array_equal(decode(video.path(1), 24, 32, 3), textured(name, 1, (24, 32)).transpose(2, 0, 1))


# decoding


@pytest.mark.parametrize("ext", EXTENSIONS)
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("channels", [3, 1])
def test_decode_is_opencvs_picture_resized(tmp_path, ext, gray, channels):
    """Gray is made of the colours, by one rule for all kinds of files: decoders have rules of their own."""
    path = written(tmp_path / f"1{ext}", encoded(ext, gray))
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    picture = picture if channels == 3 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
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


def png(width, height, bits=8, chunks=(), colour=2):
    """A PNG whose pixels are a few zeros, with further chunks after its header."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    more = b"".join(chunk(*each) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def enlarged(ext):
    """A small picture whose header says that it has 60000 x 60000 pixels."""
    content = bytearray(encoded(ext))
    if ext == ".png":
        return png(60000, 60000)
    if ext == ".bmp":
        content[18:26] = struct.pack("<ii", 60000, -60000)
    elif ext == ".jpg":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", 60000, 60000)
    else:
        (directory,) = struct.unpack_from("<I", content, 4)
        for entry in range(directory + 2, directory + 2 + 12 * content[directory], 12):
            if content[entry : entry + 2] in (b"\x00\x01", b"\x01\x01"):  # width and height
                content[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, 60000)
    return bytes(content)


@pytest.mark.parametrize("ext", [".jpg", ".png", ".bmp", ".tif"])
def test_a_header_that_asks_for_an_absurd_size_is_refused_before_pixels_are_decoded(tmp_path, ext, monkeypatch):
    def too_late(*_, **__):
        raise AssertionError("pixels are decoded")

    monkeypatch.setattr(cv2, "imdecode", too_late)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", too_late)
    assert "60000 x 60000 pixels are more than" in not_decoded(written(tmp_path / f"1{ext}", enlarged(ext)))


def test_a_frame_of_8k_video_is_decoded(tmp_path):
    assert pictures.MOST_PIXELS >= 7680 * 4320


@pytest.mark.parametrize("name", ["hole.jpg", "half_with_end_mark.jpg"])
def test_damage_that_opencv_only_warns_about_is_an_error(name, capfd):
    decode(PICTURES / "whole.jpg", *SIZE, 3)
    message = not_decoded(PICTURES / name)
    assert "truncated" in message or "damaged" in message
    assert capfd.readouterr().err == ""  # nothing but the error says so


@pytest.mark.parametrize("flipped", range(40, 400, 30))
def test_a_png_with_a_flipped_bit_is_an_error_and_its_decoder_says_nothing(tmp_path, flipped, capfd):
    content = bytearray(encoded(".png"))
    content[flipped] ^= 1
    not_decoded(written(tmp_path / "1.png", content))
    assert capfd.readouterr().err == ""


def test_jpegs_have_the_pixels_that_opencv_gives_them(tmp_path):
    """Also of the kinds that OpenCV itself decodes: turned by Exif data, or CMYK."""
    picture = Image.fromarray(textured("a", 0, SIZE))
    turned = Image.Exif()
    turned[0x112] = 6
    for number, (image, settings) in enumerate(
        [
            (picture, {"subsampling": 0}),
            (picture, {"subsampling": 1}),
            (picture, {"subsampling": 2, "progressive": True}),
            (picture, {"exif": turned}),
            (picture.convert("L"), {}),
            (picture.convert("CMYK"), {}),
        ]
    ):
        path = tmp_path / f"{number}.jpg"
        image.save(path, **settings)
        assert np.array_equal(read_picture(path), cv2.imread(str(path), cv2.IMREAD_COLOR))
    assert read_picture(tmp_path / "3.jpg").shape == (*SIZE[::-1], 3)


def test_gray_is_the_same_with_and_without_a_gamma(tmp_path):
    content = encoded(".png")
    gamma = b"gAMA" + struct.pack(">I", 45455)
    chunk = struct.pack(">I", 4) + gamma + struct.pack(">I", zlib.crc32(gamma))
    plain = decode(written(tmp_path / "1.png", content), *SIZE, 1)
    assert np.array_equal(decode(written(tmp_path / "2.png", content[:33] + chunk + content[33:]), *SIZE, 1), plain)
    assert np.array_equal(to_planes(read_picture(tmp_path / "1.png"), *SIZE, 1), plain)


# pixels that are not 8 bits


@pytest.mark.parametrize("ext", [".png", ".tif"])
@pytest.mark.parametrize("bits", [12, 14])
def test_sixteen_bits_that_are_mostly_empty_are_refused(tmp_path, ext, bits):
    picture = textured("a", 0, SIZE).astype(np.uint16) << (bits - 8)
    path = written(tmp_path / f"1{ext}", cv2.imencode(ext, picture)[1].tobytes())
    message = not_decoded(path)
    assert f"highest value is {picture.max()} of 65535" in message
    assert "scale the whole data set to 8 bits" in message


@pytest.mark.parametrize("ext", [".png", ".tif"])
def test_of_sixteen_bits_the_upper_eight_are_taken(tmp_path, ext):
    picture = textured("a", 0, SIZE)
    deep = (picture.astype(np.uint16) << 8) + 255
    path = written(tmp_path / f"1{ext}", cv2.imencode(ext, deep)[1].tobytes())
    assert np.array_equal(read_picture(path), picture)


def test_pixels_that_are_no_brightness_are_named(capfd):
    assert "its pixels are float32" in not_decoded(PICTURES / "float32.tif")
    assert capfd.readouterr().err == ""


# files that are no files


def test_a_fifo_among_frames_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.jpg")
    assert "a pipe or a device" in not_decoded(tmp_path / "1.jpg")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_system_at_its_limits_is_no_broken_frame(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    path = written(tmp_path / "1.jpg", encoded(".jpg"))
    monkeypatch.setattr(pictures, "open", refuse, raising=False)
    with pytest.raises(InputError, match="cannot read frame") as caught:
        decode(path, *SIZE, 3)
    assert not isinstance(caught.value, FrameError)  # so --bad_frames skip does not leave out its video


def test_a_file_that_is_not_there_and_a_folder_are_errors(tmp_path):
    not_decoded(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").mkdir()
    not_decoded(tmp_path / "2.jpg")
