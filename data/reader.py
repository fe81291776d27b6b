"""Decodes a video file or a network address with PyAV, into upright pictures with their presentation times."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import av
import numpy as np
from av.stream import Disposition

from data.frames import printable
from data.pictures import too_few_levels
from utils import InputError

ANY_FPS = 25.0  # used if the source gives no rate
MOST_FPS = 1000.0  # the highest rate that is believed, since headers may hold anything
OPEN_SECONDS, READ_SECONDS = 10.0, 5.0  # how long a network source may take to open, and to send the next packet
WHOLE = 0.9  # a video that ends before this share of its duration is cut short
UNTIMED = ("mpjpeg", "mjpeg", "h264", "hevc")  # formats whose times FFmpeg invents from a rate


class Decoded(NamedTuple):
    """One picture of a video."""

    seconds: float | None  # presentation time on the source's own clock; None if the source gives none
    picture: np.ndarray  # uint8 (h, w, 3) BGR, upright
    corrupt: bool  # marked so by the decoder, or data was lost and no key frame has come since


class Reader:
    """Iterates once over the pictures of a video file or a network address, each as Decoded.

    source: a path, or an address if `network` is set. Raises InputError when it cannot be opened. Damage found while
    reading raises no error: `problem()` describes it afterwards.
    """

    def __init__(self, source: str, network: bool = False):
        self.shown = printable(source)
        # UDP loses packets, so it is used only with servers that refuse TCP
        options = {"rtsp_flags": "prefer_tcp"} if network and source.lower().startswith("rtsp") else {}
        # without "file:", FFmpeg would read a name with a colon as a protocol
        name, timeout = (source, (OPEN_SECONDS, READ_SECONDS)) if network else (f"file:{source}", None)
        try:
            # titles and the like may have any encoding
            self.container = av.open(name, options=options, timeout=timeout, metadata_errors="replace")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{explain(error)}") from error
        # the cover of a sound recording is a video stream too
        videos = [video for video in self.container.streams.video if not video.disposition & Disposition.attached_pic]
        if not videos or videos[0].codec_context is None:
            self.container.close()
            raise InputError(
                "the format of its video is unknown; convert it, to H.264 for example"
                if videos
                else "it contains no video"
            )
        self.stream = videos[0]
        if not network:  # frame threads are fast, but delay frames
            self.stream.thread_type = "AUTO"
        rates = [float(rate) for rate in (self.stream.guessed_rate, self.stream.average_rate) if rate]
        self.fps = next((rate for rate in rates if 0 < rate <= MOST_FPS), ANY_FPS)
        self.size = self.stream.width, self.stream.height  # as stored
        self.duration = self._duration()
        self.format = self.container.format.name
        # a source without a length in seconds or bytes is live; the length of an HLS address is that of its playlist
        self.live = network and self.duration is None and (self.container.size <= 0 or "hls" in self.format)
        self.packets = self.lost = self.count = 0  # packets read, packets that could not be decoded, pictures given
        self.first: float | None = None  # seconds on the source's clock: the time of the first picture
        self.end: float | None = None  # and the time at which the last packet ends
        self.error: str | None = None
        # the latest times of frames in ticks, and how often each kind has stepped back
        self.last_pts: int | None = None
        self.last_dts: int | None = None
        self.pts_back = self.dts_back = 0
        self.placed: int | None = None  # the latest time given from a pts, until a dts has passed it

    def _duration(self) -> float | None:
        """The duration of the video stream in seconds (the sound may be longer); None if it is not stated."""
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        if written := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d*)?)", self.stream.metadata.get("DURATION", "")):
            return 3600 * int(written[1]) + 60 * int(written[2]) + float(written[3])
        whole = self.container.duration
        return whole / av.time_base if whole and len(self.container.streams) == 1 else None

    def __iter__(self) -> Iterator[Decoded]:
        damaged = False
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                self.error = explain(error)
                return
            if packet is None:
                return
            if packet.size:
                self.packets += 1
                start = packet.pts if packet.pts is not None else packet.dts
                if start is not None and packet.time_base:
                    end = float((start + (packet.duration or 0)) * packet.time_base)
                    self.end = end if self.end is None else max(self.end, end)
            try:
                frames = packet.decode()
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                self.lost += 1
                damaged = True
                continue
            for frame in frames:
                # the first frame stands for all, as its range is the camera's; a later one may just be dark
                if self.count == 0 and frame.format.name.startswith("gray16"):
                    self.error = too_few_levels(frame.to_ndarray(format="gray16le")) or None
                    if self.error:
                        return
                # pictures after lost data are smeared until the next key frame
                damaged = frame.is_corrupt or (damaged and not frame.key_frame)
                seconds = self._seconds(frame)
                self.first = seconds if self.first is None else self.first
                self.count += 1
                yield Decoded(seconds, _upright(frame), damaged)

    def _seconds(self, frame: av.VideoFrame) -> float | None:
        """When to show a frame, on the source's clock; None where that is not known."""
        ticks = self._ticks(frame)
        if ticks is None or not frame.time_base or self.format in UNTIMED:
            return None
        return float(ticks * frame.time_base)

    def _ticks(self, frame: av.VideoFrame) -> int | None:
        """When to show a frame, in its own unit of time; None if that is not known."""
        # AVI stores no presentation times, and FFmpeg guesses them wrong where frames are shown in another order than
        # they are stored. The packet that makes the decoder give a frame has its time, but for a constant delay; the
        # last frames come without one.
        if self.format == "avi":
            return frame.dts
        # A file that was made from such an AVI without encoding it again has the wrong times as its own. They step
        # back, so the kind of time that has stepped back less often is used, as FFmpeg does.
        if frame.pts is not None:
            self.pts_back += self.last_pts is not None and frame.pts < self.last_pts
            self.last_pts = frame.pts
        if frame.dts is not None:
            self.dts_back += self.last_dts is not None and frame.dts < self.last_dts
            self.last_dts = frame.dts
        if self.last_dts is None or self.pts_back <= self.dts_back:
            self.placed = frame.pts
            return frame.pts
        if frame.dts is not None and self.placed is not None and frame.dts < self.placed:
            return self.placed
        self.placed = None
        return frame.dts

    def problem(self) -> str | None:
        """What was wrong with a source that was read to its end, such as "is cut short ...", or None."""
        if self.count == 0:
            return "gives no frame" + (f" ({self.error})" if self.error else "")
        if self.error:
            return f"is cut short after {self.count} frames: {self.error}"
        if self.lost > (1 - WHOLE) * self.packets:
            return f"is damaged: {self.lost} of its {self.packets} packets cannot be decoded"
        if self.duration is not None and self.end is not None:
            length = max(self.end, self.end - (self.first or 0.0))
            if length < WHOLE * self.duration:
                return f"is cut short: it ends after {length:.2f} of {self.duration:.2f} s, {self.count} frames"
        return None

    def close(self) -> None:
        self.container.close()


def explain(error: Exception) -> str:
    """An error of PyAV in a few words, without the address, which may contain a password."""
    if isinstance(error, av.error.InvalidDataError):
        return "no video, or broken"
    if isinstance(error, av.error.ExitError):
        return "no answer in time"
    return (getattr(error, "strerror", None) or type(error).__name__).rstrip(".").lower()


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """The picture as uint8 (h, w, 3) BGR, rotated and mirrored as the display matrix of the file says."""
    picture: np.ndarray = frame.to_ndarray(format="bgr24")
    try:
        side_data: Any = frame.side_data  # the type stubs know only motion vectors
    except ValueError:  # some of it, such as Exif, is of a kind that PyAV does not know
        return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            # a point (x, y) is shown at (a x + c y, b x + d y)
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            if abs(b) > abs(a):
                picture, a, d = picture.transpose(1, 0, 2), c, b
            picture = np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
    return picture
