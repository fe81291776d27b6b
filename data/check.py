"""The doctor of a data set: what is there, and what is wrong with it.

    python -m data.check DATASET [--dataset_path ./dataset]     DATASET: a --dataset_type, or the path of its folder

Every frame is decoded. Prints what each split holds and how many frames are labelled abnormal, then one line a finding,
worst first: an error stops Train.py or Evaluate.py, a warning makes what they give worth less, a note is good to know.
Exit status: 0 both work, 1 training or evaluation would fail (the last line says which), 2 wrong command, 130 Ctrl-C.
"""

import argparse
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data import synthetic
from data.archives import differences
from data.frames import LITTER, FrameError, Video, read_picture, scan, split_directory
from data.labels import BUILT_IN, FAMILIES, frame_labels, intervals, label_source
from utils import InputError, Parser, named, run_script

SCRIPTS = {"training": "training", "testing": "evaluation"}  # what reads a split
LEVELS = ("error", "warning", "note")


class Finding(NamedTuple):
    level: str  # of LEVELS
    text: str
    fails: str | None = None  # of an error: of SCRIPTS, what does


class Frame(NamedTuple):
    """What decoding a frame told."""

    size: tuple[int, ...] | None = None  # (width, height)
    digest: bytes | None = None  # of its pixels
    error: str | None = None  # why it cannot be decoded; then there is no size and no digest


class Checked(NamedTuple):
    """A video and its frames, decoded."""

    split: str
    video: Video
    frames: list[Frame]

    def __str__(self) -> str:
        return f"{self.split} video {self.video.name}"


# Reading -------------------------------------------------------------------------------------------------------------


def find(dataset: Path, split: str) -> tuple[list[Video], list[Finding]]:
    """The videos of a split that have frames, and the findings on what else is there."""
    try:
        directory = split_directory(dataset.parent, dataset.name, split)
    except InputError as error:
        return [], [Finding("error", str(error), SCRIPTS[split])]
    scanned = list(scan(directory))
    findings = [Finding("error", problem, SCRIPTS[split]) for _, problem in scanned if problem]
    if not scanned:
        text = f"no videos in {directory}: each video is a folder of frames there"
        findings.append(Finding("error", text, SCRIPTS[split]))
    return [video for video, _ in scanned if video.frames], findings


def read_frame(path: Path) -> Frame:
    try:
        picture = read_picture(path)
    except FrameError as error:
        return Frame(error=str(error))
    return Frame(picture.shape[1::-1], hashlib.blake2b(picture.data, digest_size=16).digest())


def read(videos: dict[str, list[Video]]) -> list[Checked]:
    """Decode all frames of {split: [Video, ...]} by all cores, with a progress bar: a list of Checked."""
    checked, total = [], sum(len(video.frames) for some in videos.values() for video in some)
    # OpenCV and hashlib release the interpreter, so threads are as fast as processes
    with ThreadPoolExecutor() as pool, tqdm(total=total, desc="reading", unit="frame", leave=False) as bar:
        for split, some in videos.items():
            for video in some:
                frames = []
                for frame in pool.map(read_frame, map(video.path, range(len(video.frames)))):
                    frames.append(frame)
                    bar.update()
                checked.append(Checked(split, video, frames))
    return checked


# Findings; each function yields them ----------------------------------------------------------------------------------


def unread(checked: list[Checked]) -> Iterator[Finding]:
    """Frames that cannot be decoded: a line a video."""
    for one in checked:
        if broken := [frame.error for frame in one.frames if frame.error]:
            others = f" (and {len(broken) - 1} more frames of this video)" if len(broken) > 1 else ""
            yield Finding("error", broken[0] + others, SCRIPTS[one.split])


