"""Reads the flags, starts and metrics in the directory of a run; exp/run.py writes them and describes the files."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils import InputError, read_json, reading

FREE = (  # flags that may differ when a run is resumed
    "dataset_path",
    "cache_dir",
    "no_cache",
    "num_workers",
    "device",
    "gpus",
    "no_figures",
    "figure_format",
    "tensorboard",
    "resume",
    "data_changed",
    "data",
    "overwrite",
    "dry_run",
)


DATA_FLAGS = ("dataset_type", "dataset_path", "bad_frames", "cache_dir", "no_cache")


class Record(NamedTuple):
    """The content of flags.json, starts.jsonl and metrics.jsonl of a run."""

    flags: dict[str, Any]
    starts: list[dict[str, Any]]  # epoch, commit, torch, device
    history: list[dict[str, Any]]  # the metrics of each finished epoch


def read_record(directory: Path) -> Record:
    """The Record of a run. Raises InputError when there is none, or one of its files is damaged."""
    return Record(read_flags(directory), *(_read_lines(directory / name) for name in ("starts.jsonl", "metrics.jsonl")))


def read_flags(directory: Path) -> dict[str, Any]:
    """The flags of a run, by name. Raises InputError when there is no run, or its flags.json is damaged."""
    path = directory / "flags.json"
    if not path.is_file():
        raise InputError(f"no run in {directory}: it has no flags.json")
    flags = read_json(path)
    if not isinstance(flags, dict):
        raise InputError(f"{path} is damaged: it holds no flags by name")
    return flags


def data_of(model_path: Path, given: argparse.Namespace, more: Sequence[str] = ()) -> dict[str, Any]:
    """The flags that name the data of a run, and `more`, by name; {} for a model that is not in the directory of a run.

    model_path: the directory of the run, or its model file; given: the flags of a command, of which one for the cache
    replaces both of the run. Raises InputError when its flags.json is damaged.
    """
    directory = model_path if model_path.is_dir() else model_path.parent
    known = read_flags(directory) if (directory / "flags.json").is_file() else {}
    names = {*DATA_FLAGS, *more} - ({"cache_dir", "no_cache"} if given.cache_dir or given.no_cache else set())
    return {name: value for name, value in known.items() if name in names}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with reading(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    found = [parse_line(line) for line in lines]
    if None in found:
        number = found.index(None) + 1
        raise InputError(f"{path} is damaged in line {number}: Train.py --resume repairs it")
    return [line for line in found if line is not None]


def parse_line(line: str) -> dict[str, Any] | None:
    """A line of starts.jsonl or metrics.jsonl as a dict; None if it is incomplete."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def contradiction(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first flag that differs between `before` and `now`, except those in FREE; None if there is none.

    A flag that did not exist when the run was made is not compared.
    """
    return next((name for name in now if name not in FREE and before.get(name, now[name]) != now[name]), None)
