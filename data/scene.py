"""The scene of the synthetic data set: people, bicycles, carts and balls on a footpath, and how they are drawn.

World coordinates are in metres, points (n, 3): to the right of the camera's axis, up from the ground, away from the
camera. Things are built around their own origin, as (forward, left, up). Frames are 1.5 times as wide as high; they are
drawn at twice their size and averaged down. Colours are BGR.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

PATH = (9.0, 13.2)  # metres away: where people cross from side to side
BRANCH = 1.5  # half the width of the path that joins it from the far side
CAMERA, FOCAL, HORIZON = 8.0, 1.5, -0.45  # metres up; focal length and the horizon's y in heights of the picture
SUN = np.array([[1, 0, 0], [0.55, 0, 0.3], [0, 0, 1]])  # a point @ SUN is its shadow on the ground
DARK = (42, 42, 44)


Colour = tuple[float, float, float]  # blue, green, red
Point = tuple[float, float, float]
Look = dict[str, Any]  # sizes and colours


class Part(NamedTuple):
    """A tube along a line of points or, with radius 0, a face with these corners."""

    points: np.ndarray  # (n, 3)
    radius: float
    colour: Colour


class Gait(NamedTuple):
    """How a body moves. Angles are to the vertical, in radians, and positive forward."""

    stride: float  # metres in which each leg makes one step
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


def tube(radius: float, colour: Colour, *points: Point) -> Part:
    """A tube along points, or a ball at a single point."""
    points = points * 2 if len(points) == 1 else points  # a ball, because OpenCV does not draw a line of one point
    return Part(np.array(points, dtype=np.float64), radius, colour)


def shade(colour: Colour, light: float) -> Colour:
    """A colour multiplied by a factor."""
    return light * colour[0], light * colour[1], light * colour[2]


def limb(start: tuple[float, float], left: float, radius: float, *bones: tuple[float, float, Colour]) -> list[Part]:
    """A chain of tubes from `start` (forward, up); bones are (length, angle, colour)."""
    parts = []
    for length, angle, colour in bones:
        end = (start[0] + length * np.sin(angle), start[1] - length * np.cos(angle))
        parts.append(tube(radius, colour, (start[0], left, start[1]), (end[0], left, end[1])))
        start = end
    return parts


def figure(look: Look, travelled: float, seat: tuple[float, float] | None = None) -> list[Part]:
    """A person who stands with the lower foot on the ground, or who sits at `seat` (forward, up)."""
    gait, tall = look["gait"], look["tall"]
    phases = look["phase"] + 2 * np.pi * travelled / gait.stride + np.array([0, np.pi])
    thighs = gait.thigh + gait.swing * np.sin(phases)
    shins = thighs - gait.knee * (0.2 + np.cos(phases).clip(0))  # a knee bends most while its foot moves forward
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


def cyclist(look: Look, travelled: float) -> list[Part]:
    """A person on a bicycle."""
    turn = np.linspace(0, 2 * np.pi, 17)
    ring = np.stack((np.cos(turn), 0 * turn, np.sin(turn)), axis=1)
    rear, front, crank, saddle, bar = (-0.52, 0, 0.34), (0.55, 0, 0.34), (0, 0, 0.32), (-0.18, 0, 0.98), (0.42, 0, 0.95)
    wheels = [Part(hub + 0.34 * ring, 0.02, DARK) for hub in (rear, front)]
    frame = tube(0.03, look["paint"], saddle, rear, crank, saddle, bar, crank), tube(0.03, look["paint"], bar, front)
    return [*wheels, *frame, *figure(look, travelled, seat=(-0.18, 1.02))]


def box(colour: Colour, corner: Point, opposite: Point) -> list[Part]:
    """Four faces, the ends first, so that the end that faces away from the camera is painted over."""
    points = np.stack(np.meshgrid(*zip(corner, opposite, strict=True), indexing="ij"), axis=-1).reshape(8, 3)
    faces = (((0, 1, 3, 2), 0.7), ((4, 5, 7, 6), 0.9), ((1, 3, 7, 5), 1.05), ((0, 1, 5, 4), 0.8))  # back front top near
    return [Part(points[list(corners)], 0, shade(colour, light)) for corners, light in faces]


def cart(look: Look, travelled: float) -> list[Part]:
    """A person who drives a small cart."""
    wheels = [tube(0.27, DARK, (forward, -0.65, 0.27)) for forward in (-0.75, 0.8)]
    far_post, near_post = (tube(0.03, DARK, (1.15, left, 0.8), (0.95, left, 1.75)) for left in (0.6, -0.6))
    load = box(look["paint"], (-1.3, -0.65, 0.35), (0.0, 0.65, 1.7))
    front = box(shade(look["paint"], 0.9), (0.0, -0.65, 0.35), (1.25, 0.65, 0.8))
    roof = box((150, 156, 160), (0.0, -0.65, 1.75), (1.05, 0.65, 1.85))
    return [*load, far_post, *front, *figure(look, travelled, seat=(0.35, 0.85)), near_post, *roof, *wheels]


def ball(look: Look, travelled: float) -> list[Part]:
    """A big ball, thrown from outside the picture, that bounces every 5 m."""
    flight = (look["phase"] + travelled / 5) % 1
    up = 0.38 + 6 * flight * (1 - flight)
    return [tube(0.38, look["paint"], (0, 0, up)), tube(0.2, shade(look["paint"], 1.15), (0, 0, up + 0.12))]


Build = Callable[[Look, float], list[Part]]
BUILD: dict[str, Build] = {"walker": figure, "runner": figure, "cyclist": cyclist, "cart": cart, "ball": ball}


class Actor(NamedTuple):
    """Something that moves through the view in a straight line."""

    kind: str
    look: Look
    start: float  # the frame at which it starts, which may be negative
    frames: float  # how many frames it takes
    origin: np.ndarray  # (right, away)
    way: np.ndarray  # the vector from the origin to its end

    def present(self, frame: float) -> bool:
        return self.start <= frame <= self.start + self.frames

    def place(self, frame: float) -> np.ndarray:
        """Its position: (right, away)."""
        return self.origin + (frame - self.start) / self.frames * self.way

    def parts(self, frame: float) -> list[Part]:
        """Its Parts in world coordinates, in the order in which to draw them."""
        length = np.hypot(*self.way)
        (right, away), (cos, sin) = self.place(frame), self.way / length
        placed = []
        for points, radius, colour in BUILD[self.kind](self.look, (frame - self.start) / self.frames * length):
            forward, left, up = points.T
            left = left if cos > 0 else -left  # things are built moving right, so their left is their far side
            place = right + forward * cos - left * sin, up, away + forward * sin + left * cos
            placed.append(Part(np.stack(place, axis=1), radius, colour))
        return placed


# Pictures ------------------------------------------------------------------------------------------------------------


def paint(
    canvas: np.ndarray, parts: Sequence[Part], height: int, gray: int | None = None, offset: tuple[int, int] = (0, 0)
) -> None:
    """Draw Parts on a canvas for a picture of this height in pixels; `gray`, if given, replaces their colours."""
    for points, radius, colour in parts:
        colour = colour if gray is None else (gray, gray, gray)
        right, up, away = points.T
        scale = FOCAL * height / away  # pixels per metre
        corners = np.stack((0.75 * height + right * scale, HORIZON * height + (CAMERA - up) * scale), axis=1)
        corners = np.round((corners + offset) * 16).astype(np.int32)  # 4 binary digits of sub-pixels
        if radius:
            thickness = max(1, round(2 * radius * scale.mean()))
            cv2.polylines(canvas, [corners], False, colour, thickness, cv2.LINE_AA, shift=4)
        else:
            cv2.fillConvexPoly(canvas, corners, colour, cv2.LINE_AA, shift=4)


def with_shadows(canvas: np.ndarray, parts: Sequence[Part]) -> np.ndarray:
    """A copy of a canvas (h, w, 3) with soft shadows of the Parts on the ground."""
    mask = np.zeros(canvas.shape[:2], np.uint8)
    paint(mask, [part._replace(points=part.points @ SUN) for part in parts], len(mask), 255)
    soft = cv2.GaussianBlur(mask, (0, 0), len(mask) / 200)
    return (canvas * (1 - 0.35 / 255 * soft[..., None].astype(np.float32))).astype(np.uint8)


def scenery(height: int) -> np.ndarray:
    """The empty scene, uint8 (height, width, 3)."""
    rng = np.random.default_rng(0)
    column, row = np.meshgrid(np.arange(height * 3 // 2) / height - 0.75, np.arange(height) / height)
    away = CAMERA * FOCAL / (row - HORIZON)
    right = column * away / FOCAL

    def noise(grain: float) -> np.ndarray:
        """Smooth noise in [0, 1] on the ground, with patches of `grain` metres."""
        grid = np.pad(rng.random((64, 64), dtype=np.float32), (0, 1), mode="wrap")
        columns, rows = ((v / grain % 64).astype(np.float32) for v in (right, away))
        return cv2.remap(grid, columns, rows, cv2.INTER_LINEAR)

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
    for x, z, tall in ((-6.5, 19.0, 3.0), (5.0, 20.5, 3.4), (8.5, 17.5, 2.6)):  # trees
        props.append(tube(0.16, (44, 62, 82), (x, 0, z), (x, tall, z)))
        for leaf in rng.normal(size=(60, 3)) * (0.55, 0.4, 0.4):
            green = shade((46, 96, 74), 0.85 + 0.35 * leaf[1] + rng.uniform(0, 0.3))
            props.append(tube(rng.uniform(0.15, 0.4), green, (leaf[0] + x, leaf[1] + tall, leaf[2] + z)))
    canvas = with_shadows(ground.clip(0, 255), props)
    paint(canvas, props, height)
    return canvas


def in_view(actor: Actor, frame: float) -> float:
    """The share of an actor's outline that is in the picture."""
    height, width = 80, 120
    mask = np.zeros((3 * height, 3 * width), np.uint8)
    paint(mask, actor.parts(frame), height, 255, offset=(width, height))
    return float(mask[height:-height, width:-width].sum() / max(1, mask.sum()))
