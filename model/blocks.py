"""The two building blocks of the network. All convolutions are 3x3 with bias; H and W below are the input's size.

ReLU works in place, which is safe: for its gradient, the batch norm before it keeps its input, not its output. It saves
no time, but without it Train.py needs 3.9 GB instead of 3.5 at 256x256 on a CPU.
"""

from torch import nn


def block(inputs: int, outputs: int) -> nn.Sequential:
    """conv BN ReLU, twice: (B, inputs, H, W) -> (B, outputs, H, W)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def up(inputs: int, outputs: int) -> nn.Sequential:
    """Transposed conv of stride 2, BN, ReLU: (B, inputs, H, W) -> (B, outputs, 2H, 2W)."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
