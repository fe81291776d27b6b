"""The embedded data set: a small surveillance scene, drawn at first use and the same on every run.

One fixed camera over a footpath. While training, people walk at a normal pace; in the test videos a cart, a cyclist, a
runner or a thrown ball passes too. It takes a walker's place, so as much moves in normal frames as in abnormal ones.

    <dataset_path>/synthetic/{training,testing}/frames/<video>/<frame>.jpg
    <dataset_path>/synthetic/frame_labels.csv       video,first,last of the abnormal intervals

The world is in metres, points (n, 3): right of the camera's axis, up from the ground, away from the camera. Things are
built around their own place, as (forward, left, up). Pictures are half as wide again as high, and are drawn at twice
their size and averaged down. Colours are BGR.
"""

import contextlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from data.labels import write_intervals
from utils import InputError

FPS = 10
SPEED = {
    "walker": (1.0, 1.5),
    "runner": (3.6, 4.2),
    "cyclist": (4.5, 5.5),
    "cart": (2.8, 3.4),
    "ball": (5.0, 6.0),
}  # m/s
EVENTS = (("cart",), ("runner", "cyclist"), ("ball", "runner"), ("cyclist", "ball"))  # of the test videos, in turn
SLOTS = 4  # things under way at any time
VISIBLE = 0.25  # a frame is abnormal when at least this share of the outline of something abnormal is in the picture
PATH = (9.0, 13.2)  # metres away: where people cross from side to side
BRANCH = 1.5  # half the width of the path that joins it from behind
CAMERA, FOCAL, HORIZON = 8.0, 1.5, -0.45  # metres up; focal length and the horizon's y in heights of the picture
SUN = np.array([[1, 0, 0], [0.55, 0, 0.3], [0, 0, 1]])  # a point @ SUN is its shadow on the ground
ABANDONED = 3600  # seconds without a change after which a temporary folder is taken for that of a killed run

CLOTHES = ((98, 92, 136), (150, 124, 102), (110, 136, 106), (112, 142, 160), (176, 174, 170), (104, 98, 102))
TROUSERS = ((112, 98, 88), (90, 88, 90), (100, 110, 120), (126, 122, 118), (132, 142, 150))
SKIN, HAIR = ((150, 180, 222), (110, 144, 192), (66, 92, 134)), ((36, 42, 52), (50, 74, 104), (96, 138, 166))
VIVID = ((40, 50, 200), (40, 140, 225), (190, 110, 40), (60, 190, 220))  # sportswear, bicycles, carts, balls
DARK = (42, 42, 44)


class Size(NamedTuple):
    """How much is drawn: the height of pictures in pixels, and videos and frames a video (20 or more for testing)."""

    height: int = 160
    train_videos: int = 6
    train_frames: int = 80
    test_videos: int = 6
    test_frames: int = 100


DEFAULT = Size()


class Part(NamedTuple):
    """A tube along a line of points or, with radius 0, a face that has them as corners."""

    points: np.ndarray  # (n, 3)
    radius: float
    colour: tuple


class Gait(NamedTuple):
    """How a body moves; angles to the vertical in radians, forward is positive."""

    stride: float  # metres in which both legs step once
    thigh: float
    swing: float  # of the thighs
    knee: float
    lean: float
    arm: float
    arm_swing: float  # against the legs
    elbow: float


GAITS = {
    "walker": Gait(stride=1.4, thigh=0.03, swing=0.42, knee=0.55, lean=0.04, arm=0.0, arm_swing=0.4, elbow=0.25),
    "runner": Gait(stride=2.6, thigh=0.2, swing=0.8, knee=1.1, lean=0.2, arm=0.0, arm_swing=0.8, elbow=1.5),
    "cyclist": Gait(stride=4.5, thigh=0.9, swing=0.4, knee=0.9, lean=0.55, arm=1.1, arm_swing=0.0, elbow=0.2),
    "cart": Gait(stride=1.0, thigh=1.4, swing=0.0, knee=1.2, lean=0.0, arm=0.9, arm_swing=0.0, elbow=0.4),
}


