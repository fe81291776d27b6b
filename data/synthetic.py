"""The synthetic data set: a small surveillance scene that is drawn at first use and is the same each time.

One fixed camera looks at a footpath. In the training videos, people walk at a normal pace. In the test videos, a cart,
a cyclist, a runner or a thrown ball also passes. It replaces a walker, so that normal and abnormal frames contain the
same amount of motion.

    <dataset_path>/synthetic/{training,testing}/frames/<video>/<frame>.jpg
    <dataset_path>/synthetic/frame_labels.csv       video,first,last of the abnormal intervals
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.intervals import write_intervals
from data.scene import BRANCH, FOCAL, GAITS, PATH, Actor, Colour, Look, in_view, paint, scenery, shade, with_shadows
from utils import InputError, progress, reason

FPS = 10
SPEED = {  # m/s
    "walker": (1.0, 1.5),
    "runner": (3.6, 4.2),
    "cyclist": (4.5, 5.5),
    "cart": (2.8, 3.4),
    "ball": (5.0, 6.0),
}
# abnormal events of the test videos, in turn
EVENTS = (
    ("cart",),
    ("runner", "cyclist"),
    ("ball", "runner"),
    ("cyclist", "ball"),
)
SLOTS = 4  # the number of things that move at any time
VISIBLE = 0.25  # a frame is abnormal if at least this share of an abnormal thing's outline is in the picture
ABANDONED = 3600  # seconds without a change after which a temporary folder counts as left by a killed run

CLOTHES = ((98, 92, 136), (150, 124, 102), (110, 136, 106), (112, 142, 160), (176, 174, 170), (104, 98, 102))
TROUSERS = ((112, 98, 88), (90, 88, 90), (100, 110, 120), (126, 122, 118), (132, 142, 150))
SKIN, HAIR = ((150, 180, 222), (110, 144, 192), (66, 92, 134)), ((36, 42, 52), (50, 74, 104), (96, 138, 166))
VIVID = ((40, 50, 200), (40, 140, 225), (190, 110, 40), (60, 190, 220))  # sportswear, bicycles, carts, balls


class Size(NamedTuple):
    """The size of the data set: height of frames in pixels, videos, and frames per video (at least 20 for testing)."""

    height: int = 160
    train_videos: int = 6
    train_frames: int = 80
    test_videos: int = 6
    test_frames: int = 100


DEFAULT = Size()


# Who passes when -----------------------------------------------------------------------------------------------------


def passing(kind: str, start: float, rng: np.random.Generator) -> Actor:
    """An Actor who starts outside the picture at frame `start`."""

    def pick(colours: Sequence[Colour]) -> Colour:
        return shade(colours[int(rng.integers(len(colours)))], rng.uniform(0.85, 1.15))

    colours = {"trousers": TROUSERS, "skin": SKIN, "hair": HAIR, "paint": VIVID}
    # sportswear is often but not always vivid, and some walkers wear it: colours alone do not give anyone away
    colours["top"] = VIVID if rng.random() < (0.15 if kind == "walker" else 0.5) else CLOTHES
    look: Look = {"gait": GAITS.get(kind), "tall": rng.uniform(1.6, 1.85), "phase": rng.uniform(0, 2 * np.pi)}
    look |= {what: pick(some) for what, some in colours.items()}
    if kind == "walker" and rng.random() < 0.25:
        ends = np.array([[rng.uniform(-BRANCH, BRANCH), away] for away in (28.0, 6.0)])
    else:
        first = rng.uniform(*PATH)
        away = np.array([first, np.clip(first + rng.uniform(-1.5, 1.5), *PATH)])
        edge = 0.75 / FOCAL * away + (1.6 if kind == "cart" else 0.9)  # the edge of the picture, plus half a length
        ends = np.stack((edge * (-1, 1), away), axis=1)
    if rng.random() < 0.5:
        ends = ends[::-1]
    way = ends[1] - ends[0]
    return Actor(kind, look, start, np.hypot(*way) / rng.uniform(*SPEED[kind]) * FPS, ends[0], way)


def cast(frames: int, events: Sequence[str], rng: np.random.Generator) -> list[Actor]:
    """All Actors of a video: SLOTS at a time. In one slot, the events (kinds) follow each other between two walkers."""
    actors = []
    for _ in range(SLOTS - bool(events)):
        start = -rng.uniform(0, 60)
        while start < frames:
            actors.append(passing("walker", start, rng))
            start += actors[-1].frames + rng.uniform(0, 10)
    if events:
        start = max(8, rng.uniform(0.14, 0.22) * frames)  # the first frames have no score with pred
        before = passing("walker", start, rng)
        actors.append(before._replace(start=start - before.frames))
        for kind in (*events, "walker"):
            actors.append(passing(kind, start, rng))
            start += actors[-1].frames + rng.uniform(4, 10)
    return actors


# Pictures ------------------------------------------------------------------------------------------------------------


def abnormal(actors: Sequence[Actor], frame: float) -> bool:
    """The label of a frame: whether anything other than walkers is visible."""
    return any(actor.kind != "walker" and in_view(actor, frame) >= VISIBLE for actor in actors if actor.present(frame))


def draw_frames(
    actors: Sequence[Actor], frames: int, background: np.ndarray, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield the frames of a video, uint8 (h/2, w/2, 3) for a background (h, w, 3)."""
    height, width = len(background) // 2, background.shape[1] // 2
    light, clouds = rng.uniform(0, 2 * np.pi), rng.uniform(40, 80)  # a cloud passes once in so many frames
    for frame in range(frames):
        far_to_near = sorted((a for a in actors if a.present(frame)), key=lambda a: -a.place(frame)[1])
        parts = [part for actor in far_to_near for part in actor.parts(frame)]
        canvas = with_shadows(background, parts)
        paint(canvas, parts, 2 * height)
        picture = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        picture *= 1 + 0.05 * np.sin(light + 2 * np.pi * frame / clouds) + 0.004 * rng.standard_normal()
        picture += 2 * rng.standard_normal(picture.shape, dtype=np.float32)  # sensor noise
        yield picture.round().clip(0, 255).astype(np.uint8)


