"""Files of the released code: stand-ins of its classes are saved here, removed, and read without them."""

import os
import pickle
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from copy import deepcopy
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.backends.thnn import _get_thnn_function_backend

from model import saved as reader
from model.convae import ConvAE
from model.released import read_items, read_model
from utils import InputError

PATHS = {  # method -> where the released code defines the network, and the memory
    "pred": (
        "model.final_future_prediction_with_memory_spatial_sumonly_weight_ranking_top1",
        "model.memory_final_spatial_sumonly_weight_ranking_top1",
    ),
    "recon": ("model.Reconstruction", "model.Memory"),
}
FEATURES = 8  # instead of 512
FORMATS = {"zip": True, "legacy": False}  # -> _use_new_zipfile_serialization
LEGACY_START = b"".join(pickle.dumps(part, 2) for part in (*reader.LEGACY, {"little_endian": True}))


# Stand-ins, structured and named as the released code -------------------------------------------------------------


def layers(*parts):
    made = []
    for part in parts:
        made += [part, nn.BatchNorm2d(part.out_channels), nn.ReLU(inplace=False)]
    return made


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=1, padding=1)


def basic(inputs, outputs):
    return nn.Sequential(*layers(conv(inputs, outputs), conv(outputs, outputs)))


def upsample(inputs, outputs):
    return nn.Sequential(*layers(nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)))