# Things: functions of (look, metres travelled) -> [Part] in (forward, left, up), in the order to paint them -----------


def tube(radius, colour, *points):
    points = points * 2 if len(points) == 1 else points  # a ball: OpenCV draws no line of one point
    return Part(np.array(points, dtype=np.float64), radius, colour)


def shade(colour, light):
    return tuple(light * value for value in colour)


def limb(start, left, radius, *bones):
    """Tubes that hang one from the other, the first from `start` (forward, up); bones are (length, angle, colour)."""
    parts = []
    for length, angle, colour in bones:
        end = (start[0] + length * np.sin(angle), start[1] - length * np.cos(angle))
        parts.append(tube(radius, colour, (start[0], left, start[1]), (end[0], left, end[1])))
        start = end
    return parts


def figure(look, travelled, seat=None):
    """A person whose lower foot stands on the ground, or who sits at `seat` (forward, up)."""
    gait, tall = look["gait"], look["tall"]
    phases = look["phase"] + 2 * np.pi * travelled / gait.stride + np.array([0, np.pi])
    thighs = gait.thigh + gait.swing * np.sin(phases)
    shins = thighs - gait.knee * (0.2 + np.cos(phases).clip(0))  # a knee bends most while its foot comes forward
    bone = 0.24 * tall
    hip = seat or (0, 0.06 + bone * (np.cos(thighs) + np.cos(shins)).max())
    neck = hip[0] + 0.31 * tall * np.sin(gait.lean), hip[1] + 0.31 * tall * np.cos(gait.lean)
    legs, arms = [], []
    for left, thigh, shin, phase, light in zip((0.09, -0.09), thighs, shins, phases, (0.8, 1), strict=True):
        trousers, sleeve, skin = (shade(look[what], light) for what in ("trousers", "top", "skin"))
        legs += limb(hip, left, 0.08, (bone, thigh, trousers), (bone, shin, shade(trousers, 0.9)))
        arm, shoulder = gait.arm - gait.arm_swing * np.sin(phase), (neck[0], neck[1] - 0.06)
        bones = (0.17 * tall, arm, shade(sleeve, 0.85)), (0.16 * tall, arm + gait.elbow, skin)
        arms.append(limb(shoulder, 2.3 * left, 0.055, *bones))
    body = [
        tube(0.16, look["top"], (hip[0], 0, hip[1] + 0.1), (neck[0], 0, neck[1] - 0.12)),
        tube(0.12, look["hair"], (neck[0] + 0.02, 0, neck[1] + 0.19)),
        tube(0.09, look["skin"], (neck[0] + 0.06, 0, neck[1] + 0.15)),
    ]
    return arms[0] + legs + body + arms[1]


def cyclist(look, travelled):
    turn = np.linspace(0, 2 * np.pi, 17)
    ring = np.stack((np.cos(turn), 0 * turn, np.sin(turn)), axis=1)
    rear, front, crank, saddle, bar = (-0.52, 0, 0.34), (0.55, 0, 0.34), (0, 0, 0.32), (-0.18, 0, 0.98), (0.42, 0, 0.95)
    wheels = [Part(hub + 0.34 * ring, 0.02, DARK) for hub in (rear, front)]
    frame = tube(0.03, look["paint"], saddle, rear, crank, saddle, bar, crank), tube(0.03, look["paint"], bar, front)
    return [*wheels, *frame, *figure(look, travelled, seat=(-0.18, 1.02))]


def box(colour, corner, opposite):
    """Four faces, those at the ends first: the one that looks away from the camera is painted over."""
    points = np.stack(np.meshgrid(*zip(corner, opposite, strict=True), indexing="ij"), axis=-1).reshape(8, 3)
    faces = (((0, 1, 3, 2), 0.7), ((4, 5, 7, 6), 0.9), ((1, 3, 7, 5), 1.05), ((0, 1, 5, 4), 0.8))  # back front top near
    return [Part(points[list(corners)], 0, shade(colour, light)) for corners, light in faces]


