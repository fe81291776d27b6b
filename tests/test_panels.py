"""Figures of single frames: which are chosen, and that they show the frame they are named after."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn import differ, evaluation, frame_at, picture, replay_of
from matplotlib.colors import to_rgb

from exp.report import panels
from exp.report.style import ITEMS, MASK, Look, item_colours


def test_typical_frames_are_extremes_of_different_videos():
    found = evaluation([20] * 5)
    chosen = panels.typical_frames(found)
    assert len(chosen) == len({place for place, _ in chosen}) == 4
    scores = [found.abnormality[place][frame - 4] for place, frame in chosen]
    assert min(scores[:2]) == sorted(max(values) for values in found.abnormality)[-2]
    assert scores[2] < 0.1
    assert len(set(panels.typical_frames(evaluation([20])))) == 2  # the same video twice
    assert len(panels.typical_frames(evaluation([1], constant=True))) == 2


def test_panels_show_the_chosen_frames(tmp_path):
    found, calls = evaluation([20, 20]), []

    def replay(place):
        calls.append(place)
        return replay_of(found)(place)

    panels.panels(tmp_path, found, [(1, 22), (1, 6)], replay, frame_at, Look())
    assert calls == [1]
    names = ["02$_0006.png", "02$_0022.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    pictures = [picture(tmp_path / name, 1200, 626) for name in names]
    red = [image[60:280, 760:1050, 2].mean() for image in pictures]  # of the heat map: grows with the error
    assert red[0] < red[1]


def outline(image):
    """Where a figure has the colour of the outlines of masks: bool (h, w)."""
    return np.abs(image[..., ::-1] - 255 * np.array(to_rgb(MASK))).max(axis=2) < 12


def test_panels_outline_masks(tmp_path):
    found, paths = evaluation([20]), []
    masks = {"01$": paths}
    for frame in range(24):  # from frame 10 on: the right lower quarter, which touches two edges
        mask = np.zeros((60, 90), np.uint8)
        mask[30:, 45:] = 255 * (frame >= 10)
        paths.append(tmp_path / f"{frame}.png")
        assert cv2.imwrite(str(paths[-1]), mask)
    for name, look in (("masks", Look(masks=masks)), ("none", Look())):
        panels.panels(tmp_path / name, found, [(0, 9), (0, 12)], replay_of(found), frame_at, look)
    normal, abnormal = (picture(tmp_path / "masks" / f"01$_{frame:04}.png", 1200, 626) for frame in (9, 12))
    without = picture(tmp_path / "none" / "01$_0012.png", 1200, 626)
    assert not outline(normal).any() and not outline(without).any()
    assert outline(abnormal)[:, 380:720].sum() == 0  # the prediction is left as it is
    rows, columns = np.nonzero(outline(abnormal)[:320, :360])  # on the frame, whose picture is 346 x 231
    assert np.ptp(columns) == pytest.approx(346 / 2, abs=4) and np.ptp(rows) == pytest.approx(231 / 2, abs=4)
    assert columns.max() == pytest.approx(351, abs=4)  # closed at the edge of the picture
    assert outline(abnormal)[:320, 720:].any()  # on the error too


def test_panel_of_gray_frames(tmp_path):
    torch.manual_seed(0)
    target, queries = torch.rand(1, 32, 32), F.normalize(torch.randn(4, 4, 8), dim=-1)
    some, other = F.normalize(torch.randn(20, 8), dim=-1), F.normalize(torch.randn(2, 8), dim=-1)
    frames = [panels.Read(target, target, queries, some), panels.Read(target, 1 - target, queries, other)]
    differ(panels.panel, tmp_path / "panel.png", (1200, 860), *[(frame,) for frame in frames])


def test_each_item_has_a_colour_of_its_own():
    for count in (2, len(ITEMS), 40):
        assert len(np.unique(item_colours(count)(np.arange(count)), axis=0)) == count
