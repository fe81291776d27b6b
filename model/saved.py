"""Reads files written by `torch.save` without running any code in them.

A pickle is a program: it names functions and calls them. This reader imports and calls nothing that a file names. It
follows the few instructions that torch.save uses, one by one. A name becomes a `Name`, a call becomes a `Node` that
only records its arguments, and an unexpected name is refused. Tensors are then cut out of the file's bytes, after
their names, shapes and bounds have been checked. Whatever a file contains, reading it takes a few seconds at most and,
apart from the tensors that it really holds, less than 300 MB of memory.

torch.load is not used: with weights_only=True it refuses modules, allocates whatever size a file claims, and does not
check the archive's checksums. Both layouts of torch.save are simple:

    zip     TOP/data.pkl is the pickle, TOP/data/KEY the raw values of each storage (PyTorch 1.6 and later)
    legacy  pickles one after the other: magic number, version, system, the object, the keys of its storages; then for
            each key the number of values (int64) and the raw values (the released files: PyTorch 1.1)
"""

from __future__ import annotations

import io
import math
import pickletools
import stat
import struct
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from utils import InputError

DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
}
TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
PARAMETER = "torch._utils._rebuild_parameter"
DICTS = ("collections.OrderedDict",)
SETS = ("builtins.set", "__builtin__.set")
PLAIN = (*DTYPES, *TENSORS, PARAMETER, *DICTS, *SETS)  # names that occur in a file of numbers, text and tensors
LEGACY = (0x1950A86A20F9469CFC6C, 1001)  # magic number and version

MOST_INSTRUCTIONS = 2**19  # of a pickle; a checkpoint has some ten thousand
MOST_PICKLE = 2**24  # bytes
MOST_DIRECTORY = 2**20  # bytes of a zip's list of records; a checkpoint has some ten thousand
MOST_STEPS = 2**20  # values that are examined after a pickle has been read
SPARE = 2**27  # bytes that the tensors of a file may take beyond its size, since tensors may share values


class Name(NamedTuple):
    """A class or function that a file refers to."""

    path: str


class Node:
    """A call in a file: the name that is called, its arguments, and the state that is set afterwards."""

    def __init__(self, path: str, args: tuple) -> None:
        self.path, self.args = path, args
        self.state: dict = {}


class Storage(NamedTuple):
    """The values that tensors are views of."""

    dtype: torch.dtype
    key: str
    numel: int

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize


