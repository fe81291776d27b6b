"""Localisation: the pixel-level AUC of the maps behind the scores, against masks of abnormal pixels.

Three maps of each scored frame are resized bilinearly to its mask (data/masks.py): the squared error, averaged over
channels; the feature distance of each query; and the squared error of copying the previous frame. The ROC curve covers
all pixels of all scored frames together. Pixels are counted in fine bins of a histogram while frames are scored, so
that memory does not grow with the data set.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.masks import Masks
from data.pictures import read_mask
from exp.scoring.score import Scored
from model.memory import distance_map
from utils import InputError

MAPS = ("squared error", "feature distance", "squared error of copying")
BITS = 12  # bits of a value's fraction: values that differ by less than 1 in 4096 count as equal
LOWEST, EXPONENTS = -60, 64  # a value is at least 2^-60, or counts as 0, and at most 2^4
BINS = EXPONENTS << BITS
AT_ONCE = 2**21  # pixels collected before they are counted


class Histogram:
    """The numbers of normal and abnormal pixels per bin of values, from which the AUC follows to within 1e-4.

    A bin is given by the leading bits of a float32: each power of two is divided into 4096 bins.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((2, BINS), dtype=np.int64)  # of normal and of abnormal pixels
        self.waiting: list[Tensor] = []  # places in the flattened counts

    def add(self, values: Tensor, abnormal: Tensor) -> None:
        """Count pixels: values, float32 (...) of 0 or more, and abnormal, bool (...)."""
        place = (values.contiguous().view(torch.int32) >> (23 - BITS)) - ((127 + LOWEST) << BITS)
        self.waiting.append((place.clamp(0, BINS - 1) + BINS * abnormal).flatten())
        if sum(map(len, self.waiting)) >= AT_ONCE:
            self._count()

    def _count(self) -> None:
        if self.waiting:
            found = torch.bincount(torch.cat(self.waiting), minlength=2 * BINS)
            self.counts += found.view(2, BINS).cpu().numpy()
            self.waiting.clear()

    def auc(self) -> float | None:
        """The area under the ROC curve, in [0, 1] with label 1 = abnormal; None where all pixels are of one class."""
        self._count()
        normal, abnormal = self.counts.astype(np.float64)
        pairs = normal.sum() * abnormal.sum()
        if not pairs:
            return None
        below = np.cumsum(normal) - normal
        return float((abnormal * (below + normal / 2)).sum() / pairs)


class PixelMetrics(NamedTuple):
    """Pixel-level AUC in [0, 1]; None where the network has no such map, or all pixels are of one class."""

    error: float | None  # of the squared error
    distance: float | None  # of the feature distance; None without a memory
    error_of_copy: float | None  # of copying the previous frame; None for recon
    abnormal: float  # the share of the pixels that are abnormal
    frames: int  # whose pixels were counted
    videos: int


class PixelCounter:
    """Counts the pixels of scored frames, in the videos that have masks.

    masks: the masks of all frames of a video, by its name; videos: the names of the videos in the order of Place.video.
    """

    def __init__(self, masks: Masks, videos: Sequence[str]) -> None:
        self.masks = [masks.get(name) for name in videos]
        self.histograms = {name: Histogram() for name in MAPS}
        self.frames = 0
        self.videos: set[int] = set()
        self.problem = ""  # why there is no AUC: the first mask that cannot be read

    def add(self, scored: Scored) -> None:
        """Count the pixels of consecutive frames."""
        maps = error_maps(scored)
        for k, place in enumerate(scored.places):
            paths = self.masks[place.video]
            if paths is None or self.problem:
                continue
            try:
                mask = torch.from_numpy(read_mask(paths[place.frame])).to(scored.target.device)
            except InputError as error:
                self.problem = str(error)
                continue
            for name, values in maps.items():
                shown = F.interpolate(values[k, None, None], mask.shape, mode="bilinear", align_corners=False)
                self.histograms[name].add(shown[0, 0], mask)
            self.frames += 1
            self.videos.add(place.video)

    def metrics(self) -> PixelMetrics | None:
        """The metrics of the pixels counted so far; None where there was no mask, or one cannot be read."""
        if self.problem or not self.frames:
            return None
        error, distance, error_of_copy = (self.histograms[name].auc() for name in MAPS)
        normal, abnormal = self.histograms[MAPS[0]].counts.sum(axis=1)  # auc() has counted the waiting ones
        share = float(abnormal / (normal + abnormal))
        return PixelMetrics(error, distance, error_of_copy, share, self.frames, len(self.videos))


def error_maps(scored: Scored) -> dict[str, Tensor]:
    """The maps of n frames that their network has, by the names in MAPS: (n, H, W), or (n, h, w) for queries."""
    maps = {MAPS[0]: (scored.predicted - scored.target).square().mean(dim=1)}
    if scored.items.shape[1]:
        maps[MAPS[1]] = distance_map(scored.queries.flatten(1, 2), scored.items).view(scored.queries.shape[:3])
    if scored.previous is not None:
        maps[MAPS[2]] = (scored.previous - scored.target).square().mean(dim=1)
    return {name: values.float() for name, values in maps.items()}
