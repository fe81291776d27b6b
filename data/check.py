"""Checks a data set: reports what it contains and what is wrong with it.

    python -m data.check DATASET [--dataset_path ./dataset]     DATASET: a --dataset_type, or the path of its folder

Every frame and every pixel mask is decoded. Prints the content of each split and how many frames are labelled abnormal,
then one line per finding, worst first. An error makes Train.py or Evaluate.py fail, a warning means that their results
may be misleading, and a note is good to know. The last line says what was checked for training and for evaluation, and
whether they would fail.
Exit status: 0 neither would fail, 1 training or evaluation would fail, 2 wrong command, 130 stopped by Ctrl-C.
"""

import argparse
import contextlib
import hashlib
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data import findings as look
from data import synthetic
from data.archives import differences
from data.findings import READ_BY, Checked, Finding, FrameFacts
from data.frames import Video, scan, split_directory
from data.intervals import Labels, LabelsError, seconds_at
from data.labels import BUILT_IN, FAMILIES, frame_labels, label_source
from data.masks import mask_findings
from data.pictures import FrameError, read_checked
from utils import InputError, Parser, named, one_line, progress, run_script

LEVELS = ("error", "warning", "note")  # the worst first


def find(dataset: Path, split: str) -> tuple[list[Video], list[Finding]]:
    """The videos of a split that have frames, and findings about the rest."""
    try:
        directory = split_directory(dataset.parent, dataset.name, split)
        scanned = list(scan(directory))
    except InputError as error:
        return [], [Finding("error", str(error), READ_BY[split])]
    findings = [Finding("error", problem, READ_BY[split]) for _, problem in scanned if problem]
    if not scanned:
        text = f"no videos in {directory}: each video is a folder of frames there"
        findings.append(Finding("error", text, READ_BY[split]))
    return [video for video, _ in scanned if video.frames], findings


def read_frame(path: Path) -> FrameFacts:
    """Decode a frame file; an error becomes part of its facts."""
    try:
        picture, header = read_checked(path)
    except FrameError as error:
        return FrameFacts(error=str(error))
    digest = hashlib.blake2b(picture.data, digest_size=16).digest()
    return FrameFacts((picture.shape[1], picture.shape[0]), digest, header.pixel, header.pages)


def read_videos(videos: Mapping[str, Sequence[Video]]) -> list[Checked]:
    """Decode all frames of {split: [Video, ...]} on all cores, with a progress bar."""
    checked, total = [], sum(len(video.frames) for some in videos.values() for video in some)
    # the decoders and hashlib release the interpreter, so threads are as fast as processes
    with ThreadPoolExecutor() as pool, progress("reading", "frame", total=total) as bar:
        for split, some in videos.items():
            for video in some:
                frames = []
                for frame in pool.map(read_frame, map(video.path, range(len(video.frames)))):
                    frames.append(frame)
                    bar.update()
                checked.append(Checked(split, video, frames))
    return checked


def check(
    dataset: Path,
    t_length: int = 5,
    batch_size: int = 4,
    avenue_labels: str = "paper",
    fps: float | None = None,
) -> tuple[list[Checked], Labels | None, list[Finding]]:
    """Check the data set in a folder. Returns its decoded videos, its labels or None, and the findings, worst first.

    t_length, batch_size: the flags for Train.py; avenue_labels, fps: the flags for Evaluate.py. Raises InputError when
    there is no such folder.
    """
    if not os.path.isdir(dataset):
        split_directory(dataset.parent, dataset.name, "training")  # which raises InputError
    videos, findings = {}, []
    for split in READ_BY:
        videos[split], more = find(dataset, split)
        findings += more
    checked, labels = read_videos(videos), None
    findings += look.unread(checked)
    findings += look.lengths(checked, t_length, batch_size)
    if testing := videos["testing"]:
        try:
            labels = frame_labels(dataset.parent, dataset.name, testing, avenue_labels, seconds_at(fps))
            findings += look.label_findings(labels, checked, t_length)
            if dataset.name == "avenue" and labels:
                findings += look.avenue_families(labels, dataset, testing, avenue_labels)
        except InputError as error:
            problems = error.problems if isinstance(error, LabelsError) else [str(error)]
            findings += [Finding("error", problem, READ_BY["testing"]) for problem in problems]
        findings += [Finding(level, text) for level, text in mask_findings(dataset, testing, labels)]
    findings += look.frame_names(checked)
    findings += look.pixel_kinds(checked)
    findings += look.shared_frames(checked, t_length)
    findings += look.repeated_frames(checked, t_length)
    findings += look.frame_sizes(checked)
    if dataset.name in BUILT_IN:
        for split, some in videos.items():
            found = {video.name: len(video.frames) for video in some}
            findings += [Finding("note", text) for text in differences(split, found, dataset.name)]
    findings += look.strays(dataset)
    return checked, labels, sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def conclusion(findings: Sequence[Finding], labels: Labels | None, t_length: int, batch_size: int) -> str:
    """What was checked for each script, and whether the script would fail. It may still fail for other reasons, such as
    a lack of memory."""
    fails = {finding.fails for finding in findings}
    looked_at = {
        "training": f"every frame decodes, clips of {t_length} fill a batch of {batch_size}",
        "evaluation": f"every frame decodes, there are clips of {t_length}, {'labels fit' if labels else 'no labels'}",
    }
    return "; ".join(
        f"{script} would fail" if script in fails else f"{script}: nothing found that stops it ({checked})"
        for script, checked in looked_at.items()
    )


