"""Official archives and plain videos -> the tree of frames that training and evaluation read.

    python -m data.prepare ped2|avenue|shanghai SOURCE [--output DIR]
    python -m data.prepare video TRAIN_VIDEOS --test TEST_VIDEOS --name NAME [--labels CSV] [--output DIR]

A video becomes DIR/<data set>/{training,testing}/frames/<video>/<frame>.jpg, frames counted from 0. It is written to a
hidden folder and renamed when whole, so a run may be stopped at any time and started again: it goes on where it was.
Exit status: 0 all there, 1 a video failed or is missing, 2 wrong command or full disk, 130 stopped by Ctrl-C.
"""

import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from data.archives import LAYOUTS, check_truth, compare, find_entries, official
from data.frames import EXTENSIONS, LITTER, find_videos, natural_key
from data.labels import BUILT_IN, read_intervals, write_intervals
from utils import InputError, Parser, run_script

SPLITS = ("training", "testing")
TEXT = (".txt", ".nfo", ".csv", ".md")  # FFmpeg opens some of these as videos of scrolling text


class Job(NamedTuple):
    """One video to extract."""

    source: Path  # a video file or a folder of pictures
    target: Path  # the folder its frames go to
    frames: int | None = None  # how many there must be, where that is known


# What to extract -----------------------------------------------------------------------------------------------------


def archive_jobs(dataset_type, source, dataset):
    """The videos of an official archive, as jobs. Raises InputError when there are none."""
    jobs = []
    for split in SPLITS:
        entries = find_entries(source, *LAYOUTS[dataset_type][split])
        lengths = official(dataset_type, split)[2]
        jobs += [Job(path, dataset / split / "frames" / name, lengths.get(name)) for name, path in entries.items()]
        where = f" in {next(iter(entries.values())).parent}" if entries else ""
        print(f"{split}: {len(entries)} videos{where}")
    if not jobs:
        folders = " or ".join(LAYOUTS[dataset_type][split][1] for split in SPLITS)
        raise InputError(f"no {dataset_type} videos in {source}: unpack the archive there, it has {folders}")
    return jobs


def video_jobs(path, directory):
    """One video file, or all of a folder, as jobs of that split. Raises InputError: none, or two of the same name."""
    if not path.exists():
        raise InputError(f"no video file or folder {path}: check the path")
    passed_over = (*LITTER, *EXTENSIONS, *TEXT)
    files = [path] if path.is_file() else sorted(path.iterdir(), key=lambda entry: natural_key(entry.name))
    jobs = {}
    for file in files:
        if path.is_dir() and (not file.is_file() or file.name[0] == "." or file.name.lower().endswith(passed_over)):
            continue
        other = jobs.setdefault(file.stem.casefold(), Job(file, directory / file.stem))  # some disks ignore case
        if other.source != file:
            raise InputError(f"{other.source} and {file} would both be video {file.stem}: rename one")
    if not jobs:
        raise InputError(f"no video files in {path}")
    return list(jobs.values())


# Extraction ----------------------------------------------------------------------------------------------------------


def pictures(folder):
    """The pictures of a folder in natural order."""
    entries = sorted(folder.iterdir(), key=lambda entry: natural_key(entry.name))
    return [entry for entry in entries if entry.name[0] != "." and entry.name.lower().endswith(EXTENSIONS)]


def is_done(job):
    """Whether the frames are there: as many as there must be, or, of a video of unknown length, any."""
    found = len(pictures(job.target)) if job.target.is_dir() else 0
    needed = len(pictures(job.source)) if job.source.is_dir() else job.frames
    return found > 0 and (needed is None or found == needed)