class Saved:
    """The object in an open file (`root`), made of plain values and Nodes, and access to its tensors."""

    def __init__(self, root: Any, values: Callable[[Storage], bytes], size: int) -> None:
        self.root, self._values, self._left = root, values, size + SPARE
        self._read: dict[str, Tensor] = {}

    def tensor(self, node: Any, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor of a node on the CPU, converted to `dtype` if given. It shares memory with no other tensor.

        Raises InputError when the node is not a tensor, lies outside its storage, or holds values that are not finite.
        """
        storage, offset, size, stride = layout(node)
        if 0 in size:  # the items of a network without a memory
            return torch.empty(size, dtype=dtype or storage.dtype)
        if dtype and storage.dtype.is_floating_point != dtype.is_floating_point:
            raise InputError(f"holds {storage.dtype} where {dtype} should be")
        self._left -= math.prod(size) * (dtype or storage.dtype).itemsize
        if self._left < 0:
            raise InputError("holds tensors that together are far larger than the file")
        first = storage.key not in self._read
        if first:
            data = bytearray(self._values(storage))
            if len(data) != storage.bytes:
                raise InputError("damaged: the size of a storage is not the declared one")
            self._read[storage.key] = torch.frombuffer(data, dtype=storage.dtype)
        tensor = self._read[storage.key].as_strided(size, stride, offset)
        if not (first and tensor.numel() == storage.numel):
            tensor = tensor.clone()  # with its strides where it is dense: Adam's state must lie as its parameters do
        tensor = tensor.to(dtype) if dtype else tensor
        if not tensor.isfinite().all():
            raise InputError("holds NaN or infinity: the model it was saved from is broken")
        return tensor


def kind(thing: Any) -> str:
    """The kind of a value in a file, for a message."""
    return thing.path if isinstance(thing, (Node, Name)) else f"a {type(thing).__name__}"


def is_tensor(thing: Any) -> bool:
    """Whether a value in a file is a tensor or a parameter."""
    return isinstance(thing, Node) and thing.path in (*TENSORS, PARAMETER)


def layout(node: Any) -> tuple[Storage, int, tuple[int, ...], tuple[int, ...]]:
    """The (storage, offset, size, stride) of a tensor or parameter, checked to lie inside its storage."""
    if isinstance(node, Node) and node.path == PARAMETER:
        node = node.args[0]
    if not isinstance(node, Node) or node.path not in TENSORS:
        raise InputError(f"{kind(node)} stands where a tensor should")
    storage, offset, size, stride = node.args[:4]
    if not isinstance(storage, Storage) or not (isinstance(size, tuple) and isinstance(stride, tuple)):
        raise InputError("holds a tensor of an unknown form")
    if len(size) > 8 or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise InputError("holds a tensor of an unknown form")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and (last >= storage.numel or math.prod(size) > storage.numel):
        raise InputError("holds a tensor that is larger than its storage")
    return storage, offset, size, stride


def read_plain(path: Path) -> Any:
    """The object in a file that holds only dicts, lists, tuples, text, numbers and tensors.

    Raises InputError when the file holds anything else, is damaged or cannot be read.
    """
    with opened(path, PLAIN) as saved:
        steps = Steps()

        def plain(thing: Any) -> Any:
            steps.take()
            if isinstance(thing, dict):
                return {key: plain(value) for key, value in thing.items()}
            if isinstance(thing, (list, tuple)) and not isinstance(thing, (Name, Storage)):
                return type(thing)(map(plain, thing))
            if isinstance(thing, (str, int, float)) or thing is None:
                return thing
            return saved.tensor(thing)

        return plain(saved.root)


class Steps:
    """Limits how many values are examined: in a small file, each list may hold the previous one twice, without end."""

    def __init__(self, most: int = MOST_STEPS) -> None:
        self.left = most

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise InputError("holds far more values than any file of this kind")


# Layouts --------------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path, names: Collection[str]) -> Iterator[Saved]:
    """Open a file that may refer to these names.

    Every error inside the block, even from a damaged or hostile file, becomes an InputError that names the file.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a fifo would be waited for
            raise InputError("cannot be read: not a regular file")
        with open(path, "rb") as file:
            size = about.st_size
            zipped = file.read(4) == b"PK\x03\x04"
            root, values = _zip(file, size, names) if zipped else _legacy(file, size, names)
            yield Saved(root, values, size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or type(error).__name__}") from error
    except Exception as error:  # a file made to break the reader may raise anything
        raise InputError(f"{path}: not a file of torch.save, or damaged ({type(error).__name__})") from error


def _zip(file: BinaryIO, size: int, names: Collection[str]) -> tuple[Any, Callable[[Storage], bytes]]:
    if _directory_bytes(file, size) > MOST_DIRECTORY:
        raise InputError("a zip archive, but not of torch.save: it lists too many records")
    archive = zipfile.ZipFile(file)
    records = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in records if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError("a zip archive, but not of torch.save")
    # torch.save never compresses, and its records do not overlap: a file that expands when read is an attack
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise InputError("a zip archive, but not of torch.save: it is compressed")
    if sum(max(info.file_size, info.compress_size) for info in archive.infolist()) > size:
        raise InputError("a zip archive, but not of torch.save: its records overlap")
    if records[pickles[0]].file_size > MOST_PICKLE:
        raise InputError("holds far more values than any file of this kind")
    top = pickles[0].removesuffix("data.pkl")
    if top + "byteorder" in records and archive.read(top + "byteorder") != b"little":
        raise InputError("saved on a big-endian machine, which is not supported")
    root, _ = _interpret(io.BytesIO(archive.read(top + "data.pkl")), names)
    if damaged := archive.testzip():
        raise InputError(f"damaged: the checksum of {damaged} is wrong")
    return root, lambda storage: archive.read(f"{top}data/{storage.key}")


def _directory_bytes(file: BinaryIO, size: int) -> int:
    """The size in bytes that the end of a zip gives for its list of records; zipfile would read all of it."""
    file.seek(max(0, size - 2**16 - 98))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise InputError("damaged: the archive has no end")
    told = struct.unpack_from("<I", tail, end + 12)[0]
    if end >= 76 and tail[end - 20 : end - 16] == b"PK\x06\x07":  # zip64
        told = struct.unpack_from("<Q", tail, end - 76 + 40)[0]
    return min(told, size)


def _legacy(file: BinaryIO, size: int, names: Collection[str]) -> tuple[Any, Callable[[Storage], bytes]]:
    file.seek(0)
    head = io.BytesIO(file.read(MOST_PICKLE))  # so that no instruction can read gigabytes that a file claims
    if (_interpret(head, names)[0], _interpret(head, names)[0]) != LEGACY:
        raise InputError("not a file of torch.save")
    _interpret(head, names)  # the system it was saved on
    root, storages = _interpret(head, names)
    begins, at = {}, 0  # key -> where its values begin
    keys, _ = _interpret(head, names)
    file.seek(head.tell())
    for key in keys:
        if type(key) is not str:  # hashing other values may take forever
            raise InputError("damaged: a storage has no name")
        storage = storages[key]
        if struct.unpack("<q", file.read(8)) != (storage.numel,):
            raise InputError("damaged: the size of a storage is not the declared one")
        begins[key], at = file.tell(), file.tell() + storage.bytes
        if at > size:
            raise InputError("damaged: the end is missing")
        file.seek(at)
    if begins and at != size:
        raise InputError("damaged: there is extra data after its end")

    def values(storage: Storage) -> bytes:
        file.seek(begins[storage.key])
        return file.read(storage.bytes)

    return root, values


# The pickle -----------------------------------------------------------------------------------------------------------

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")
_STRINGS = ("BINSTRING", "SHORT_BINSTRING")  # written by Python 2
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _interpret(stream: io.BytesIO, names: Collection[str]) -> tuple[Any, dict[str, Storage]]:
    """Follow one pickle, made of the instructions that torch.save uses. Returns its object and its storages by key."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}
    steps = Steps()

    def since_mark() -> list[Any]:
        start = marks.pop()
        found = stack[start:]
        del stack[start:]
        return found

    argument: Any
    for number, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
        op = instruction.name
        if number > MOST_INSTRUCTIONS:
            raise InputError("holds far more values than any file of this kind")
        if op in _ARGUMENTS or op in _STRINGS:
            stack.append(argument)
        elif op in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif op == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op == "MARK":
            marks.append(len(stack))
        elif op in _TUPLES:
            count = _TUPLES[op]
            parts = tuple(stack[len(stack) - count :])
            if len(parts) != count:
                raise InputError("damaged: a value is missing")
            del stack[len(stack) - count :]
            stack.append(parts)
        elif op == "TUPLE":
            stack.append(tuple(since_mark()))
        elif op == "EMPTY_LIST":
            stack.append([])
        elif op == "EMPTY_DICT":
            stack.append({})
        elif op in ("APPEND", "APPENDS"):
            parts_to_add = since_mark() if op == "APPENDS" else [stack.pop()]
            if type(stack[-1]) is not list:
                raise InputError(f"appends to {kind(stack[-1])}")
            stack[-1].extend(parts_to_add)
        elif op in ("SETITEM", "SETITEMS"):
            flat = since_mark() if op == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _set_items(stack[-1], flat)
        elif op == "GLOBAL":
            stack.append(_name(argument.replace(" ", ".", 1), names))
        elif op == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            if type(module) is not str or type(attribute) is not str:
                raise InputError("damaged: a name is not a string")
            stack.append(_name(f"{module}.{attribute}", names))
        elif op in ("REDUCE", "NEWOBJ"):
            args, called = stack.pop(), stack.pop()
            stack.append(_call(called, args, steps))
        elif op == "BUILD":
            _build(stack.pop(), stack[-1])
        elif op == "BINPERSID":
            stack.append(_persistent(stack.pop(), storages))
        elif op == "STOP":
            return stack.pop(), storages
        elif op not in ("PROTO", "FRAME"):
            raise InputError(f"refused: it has the instruction {op}, which torch.save does not write")
    raise InputError("damaged: the pickle has no end")


def _name(path: str, names: Collection[str]) -> Name:
    # the path is looked up as one string: nothing is imported and no dot is followed
    if path not in names:
        raise InputError(f"refused: it names {path[:150]!r}, which no file of this kind needs")
    return Name(path)


def _call(called: Any, args: Any, steps: Steps) -> Any:
    if not isinstance(called, Name) or type(args) is not tuple:
        raise InputError(f"calls {kind(called)}")
    if called.path not in DICTS:
        return Node(called.path, args)
    made: dict = {}
    for pair in args[0] if args else ():
        steps.take()
        _set_items(made, [pair[0], pair[1]])
    return made


def _set_items(target: Any, flat: list[Any]) -> None:
    """Keys must be text or numbers, and integers below 2**60: hashing other values may take forever."""
    keys = flat[::2]
    if type(target) is not dict or len(flat) % 2:
        raise InputError(f"sets items of {kind(target)}")
    if any(type(key) not in (str, int, float) or (type(key) is int and abs(key) >= 2**60) for key in keys):
        raise InputError("holds a dict with keys of an unknown form")
    target.update(zip(keys, flat[1::2], strict=True))


def _build(state: Any, target: Any) -> None:
    if type(target) is dict:
        return  # attributes of an OrderedDict, such as the _metadata of a state_dict, are not needed
    if not isinstance(target, Node) or type(state) is not dict:
        raise InputError(f"sets the state of {kind(target)}")
    target.state = state


def _persistent(saved: Any, storages: dict[str, Storage]) -> Any:
    if type(saved) is not tuple or len(saved) < 4:
        raise InputError("holds a storage of an unknown form")
    rest: list[Any]
    what, cls, *rest = saved
    if what == "module" and type(what) is str and isinstance(cls, Name):  # legacy: a class with its source
        return cls
    if what != "storage" or len(rest) not in (3, 4) or rest[3:] not in ([], [None]):
        raise InputError("holds a storage of an unknown form")
    key, numel = rest[0], rest[2]  # whatever the device was, the values are read on the CPU
    if not isinstance(cls, Name) or cls.path not in DTYPES or type(key) is not str or type(numel) is not int:
        raise InputError("holds a storage of an unknown form")
    if numel < 0:
        raise InputError("holds a storage of an unknown form")
    storage = Storage(DTYPES[cls.path], key, numel)
    if storages.setdefault(key, storage) != storage:
        raise InputError("declares one storage twice, differently")
    return storage
