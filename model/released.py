"""Reads the model files of the authors' released code and of its forks: pickled modules (`torch.save(model)`),
state_dicts, and bare memory items. Nothing in a file is run; see model/saved.py.

A pickled module may be inside a DataParallel. A state_dict must fit this network; its names may have the prefix
`module.`, and may be ours or those of the released code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.convae import ConvAE
from model.saved import PLAIN, Node, Steps, is_tensor, kind, layout, opened
from utils import InputError

PARTS = {  # released name -> ours; the layer numbers inside are the same
    "encoder.moduleConv1": "encoder.block1",
    "encoder.moduleConv2": "encoder.block2",
    "encoder.moduleConv3": "encoder.block3",
    "encoder.moduleConv4": "encoder.features",
    "decoder.moduleConv": "decoder.block1",
    "decoder.moduleUpsample4": "decoder.up1",
    "decoder.moduleDeconv3": "decoder.block2",
    "decoder.moduleUpsample3": "decoder.up2",
    "decoder.moduleDeconv2": "decoder.block3",
    "decoder.moduleUpsample2": "decoder.up3",
    "decoder.moduleDeconv1": "decoder.frame",
}
MOST_TENSORS = 2**14  # read from one module; a released model has about a hundred
UNUSED = "encoder.moduleBatchNorm"  # the released encoder has it and never applies it

# Everything that a file may refer to besides tensors and containers
PRED = "model.final_future_prediction_with_memory_spatial_sumonly_weight_ranking_top1."
RECON = "model.Reconstruction."
METHODS = {PRED + "convAE": "pred", RECON + "convAE": "recon"}
MODULES = (
    *(f"{method}{name}" for method in (PRED, RECON) for name in ("convAE", "Encoder", "Decoder")),
    "model.memory_final_spatial_sumonly_weight_ranking_top1.Memory",
    "model.Memory.Memory",
    *(f"torch.nn.modules.{name}" for name in ("container.Sequential", "conv.Conv2d", "conv.ConvTranspose2d")),
    *(f"torch.nn.modules.{name}" for name in ("batchnorm.BatchNorm2d", "pooling.MaxPool2d")),
    *(f"torch.nn.modules.activation.{name}" for name in ("ReLU", "Tanh")),
    "torch.nn.backends.thnn._get_thnn_function_backend",  # an attribute of every module in old PyTorch, 1.1 too
)
WRAPPER = "torch.nn.parallel.data_parallel.DataParallel"
NAMES = (*PLAIN, *MODULES, WRAPPER, "torch.device")
FORMS = "give a module or a state_dict of convAE saved by torch.save, or a model.pth that Train.py wrote"


class ReleasedModel(NamedTuple):
    """The state_dict fits ConvAE(channels, t_length, feature_dim, skips=method == "pred")."""

    method: str  # "pred" or "recon"
    state_dict: dict[str, Tensor]  # names of ConvAE -> CPU tensors: float32, or int64 for the batch norms' counters
    channels: int
    t_length: int
    feature_dim: int


def read_model(path: Path) -> ReleasedModel:
    """Read a model file of the released code or of one of its forks.

    Raises InputError when it is not such a file, is damaged, refers to anything that no released model needs, or does
    not fit ConvAE.
    """
    with opened(path, NAMES) as saved:
        method, nodes = _parts(saved.root)
        found = {_our_name(name): node for name, node in nodes.items() if not name.startswith(UNUSED)}
        shapes = {name: tuple(layout(node)[2]) for name, node in found.items()}
        try:
            channels, inputs = shapes["decoder.frame.6.weight"][0], shapes["encoder.block1.0.weight"][1]
            feature_dim = shapes["encoder.features.3.weight"][0]
            narrowed = shapes["decoder.up1.0.weight"][1] < shapes["decoder.up1.0.weight"][0]
        except LookupError:
            raise InputError(f"the first or last convolution of its encoder or decoder is missing: {FORMS}") from None
        method = method or ("pred" if narrowed else "recon")  # a state_dict does not say
        t_length = max(inputs // channels, 1) + 1 if method == "pred" else 1
        with torch.device("meta"):  # names and shapes only
            expected = ConvAE(channels, t_length, feature_dim, skips=method == "pred").state_dict()

        for name in sorted(expected.keys() - shapes.keys()):
            if not name.endswith(".num_batches_tracked"):  # batch norms before PyTorch 0.4.1 did not count
                raise InputError(f"{name} is missing")
        for name, shape in shapes.items():
            if name not in expected:
                raise InputError(f"{name[:100]!r} is not part of a released model")
            if shape != expected[name].shape:
                raise InputError(f"{name} has shape {shape}, not {tuple(expected[name].shape)}")
        state_dict = {
            name: saved.tensor(found[name], like.dtype) if name in found else torch.zeros_like(like, device="cpu")
            for name, like in expected.items()
        }
        return ReleasedModel(method, state_dict, channels, t_length, feature_dim)


def read_items(path: Path) -> Tensor:
    """Memory items saved by the released code (`torch.save(m_items)`) -> (M, C) float32 on the CPU.

    Raises InputError when the file is damaged or holds anything but one finite 2-D floating-point tensor.
    """
    with opened(path, NAMES) as saved:
        if not is_tensor(saved.root):
            raise InputError(f"not memory items: it holds {kind(saved.root)}, but one tensor (M, C) is needed")
        shape = tuple(layout(saved.root)[2])
        if len(shape) != 2:
            raise InputError(f"not memory items: their shape would be (M, C), not {shape}")
        if 0 in shape:
            raise InputError("not memory items: the tensor is empty")
        return saved.tensor(saved.root, torch.float32).contiguous()


def _parts(root: Any) -> tuple[str | None, dict[str, Node]]:
    """The method, or None where the file does not say it, and the nodes of the tensors by name."""
    inner = root
    if isinstance(root, Node) and root.path == WRAPPER:
        inner = root.state["_modules"]["module"]
    if isinstance(inner, Node) and inner.path in METHODS:
        return METHODS[inner.path], dict(_tensors(inner, "", set(), Steps(MOST_TENSORS)))
    if isinstance(root, dict):
        for key in ("state_dict", "model_state_dict", "model"):
            inner = inner[key] if isinstance(inner.get(key), dict) else inner
        nodes = {name.removeprefix("module."): node for name, node in inner.items() if type(name) is str}
        if nodes and all(map(is_tensor, nodes.values())):
            return None, nodes
    raise InputError(f"not a model of the released code: it holds {kind(root)}; {FORMS}")


def _our_name(name: str) -> str:
    """A name of the released code -> ours. An unknown name is returned as it is, so that a message can show it."""
    half, part, place = (*name.split(".", 2), "", "")[:3]
    return f"{PARTS.get(f'{half}.{part}', f'{half}.{part}')}.{place}"


def _tensors(module: Node, prefix: str, seen: set[int], steps: Steps) -> Iterator[tuple[str, Node]]:
    """(name, node) of the tensors in a module, named as in state_dict(). A module that contains itself is read once."""
    if id(module) in seen:
        return
    seen.add(id(module))
    for table in ("_parameters", "_buffers", "_modules"):
        for name, node in module.state[table].items():
            steps.take()
            if len(prefix) + len(name) > 1000:
                raise InputError("a module name is too long")
            if table == "_modules":
                yield from _tensors(node, f"{prefix}{name}.", seen, steps)
            elif node is not None:
                yield prefix + name, node