def picture_jpeg(path, quality):
    """A picture file as the bytes of a JPEG; what is a JPEG already stays as it is."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if path.name.lower().endswith((".jpg", ".jpeg")):
        return content
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        raise InputError(f"cannot decode {path}: get it again")
    return encode(image, quality)


def jpegs(source, quality):
    """The frames of a video file or a folder of pictures, each as the bytes of a JPEG.

    Raises InputError when one cannot be read.
    """
    if source.is_dir():
        for path in pictures(source):
            yield picture_jpeg(path, quality)
        return
    capture = cv2.VideoCapture(str(source))
    if not capture.isOpened():
        raise InputError(f"cannot open {source}: not a video OpenCV can read, or broken")
    count = 0
    while (frame := capture.read())[0]:
        yield encode(frame[1], quality)
        count += 1
    # headers may be a few frames off; far fewer than announced is a file that was cut short, or holes in the middle
    announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    if count < 0.9 * announced:
        raise InputError(f"only {count} of {announced:.0f} frames can be read of {source}: get it again, or re-encode")
    if count < 0.99 * announced:
        tqdm.write(f"note: {source} has {count} frames that can be read, its header says {announced:.0f}")


def announced_frames(job):
    """How many frames a job will give, as far as can be told without reading them."""
    if job.frames or job.source.is_dir():
        return job.frames or len(pictures(job.source))
    return max(0, int(cv2.VideoCapture(str(job.source)).get(cv2.CAP_PROP_FRAME_COUNT)))


def encode(image, quality):
    """uint8 (h, w, 3) -> the bytes of a JPEG. In memory, as cv2.imwrite tells no errors and not all paths work."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def extract(job, quality, stop, bar):
    """Write the frames of one video; they appear under its name when all are there. Gives up when `stop` is set."""
    part = job.target.with_name(f".{job.target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        part.mkdir(parents=True)
        # zeros for programs that sort by letters; official names of pictures have three digits
        digits = 3 if job.source.is_dir() else 5
        index = -1
        for index, jpeg in enumerate(jpegs(job.source, quality)):
            if stop.is_set():
                return
            (part / f"{index:0{digits}}.jpg").write_bytes(jpeg)
            bar.update()
        if index < 0:
            raise InputError(f"no frames in {job.source}")
        shutil.rmtree(job.target, ignore_errors=True)  # the wrong number of frames
        part.rename(job.target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def extract_all(jobs, workers, quality):
    """Extract the videos that are not there yet, several at once. Returns what went wrong, a line a video.

    Raises InputError when frames cannot be written.
    """
    todo = [job for job in jobs if not is_done(job)]
    print(f"{len(todo)} videos to extract, {len(jobs) - len(todo)} are there already", flush=True)
    failures, stop = [], threading.Event()
    total = sum(map(announced_frames, todo))
    # threads are enough: OpenCV works outside Python's lock
    with tqdm(total=total, unit="frame", disable=None) as bar, ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(extract, job, quality, stop, bar): job for job in todo}
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                except InputError as error:
                    failures.append(str(error))
                except OSError as error:
                    what = f"cannot write {futures[future].target}: {error.strerror}"
                    raise InputError(f"{what}; make room, then run this again") from error
        except BaseException:  # above all Ctrl-C: the other videos end at their next frame
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return failures


# What is there now ---------------------------------------------------------------------------------------------------


def report(dataset, dataset_type):
    """Print what is on disk as a table, for the official data sets against what there should be.

    Returns the differences, a line each.
    """
    problems = []
    print(f"\n{dataset}\n{'split':<10}{'videos':>12}{'frames':>20}")
    for split in SPLITS:
        directory = dataset / split / "frames"
        filled = directory.is_dir() and any(entry.name[0] != "." for entry in directory.iterdir())
        found = {video.name: len(video.frames) for video in (find_videos(directory) if filled else [])}
        cells = [str(len(found)), str(sum(found.values()))]
        if dataset_type in BUILT_IN:
            cells = [f"{cell} of {number}" for cell, number in zip(cells, official(dataset_type, split), strict=False)]
            problems += compare(split, found, dataset_type)
        elif not found:
            problems.append(f"no {split} videos")
        print(f"{split:<10}{cells[0]:>12}{cells[1]:>20}")
    return problems


# Command line --------------------------------------------------------------------------------------------------------


def parse(arguments):
    common = Parser(add_help=False)
    common.add_argument("--output", type=Path, default=Path("dataset"), help="where the data sets are")
    common.add_argument("--quality", type=int, default=95, help="JPEG quality, 1 to 100")
    common.add_argument("--workers", type=int, default=os.cpu_count(), help="videos extracted at once")
    parser = Parser(prog="python -m data.prepare", description="Archives and videos -> frames, see data/README.md.")
    commands = parser.add_subparsers(dest="command", metavar="ped2|avenue|shanghai|video", required=True)
    for dataset_type in BUILT_IN:
        command = commands.add_parser(dataset_type, parents=[common], help=f"the official {dataset_type} archive")
        command.add_argument("source", type=Path, help="the folder it was unpacked to")
    command = commands.add_parser("video", parents=[common], help="your own videos")
    command.add_argument("train", type=Path, metavar="TRAIN_VIDEOS", help="normal videos: a folder of them or one file")
    command.add_argument("--test", type=Path, required=True, help="videos to find anomalies in: a folder or one file")
    command.add_argument("--name", required=True, help="name of the data set, to be given as --dataset_type")
    command.add_argument("--labels", type=Path, help="csv of the abnormal intervals: video,first,last")
    args = parser.parse_args(arguments)
    if not 1 <= args.quality <= 100:
        parser.error("--quality must be 1 to 100")
    if args.workers < 1:
        parser.error("--workers must be 1 or more")
    if args.command == "video":
        if not re.fullmatch(r"\w[\w.-]*", args.name) or args.name in (*BUILT_IN, "synthetic"):
            parser.error(f"--name {args.name!r}: letters, digits, - and _, and no name of a data set that is known")
        if args.labels and not args.labels.is_file():
            parser.error(f"--labels: no file {args.labels}")
    return args


def main(arguments=None):
    args = parse(arguments)
    failures = []
    if args.command == "video":
        dataset_type, dataset = args.name, args.output / args.name
        jobs = video_jobs(args.train, dataset / "training" / "frames")
        jobs += video_jobs(args.test, dataset / "testing" / "frames")
    else:
        dataset_type, dataset = args.command, args.output / args.command
        source = args.source.resolve()  # so that it has parents
        if not source.is_dir():
            raise InputError(f"no folder {source}: unpack the archive first and give the folder")
        failures += check_truth(dataset_type, source)
        jobs = archive_jobs(dataset_type, source, dataset)
    failures += extract_all(jobs, args.workers, args.quality)
    problems = report(dataset, dataset_type)
    for line in (*problems, *(f"failed: {failure}" for failure in failures)):
        print(line)
    if args.command == "video" and args.labels:
        videos = find_videos(dataset / "testing" / "frames")
        write_intervals(dataset / "frame_labels.csv", read_intervals(args.labels, videos))
    complete = not problems and not failures
    print("complete" if complete else "not complete: add what is missing and run this again, the rest is kept")
    return 0 if complete else 1


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a video is said once, below
    run_script(main)