def cart(look, travelled):
    wheels = [tube(0.27, DARK, (forward, -0.65, 0.27)) for forward in (-0.75, 0.8)]
    far_post, near_post = (tube(0.03, DARK, (1.15, left, 0.8), (0.95, left, 1.75)) for left in (0.6, -0.6))
    load = box(look["paint"], (-1.3, -0.65, 0.35), (0.0, 0.65, 1.7))
    front = box(shade(look["paint"], 0.9), (0.0, -0.65, 0.35), (1.25, 0.65, 0.8))
    roof = box((150, 156, 160), (0.0, -0.65, 1.75), (1.05, 0.65, 1.85))
    return [*load, far_post, *front, *figure(look, travelled, seat=(0.35, 0.85)), near_post, *roof, *wheels]


def ball(look, travelled):
    """A big ball that somebody out of the picture threw: 5 m from bounce to bounce."""
    flight = (look["phase"] + travelled / 5) % 1
    up = 0.38 + 6 * flight * (1 - flight)
    return [tube(0.38, look["paint"], (0, 0, up)), tube(0.2, shade(look["paint"], 1.15), (0, 0, up + 0.12))]


BUILD = {"walker": figure, "runner": figure, "cyclist": cyclist, "cart": cart, "ball": ball}


class Actor(NamedTuple):
    """Something on a straight way through the view."""

    kind: str
    look: dict  # sizes and colours
    start: float  # frame; may be before the first
    frames: float  # that the way takes
    origin: np.ndarray  # (right, away)
    way: np.ndarray  # from there to where it leaves

    def present(self, frame):
        return self.start <= frame <= self.start + self.frames

    def place(self, frame):
        return self.origin + (frame - self.start) / self.frames * self.way

    def parts(self, frame):
        """Its Parts in the world, in the order to paint them."""
        length = np.hypot(*self.way)
        (right, away), (cos, sin) = self.place(frame), self.way / length
        placed = []
        for points, radius, colour in BUILD[self.kind](self.look, (frame - self.start) / self.frames * length):
            forward, left, up = points.T
            left = left if cos > 0 else -left  # things are built to go right: what they call left is their far side
            place = right + forward * cos - left * sin, up, away + forward * sin + left * cos
            placed.append(Part(np.stack(place, axis=1), radius, colour))
        return placed


# Who passes when -----------------------------------------------------------------------------------------------------


def passing(kind, start, rng):
    """An Actor whose way begins, outside the picture, at frame `start`."""

    def pick(colours):
        return shade(colours[rng.integers(len(colours))], rng.uniform(0.85, 1.15))

    colours = {"trousers": TROUSERS, "skin": SKIN, "hair": HAIR, "paint": VIVID}
    # sportswear is vivid more often, but not always, and some walkers wear it: colours alone give nobody away
    colours["top"] = VIVID if rng.random() < (0.15 if kind == "walker" else 0.5) else CLOTHES
    look = {"gait": GAITS.get(kind), "tall": rng.uniform(1.6, 1.85), "phase": rng.uniform(0, 2 * np.pi)}
    look |= {what: pick(some) for what, some in colours.items()}
    if kind == "walker" and rng.random() < 0.25:
        ends = np.array([[rng.uniform(-BRANCH, BRANCH), away] for away in (28.0, 6.0)])
    else:
        first = rng.uniform(*PATH)
        away = np.array([first, np.clip(first + rng.uniform(-1.5, 1.5), *PATH)])
        edge = 0.75 / FOCAL * away + (1.6 if kind == "cart" else 0.9)  # of the picture, and half a length beyond
        ends = np.stack((edge * (-1, 1), away), axis=1)
    if rng.random() < 0.5:
        ends = ends[::-1]
    way = ends[1] - ends[0]
    return Actor(kind, look, start, np.hypot(*way) / rng.uniform(*SPEED[kind]) * FPS, ends[0], way)


