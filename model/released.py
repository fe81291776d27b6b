"""Reads the files of the authors' released code: whole pickled modules (`torch.save(model)`) and bare memory items.

A pickle is a program: it names functions and calls them. Here nothing that a file names is imported or called: each
name a released model needs becomes a `_Node`, which only remembers what it was given, and every other name is refused.
Tensors are then cut out of the file's bytes, after their names, shapes and bounds were checked. A hostile file can at
worst waste memory or end the process; it cannot run its code.

torch.load is not used: its weights_only=True refuses modules, and with a restricted pickle_module it still opens
TorchScript archives, unpacks tar files and compares class sources. Both layouts of torch.save are simple:

    zip     TOP/data.pkl is the pickle, TOP/data/KEY the raw values of each storage (PyTorch 1.6 and later)
    legacy  pickles one after the other: magic number, version, system, the object, the keys of its storages; then for
            each key the number of values (int64) and the raw values (the released files: PyTorch 1.1)
"""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from typing import NamedTuple

import torch

from model.convae import ConvAE
from utils import InputError

PARTS = {  # released name -> ours; the places inside are the same
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
UNUSED = "encoder.moduleBatchNorm"  # the released encoder has it and never applies it

# All that a file may name: two containers, which run nothing and cannot be changed, and what becomes a _Node
CONTAINERS = {"collections.OrderedDict": OrderedDict, "builtins.set": set, "__builtin__.set": set}
DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
}
TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
PARAMETER = "torch._utils._rebuild_parameter"
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
LEGACY = (0x1950A86A20F9469CFC6C, 1001)  # magic number and version


class ReleasedModel(NamedTuple):
    """ConvAE(channels, t_length, feature_dim, skips=method == "pred") takes the state_dict."""

    method: str  # "pred" or "recon"
    state_dict: dict  # names of ConvAE -> CPU tensors: float32, or int64 for the batch norms' counters
    channels: int
    t_length: int
    feature_dim: int


