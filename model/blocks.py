"""The two pieces the network is made of. All convolutions are 3x3 with bias; H and W below are those of the input.

ReLU works in place, which the gradient allows: the batch norm before it keeps its input, not its output. That saves no
time, but otherwise Train.py at 256x256 takes 3.9 GB on a CPU instead of 3.5.
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
