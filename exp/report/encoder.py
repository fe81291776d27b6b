"""A video that plays everywhere: H.264 in an .mp4, written frame by frame, each frame with its own time."""

import contextlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

from utils import InputError

TICKS = 18000  # per second: exact for the usual rates
LONGEST = 24 * 3600 * TICKS  # the longest time that a frame is shown; .mp4 has 31 bits for it
ENCODERS = {  # in order of preference, as some builds of FFmpeg lack the first; browsers do not play the last
    # g: a key frame every 100 frames, for fast seeking; no B-frames, since varying times would need an edit list
    "libx264": {"preset": "veryfast", "crf": "21", "g": "100", "bf": "0"},
    "libopenh264": {"b": "4M", "g": "100"},
    "mpeg4": {"b": "4M", "g": "100"},
}


class VideoFile:
    """An .mp4 that appears under its name when it is complete; until then, it is a hidden file beside it.

    A thread encodes, so that Ctrl-C and SIGTERM, which Python handles in the main thread, never fall between a frame
    and its packets. So whatever stops the program, `finish` makes a complete video of the frames added so far. height
    and width must be even. `add` and `finish` raise InputError when the video cannot be written, and leave no file.
    """

    def __init__(self, path: Path, height: int, width: int) -> None:
        self.path, self.temporary = path, path.with_name(f".{path.stem}.part.mp4")
        self.first = 0.0  # seconds of the first frame
        self.last = -1  # ticks of the last frame
        self.shown = TICKS // 25  # how long the last frame is shown: as long as the previous one, if any
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {path.parent}: {error.strerror}") from error
        encoder = _encoder(path)
        # absolute, so that FFmpeg does not read a name with a colon as an address
        address = str(self.temporary.absolute())
        self.container = av.open(address, "w", options={"movflags": "faststart"})
        self.stream = cast(av.VideoStream, self.container.add_stream(encoder, options=ENCODERS[encoder]))
        self.stream.height, self.stream.width, self.stream.pix_fmt = height, width, "yuv420p"
        self.stream.codec_context.time_base = Fraction(1, TICKS)
        self.stream.codec_context.flags |= av.codec.context.Flags.frame_duration
        self.thread = ThreadPoolExecutor(1)
        self.pending: Future | None = None

    def add(self, picture: np.ndarray, seconds: float) -> None:
        """Append a picture, uint8 (height, width, 3) BGR, which is shown until the time of the next one.

        The video starts at the time of the first picture. A time that is not after the last one is moved after it, and
        a gap of more than a day is shortened to a day.
        """
        self._wait()
        if self.last < 0:
            ticks, self.first = 0, seconds
        else:
            ticks = max(round((seconds - self.first) * TICKS), self.last + 1)
            left_out = max(ticks - self.last - LONGEST, 0)
            ticks, self.first = ticks - left_out, self.first + left_out / TICKS
            self.shown = ticks - self.last
        self.last = ticks
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        frame.pts, frame.duration, frame.time_base = ticks, self.shown, Fraction(1, TICKS)
        self.pending = self.thread.submit(self._encode, frame)

    def finish(self) -> None:
        """Complete the video of the frames added so far, under its name."""
        try:
            self._wait()
            self.pending = self.thread.submit(self._end)
            self._wait()
            os.replace(self.temporary, self.path)
        except OSError as error:
            raise self._refused(error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the video, unless it is finished."""
        self.thread.shutdown()
        with contextlib.suppress(OSError, av.FFmpegError):
            self.container.close()
        with contextlib.suppress(OSError):
            self.temporary.unlink()

    def _encode(self, frame: av.VideoFrame | None) -> None:
        self.container.mux(self.stream.encode(frame))

    def _end(self) -> None:
        self._encode(None)
        self.container.close()

    def _wait(self) -> None:
        """Wait until the thread has finished its work."""
        try:
            if self.pending:
                self.pending.result()
        except (OSError, av.FFmpegError) as error:
            self.discard()
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> InputError:
        return InputError(f"cannot write {self.path}: {getattr(error, 'strerror', None) or error}")


def _encoder(path: Path) -> str:
    """The first of ENCODERS that this build of PyAV has. Raises InputError when it has none."""
    for name in ENCODERS:
        with contextlib.suppress(av.codec.codec.UnknownCodecError):
            return av.Codec(name, "w").name
    raise InputError(
        f"cannot write {path}: PyAV has no encoder {' or '.join(ENCODERS)} here; pip install av brings one"
    )