def report(dataset: Path, checked: Sequence[Checked], labels: Labels | None, t_length: int) -> None:
    """Print the content: one line per split, and one per test video."""
    print(
        f"{one_line(str(dataset))}\n{'split':<10}{'videos':>8}{'frames':>10}{f'clips of {t_length}':>14}   frame sizes"
    )
    for split in READ_BY:
        some = [one for one in checked if one.split == split]
        frames = [frame for one in some for frame in one.frames]
        clips = 0
        for one in some:
            with contextlib.suppress(InputError):  # of broken times, which are a finding
                clips += len(one.ends(t_length))
        sizes = Counter(frame.size for frame in frames if frame.size).most_common()
        listed = named([f"{width}x{height}" for (width, height), _ in sizes])
        print(f"{split:<10}{len(some):>8}{len(frames):>10}{clips:>14}   {listed}")
    if not labels:
        return
    source = label_source(dataset.parent, dataset.name)
    print(f"\nlabels: {one_line(str(source))}")
    print(f"{'video':<14}{'frames':>8}{'abnormal':>10}{'share':>10}")
    frames_of = {one.video.name: len(one.frames) for one in checked if one.split == "testing"}
    total = labelled = 0
    for name, values in labels.items():
        start = f"{one_line(name):<14}{frames_of[name]:>8}"
        if values is None:
            print(f"{start}{'unlabelled':>20}")
            continue
        total, labelled = total + int(values.sum()), labelled + len(values)
        print(f"{start}{int(values.sum()):>10}{100 * values.mean():>8.1f} %")
    if labelled:
        print(f"{'all':<14}{labelled:>8}{total:>10}{100 * total / labelled:>8.1f} %")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m data.check", description="Report what a data set contains and what is wrong with it."
    )
    parser.add_argument("dataset", help="a --dataset_type, or the path of a data set's folder")
    parser.add_argument(
        "--dataset_path", type=Path, default=Path("dataset"), help="the folder that contains the data sets"
    )
    parser.add_argument("--t_length", type=int, default=5, help="frames in a clip; give 1 for recon")
    parser.add_argument("--batch_size", type=int, default=4, help="clips in a training step")
    parser.add_argument(
        "--avenue_labels", choices=FAMILIES, default="paper", help="which labels of Avenue to use; see data/README.md"
    )
    parser.add_argument(
        "--fps", type=float, help="frames per second, for labels in seconds when the times of frames are not stored"
    )
    args = parser.parse_args(arguments)
    for name in ("t_length", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be 1 or more")
    if args.fps is not None and not 0 < args.fps < math.inf:
        parser.error("--fps must be a number above 0")
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    is_path = any(mark in args.dataset for mark in (os.sep, "/")) or args.dataset in (".", "..")
    dataset = Path(os.path.abspath(args.dataset)) if is_path else args.dataset_path / args.dataset
    if dataset.name == "synthetic":
        synthetic.ensure(dataset.parent)
    checked, labels, findings = check(dataset, args.t_length, args.batch_size, args.avenue_labels, args.fps)
    report(dataset, checked, labels, args.t_length)
    print()
    for finding in findings:
        print(f"{finding.level}: {f'{finding.fails} fails: ' if finding.fails else ''}{one_line(finding.text)}")
    print(conclusion(findings, labels, args.t_length, args.batch_size))
    return int(any(finding.fails for finding in findings))


if __name__ == "__main__":
    run_script(main)