def read_model(path):
    """A model file of the released code -> ReleasedModel.

    Raises InputError when it is none, is damaged, names what no released model holds, or does not fit ConvAE.
    """
    with _opened(path) as (root, values):
        if not isinstance(root, _Node) or root.path not in METHODS:
            raise InputError(f"not a model of the released code: it holds {_kind(root)}")
        method, found = METHODS[root.path], {}
        for name, node in _tensors(root, "", set()):
            half, part, place = (*name.split(".", 2), "", "")[:3]
            if f"{half}.{part}" != UNUSED:
                # a name we do not know is kept, to be named below
                found[f"{PARTS.get(f'{half}.{part}', f'{half}.{part}')}.{place}"] = node

        shapes = {name: tuple(_layout(node)[2]) for name, node in found.items()}
        try:
            channels, inputs = shapes["decoder.frame.6.weight"][0], shapes["encoder.block1.0.weight"][1]
            feature_dim = shapes["encoder.features.3.weight"][0]
        except LookupError:
            raise InputError("the first or last convolution of its encoder or decoder is missing") from None
        t_length = max(inputs // channels, 1) + 1 if method == "pred" else 1
        with torch.device("meta"):  # names and shapes only
            expected = ConvAE(channels, t_length, feature_dim, skips=method == "pred").state_dict()

        for name in sorted(expected.keys() - shapes.keys()):
            if not name.endswith(".num_batches_tracked"):  # batch norms before PyTorch 0.4.1 did not count
                raise InputError(f"{name} is missing")
        for name, shape in shapes.items():
            if name not in expected:
                raise InputError(f"{name[:100]!r} is no part of a released model")
            if shape != expected[name].shape:
                raise InputError(f"{name} has shape {shape}, not {tuple(expected[name].shape)}")
        state_dict = {
            name: _read(found[name], values, like.dtype) if name in found else torch.zeros_like(like, device="cpu")
            for name, like in expected.items()
        }
        return ReleasedModel(method, state_dict, channels, t_length, feature_dim)


def read_items(path):
    """Memory items saved by the released code (`torch.save(m_items)`) -> (M, C) float32 on the CPU.

    Raises InputError when the file is none, is damaged, or holds anything but one finite 2-D floating tensor.
    """
    with _opened(path) as (root, values):
        if not isinstance(root, _Node) or root.path not in (*TENSORS, PARAMETER):
            raise InputError(f"not memory items: it holds {_kind(root)}")
        shape = tuple(_layout(root)[2])
        if len(shape) != 2:
            raise InputError(f"not memory items: their shape would be (M, C), not {shape}")
        return _read(root, values, torch.float32)


@contextmanager
def _opened(path):
    """(root, values): the file's object, made of nodes, and values(storage) -> bytes.

    Whatever goes wrong inside, damaged and hostile files included, becomes an InputError that names the file.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            yield (_zip if zipped else _legacy)(file)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or type(error).__name__}") from error
    except Exception as error:  # a file made to break the reader may raise anything
        raise InputError(f"{path}: not a file of the released code, or damaged ({type(error).__name__})") from error


def _zip(file):
    archive = zipfile.ZipFile(file)
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError("a zip archive, but not of torch.save")
    top = pickles[0].removesuffix("data.pkl")

    def record(name):
        # torch.save never compresses: a record that grows while it is read is an attack on memory
        if archive.getinfo(top + name).compress_type != zipfile.ZIP_STORED:
            raise InputError("a zip archive, but not of torch.save: it is compressed")
        return archive.read(top + name)

    if top + "byteorder" in archive.namelist() and record("byteorder") != b"little":
        raise InputError("saved on a big-endian machine, which is not supported")
    return _Unpickler(io.BytesIO(record("data.pkl"))).load(), lambda storage: record(f"data/{storage.key}")


def _legacy(file):
    if (_Unpickler(file).load(), _Unpickler(file).load()) != LEGACY:
        raise InputError("not a file of torch.save")
    _Unpickler(file).load()  # the system it was saved on
    unpickler = _Unpickler(file)
    root = unpickler.load()
    begins = {}  # key -> where its values begin
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        if struct.unpack("<q", file.read(8)) != (storage.numel,):
            raise InputError("damaged: a storage has another size than declared")
        begins[key] = file.tell()
        file.seek(storage.numel * storage.dtype.itemsize, io.SEEK_CUR)

    def values(storage):
        file.seek(begins[storage.key])
        return file.read(storage.numel * storage.dtype.itemsize)

    return root, values


class _Node:
    """What a class or function of a file becomes. Calling it keeps the arguments and BUILD keeps the state, as values:
    a file can set no attribute of a node or of its class."""

    path = ""

    def __new__(cls, *args):
        node = super().__new__(cls)
        node.args, node.state = args, {}
        return node

    def __setstate__(self, state):
        self.state = state


NODES = {path: type(path, (_Node,), {"path": path}) for path in (*DTYPES, *TENSORS, PARAMETER, *MODULES)}


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    numel: int


class _Unpickler(pickle.Unpickler):
    def __init__(self, file):
        super().__init__(file)
        self.storages = {}  # key -> _Storage

    def find_class(self, module, name):
        # the path is looked up as one string: nothing is imported and no dot is followed
        path = f"{module}.{name}"
        if path not in CONTAINERS and path not in NODES:
            raise InputError(f"refused: it names {path[:150]!r}, which no file of the released code needs")
        return CONTAINERS.get(path) or NODES[path]

    def persistent_load(self, saved):
        kind, cls, *rest = saved
        if kind == "module":  # legacy: a class with its source, which is left alone
            return cls
        key, _device, numel, *view = rest  # whatever the device was, the values are read on the CPU
        if kind != "storage" or type(numel) is not int or numel < 0 or view not in ([], [None]):
            raise InputError("holds a storage of an unknown form")
        storage = _Storage(DTYPES[cls.path], key, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise InputError("holds a storage in two forms")
        return storage


def _kind(thing):
    return thing.path if isinstance(thing, _Node) else f"a {type(thing).__name__}"


def _tensors(module, prefix, seen):
    """(name, node) of the tensors in a module, named as in state_dict(). Each module once: it may hold itself."""
    if id(module) not in seen:
        seen.add(id(module))
        for table in ("_parameters", "_buffers"):
            yield from ((prefix + name, node) for name, node in module.state[table].items() if node is not None)
        for name, child in module.state["_modules"].items():
            yield from _tensors(child, prefix + name + ".", seen)


def _layout(node):
    """(storage, offset, size, stride) of the node of a tensor or parameter, checked to lie inside its storage."""
    if isinstance(node, _Node) and node.path == PARAMETER:
        node = node.args[0]
    if not isinstance(node, _Node) or node.path not in TENSORS:
        raise InputError(f"{_kind(node)} stands where a tensor should")
    storage, offset, size, stride = node.args[:4]
    if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise InputError("holds a tensor of an unknown form")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 in size or last >= storage.numel or math.prod(size) > storage.numel:
        raise InputError("holds a tensor that is empty or larger than its storage")
    return storage, offset, size, stride


def _read(node, values, dtype):
    storage, offset, size, stride = _layout(node)
    if storage.dtype.is_floating_point != dtype.is_floating_point:
        raise InputError(f"holds {storage.dtype} where {dtype} should be")
    data = bytearray(values(storage))
    if len(data) != storage.numel * storage.dtype.itemsize:
        raise InputError("damaged: a storage has another size than declared")
    flat = torch.frombuffer(data, dtype=storage.dtype)
    # a copy of its own, so that no two tensors share memory
    tensor = flat.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format).to(dtype)
    if not tensor.isfinite().all():
        raise InputError("holds NaN or infinity: the model it was saved from is broken")
    return tensor
