"""The checks of data.check on a data set that was read: each function yields findings of one kind."""

import contextlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.frames import LITTER, Video, ambiguous, decimals, order_in_doubt
from data.intervals import Labels, intervals
from data.labels import FAMILIES, frame_labels, label_source
from data.times import clip_ends, gaps_of, no_clip, no_clips
from utils import InputError, named

READ_BY = {"training": "training", "testing": "evaluation"}  # split -> what reads it


class Finding(NamedTuple):
    """One line of the report of data.check."""

    level: str  # "error", "warning" or "note"
    text: str
    fails: str | None = None  # the script that an error makes fail, a value of READ_BY


class FrameFacts(NamedTuple):
    """The result of decoding a frame."""

    size: tuple[int, int] | None = None  # (width, height)
    digest: bytes | None = None  # of its pixels
    pixel: str | None = None  # the type of a value on disk, "uint8" or "uint16"
    pages: int = 1
    error: str | None = None  # why it cannot be decoded, in which case nothing else is known


class Checked(NamedTuple):
    """A video and the facts about its decoded frames."""

    split: str
    video: Video
    frames: list[FrameFacts]

    def __str__(self) -> str:
        return f"{self.split} video {self.video.name}"

    def ends(self, t_length: int) -> np.ndarray:
        """The indices (n,) of the last frames of its clips. Raises InputError where its times are broken."""
        return clip_ends(gaps_of(self.video), t_length)


def unread(checked: Sequence[Checked]) -> Iterator[Finding]:
    """Frames that cannot be decoded: one line per video."""
    for one in checked:
        if broken := [frame.error for frame in one.frames if frame.error]:
            others = f" (and {len(broken) - 1} more frames of this video)" if len(broken) > 1 else ""
            yield Finding("error", broken[0] + others, READ_BY[one.split])


def lengths(checked: Sequence[Checked], t_length: int, batch_size: int) -> Iterator[Finding]:
    """Videos shorter than a clip, broken times, splits without a clip, training clips that do not fill a batch."""
    for split, script in READ_BY.items():
        some = [one for one in checked if one.split == split]
        clips = 0
        for one in some:
            try:
                found = len(one.ends(t_length))
            except InputError as error:
                yield Finding("error", str(error), script)
                continue
            clips += found
            if not found:
                yield Finding("warning", f"{one} has {no_clip(len(one.frames), t_length)}: it is skipped")
        if some and not clips:
            yield Finding("error", no_clips(some[0].video.directory.parent, t_length), script)
        elif some and split == "training" and clips < batch_size:
            text = f"{clips} training clips do not fill a batch of {batch_size}: add videos or reduce --batch_size"
            yield Finding("error", text, script)


