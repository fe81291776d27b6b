"""Noisy clips and a network to score them with, for the tests of scoring."""

import copy

import numpy as np
import torch
from small import SmallDecoder, SmallEncoder

from model import memory
from model.convae import ConvAE

SCORES = ("psnr", "distance", "regular", "updated")
LENGTHS = [9, 1, 14]  # clips of three videos


class FakeClips(torch.utils.data.Dataset):
    """Noisy clips in place of data.clips.Clips, so that regular scores are spread out."""

    def __init__(self, lengths, t_length):
        self.t_length, self.videos = t_length, list(lengths)
        self.ends = [np.arange(length) + t_length - 1 for length in lengths]
        rng = np.random.RandomState(0)
        n = sum(lengths)
        smooth = rng.uniform(60, 200, (n, 3 * t_length, 2, 2)).repeat(8, axis=2).repeat(8, axis=3)
        noise = rng.randn(n, 3 * t_length, 16, 16) * rng.uniform(0, 60, (n, 1, 1, 1))
        self.clips = torch.from_numpy((smooth + noise).clip(0, 255).astype(np.uint8))

    @property
    def lengths(self):
        return [len(ends) for ends in self.ends]

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        return self.clips[index]

    def select(self, videos):
        some = copy.copy(self)
        some.clips = torch.cat([self.clips.split(self.lengths)[video] for video in videos])
        some.ends = [self.ends[video] for video in videos]
        return some


def set_up(skips, msize=5, small=True):
    """A network, its items, and clips of three videos."""
    torch.manual_seed(0)
    model = ConvAE(feature_dim=16, skips=skips, t_length=5 if skips else 1, has_memory=msize > 0)
    if small:
        model.encoder = SmallEncoder(model.inputs, 16)
        model.decoder = SmallDecoder(32 if msize else 16, 3, skips)
    return model.eval(), memory.initial_items(msize, 16), FakeClips(LENGTHS, 5 if skips else 1)


def loader(clips, batch_size):
    return torch.utils.data.DataLoader(clips, batch_size)