def lengths(checked: list[Checked], t_length: int, batch_size: int) -> Iterator[Finding]:
    """Videos shorter than a clip, splits without a clip, training clips that do not fill a batch."""
    for split, script in SCRIPTS.items():
        some = [one for one in checked if one.split == split]
        for one in some:
            if len(one.frames) < t_length:
                short = f"{one} has {len(one.frames)} frames, a clip {t_length} (--t_length): it is skipped"
                yield Finding("warning", short)
        clips = sum(max(0, len(one.frames) - t_length + 1) for one in some)
        if some and not clips:
            yield Finding("error", f"no {split} video is {t_length} frames long (--t_length)", script)
        elif some and split == "training" and clips < batch_size:
            text = f"{clips} training clips do not fill a batch of {batch_size}: more videos, or another --batch_size"
            yield Finding("error", text, script)


def frame_names(checked: list[Checked]) -> Iterator[Finding]:
    """Gaps in the numbers of frames, numbers that come twice, names that have no common order."""
    for one in checked:
        names = one.video.frames
        kinds = {re.sub(r"\d+", "0", Path(name).stem): name for name in names}
        if len(kinds) > 1:
            text = f"{one} has frames that are not numbered alike ({named(list(kinds.values()))}): is this their order?"
            yield Finding("warning", text)
            continue
        columns = [*zip(*(map(int, re.findall(r"\d+", Path(name).stem)) for name in names), strict=True)]
        varying = [numbers for numbers in columns if len(set(numbers)) > 1]
        if len(varying) > 1:  # such as a date and a time: what comes next cannot be told
            continue
        steps = [b - a for a, b in pairwise((varying or columns)[0])] if columns else []
        if twice := [i for i, step in enumerate(steps) if step == 0]:
            text = f"{one} has {len(twice)} numbers twice, the first in {names[twice[0]]} and {names[twice[0] + 1]}"
            yield Finding("warning", text)
        counts = Counter(step for step in steps if step)
        usual = min(counts, key=lambda step: (-counts[step], step), default=1)  # 2 where each second frame was kept
        if gaps := [i for i, step in enumerate(steps) if step >= 2 * usual]:
            missing = sum(steps[i] // usual - 1 for i in gaps)
            text = (
                f"{one} lacks {missing} frames in {len(gaps)} gaps, the first after {names[gaps[0]]}: clips jump there"
            )
            yield Finding("warning", text)


def frame_sizes(checked: list[Checked]) -> Iterator[Finding]:
    """Frames of several sizes, in a video or in the data set. They are all resized, so none of it is an error."""
    usual = defaultdict(list)  # the commonest size of a video -> videos
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
        yield Finding("note", f"videos have {len(usual)} frame sizes, all are resized alike: {listed}")


def repeated_frames(checked: list[Checked], t_length: int) -> Iterator[Finding]:
    """Frames that equal the one before: a camera that froze. A warning where that goes on for a whole clip."""
    for one in checked:
        same = [a.digest is not None and a.digest == b.digest for a, b in pairwise(one.frames)]
        if not any(same):
            continue
        first, last = max(intervals(same), key=lambda run: run[1] - run[0])
        longest = last - first + 2  # frames that are all the same
        frozen = f"the longest run is {longest} frames from {one.video.frames[first]} on"
        text = f"{one} has {sum(same)} frames that equal the one before, {frozen}: did the camera freeze?"
        yield Finding("warning" if longest >= max(t_length, 3) else "note", text)


def shared_frames(checked: list[Checked], t_length: int) -> Iterator[Finding]:
    """Videos that have pictures in common, to the last pixel: a clip's worth across splits, or half of a video."""
    pictures = [{frame.digest for frame in one.frames} - {None} for one in checked]
    owners = defaultdict(list)  # digest -> places of the videos that have it
    for place, digests in enumerate(pictures):
        for digest in digests:
            owners[digest].append(place)
    common = Counter(pair for places in owners.values() for pair in combinations(places, 2))
    for (a, b), count in common.items():
        first, second, fewer = checked[a], checked[b], min(len(pictures[a]), len(pictures[b]))
        if first.split != second.split and count >= min(t_length, fewer):
            text = f"{first} and {second} share {count} pictures: scores of what was trained on say little"
            yield Finding("warning", text)
        elif first.split == second.split and 2 * count >= fewer:
            yield Finding("note", f"{first} and {second} share {count} pictures: are they the same video?")


def label_findings(labels: dict[str, np.ndarray] | None, t_length: int) -> Iterator[Finding]:
    """What the labels (a dict, or None where there are none) leave to say when they fit."""
    if labels is None:
        text = "no labels, so evaluation gives scores but no AUC: data/README.md says how to give them"
        yield Finding("warning", text)
        return
    scored = {name: values[t_length - 1 :] for name, values in labels.items() if len(values) >= t_length}
    one_class = [name for name, values in scored.items() if values.all() or not values.any()]
    kinds = np.unique(np.concatenate([*scored.values(), []]))
    if len(kinds) == 1:
        text = f"all frames that get a score are {'abnormal' if kinds[0] else 'normal'}, so evaluation gives no AUC"
        yield Finding("warning", text)
    elif one_class:
        text = f"{len(one_class)} testing videos have frames of one class only and no AUC of their own"
        yield Finding("note", f"{text}: {named(one_class)}")


def avenue_families(
    labels: dict[str, np.ndarray], dataset: Path, videos: list[Video], family: str
) -> Iterator[Finding]:
    """Which of Avenue's families of labels is used, and how the other differs."""
    source = label_source(dataset.parent, dataset.name)
    if source is None or source.suffix != ".json":
        yield Finding("note", f"labels come from {source}, so --avenue_labels changes nothing")
        return
    (other,) = FAMILIES.keys() - {family}
    others = frame_labels(dataset.parent, dataset.name, videos, other) or {}
    differing = {name: int((values != others[name]).sum()) for name, values in labels.items()}
    differing = {name: count for name, count in differing.items() if count}
    listed = named([f"{name}: {count}" for name, count in differing.items()])
    where = f"differs in {sum(differing.values())} frames of {len(differing)} of these {len(videos)} videos ({listed})"
    text = f"labels are of the family '{family}', '{other}' {where if differing else 'is the same for these videos'}"
    yield Finding("note", f"{text}: compare no AUC of one with one of the other (--avenue_labels)")


def strays(dataset: Path) -> Iterator[Finding]:
    """Files and folders that nothing reads, and what a stopped data.prepare left."""
    known = {dataset: {*SCRIPTS, "frame_labels.npy", "frame_labels.csv"}}
    known |= {dataset / split: {"frames", "times"} for split in SCRIPTS}
    known[dataset / "testing"].add("masks")
    found = [entry for folder, names in known.items() if folder.is_dir() for entry in folder.iterdir()]
    found = [entry for entry in found if entry.name not in known[entry.parent]]
    for split in SCRIPTS:
        if (frames := dataset / split / "frames").is_dir():
            found += [entry for entry in frames.iterdir() if not entry.is_dir() or entry.name.endswith(".part")]
    # other hidden entries are caches and what file managers leave
    found = [e for e in found if e.name.endswith(".part") or (e.name[0] != "." and e.name.lower() not in LITTER)]
    if found:
        yield Finding("note", f"not read: {named(sorted(str(entry.relative_to(dataset)) for entry in found))}")


# The whole of it ------------------------------------------------------------------------------------------------------


def check(
    dataset: Path, t_length: int = 5, batch_size: int = 4, avenue_labels: str = "paper"
) -> tuple[list[Checked], dict[str, np.ndarray] | None, list[Finding]]:
    """Look at the data set in a folder. Returns (list of Checked, labels {name: (frames,)} or None, findings).

    t_length, batch_size: what Train.py will be given. Raises InputError when the folder is not there.
    """
    if not dataset.is_dir():
        split_directory(dataset.parent, dataset.name, "training")  # says so
    videos, findings = {}, []
    for split in SCRIPTS:
        videos[split], more = find(dataset, split)
        findings += more
    checked, labels = read(videos), None
    findings += unread(checked)
    findings += lengths(checked, t_length, batch_size)
    if testing := videos["testing"]:
        try:
            labels = frame_labels(dataset.parent, dataset.name, testing, avenue_labels)
            findings += label_findings(labels, t_length)
            if labels and dataset.name == "avenue":
                findings += avenue_families(labels, dataset, testing, avenue_labels)
        except InputError as error:
            problems = getattr(error, "problems", [str(error)])
            findings += [Finding("error", problem, SCRIPTS["testing"]) for problem in problems]
    findings += frame_names(checked)
    findings += shared_frames(checked, t_length)
    findings += repeated_frames(checked, t_length)
    findings += frame_sizes(checked)
    if dataset.name in BUILT_IN:
        for split, some in videos.items():
            found = {video.name: len(video.frames) for video in some}
            findings += [Finding("note", text) for text in differences(split, found, dataset.name)]
    findings += strays(dataset)
    return checked, labels, sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def report(dataset: Path, checked: list[Checked], labels: dict[str, np.ndarray] | None, t_length: int) -> None:
    """Print what is there: a line a split, and one for each video that is labelled."""
    print(f"{dataset}\n{'split':<10}{'videos':>8}{'frames':>10}{f'clips of {t_length}':>14}   frame sizes")
    for split in SCRIPTS:
        some = [one for one in checked if one.split == split]
        frames = [frame for one in some for frame in one.frames]
        clips = sum(max(0, len(one.frames) - t_length + 1) for one in some)
        sizes = Counter(frame.size for frame in frames if frame.size).most_common()
        listed = named([f"{width}x{height}" for (width, height), _ in sizes])
        print(f"{split:<10}{len(some):>8}{len(frames):>10}{clips:>14}   {listed}")
    if not labels:
        return
    abnormal = {name: int(values.sum()) for name, values in labels.items()}
    source = label_source(dataset.parent, dataset.name)
    print(f"\nlabels: {source}\n{'video':<14}{'frames':>8}{'abnormal':>10}{'share':>10}")
    for name, values in labels.items():
        print(f"{name:<14}{len(values):>8}{abnormal[name]:>10}{100 * abnormal[name] / len(values):>8.1f} %")
    total, count = sum(abnormal.values()), sum(map(len, labels.values()))
    print(f"{'all':<14}{count:>8}{total:>10}{100 * total / count:>8.1f} %")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m data.check", description="What is in a data set, and what is wrong with it.")
    parser.add_argument("dataset", help="a --dataset_type, or the path of a data set's folder")
    parser.add_argument("--dataset_path", type=Path, default=Path("dataset"), help="the folder that holds data sets")
    parser.add_argument("--t_length", type=int, default=5, help="frames in a clip; recon has 1")
    parser.add_argument("--batch_size", type=int, default=4, help="clips in a training step")
    parser.add_argument("--avenue_labels", choices=FAMILIES, default="paper", help="see data/README.md")
    args = parser.parse_args(arguments)
    for name in ("t_length", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be 1 or more")
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    is_path = any(mark in args.dataset for mark in (os.sep, "/")) or args.dataset in (".", "..")
    dataset = Path(os.path.abspath(args.dataset)) if is_path else args.dataset_path / args.dataset
    if dataset.name == "synthetic":
        synthetic.ensure(dataset.parent)
    checked, labels, findings = check(dataset, args.t_length, args.batch_size, args.avenue_labels)
    report(dataset, checked, labels, args.t_length)
    print()
    for finding in findings:
        print(f"{finding.level}: {f'{finding.fails} fails: ' if finding.fails else ''}{finding.text}")
    fails = {finding.fails for finding in findings}
    print("; ".join(f"{script} {'would fail' if script in fails else 'works'}" for script in SCRIPTS.values()))
    return int(any(script in fails for script in SCRIPTS.values()))


if __name__ == "__main__":
    run_script(main)