# Files ---------------------------------------------------------------------------------------------------------------


def is_there(dataset_path: Path | str) -> bool:
    """Whether the data set exists."""
    return os.path.isfile(Path(dataset_path) / "synthetic" / "frame_labels.csv")  # the last file that is written


def ensure(dataset_path: Path | str, size: Size = DEFAULT) -> None:
    """Make the data set unless it exists. It appears complete or not at all, even if several processes make it.

    Raises InputError when it cannot be written.
    """
    root = Path(dataset_path) / "synthetic"
    if is_there(dataset_path):
        return
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root.parent)
        with tempfile.TemporaryDirectory(prefix=".synthetic-", dir=root.parent, ignore_cleanup_errors=True) as folder:
            _write(Path(folder) / "synthetic", size)
            (Path(folder) / "synthetic").rename(root)  # fails if anything is there
    except OSError as error:
        if not is_there(dataset_path):  # otherwise another process has made it
            what = f"cannot make the data set {root}: {reason(error)}"
            raise InputError(f"{what}; remove that folder, or give another --dataset_path") from error


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(".synthetic-*"):
        with contextlib.suppress(OSError):  # removed already, by the process that uses it
            if folder.stat().st_mtime < time.time() - ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)


def _write(root: Path, size: Size) -> None:
    background = scenery(2 * size.height)
    jobs: list[tuple[str, int, int, tuple[str, ...]]]
    jobs = [("training", number, size.train_frames, ()) for number in range(size.train_videos)]
    jobs += [("testing", number, size.test_frames, EVENTS[number % len(EVENTS)]) for number in range(size.test_videos)]
    labels: dict[str, np.ndarray | None] = {}
    with progress("drawing the data set", "frame", total=sum(job[2] for job in jobs)) as bar:
        for split, number, frames, events in jobs:
            folder = root / split / "frames" / f"{number + 1:02d}"
            folder.mkdir(parents=True)
            rng = np.random.default_rng((split == "testing", number))  # no video depends on another
            actors = cast(frames, events, rng)
            for i, picture in enumerate(draw_frames(actors, frames, background, rng)):
                _, jpeg = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, 80))
                (folder / f"{i:03d}.jpg").write_bytes(jpeg.data)
                bar.update()
            if split == "testing":
                labels[folder.name] = np.array([abnormal(actors, frame) for frame in range(frames)], np.uint8)
    write_intervals(root / "frame_labels.csv", labels)
