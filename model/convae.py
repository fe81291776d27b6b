"""The convolutional auto-encoder with a memory between encoder and decoder. One definition, two methods:

    pred   skips=True   t_length - 1 frames in, the next frame out; U-Net skips
    recon  skips=False  one frame in, the same frame out; no skips: the decoder could copy its input past the memory

Shapes: frames (B, channels·n, H, W) in [-1, 1], n frames stacked along channels, H and W multiples of 8; with h = H/8,
w = W/8 and C = feature_dim: queries (B, h, w, C), items (M, C), or (B, M, C) with one memory per clip. Items are an
input; see model/memory.py. A network without a memory has M = 0 and decodes the queries alone.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import memory
from model.blocks import block, up


class Encoded(NamedTuple):
    """The output of the encoder, which the decoder needs. It does not depend on the memory."""

    queries: Tensor  # (B, h, w, C), L2-normalised along C
    # three block outputs: (B, 64, H, W), (B, 128, H/2, W/2), (B, 256, H/4, W/4); empty for recon
    skips: tuple[Tensor, ...]


class Output(NamedTuple):
    """The predicted or reconstructed frame, the queries, and the two memory losses."""

    frame: Tensor  # (B, channels, H, W) in [-1, 1]
    queries: Tensor  # (B, h, w, C)
    compactness: Tensor  # scalar, or (B,) with one memory per clip
    separateness: Tensor  # the same shape


class Encoder(nn.Module):
    """(B, inputs, H, W) -> features (B, C, H/8, W/8), and the outputs of the three blocks before pooling."""

    def __init__(self, inputs: int, feature_dim: int) -> None:
        super().__init__()
        self.block1 = block(inputs, 64)
        self.block2 = block(64, 128)
        self.block3 = block(128, 256)
        self.features = nn.Sequential(
            nn.Conv2d(256, feature_dim, 3, padding=1),
            nn.BatchNorm2d(feature_dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(feature_dim, feature_dim, 3, padding=1),  # nothing after it: queries take both signs
        )
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        skip1 = self.block1(x)  # (B, 64, H, W)
        skip2 = self.block2(self.pool(skip1))  # (B, 128, H/2, W/2)
        skip3 = self.block3(self.pool(skip2))  # (B, 256, H/4, W/4)
        return self.features(self.pool(skip3)), (skip1, skip2, skip3)  # (B, C, H/8, W/8)


class Decoder(nn.Module):
    """[query ; read item] (B, 2C, h, w), or only the query (B, C, h, w) -> frame (B, channels, 8h, 8w)."""

    def __init__(self, inputs: int, channels: int, skips: bool) -> None:
        super().__init__()
        half = 2 if skips else 1  # an up-sampled map that is joined by a skip has half the channels
        self.block1 = block(inputs, 512)
        self.up1 = up(512, 512 // half)
        self.block2 = block(512, 256)
        self.up2 = up(256, 256 // half)
        self.block3 = block(256, 128)
        self.up3 = up(128, 128 // half)
        self.frame = nn.Sequential(
            nn.Conv2d(128, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, channels, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor, skips: tuple[Tensor, ...]) -> Tensor:
        left = list(skips)

        def beside_skip(x: Tensor) -> Tensor:
            return torch.cat((left.pop(), x), dim=1) if left else x

        x = beside_skip(self.up1(self.block1(x)))  # (B, 512, H/4, W/4)
        x = beside_skip(self.up2(self.block2(x)))  # (B, 256, H/2, W/2)
        x = beside_skip(self.up3(self.block3(x)))  # (B, 128, H, W)
        return self.frame(x)


class ConvAE(nn.Module):
    """The complete network: `forward` encodes, reads the memory and decodes. Batched scoring calls these stages itself.

    channels: of a frame; t_length: frames in a clip, used by pred alone; feature_dim: C; skips: pred or recon."""

    def __init__(
        self,
        channels: int = 3,
        t_length: int = 5,
        feature_dim: int = 512,
        skips: bool = True,
        has_memory: bool = True,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.inputs = channels * (t_length - 1) if skips else channels
        self.skips = skips
        self.has_memory = has_memory
        # How the memory is used; exp/scoring/lesions.py replaces these functions to measure what each contributes
        self.read: Callable[[Tensor, Tensor], Tensor] = memory.read
        self.distance: Callable[[Tensor, Tensor], Tensor] = memory.compactness
        # a dtype for the convolutions, such as torch.bfloat16; the memory never computes in it
        self.autocast: torch.dtype | None = None
        self.encoder = Encoder(self.inputs, feature_dim)
        self.decoder = Decoder(2 * feature_dim if has_memory else feature_dim, channels, skips)

    def split(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """A clip (B, channels·t_length, H, W) -> the input (B, inputs, H, W) and its target (B, channels, H, W)."""
        return clip[:, : self.inputs], clip[:, -self.channels :]

    def _precision(self, device: torch.device) -> AbstractContextManager:
        """The context in which the convolutions compute in the dtype `autocast`, if there is one."""
        # none otherwise, because PyTorch 2.6 writes a disabled autocast into an exported network and cannot load it
        return torch.autocast(device.type, self.autocast) if self.autocast else nullcontext()

    def encode(self, frames: Tensor) -> Encoded:
        """frames (B, inputs, H, W) -> Encoded. Raises ValueError when H or W is not a multiple of 8."""
        if frames.shape[-2] % 8 or frames.shape[-1] % 8:
            raise ValueError(f"height and width must be multiples of 8, not {frames.shape[-2]} and {frames.shape[-1]}")
        with self._precision(frames.device):
            features, skips = self.encoder(frames)
        features = features.to(frames.dtype)
        queries = F.normalize(features, dim=1).permute(0, 2, 3, 1)  # (B, h, w, C)
        return Encoded(queries, skips if self.skips else ())

    def decode(self, encoded: Encoded, items: Tensor) -> Tensor:
        """Read the items (M, C) or (B, M, C) and decode -> frame (B, channels, H, W) in [-1, 1]."""
        known = encoded.queries
        if self.has_memory:
            read = self.read(known.flatten(1, 2), items).unflatten(1, known.shape[1:3])  # (B, h, w, C)
            known = torch.cat((known, read), dim=-1)
        known = known.permute(0, 3, 1, 2)  # (B, 2C, h, w), or (B, C, h, w) without a memory
        with self._precision(known.device):
            return self.decoder(known, encoded.skips).to(known.dtype)

    def forward(self, frames: Tensor, items: Tensor) -> Output:
        """frames (B, inputs, H, W), items (M, C) or (B, M, C) -> Output."""
        encoded = self.encode(frames)
        queries = encoded.queries.flatten(1, 2) if items.ndim == 3 else encoded.queries.flatten(0, 2)
        return Output(
            frame=self.decode(encoded, items),
            queries=encoded.queries,
            compactness=self.distance(queries, items),
            separateness=memory.separateness(queries, items),
        )
