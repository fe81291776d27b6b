"""Pictures: decodes one file into one frame, or raises an error that says why it cannot.

The decoders are OpenCV and, for JPEG, simplejpeg. Both use libjpeg-turbo and give the same pixels, but OpenCV fills in
the damaged part of a JPEG and only prints a warning, while simplejpeg reports the damage. Headers are read before
pixels, so that a small file cannot make the decoder allocate gigabytes.
"""

import errno
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from utils import InputError, reason

MOST_PIXELS = 2**25  # of a frame; 8K video has 33.2 million
PNG, JPEG, BMP, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"BM", (b"II*\0", b"MM\0*")
PNG_END = b"IEND\xae\x42\x60\x82"
PIXEL_TYPES = {1: "uint", 2: "int", 3: "float"}  # TIFF's SampleFormat
TOO_FEW_BITS = 2**14  # 16-bit pictures with all values below this would keep at most 64 of 256 levels
SYSTEM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # the system is at its limits; nothing is wrong with the file

# FrameError says what is wrong with a picture; OpenCV would print its own lines as well
getattr(cv2.utils, "logging", cv2).setLogLevel(0)  # OpenCV 5, OpenCV 4


class FrameError(InputError):
    """A frame that cannot be decoded; the message names the file."""


class Header(NamedTuple):
    """The facts in the header of a picture."""

    width: int
    height: int
    pixel: str = "uint8"  # the type of a pixel value
    pages: int = 1  # 2 means more than one


def read_picture(path: Path) -> np.ndarray:
    """One frame at its size on disk, uint8 (h, w, 3) BGR. Of 16-bit values, the upper 8 bits are used.

    Raises FrameError when the file is missing, damaged or not a picture, or when its pixels are not 8-bit or 16-bit
    unsigned integers; InputError when the system is at its limits.
    """
    return _decode(_read(path), path)


def read_checked(path: Path) -> tuple[np.ndarray, Header]:
    """The same frame, and its header. Raises FrameError and InputError as read_picture does."""
    content = _read(path)
    picture = _decode(content, path)
    return picture, read_header(content)


def read_verified(path: Path) -> bytes:
    """The bytes of a picture file, after checking that it decodes. Raises as read_picture does."""
    content = _read(path)
    _decode(content, path)
    return content


def read_mask(path: Path) -> np.ndarray:
    """Read a mask, a PNG of any bit depth: bool (h, w), True where a pixel is above 0. Raises as read_picture does."""
    content = _read(path, "mask")
    try:
        header = read_header(content)
        if not content.startswith(PNG):
            raise _Refused("a mask is a PNG picture; save it as one")
        _check(header)
        return np.asarray(_decode_other(content, header).any(axis=2))
    except _Refused as error:
        raise FrameError(f"cannot read mask {path}: {error}") from error


def decode(path: Path, height: int, width: int, channels: int) -> np.ndarray:
    """Read one frame as uint8 (channels, height, width): colour BGR or gray, resized bilinearly as 8-bit.

    Raises FrameError and InputError as read_picture does.
    """
    return to_planes(read_picture(path), height, width, channels)


def to_planes(picture: np.ndarray, height: int, width: int, channels: int) -> np.ndarray:
    """Convert a picture, uint8 (h, w, 3) BGR, for the network: uint8 (channels, height, width), BGR or gray.

    Gray is 0.299 R + 0.587 G + 0.114 B of the decoded 8-bit colours, for pictures and videos alike. The decoders do not
    convert to gray, because each would do it differently; in libpng, it depends on a gAMA chunk. Resizing is bilinear.
    """
    if channels == 1:
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    try:
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    except cv2.error as error:
        raise InputError(
            f"not enough memory for frames of {height} x {width} pixels: give smaller --h and --w"
        ) from error
    return np.ascontiguousarray(np.atleast_3d(picture).transpose(2, 0, 1))


# One file -------------------------------------------------------------------------------------------------------------


def _read(path: Path, what: str = "frame") -> bytes:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # reading a fifo would wait forever
            found = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise FrameError(f"cannot read {what} {path}: it is {found}, not a file; remove it")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        kind = InputError if error.errno in SYSTEM else FrameError
        raise kind(f"cannot read {what} {path}: {reason(error)}") from error


def _decode(content: bytes, path: Path) -> np.ndarray:
    try:
        header = read_header(content)
        _check(header)
        picture = _decode_jpeg(content) if content.startswith(JPEG) else _decode_other(content, header)
        return _to_eight_bits(picture)
    except _Refused as error:
        skip = "or have Train.py and Evaluate.py leave its video out (--bad_frames skip)"
        raise FrameError(f"cannot decode frame {path}: {error}, {skip}") from error


class _Refused(Exception):
    """Says why a picture is not decoded, and what to do."""


DAMAGED = "damaged; extract it again"
TRUNCATED = "truncated; extract it again"