class Encoder(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.moduleConv1, self.modulePool1 = basic(inputs, 64), nn.MaxPool2d(2, 2)
        self.moduleConv2, self.modulePool2 = basic(64, 128), nn.MaxPool2d(2, 2)
        self.moduleConv3, self.modulePool3 = basic(128, 256), nn.MaxPool2d(2, 2)
        self.moduleConv4 = nn.Sequential(*layers(conv(256, FEATURES)), conv(FEATURES, FEATURES))
        self.moduleBatchNorm, self.moduleReLU = nn.BatchNorm2d(FEATURES), nn.ReLU(inplace=False)

    def forward(self, x):
        first = self.moduleConv1(x)
        second = self.moduleConv2(self.modulePool1(first))
        third = self.moduleConv3(self.modulePool2(second))
        return self.moduleConv4(self.modulePool3(third)), first, second, third


class Decoder(nn.Module):
    def __init__(self, channels, half):
        super().__init__()
        self.half = half
        self.moduleConv, self.moduleUpsample4 = basic(2 * FEATURES, 512), upsample(512, 512 // half)
        self.moduleDeconv3, self.moduleUpsample3 = basic(512, 256), upsample(256, 256 // half)
        self.moduleDeconv2, self.moduleUpsample2 = basic(256, 128), upsample(128, 128 // half)
        self.moduleDeconv1 = nn.Sequential(*layers(conv(128, 64), conv(64, 64)), conv(64, channels), nn.Tanh())

    def forward(self, x, first, second, third):
        x = self.moduleUpsample4(self.moduleConv(x))
        x = self.moduleUpsample3(self.moduleDeconv3(torch.cat((third, x), 1) if self.half == 2 else x))
        x = self.moduleUpsample2(self.moduleDeconv2(torch.cat((second, x), 1) if self.half == 2 else x))
        return self.moduleDeconv1(torch.cat((first, x), 1) if self.half == 2 else x)


class Memory(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory_size, self.temp_update = 10, 0.1


class Backend:
    """What every module of PyTorch 1.1 carries as `_backend`."""

    def __reduce__(self):
        return _get_thnn_function_backend, ()


class convAE(nn.Module):
    def __init__(self, channels, frames, half):
        super().__init__()
        self.encoder, self.decoder, self.memory = Encoder(channels * frames), Decoder(channels, half), Memory()
        self._backend = Backend()


@contextmanager
def living_at(places):
    """For a while, the classes {class: module path} can be pickled, and are named, as if defined there."""
    homes = {cls: cls.__module__ for cls in places}
    before = {path: sys.modules.get(path) for path in places.values()}
    try:
        for cls, path in places.items():
            cls.__module__ = path
            module = sys.modules.setdefault(path, ModuleType(path))
            setattr(module, cls.__name__, cls)
        yield
    finally:
        for cls, home in homes.items():
            cls.__module__ = home
        for path, module in before.items():
            assert module is None
            sys.modules.pop(path, None)


def save(thing, path, form="zip", places=None, protocol=2):
    with living_at(places or {}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # legacy: no source for the stand-ins
        torch.save(thing, path, pickle_protocol=protocol, _use_new_zipfile_serialization=FORMATS[form])
    return path


def save_model(net, path, method, form="zip"):
    network, memory = PATHS[method]
    return save(net, path, form, {convAE: network, Encoder: network, Decoder: network, Memory: memory})


def stand_in(method, channels=3, t_length=5):
    torch.manual_seed(0)
    net = convAE(channels, t_length - 1, 2) if method == "pred" else convAE(channels, 1, 1)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            norm.num_batches_tracked.fill_(7)
    return net.eval()


@pytest.fixture(scope="module")
def nets():
    return {method: stand_in(method) for method in PATHS}


@pytest.fixture
def net():
    """One to break. Its parameters share their memory: a small file."""
    net = convAE(3, 4, 2)
    shared = torch.zeros(max(parameter.numel() for parameter in net.parameters()))
    for parameter in net.parameters():
        parameter.data = shared[: parameter.numel()].view(parameter.shape)
    return net


def refusal(path, read=read_model):
    with pytest.raises(InputError) as error:
        read(path)
    message = str(error.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


# What is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("method", PATHS)
def test_model_computes_what_the_released_one_does(method, form, nets, tmp_path, monkeypatch):
    path = save_model(nets[method], tmp_path / "model.pth", method, form)
    monkeypatch.setattr(torch, "load", None)
    model = read_model(path)
    assert not set(PATHS[method]) & set(sys.modules)
    t_length = 5 if method == "pred" else 1
    assert (model.method, model.channels, model.t_length, model.feature_dim) == (method, 3, t_length, FEATURES)
    ours = ConvAE(model.channels, model.t_length, model.feature_dim, skips=model.method == "pred").eval()
    ours.load_state_dict(model.state_dict)
    assert ours.encoder.block1[1].num_batches_tracked == 7

    frames, read = torch.rand(2, ours.inputs, 16, 24) * 2 - 1, torch.randn(2, FEATURES, 2, 3)
    with torch.no_grad():
        features, *skips = nets[method].encoder(frames)
        ours_features, ours_skips = ours.encoder(frames)
        expected = nets[method].decoder(torch.cat((features, read), 1), *skips)
        frame = ours.decoder(torch.cat((features, read), 1), ours_skips if method == "pred" else ())
    assert features.std() > 1e-3 and expected.std() > 1e-3
    torch.testing.assert_close(ours_features, features)
    for skip, ours_skip in zip(skips, ours_skips, strict=True):
        torch.testing.assert_close(ours_skip, skip)
    torch.testing.assert_close(frame, expected)


def test_sizes_come_from_shapes(tmp_path):
    path = save_model(convAE(1, 2, 2).half(), tmp_path / "model.pth", "pred")
    model = read_model(path)
    assert (model.channels, model.t_length) == (1, 3)
    assert {t.dtype for t in model.state_dict.values()} == {torch.float32, torch.int64}


def test_batch_norms_that_do_not_count(nets, tmp_path):
    net = deepcopy(nets["recon"])
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            del norm._buffers["num_batches_tracked"]
    state = read_model(save_model(net, tmp_path / "model.pth", "recon")).state_dict
    ConvAE(3, 1, FEATURES, skips=False).load_state_dict(state)
    assert state["encoder.block1.1.num_batches_tracked"].equal(torch.tensor(0))


@pytest.mark.parametrize("form", FORMATS)
def test_saved_on_a_gpu(form, nets, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    model = save_model(nets["recon"], tmp_path / "model.pth", "recon", form)
    items = save(torch.eye(3), tmp_path / "items.pt", form)
    assert b"cuda:0" in model.read_bytes() and b"cuda:0" in items.read_bytes()
    weight = read_model(model).state_dict["encoder.block1.0.weight"]
    assert weight.device.type == "cpu" and weight.equal(nets["recon"].encoder.moduleConv1[0].weight)
    assert read_items(items).equal(torch.eye(3))


@pytest.mark.parametrize("form", FORMATS)
def test_items(form, tmp_path):
    items = torch.rand(10, 16)
    path = tmp_path / "m_items.pt"
    for saved in (items, items.double(), items.T.contiguous().T, nn.Parameter(items), torch.cat((items, items))[10:]):
        assert read_items(save(saved, path, form)).equal(items)
    assert read_items(save(items.bfloat16(), path, form)).equal(items.bfloat16().float())


# What is refused: files that hold something else --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thing", "why"),
    [
        (torch.rand(3), "shape"),
        (torch.ones(2, 2, dtype=torch.int64), "int64"),
        (torch.full((2, 2), float("nan")), "NaN"),
        (torch.full((2, 2), 1e300, dtype=torch.float64), "infinity"),
        (torch.zeros(0, 4), "empty"),
        (torch.zeros(1).expand(9, 9), "larger"),
        ({"items": torch.rand(2, 2)}, "a dict"),
        (nn.ReLU(), "torch.nn.modules.activation.ReLU"),
        (torch.rand(2, 2).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (None, "a NoneType"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_other_things_are_no_items(thing, why, form, tmp_path):
    assert why in refusal(save(thing, tmp_path / "m_items.pt", form), read_items)


def test_other_things_are_no_model(tmp_path):
    assert "it holds a dict" in refusal(save({"format": 1}, tmp_path / "own.pt"))
    assert "_rebuild_tensor_v2" in refusal(save(torch.eye(2), tmp_path / "items.pt"))
    assert "Sequential" in refusal(save(nn.Sequential(nn.ReLU()), tmp_path / "other.pt"))
    wrapped = nn.DataParallel(nn.Sequential(nn.ReLU()))
    assert "torch.nn.parallel.data_parallel.DataParallel" in refusal(save(wrapped, tmp_path / "wrapped.pt"))


def test_models_that_do_not_fit(net, tmp_path):
    path = tmp_path / "model.pth"

    def message():
        return refusal(save_model(net, path, "pred"))

    net.encoder.extra = nn.Conv2d(1, 1, 1)
    assert "'encoder.extra.weight' is not part" in message()
    del net.encoder.extra
    net.encoder.moduleConv2[0].extra = nn.Parameter(torch.zeros(1))
    assert "'encoder.block2.0.extra' is not part" in message()
    del net.encoder.moduleConv2[0].extra
    net.register_buffer("items", torch.zeros(1))
    assert "items" in message() and "is not part" in message()
    del net.items
    net.encoder.moduleConv2[0] = conv(64, 32)
    assert "encoder.block2.0.weight has shape (32, 64, 3, 3), not (128, 64, 3, 3)" in message()
    net.encoder.moduleConv2[0] = conv(64, 128)
    net.encoder.moduleConv2[1].running_mean[3] = float("nan")
    assert "NaN" in message()
    net.encoder.moduleConv2[1] = nn.ReLU()
    assert "encoder.block2.1.bias is missing" in message()
    net.encoder.moduleConv1[0] = conv(2, 64)  # less than one frame
    net.encoder.moduleConv2[1] = nn.BatchNorm2d(128)
    assert "encoder.block1.0.weight has shape (64, 2, 3, 3), not (64, 3, 3, 3)" in message()
    net.encoder.moduleConv1 = nn.ReLU()
    assert "first or last convolution" in message()


def test_the_path_tells_the_method(net, tmp_path):
    assert "has shape" in refusal(save_model(net, tmp_path / "model.pth", "recon"))  # a pred network, named recon


def test_module_that_holds_itself(nets, tmp_path):
    net = deepcopy(nets["recon"])
    net.memory.again = net
    assert read_model(save_model(net, tmp_path / "model.pth", "recon")).method == "recon"


# What is refused: files that run code -------------------------------------------------------------------------------


class Gadget:
    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def touch(marker):
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


SYSTEM = f"{os.system.__module__}.system"
PYTHON_3 = {"__builtin__": "builtins", "commands": "subprocess"}  # protocol 2 writes the names of Python 2
GADGETS = {  # what the message must name -> the gadget for a marker file
    SYSTEM: lambda marker: Gadget(os.system, f"touch '{marker}'"),
    "commands.call": lambda marker: Gadget(subprocess.call, ["touch", str(marker)]),
    "__builtin__.eval": lambda marker: Gadget(eval, touch(marker)),
    "__builtin__.exec": lambda marker: Gadget(exec, touch(marker)),
    "__builtin__.getattr": lambda marker: Gadget(getattr, OrderedDict, "__init__"),
    "torch.hub.load": lambda marker: Gadget(torch.hub.load, str(marker.parent), "entry"),
    "torch.jit._serialization.load": lambda marker: Gadget(torch.jit.load, str(marker)),
    "torch.storage._load_from_bytes": lambda marker: Gadget(
        torch.storage._load_from_bytes, pickle.dumps(Gadget(eval, touch(marker)))
    ),
    "torch._utils._rebuild_parameter_with_state": lambda marker: Gadget(
        torch._utils._rebuild_parameter_with_state, torch.zeros(1), False, OrderedDict(), {"x": 1}
    ),
    "multiarray.scalar": lambda marker: np.float64(1.5),
    "torch.Size": lambda marker: torch.Size([1]),
    "torch.nn.modules.linear.Linear": lambda marker: nn.Linear(1, 1),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", GADGETS)
def test_nothing_runs(name, form, tmp_path):
    marker = tmp_path / "ran"
    gadget = GADGETS[name](marker)
    for i, thing in enumerate((gadget, {"model": [gadget]}, OrderedDict(a=torch.zeros(1), b=gadget))):
        for protocol in (2, 4):
            path = save(thing, tmp_path / f"{i}.pt", form, protocol=protocol)
            module, _, attribute = name.rpartition(".")
            wanted = name if protocol == 2 else f"{PYTHON_3.get(module, module)}.{attribute}"
            assert wanted in refusal(path) and wanted in refusal(path, read_items)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):  # a pickle alone
        if not isinstance(gadget, nn.Module):
            raw = tmp_path / "raw.pkl"
            raw.write_bytes(pickle.dumps(gadget, protocol))
            message = refusal(raw)
            assert protocol < 2 or name.rpartition(".")[2] in message
    assert not marker.exists()


def test_gadget_inside_a_released_model(net, tmp_path):
    marker = tmp_path / "ran"
    for form in FORMATS:
        for place in (net, net.encoder.moduleConv1[0], net.memory):
            place.note = Gadget(os.system, f"touch '{marker}'")
            assert SYSTEM in refusal(save_model(net, tmp_path / "model.pth", "pred", form))
            del place.note
    assert not marker.exists()


def test_gadget_in_every_pickle_of_a_legacy_file(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "model.pth"
    parts = [pickle.dumps(part, 2) for part in (*reader.LEGACY, {}, None, [])]
    evil = pickle.dumps(Gadget(os.system, f"touch '{marker}'"), 2)
    for i in range(len(parts)):
        path.write_bytes(b"".join((*parts[:i], evil, *parts[i + 1 :])))
        assert SYSTEM in refusal(path)
    assert not marker.exists()


def test_unknown_modules_are_named(tmp_path):
    class Net(nn.Module):
        pass

    Net.__qualname__ = "Net"
    for form in FORMATS:
        path = save(Net(), tmp_path / "model.pth", form, {Net: "evil_nets"})
        assert "'evil_nets.Net'" in refusal(path)
        path = save(Net(), tmp_path / "model.pth", form, {Net: "model.Reconstruction"})
        assert "'model.Reconstruction.Net'" in refusal(path)


# Pickles written opcode by opcode, in both layouts ------------------------------------------------------------------


def text(string):
    encoded = string.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def name(path):
    module, _, attribute = path.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def crafted(tmp_path, opcodes, protocol=2):
    program = b"\x80" + bytes([protocol]) + opcodes + b"."
    legacy, zipped = tmp_path / "legacy.pt", tmp_path / "zip.pt"
    legacy.write_bytes(LEGACY_START + program + pickle.dumps([], 2))
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    return legacy, zipped


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("collections", "OrderedDict.__init__.__globals__"),
        ("collections.OrderedDict", "__init__"),
        ("torch.nn.modules.conv", "Conv2d.__init__.__globals__"),
        ("evil", "FooStorage"),
        ("evil", "FloatStorage"),
        ("torch.storage", "UntypedStorage"),
        ("__torch__", "Net"),  # TorchScript
        ("os", "system\x1b[2J\n" + "x" * 10_000),
    ],
)
def test_names_are_whole_paths(module, attribute, tmp_path):
    # STACK_GLOBAL takes any two strings
    for path in crafted(tmp_path, text(module) + text(attribute) + b"\x93)R", protocol=4):
        message = refusal(path)
        assert f"{module}.{attribute[:6]}" in message and len(message) < 600 and message.isprintable()


CONV, ORDERED = name("torch.nn.modules.conv.Conv2d"), name("collections.OrderedDict")
SETSTATE = b"}" + text("__setstate__") + CONV + b"s"  # {"__setstate__": Conv2d}


@pytest.mark.parametrize(
    "opcodes",
    [
        CONV + b"}" + text("path") + text("x") + b"sb",  # a state for a class
        CONV + b"N}" + text("path") + text("x") + b"s\x86b",  # attributes for a class
        name("torch._utils._rebuild_tensor_v2") + b"N}" + text("__defaults__") + b")s\x86b",
        ORDERED + b"N}" + text("path") + text("x") + b"s\x86b",
        name("__builtin__.set") + b"}" + text("path") + text("x") + b"sb",
        CONV + b")R" + SETSTATE + b"b" + SETSTATE + b"b",  # a __setstate__ of the file, twice
        CONV + b")\x81N" + SETSTATE + b"\x86b" + b"Nb",
        ORDERED + b")R" + SETSTATE + b"b" + b"Nb",
        CONV + b")R}" + text("args") + b")sb",
        b"\x82\x01",  # an extension code
        text("evil") + b"Q",  # persistent ids of no known form
        b"(" + text("module") + CONV + text("/etc/passwd") + text("source") + b"tQ",
        b"(" + text("storage") + CONV + text("0") + text("cpu") + b"K\x01tQ",
        b"(" + text("storage") + name("torch.FloatStorage") + text("0") + text("cpu") + b"K\x01)tQ",  # a view
        b"(" + text("other") + name("torch.FloatStorage") + text("0") + text("cpu") + b"K\x01tQ",
        b"]" * 20_000 + b"a" * 19_999,  # deep
        b"",
    ],
)
def test_nothing_can_be_changed(opcodes, tmp_path):
    before = {cls: dict(vars(cls)) for cls in (reader.Node, reader.Name, OrderedDict, set)}
    for path in crafted(tmp_path, opcodes):
        refusal(path)
        refusal(path, read_items)
    assert before == {cls: dict(vars(cls)) for cls in before}


def tensor(numel, offset, size, stride, key="0"):
    def integers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    storage = b"(" + text("storage") + name("torch.FloatStorage") + text(key) + text("cpu") + integers([numel])[1:-1]
    numbers = integers([offset])[1:-1] + integers(size) + integers(stride)
    return name("torch._utils._rebuild_tensor_v2") + b"(" + storage + b"tQ" + numbers + b"\x89" + ORDERED + b")RtR"


def write_zip(path, program, record=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        if record is not None:
            archive.writestr("archive/data/0", record)
    return path


def test_tensors_stay_inside_their_storage(tmp_path):
    path, four = tmp_path / "items.pt", struct.pack("<4f", 1, 2, 3, 4)

    def wrapped(*args):
        return b"\x80\x02" + tensor(*args) + b"."

    assert read_items(write_zip(path, wrapped(4, 0, (2, 2), (2, 1)), four)).tolist() == [[1, 2], [3, 4]]
    for args in (
        (4, 1, (2, 2), (2, 1)),
        (4, 0, (2, 2), (3, 1)),
        (4, 0, (4, 2), (0, 1)),
        (4, -1, (2, 2), (2, 1)),
        (4, 0, (2, 2), (-1, 1)),
        (4, 0, (-2, -2), (2, 1)),
        (4, 0, (2**20, 2**20), (0, 0)),  # would be copied to 4 TB
    ):
        assert "holds a tensor" in refusal(write_zip(path, wrapped(*args), four), read_items)
    for args in (
        (4, 0, (2, 2), (2,)),
        (-4, 0, (2, 2), (2, 1)),
        (8, 0, (2, 2), (2, 1)),  # the record is shorter
        (4, 0, (2, 2), (2, 1), "1"),  # no such record
        (4, 0, (2, 2), (2, 1), "../data.pkl"),
    ):
        refusal(write_zip(path, wrapped(*args), four), read_items)
    assert "compressed" in refusal(
        write_zip(path, wrapped(4, 0, (2, 2), (2, 1)), four, zipfile.ZIP_DEFLATED), read_items
    )


# What is refused: damaged files ------------------------------------------------------------------------------------


def test_damaged_files(tmp_path):
    path = tmp_path / "model.pth"
    assert "cannot be read" in refusal(path)
    assert "cannot be read" in refusal(tmp_path)
    start = "".join(map(chr, range(256))).encode()
    for content in (
        b"",
        b"\n",
        b"PK\x03\x04",
        b"PK\x03\x04" + start,
        start,
        b"\x80\x02.",
        b"\x00" * 4096,
        b"I9" * 9999,
    ):
        path.write_bytes(content)
        refusal(path)
        refusal(path, read_items)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "a zip of something else")
    assert "not of torch.save" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/byteorder", "big")
        archive.writestr("a/data.pkl", "")
    assert "big-endian" in refusal(path)


@pytest.mark.parametrize("form", FORMATS)
def test_truncated_and_flipped(form, nets, tmp_path):
    path = save_model(nets["pred"], tmp_path / "model.pth", "pred", form)
    size = path.stat().st_size
    for keep in (size - 1, size // 2, 5000, 50):
        os.truncate(path, keep)
        refusal(path)
    whole = save(torch.rand(2, 3), path, form).read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        broken = bytearray(whole[: rng.choice((len(whole), rng.randrange(len(whole))))])
        for _ in range(rng.randrange(4)):
            if broken:
                broken[rng.randrange(len(broken))] = rng.randrange(256)
        path.write_bytes(broken)
        try:
            assert read_items(path).shape[1] <= 6  # a flip may hit a value, or nothing that matters
        except InputError as error:
            assert str(path) in str(error)


# Forks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("around", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_a_state_dict_of_a_fork_is_the_same_network(method, prefix, around, nets, tmp_path):
    whole = read_model(save_model(nets[method], tmp_path / "whole.pth", method))
    state = {f"{prefix}{name}": value for name, value in nets[method].state_dict().items()}
    model = read_model(save(around(state), tmp_path / "fork.pth"))
    assert model[2:] == whole[2:] and model.method == whole.method
    assert all(torch.equal(model.state_dict[name], value) for name, value in whole.state_dict.items())
    ours = {f"{prefix}{name}": value for name, value in whole.state_dict.items()}
    again = read_model(save(around(ours), tmp_path / "ours.pth"))
    assert all(torch.equal(again.state_dict[name], value) for name, value in whole.state_dict.items())


def test_a_whole_module_inside_a_data_parallel_is_read(nets, tmp_path):
    path = save_model(nn.DataParallel(nets["pred"]), tmp_path / "model.pth", "pred")
    assert read_model(path).state_dict.keys() == read_model(save_model(nets["pred"], path, "pred")).state_dict.keys()


def test_a_state_dict_of_another_network_says_which_form_is_needed(nets, tmp_path):
    assert "state_dict of convAE" in refusal(save(nn.Linear(2, 2).state_dict(), tmp_path / "model.pth"))
    state = nets["pred"].state_dict()
    del state["encoder.moduleConv2.0.weight"]
    assert "encoder.block2.0.weight is missing" in refusal(save(state, tmp_path / "model.pth"))


# What costs nothing -------------------------------------------------------------------------------------------------


def u32(number):
    return struct.pack("<I", number)


COSTLY = {  # each would take gigabytes, minutes or the process where a pickle is simply followed
    "memo index": b"N" + b"r" + u32(2**31 - 1) + b"0",
    "announced text": b"X" + u32(2**31 - 1),
    "announced bytes": b"B" + u32(2**31 - 1),
    "deep key": b"}" + b")" + b"\x85" * 200_000 + b"Ns",
    "deep name": b")" + b"\x85" * 200_000 + b"Q",
    "endless text": b"]q\x00" + b"]q\x01" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(1, 60)) + b"h<\x93",
    "colliding keys": b"}("
    + b"".join(b"\x8a\x10" + (n * (2**61 - 1)).to_bytes(16, "little") + b"N" for n in range(20_000))
    + b"u",
    "many instructions": b"N0" * 2_000_000,
    "many containers": b"]" * 2_000_000,
}


LONG = ("many containers", "deep name")  # half a million instructions each; "deep key" has as many


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=pytest.mark.slow) if what in LONG else what for what in COSTLY]
)
def test_hostile_pickles_cost_nothing(what, tmp_path):
    for path in crafted(tmp_path, COSTLY[what], protocol=4):
        start = time.process_time()
        refusal(path)
        assert time.process_time() - start < 5
    tracemalloc.start()
    refusal(path, reader.read_plain)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6


def test_a_tree_that_holds_itself_again_and_again_is_refused(tmp_path):
    twice: list = [1.5]
    for _ in range(60):
        twice = [twice, twice]
    path = save(twice, tmp_path / "twice.pt")
    assert "far more values" in refusal(path, reader.read_plain)


def test_tensors_larger_than_the_file_together_are_refused(tmp_path):
    shared = torch.zeros(2**20)
    path = save([shared[k:] for k in range(100)], tmp_path / "many.pt")
    assert "far larger than the file" in refusal(path, reader.read_plain)


def test_plain_files_come_back_as_they_were(tmp_path):
    layout = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    thing = {"a": [1, 2.5, None, True, "é"], "b": {0: (1, 2), "c": torch.arange(3)}, "d": layout}
    for form in FORMATS:
        found = reader.read_plain(save(thing, tmp_path / "plain.pt", form))
        assert found["a"] == thing["a"] and found["b"][0] == (1, 2) and found["b"]["c"].tolist() == [0, 1, 2]
        assert torch.equal(found["d"], layout) and found["d"].stride() == layout.stride()


def test_every_flipped_bit_of_a_tensor_is_seen(tmp_path):
    path = save(torch.rand(4, 4), tmp_path / "items.pt")
    whole = path.read_bytes()
    begin = whole.index(torch.load(path).numpy().tobytes())
    for bit in range(0, 64 * 8, 7):
        broken = bytearray(whole)
        broken[begin + bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        refusal(path, read_items)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert "cannot be read" in refusal(tmp_path / "fifo")


def test_a_compressed_byteorder_is_refused(tmp_path):
    path = tmp_path / "items.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(None, 2))
        archive.writestr("a/byteorder", bytes(10**8), zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)