def cast(frames, events, rng):
    """All Actors of a video: SLOTS at a time, one slot with the events (kinds) in a row between two walkers."""
    actors = []
    for _ in range(SLOTS - bool(events)):
        start = -rng.uniform(0, 60)
        while start < frames:
            actors.append(passing("walker", start, rng))
            start += actors[-1].frames + rng.uniform(0, 10)
    if events:
        start = max(8, rng.uniform(0.14, 0.22) * frames)  # `pred` has no score for the first frames
        before = passing("walker", start, rng)
        actors.append(before._replace(start=start - before.frames))
        for kind in (*events, "walker"):
            actors.append(passing(kind, start, rng))
            start += actors[-1].frames + rng.uniform(4, 10)
    return actors


# Pictures ------------------------------------------------------------------------------------------------------------


def paint(canvas, parts, height, colour=None, offset=0):
    """Draw Parts on a canvas, `height` pixels of which are the picture's height; `colour` stands in for theirs."""
    for points, radius, own in parts:
        right, up, away = points.T
        scale = FOCAL * height / away  # pixels a metre
        corners = np.stack((0.75 * height + right * scale, HORIZON * height + (CAMERA - up) * scale), axis=1)
        corners = np.round((corners + offset) * 16).astype(np.int32)  # 4 binary digits of sub-pixels
        if radius:
            thickness = max(1, round(2 * radius * scale.mean()))
            cv2.polylines(canvas, [corners], False, colour or own, thickness, cv2.LINE_AA, shift=4)
        else:
            cv2.fillConvexPoly(canvas, corners, colour or own, cv2.LINE_AA, shift=4)


def with_shadows(canvas, parts):
    """A copy of a canvas (h, w, 3) with the soft shadows of Parts on the ground."""
    mask = np.zeros(canvas.shape[:2], np.uint8)
    paint(mask, [part._replace(points=part.points @ SUN) for part in parts], len(mask), 255)
    mask = cv2.GaussianBlur(mask, None, len(mask) / 200)
    return (canvas * (1 - 0.35 / 255 * mask[..., None].astype(np.float32))).astype(np.uint8)