def frame_names(checked: Sequence[Checked]) -> Iterator[Finding]:
    """Missing and repeated frame numbers, and names whose order is uncertain."""
    for one in checked:
        names = one.video.frames
        if decimals(names) is not None:
            if ambiguous(names):
                yield Finding("warning", order_in_doubt(one.video))
            continue
        kinds = {re.sub(r"\d+", "0", Path(name).stem): name for name in names}
        if len(kinds) > 1:
            text = f"{one} has frames that are not numbered alike ({named(list(kinds.values()))}): is this their order?"
            yield Finding("warning", text)
            continue
        columns = [*zip(*(map(int, re.findall(r"\d{1,4000}", Path(name).stem)) for name in names), strict=True)]
        varying = [numbers for numbers in columns if len(set(numbers)) > 1]
        if len(varying) > 1:  # such as a date and a time: the next one is not known
            continue
        steps = [b - a for a, b in pairwise((varying or columns)[0])] if columns else []
        if twice := [i for i, step in enumerate(steps) if step == 0]:
            text = (
                f"{one} has {len(twice)} repeated frame numbers, first in {names[twice[0]]} and {names[twice[0] + 1]}"
            )
            yield Finding("warning", text)
        counts = Counter(step for step in steps if step)
        usual = min(counts, key=lambda step: (-counts[step], step), default=1)  # 2 if every second frame was kept
        if gaps := [i for i, step in enumerate(steps) if step >= 2 * usual]:
            missing = sum(steps[i] // usual - 1 for i in gaps)
            text = (
                f"{one} lacks {missing} frames in {len(gaps)} gaps, the first after {names[gaps[0]]}: clips jump there"
            )
            yield Finding("warning", text)


def frame_sizes(checked: Sequence[Checked]) -> Iterator[Finding]:
    """Frames of several sizes, in a video or in the data set. This is no error, since all frames are resized."""
    usual: dict[tuple[int, int], list[str]] = defaultdict(list)  # the most common size of a video -> videos
    for one in checked:
        sizes = Counter(frame.size for frame in one.frames if frame.size).most_common()
        if not sizes:
            continue
        usual[sizes[0][0]].append(f"{one.split}/{one.video.name}")
        if len(sizes) > 1:
            others = dict(sizes[1:])
            first = next(i for i, frame in enumerate(one.frames) if frame.size in others)
            listed = ", ".join(f"{w}x{h} ({count})" for (w, h), count in sizes)
            text = f"{one} has frames of {len(sizes)} sizes: {listed}; the first that differs is"
            yield Finding("warning", f"{text} {one.video.frames[first]}")
    if len(usual) > 1:
        listed = "; ".join(f"{w}x{h}: {named(videos)}" for (w, h), videos in usual.items())
        yield Finding("note", f"videos have {len(usual)} frame sizes; all are resized to the same size: {listed}")


def pixel_kinds(checked: Sequence[Checked]) -> Iterator[Finding]:
    """Pictures that are only partly used: the upper 8 of 16 bits, or the first of several pages."""
    for one in checked:
        if deep := [i for i, frame in enumerate(one.frames) if frame.pixel == "uint16"]:
            text = f"{one} has {len(deep)} frames of 16 bits per value, the first {one.video.frames[deep[0]]}"
            yield Finding("warning", f"{text}: only the upper 8 bits are used")
        if paged := [i for i, frame in enumerate(one.frames) if frame.pages > 1]:
            text = f"{one} has {len(paged)} files of several pages, the first {one.video.frames[paged[0]]}"
            yield Finding("warning", f"{text}: only the first page would be used, save each page as a frame")


def repeated_frames(checked: Sequence[Checked], t_length: int) -> Iterator[Finding]:
    """Frames that equal the previous one, as from a frozen camera. A warning if a run is as long as a clip."""
    for one in checked:
        same = [a.digest is not None and a.digest == b.digest for a, b in pairwise(one.frames)]
        if not any(same):
            continue
        first, last = max(intervals(same), key=lambda run: run[1] - run[0])
        longest = last - first + 2  # the number of identical frames
        frozen = f"the longest run is {longest} frames from {one.video.frames[first]} on"
        text = f"{one} has {sum(same)} frames that equal the previous one, {frozen}: did the camera freeze?"
        yield Finding("warning" if longest >= max(t_length, 3) else "note", text)


def shared_frames(checked: Sequence[Checked], t_length: int) -> Iterator[Finding]:
    """Videos that share identical pictures: at least a clip's worth between splits, or half of a video within one."""
    pictures = [{frame.digest for frame in one.frames if frame.digest} for one in checked]
    owners: dict[bytes, list[int]] = defaultdict(list)  # digest -> indices of the videos that have it
    for place, digests in enumerate(pictures):
        for digest in digests:
            owners[digest].append(place)
    common = Counter(pair for places in owners.values() for pair in combinations(places, 2))
    for (a, b), count in common.items():
        first, second, fewer = checked[a], checked[b], min(len(pictures[a]), len(pictures[b]))
        if first.split != second.split and count >= min(t_length, fewer):
            text = f"{first} and {second} share {count} pictures: scores on training data mean little"
            yield Finding("warning", text)
        elif first.split == second.split and 2 * count >= fewer:
            yield Finding("note", f"{first} and {second} share {count} pictures: are they the same video?")


def label_findings(labels: Labels | None, checked: Sequence[Checked], t_length: int) -> Iterator[Finding]:
    """Findings about labels that fit the testing videos in `checked`, or about missing labels (None)."""
    if labels is None:
        text = "no labels, so evaluation gives scores but no AUC: data/README.md says how to give them"
        yield Finding("warning", text)
        return
    if unlabelled := [name for name, values in labels.items() if values is None]:
        text = f"{len(unlabelled)} testing videos are unlabelled, so they are scored but left out of metrics"
        yield Finding("note", f"{text}: {named(unlabelled)}")
    scored = {}
    for one in checked:
        values = labels[one.video.name] if one.split == "testing" else None
        with contextlib.suppress(InputError):  # of broken times, which are a finding of `lengths`
            if values is not None and len(ends := one.ends(t_length)):
                scored[one.video.name] = values[ends]
    one_class = [name for name, values in scored.items() if values.all() or not values.any()]
    kinds = np.unique(np.concatenate([*scored.values(), []]))
    if len(kinds) == 0 and unlabelled:
        yield Finding("warning", "no frame that gets a score is labelled, so evaluation gives no AUC")
    elif len(kinds) == 1:
        text = f"all frames that get a score are {'abnormal' if kinds[0] else 'normal'}, so evaluation gives no AUC"
        yield Finding("warning", text)
    elif one_class:
        text = f"{len(one_class)} testing videos have frames of one class only, and so no AUC of their own"
        yield Finding("note", f"{text}: {named(one_class)}")


def avenue_families(labels: Labels, dataset: Path, videos: Sequence[Video], family: str) -> Iterator[Finding]:
    """Which family of Avenue's labels is used, and how the other one differs."""
    source = label_source(dataset.parent, dataset.name)
    if source is None or source.suffix != ".json":
        yield Finding("note", f"labels come from {source}, so --avenue_labels has no effect")
        return
    (other,) = FAMILIES.keys() - {family}
    others = frame_labels(dataset.parent, dataset.name, videos, other) or {}
    differing = {name: int((np.asarray(values) != others[name]).sum()) for name, values in labels.items()}
    differing = {name: count for name, count in differing.items() if count}
    listed = named([f"{name}: {count}" for name, count in differing.items()])
    where = f"differs in {sum(differing.values())} frames of {len(differing)} of these {len(videos)} videos ({listed})"
    text = f"labels are of the family '{family}', '{other}' {where if differing else 'is the same for these videos'}"
    yield Finding("note", f"{text}: an AUC with one cannot be compared with an AUC with the other (--avenue_labels)")


def strays(dataset: Path) -> Iterator[Finding]:
    """Files and folders that are not used, and remains of a stopped data.prepare."""
    known = {dataset: {*READ_BY, "frame_labels.npy", "frame_labels.csv"}}
    known |= {dataset / split: {"frames", "times"} for split in READ_BY}
    known[dataset / "testing"].add("masks")
    found = [entry for folder, names in known.items() if folder.is_dir() for entry in folder.iterdir()]
    found = [entry for entry in found if entry.name not in known[entry.parent]]
    for split in READ_BY:
        if (frames := dataset / split / "frames").is_dir():
            others = [entry for entry in frames.iterdir() if not os.path.isdir(entry) or entry.name.endswith(".part")]
            found += [entry for entry in others if os.path.exists(entry)]  # broken links are reported as errors
    # other hidden entries are caches and files of file managers
    found = [e for e in found if e.name.endswith(".part") or (e.name[0] != "." and e.name.lower() not in LITTER)]
    if found:
        yield Finding("note", f"not read: {named(sorted(str(entry.relative_to(dataset)) for entry in found))}")
