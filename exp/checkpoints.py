"""The files that training writes: their content, how it is checked, and how a trained network is loaded from them.

    model.pth        format, shape (a dict by the names of SHAPE), epoch, model (a state_dict)
    m_items.pt       format, method, epoch, items (M, C); (0, C) without a memory
    checkpoint.pt    format, model, items, optimizer, scheduler, history (the metrics of each epoch)
    calibration.pt   format, items, lengths, psnr, distance, regular, th, held_out (exp/scoring/calibration.py)

All are written by torch.save and hold plain values and tensors, so torch.load(weights_only=True) loads them. Here they
are read by model/saved.py, which verifies their checksums, and their content is checked completely before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.convae import ConvAE
from model.released import read_items, read_model
from model.saved import read_plain
from utils import InputError

FORMAT = 1
SHAPE = ("method", "c", "t_length", "h", "w", "msize", "fdim")  # the flags that a model file carries


def build_model(shape: Mapping[str, Any]) -> ConvAE:
    """The untrained network for the settings in `shape`, a mapping with the names in SHAPE."""
    skips, has_memory = shape["method"] == "pred", shape["msize"] > 0
    return ConvAE(shape["c"], shape["t_length"], shape["fdim"], skips, has_memory)


# What each kind of file holds -----------------------------------------------------------------------------------------


def _need(holds: object, what: str) -> None:
    if not holds:
        raise InputError(what)


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < 2**31


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _check_items(items: Any) -> None:
    fits = isinstance(items, Tensor) and items.dtype == torch.float32 and items.ndim == 2
    _need(fits and items.shape[0] != 1 and items.shape[1] > 0, "its items are not float32 of shape (M, C)")


def _check_shape(shape: Any) -> None:
    _need(isinstance(shape, dict) and shape.keys() >= set(SHAPE), f"its shape is not a dict with {', '.join(SHAPE)}")
    _need(shape["method"] in ("pred", "recon"), "its method is neither pred nor recon")
    _need(_is_count(shape["c"], 1) and shape["c"] in (1, 3), "its c is neither 1 nor 3")
    clip = shape["t_length"]
    _need(_is_count(clip, 2) if shape["method"] == "pred" else clip == 1, "its t_length does not fit its method")
    for name in ("h", "w"):
        _need(_is_count(shape[name], 8) and shape[name] % 8 == 0, f"its {name} is not a multiple of 8")
    _need(_is_count(shape["msize"]) and shape["msize"] != 1, "its msize is neither 0 nor 2 or more")
    _need(_is_count(shape["fdim"], 1), "its fdim is not 1 or more")


def _check_weights(weights: Any, shape: Mapping[str, Any]) -> None:
    """Check a state_dict of the network of this shape; packed weights may be in half precision."""
    with torch.device("meta"):
        expected = build_model(shape).state_dict()
    _need(isinstance(weights, dict) and weights.keys() == expected.keys(), "its weights are not those of its network")
    for name, like in expected.items():
        value = weights[name]
        packed = isinstance(value, Tensor) and value.dtype == torch.float16 and like.dtype == torch.float32
        same = isinstance(value, Tensor) and value.shape == like.shape and (packed or value.dtype == like.dtype)
        _need(same, f"its {name} has another shape or type than in its network")


def _check_model(content: dict) -> None:
    _check_shape(content["shape"])
    _need(_is_count(content["epoch"]), "its epoch is not a whole number of 0 or more")
    _check_weights(content["model"], content["shape"])


def _check_items_file(content: dict) -> None:
    _check_items(content["items"])
    _need(content["method"] in ("pred", "recon"), "its method is neither pred nor recon")
    _need(_is_count(content["epoch"]), "its epoch is not a whole number of 0 or more")


def _check_checkpoint(content: dict) -> None:
    """Check all but the weights: check_resumable does that, since a checkpoint does not hold the shape."""
    _check_items(content["items"])
    history = content["history"]
    _need(isinstance(history, list) and all(isinstance(line, dict) for line in history), "its history is not a list")
    epochs = [line.get("epoch") for line in history]
    _need(epochs == list(range(1, len(history) + 1)), "its history does not count the epochs from 1")
    for line in history:
        _need(all(map(_is_metric, line.values())), "its history holds something other than numbers")
    optimizer, scheduler = content["optimizer"], content["scheduler"]
    _need(isinstance(optimizer, dict) and optimizer.keys() == {"state", "param_groups"}, "its optimizer is not Adam's")
    groups = optimizer["param_groups"]
    _need(isinstance(groups, list) and len(groups) == 1 and isinstance(groups[0], dict), "its optimizer is not Adam's")
    _need(_is_number(groups[0].get("lr")), "its optimizer has no learning rate")
    _need(isinstance(scheduler, dict) and _is_count(scheduler.get("last_epoch")), "its scheduler counts no epochs")


def _is_metric(value: Any) -> bool:
    return value is None or _is_number(value) or (isinstance(value, list) and all(map(_is_number, value)))


def _check_calibration(content: dict) -> None:
    _check_items(content["items"])
    lengths = content["lengths"]
    counted = isinstance(lengths, list) and lengths and all(_is_count(length, 1) for length in lengths)
    _need(counted, "its lengths are not the numbers of frames of its videos")
    for name in ("psnr", "distance", "regular"):
        values = content[name]
        fits = isinstance(values, Tensor) and values.is_floating_point() and tuple(values.shape) == (sum(lengths),)
        _need(fits, f"its {name} does not have one value per frame")
    _need(_is_number(content["th"]) and content["th"] >= 0, "its th is not a number of 0 or more")
    _need(type(content["held_out"]) is bool, "its held_out is neither true nor false")


KINDS: dict[str, tuple[set[str], Callable[[dict], None]]] = {
    "checkpoint": ({"model", "items", "optimizer", "scheduler", "history"}, _check_checkpoint),
    "model": ({"model", "shape", "epoch"}, _check_model),
    "items": ({"items", "method", "epoch"}, _check_items_file),
    "calibration": (
        {"items", "lengths", "psnr", "distance", "regular", "th", "held_out"},
        _check_calibration,
    ),
}


def load_file(path: Path, what: str) -> dict[str, Any]:
    """The content of a file of the kind `what`, a key of KINDS, with tensors on the CPU.

    Raises InputError when the file cannot be read, is damaged, or does not have the content of this kind.
    """
    content = read_plain(path)
    if not _is_ours(content, what):
        raise InputError(f"{path} is not a {what} file of this project")
    return _checked(path, content, what)


def _is_ours(content: Any, what: str) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT and content.keys() >= KINDS[what][0]


def _checked(path: Path, content: dict[str, Any], what: str) -> dict[str, Any]:
    try:
        KINDS[what][1](content)
    except InputError as error:
        raise InputError(f"{path} is not a {what} file of this project: {error}") from None
    except (RuntimeError, OverflowError) as error:  # sizes beyond what any tensor can have
        raise InputError(f"{path} is not a {what} file of this project: its sizes are impossible") from error
    return content


def check_resumable(path: Path, content: dict[str, Any], shape: Mapping[str, Any]) -> None:
    """Raise InputError when the checkpoint at `path` cannot continue a training of this shape."""
    try:
        _check_weights(content["model"], shape)
        wanted = (shape["msize"], shape["fdim"])
        _need(tuple(content["items"].shape) == wanted, f"its items are not of shape {wanted}")
        with torch.device("meta"):
            sizes = [tuple(value.shape) for value in build_model(shape).parameters()]
        group, state = content["optimizer"]["param_groups"][0], content["optimizer"]["state"]
        _need(group.get("params") == list(range(len(sizes))), "its optimizer is of another network")
        _need(isinstance(state, dict) and state.keys() == set(range(len(sizes))), "its optimizer is of another network")
        for index, size in enumerate(sizes):
            one = state[index]
            _need(
                isinstance(one, dict) and one.keys() >= {"step", "exp_avg", "exp_avg_sq"}, "its optimizer is not Adam's"
            )
            _need(isinstance(one["step"], Tensor) and one["step"].ndim == 0, "its optimizer does not count steps")
            for name in ("exp_avg", "exp_avg_sq"):
                fits = isinstance(one[name], Tensor) and tuple(one[name].shape) == size
                _need(fits and one[name].dtype == torch.float32, "its optimizer is of another network")
        wrong = [name for name, value in group.items() if name != "params" and not _is_setting(value)]
        _need(not wrong, "its optimizer holds something other than settings")
        scheduler = content["scheduler"]
        known = all(_is_setting(value) or _is_metric(value) for value in scheduler.values())
        _need(known, "its scheduler holds something other than settings")
        _need(scheduler["last_epoch"] == len(content["history"]), "its scheduler is at another epoch than its history")
    except InputError as error:
        raise InputError(f"{path} cannot be resumed: {error}") from None


def _is_setting(value: Any) -> bool:
    return (
        value is None
        or type(value) is bool
        or _is_number(value)
        or (isinstance(value, tuple) and all(map(_is_number, value)))
    )


# A trained network ----------------------------------------------------------------------------------------------------


def load_model(model_path: Path, items_path: Path, given: Mapping[str, Any]) -> tuple[ConvAE, Tensor, dict[str, Any]]:
    """Load a trained network and its items from files of this project, of the released code or of a fork of it.

    given: the flags of SHAPE, None where the user did not give one; they must agree with the files. A released model
    does not store the frame size, which is 256 x 256 unless given. Returns (ConvAE in eval mode, items (M, C), shape),
    all on the CPU. Raises InputError when a file is missing, damaged or of another shape, or when the two files do not
    belong together.
    """
    for path, flag in ((model_path, "--model_dir"), (items_path, "--m_items_dir")):
        if not path.is_file():
            raise InputError(
                f"no file {path}: train first (python Train.py), or give another file ({flag} of Evaluate.py)"
            )
    items = _load_items(items_path)
    file = _load_weights(model_path, len(items["items"]), given)
    shape = file["shape"]
    for name in SHAPE:
        if given[name] not in (None, shape[name]):
            raise InputError(
                f"--{name} {given[name]} contradicts {model_path}, which has {shape[name]}: leave the flag out"
            )
    if tuple(items["items"].shape) != (shape["msize"], shape["fdim"]):
        raise InputError(
            f"{items_path} holds items of shape {tuple(items['items'].shape)}, {model_path} needs "
            f"({shape['msize']}, {shape['fdim']}): give the items saved with this model (--m_items_dir of Evaluate.py)"
        )
    for name, own in (("method", shape["method"]), ("epoch", file["epoch"])):
        if items[name] not in (None, own) and own is not None:
            raise InputError(
                f"{items_path} is of {name} {items[name]}, {model_path} of {name} {own}: give the items saved with this"
                " model (--m_items_dir of Evaluate.py; a run that was killed while saving is repaired by Train.py"
                " --resume)"
            )
    model = build_model(shape)
    model.load_state_dict(file["model"])
    return model.eval(), items["items"], {name: shape[name] for name in SHAPE}


def _load_weights(path: Path, msize: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """A dict with shape, model and epoch; the epoch is None for a released model, which does not store it."""
    try:
        content = read_plain(path)
    except InputError:  # a pickled module or an unknown file: read_model reads it or says what is wrong
        content = None
    if isinstance(content, dict) and "format" in content:
        if not _is_ours(content, "model"):
            raise InputError(f"{path} is not a model file of this project")
        return _checked(path, content, "model")
    released = read_model(path)
    shape = {
        "method": released.method,
        "c": released.channels,
        "t_length": released.t_length,
        "h": given["h"] or 256,
        "w": given["w"] or 256,
        "msize": msize,
        "fdim": released.feature_dim,
    }
    return {"shape": shape, "model": released.state_dict, "epoch": None}


def _load_items(path: Path) -> dict[str, Any]:
    """The content of m_items.pt; for the bare tensor of the released code, method and epoch are None."""
    try:
        content = read_plain(path)
    except InputError:
        content = None
    if isinstance(content, dict):
        return load_file(path, "items")
    return {"items": read_items(path), "method": None, "epoch": None}