def scenery(height):
    """The scene without anybody, uint8 (height, width, 3)."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(height * 3 // 2) / height - 0.75, np.arange(height) / height)
    away = CAMERA * FOCAL / (y - HORIZON)
    right = x * away / FOCAL

    def noise(grain):
        """Smooth noise in [0, 1] on the ground, in blotches of `grain` metres."""
        grid = np.pad(rng.random((64, 64), dtype=np.float32), (0, 1), mode="wrap")
        return cv2.remap(grid, *((v / grain % 64).astype(np.float32) for v in (right, away)), cv2.INTER_LINEAR)

    rough, fine = noise(1.7), noise(0.12)
    joints = ((right + 0.6 * (away // 0.8 % 2)) % 1.2 < 0.05) | (away % 0.8 < 0.04)
    grass = np.multiply.outer(0.65 + 0.45 * rough + 0.3 * fine, (62, 112, 96))
    gravel = np.multiply.outer(0.82 + 0.15 * rough + 0.25 * fine, (118, 140, 156))
    paving = np.multiply.outer((0.92 + 0.1 * rough + 0.08 * fine) * np.where(joints, 0.8, 1), (146, 154, 160))
    kerb = np.multiply.outer(1 + 0.05 * fine, (150, 156, 160))
    ground = grass
    for area, look in (
        ((away > PATH[1]) & (abs(right) < BRANCH + 0.4 + 0.2 * rough), gravel),
        ((away > PATH[0] - 0.8) & (away < PATH[1] + 0.7), paving),
        (abs(away - PATH[0] + 0.8) < 0.12, kerb),
    ):
        ground = np.where(area[..., None], look, ground)
    props = [tube(0.06, (52, 84, 118), (-4.6, up, 16.3), (-2.8, up, 16.3)) for up in (0.95, 0.75, 0.5)]  # a bench
    for right, away, tall in ((-6.5, 19.0, 3.0), (5.0, 20.5, 3.4), (8.5, 17.5, 2.6)):  # trees
        props.append(tube(0.16, (44, 62, 82), (right, 0, away), (right, tall, away)))
        for leaf in rng.normal(size=(60, 3)) * (0.55, 0.4, 0.4):
            green = shade((46, 96, 74), 0.85 + 0.35 * leaf[1] + rng.uniform(0, 0.3))
            props.append(tube(rng.uniform(0.15, 0.4), green, np.add(leaf, (right, tall, away))))
    canvas = with_shadows(ground.clip(0, 255), props)
    paint(canvas, props, height)
    return canvas


def in_view(actor, frame):
    """The share of its outline that is in the picture."""
    height, width = 80, 120
    mask = np.zeros((3 * height, 3 * width), np.uint8)
    paint(mask, actor.parts(frame), height, 255, offset=(width, height))
    return mask[height:-height, width:-width].sum() / max(1, mask.sum())


def abnormal(actors, frame):
    """The label: whether something else than walkers can be seen."""
    return any(actor.kind != "walker" and in_view(actor, frame) >= VISIBLE for actor in actors if actor.present(frame))


def pictures(actors, frames, background, rng):
    """Yields the frames of a video, uint8 (h/2, w/2, 3) for a background (h, w, 3)."""
    height, width = len(background) // 2, background.shape[1] // 2
    light, clouds = rng.uniform(0, 2 * np.pi), rng.uniform(40, 80)  # clouds pass, one in so many frames
    for frame in range(frames):
        far_to_near = sorted((a for a in actors if a.present(frame)), key=lambda a: -a.place(frame)[1])
        parts = [part for actor in far_to_near for part in actor.parts(frame)]
        canvas = with_shadows(background, parts)
        paint(canvas, parts, 2 * height)
        picture = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        picture *= 1 + 0.05 * np.sin(light + 2 * np.pi * frame / clouds) + 0.004 * rng.standard_normal()
        picture += 2 * rng.standard_normal(picture.shape, dtype=np.float32)  # the sensor's noise
        yield picture.round().clip(0, 255).astype(np.uint8)


# Files ---------------------------------------------------------------------------------------------------------------


def ensure(dataset_path, size=DEFAULT):
    """Make the data set unless it is there. It appears whole or not at all, also when several processes are at it.

    Raises InputError when it cannot be written.
    """
    root = Path(dataset_path) / "synthetic"
    made = root / "frame_labels.csv"
    if made.is_file():
        return
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root.parent)
        with tempfile.TemporaryDirectory(prefix=".synthetic-", dir=root.parent, ignore_cleanup_errors=True) as folder:
            _write(Path(folder) / "synthetic", size)
            (Path(folder) / "synthetic").rename(root)  # fails where anything is in the way
    except OSError as error:
        if not made.is_file():  # otherwise another process was first
            what = f"cannot make the data set {root}: {error.strerror}"
            raise InputError(f"{what}; remove what is there or give another --dataset_path") from error


def _remove_abandoned(parent):
    for folder in parent.glob(".synthetic-*"):
        with contextlib.suppress(OSError):  # gone already: its process goes on
            if folder.stat().st_mtime < time.time() - ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)


def _write(root, size):
    background = scenery(2 * size.height)
    jobs = [("training", number, size.train_frames, ()) for number in range(size.train_videos)]
    jobs += [("testing", number, size.test_frames, EVENTS[number % len(EVENTS)]) for number in range(size.test_videos)]
    labels = {}
    with tqdm(total=sum(job[2] for job in jobs), desc="drawing the data set", unit="frame", leave=False) as bar:
        for split, number, frames, events in jobs:
            folder = root / split / "frames" / f"{number + 1:02d}"
            folder.mkdir(parents=True)
            rng = np.random.default_rng((split == "testing", number))  # no video depends on others
            actors = cast(frames, events, rng)
            for i, picture in enumerate(pictures(actors, frames, background, rng)):
                _, jpeg = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, 80))
                (folder / f"{i:03d}.jpg").write_bytes(jpeg)
                bar.update()
            if split == "testing":
                labels[folder.name] = [abnormal(actors, frame) for frame in range(frames)]
    write_intervals(root / "frame_labels.csv", labels)
