"""The network with an eighth of its channels, for tests that run the scripts and do not ask how wide it is.

Its parts have the names, the layers and the `forward` of those of model/convae.py. The network of the paper is trained
and compared with the authors' in test_golden.py, and goes through both scripts in test_scripts.py.
"""

from torch import nn

from model import convae
from model.blocks import block, up

WHOLE = convae.Encoder, convae.Decoder


class SmallEncoder(convae.Encoder):
    def __init__(self, inputs, feature_dim):
        nn.Module.__init__(self)
        self.block1, self.block2, self.block3 = block(inputs, 8), block(8, 16), block(16, 32)
        self.features = nn.Sequential(*block(32, feature_dim)[:3], nn.Conv2d(feature_dim, feature_dim, 3, padding=1))
        self.pool = nn.MaxPool2d(2)


class SmallDecoder(convae.Decoder):
    def __init__(self, inputs, channels, skips):
        nn.Module.__init__(self)
        half = 2 if skips else 1
        self.block1, self.up1 = block(inputs, 64), up(64, 64 // half)
        self.block2, self.up2 = block(64, 32), up(32, 32 // half)
        self.block3, self.up3 = block(32, 16), up(16, 16 // half)
        self.frame = nn.Sequential(*block(16, 8), nn.Conv2d(8, channels, 3, padding=1), nn.Tanh())


def shrink(setattr=setattr, parts=(SmallEncoder, SmallDecoder)):
    """Let every ConvAE that is built from now on in this process have these parts."""
    setattr(convae, "Encoder", parts[0])
    setattr(convae, "Decoder", parts[1])


def is_small():
    return convae.Encoder is SmallEncoder