def _check(header: Header) -> None:
    if header.width * header.height > MOST_PIXELS:
        raise _Refused(
            f"{header.width} x {header.height} pixels are more than the {MOST_PIXELS // 10**6} million that a frame "
            "may have; reduce its size"
        )
    if header.pixel not in ("uint8", "uint16"):
        raise _Refused(f"its pixels are {header.pixel}; save the data set with 8-bit pixels")


def _decode_jpeg(content: bytes) -> np.ndarray:
    try:
        picture = simplejpeg.decode_jpeg(content, "BGR", strict=True)
    except ValueError as error:  # also for damage about which libjpeg only warns
        raise _Refused(TRUNCATED if "remature end" in str(error) else DAMAGED) from error
    # OpenCV rotates pictures as their Exif data says, and has its own conversion from CMYK
    if b"Exif\0" in content[:65536] or simplejpeg.decode_jpeg_header(content)[2] in ("CMYK", "YCCK"):
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return picture


def _decode_other(content: bytes, header: Header) -> np.ndarray:
    if content.startswith(PNG):
        _check_png(content)
    deep = cv2.IMREAD_ANYDEPTH if header.pixel == "uint16" else 0
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | deep)
    except cv2.error:
        picture = None
    if picture is None:
        raise _Refused(DAMAGED)
    return picture


def _to_eight_bits(picture: np.ndarray) -> np.ndarray:
    """uint8 unchanged; the upper 8 bits of uint16, if these contain a picture."""
    if picture.dtype == np.uint8:
        return picture
    if problem := too_few_levels(picture):
        raise _Refused(problem)
    return (picture >> 8).astype(np.uint8)


def too_few_levels(picture: np.ndarray) -> str:
    """Why the upper 8 bits of a uint16 picture are no picture, and what to do; "" if they are one."""
    highest = int(picture.max())
    if highest >= TOO_FEW_BITS:
        return ""
    # the right scale is the same for a complete data set, and one frame cannot tell it
    return (
        f"a 16-bit picture whose highest value is {highest} of 65535, so 8 bits would keep only "
        f"{highest // 256 + 1} levels of gray; scale the whole data set to 8 bits by one factor, such as 255/4095 "
        "for a 12-bit camera"
    )


# Headers: a few fields at known offsets, read here because libraries decode, warn or allocate memory while reading ----


def read_header(content: bytes) -> Header:
    """The Header of a JPEG, PNG, BMP or TIFF. Raises _Refused when there is none."""
    try:
        if content.startswith(JPEG):
            return _jpeg_header(content)
        if content.startswith(PNG):
            width, height, bits = struct.unpack_from(">IIB", content, 16)
            return Header(width, height, "uint16" if bits == 16 else "uint8")
        if content.startswith(BMP):
            (size,) = struct.unpack_from("<I", content, 14)
            width, height = struct.unpack_from("<HH" if size == 12 else "<ii", content, 18)
            return Header(abs(width), abs(height))  # a negative height means that rows start at the top
        if content.startswith(TIFF):
            return _tiff_header(content)
    except struct.error:
        raise _Refused(TRUNCATED) from None
    raise _Refused("not a JPEG, PNG, BMP or TIFF picture; extract it again")


def _jpeg_header(content: bytes) -> Header:
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        whole = content.rstrip(b"\0").endswith(b"\xff\xd9")
        raise _Refused("an unsupported kind of JPEG; save it again" if whole else TRUNCATED) from None
    return Header(width, height)


def _tiff_header(content: bytes) -> Header:
    order = "<" if content.startswith(b"II") else ">"
    (place,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, place)
    fields = {}  # the first value of each field
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", content, entry)
        form = {3: "H", 4: "I"}.get(kind)  # 16 and 32 bits; other kinds are not needed
        if form and number:
            inline = struct.calcsize(form) * number <= 4
            at = entry + 8 if inline else struct.unpack_from(order + "I", content, entry + 8)[0]
            (fields[tag],) = struct.unpack_from(order + form, content, at)
    (following,) = struct.unpack_from(order + "I", content, place + 2 + 12 * count)
    kind, bits = PIXEL_TYPES.get(fields.get(339, 1), "uint"), fields.get(258, 1)
    pixel = f"{kind}{max(bits, 8)}"
    return Header(fields.get(256, 0), fields.get(257, 0), pixel, 2 if following else 1)


def _check_png(content: bytes) -> None:
    """Raise _Refused when a PNG has no end or a wrong checksum, about which libpng would print lines."""
    if PNG_END not in content:
        raise _Refused(TRUNCATED)
    try:
        whole = all(zlib.crc32(body, zlib.crc32(kind)) == checksum for kind, body, checksum in _chunks(content))
    except struct.error:
        whole = False
    if not whole:
        raise _Refused(DAMAGED)


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    place, view = len(PNG), memoryview(content)
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        (checksum,) = struct.unpack_from(">I", content, place + 8 + length)
        yield kind, view[place + 8 : place + 8 + length], checksum
        if kind == b"IEND":
            return
        place += 12 + length
