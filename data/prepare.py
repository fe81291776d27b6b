"""Turn official archives or video files into the folders of frames that training and evaluation read.

    python -m data.prepare ped2|avenue [--dataset_path DIR]      downloads the archive from its authors
    python -m data.prepare ped2|avenue|shanghai SOURCE [--dataset_path DIR]
    python -m data.prepare video TRAIN_VIDEOS --test TEST_VIDEOS --name NAME [--labels CSV] [--dataset_path DIR]

A video becomes DIR/<data set>/{training,testing}/frames/<video>/<frame>.jpg, with frames counted from 0, and its times
are stored in .../times/<video>.csv. It is written to a hidden folder, which is renamed when complete. So the command
may be stopped at any time, and started again to continue; several may work on one data set at once.
Exit status: 0 complete, 1 a video failed or is missing, 2 wrong command or full disk, 130 stopped by Ctrl-C.
"""

import argparse
import contextlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from data.archives import LAYOUTS, check_truth, differences, find_entries, official
from data.download import ARCHIVES, PAGES, fetch, unpacked
from data.frames import EXTENSIONS, LITTER, Video, find_videos, in_order, natural_key, printable, scan
from data.intervals import kept_seconds, merged_intervals, write_intervals
from data.labels import BUILT_IN
from data.masks import write_archive_masks
from data.pictures import read_picture, read_verified
from data.reader import Reader
from data.times import Clock, times_path, write_times
from utils import InputError, Parser, cannot_write, named, new_part, one_line, remove_parts, run_script

SPLITS = ("training", "testing")
VIDEO = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".avi", ".mkv", ".webm", ".ogv", ".flv", ".wmv", ".asf"),
    *(".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".mxf", ".dv"),
)
# pictures, and a small copy that some cameras keep beside each video; FFmpeg would open them as videos
NOT_VIDEO = (*EXTENSIONS, ".heic", ".heif", ".avif", ".lrv")
NO_VIDEO = r"image2|\w+_pipe|tty|bin|idf|xbin|adf"  # formats of pictures and text that FFmpeg opens too
MOST_FRAMES = 10_000_000  # four days at 25 frames per second


class Job(NamedTuple):
    """One video to extract."""

    source: Path  # a video file or a folder of pictures
    target: Path  # the folder its frames go to
    frames: int | None = None  # the required number of frames, if known


# What to extract -----------------------------------------------------------------------------------------------------


def archive_jobs(dataset_type: str, source: Path, dataset: Path) -> list[Job]:
    """The videos of an official archive as jobs. Raises InputError when there are none."""
    jobs = []
    for split in SPLITS:
        entries = find_entries(source, *LAYOUTS[dataset_type][split])
        lengths = official(dataset_type, split)[2]
        jobs += [Job(path, dataset / split / "frames" / name, lengths.get(name)) for name, path in entries.items()]
        where = f" in {next(iter(entries.values())).parent}" if entries else ""
        print(f"{split}: {len(entries)} videos{where}")
    if not jobs:
        folders = " or ".join(LAYOUTS[dataset_type][split][1] for split in SPLITS)
        raise InputError(f"no {dataset_type} videos in {source}: unpack the archive there; it contains {folders}")
    return jobs


def video_jobs(path: Path, directory: Path) -> tuple[list[Job], list[str]]:
    """A video file, or all video files in a folder, as jobs that extract to `directory`, and problems, a line each.

    Other files are skipped and named on the terminal. Raises InputError when there are no videos, or two with the same
    name.
    """
    shown = printable(path)
    if not path.exists():
        raise InputError(f"there is no video file or folder {shown}: check the path")
    if not path.is_file() and not path.is_dir():
        raise InputError(f"{shown} is a pipe or a device: give a video file, or a folder of them")
    files = [path] if path.is_file() else sorted(path.iterdir(), key=lambda entry: natural_key(entry.name))
    jobs: dict[str, Job] = {}
    problems, passed_over, folders = [], [], []
    for file in files:
        if path.is_dir() and (file.name[0] == "." or file.name.lower() in LITTER):
            continue
        if file.is_dir():
            folders.append(printable(file.name))
        elif not file.exists():
            problems.append(f"{printable(file)} is a link to {printable(os.readlink(file))}, which does not exist")
        elif not file.is_file() or (path.is_dir() and not is_video(file)):
            passed_over.append(printable(file.name))
        else:
            name = printable(file.stem)
            other = jobs.setdefault(name.casefold(), Job(file, directory / name))  # some file systems ignore case
            if other.source != file:
                raise InputError(
                    f"{printable(other.source)} and {printable(file)} would both be video {name}: rename one"
                )
    if passed_over:
        print(f"{shown}: skipped, since they are not videos: {', '.join(passed_over)}")
    if folders:
        print(f"{shown}: folders inside it are not read: {', '.join(folders)}; move their videos up to extract them")
    if not jobs and not problems:
        raise InputError(f"no video files in {shown}")
    return list(jobs.values()), problems


def is_video(path: Path) -> bool:
    """Whether a file is a video, judged by its extension or, if that is unknown, by its content."""
    ending = path.suffix.lower()
    if ending in VIDEO or ending in NOT_VIDEO:
        return ending in VIDEO
    try:
        reader = Reader(os.fspath(path))
    except InputError:
        return False
    reader.close()
    return not re.fullmatch(NO_VIDEO, reader.format)


def check_labels(path: Path, kept: Path, directory: Path, jobs: list[Job]) -> None:
    """Raise InputError when the labels in `path` and `kept` cannot fit the test videos in `directory` and of the jobs.

    The number of frames of a video is known only after extraction, because headers may be wrong.
    """
    endless = ("",) * MOST_FRAMES
    extracted = {job.target.name: Video(job.target.name, job.target, endless) for job in jobs}
    videos = {video.name: video for video, _ in scan(directory)} if directory.is_dir() else {}
    videos |= extracted

    def seconds(video: Video) -> np.ndarray | None:
        return np.arange(MOST_FRAMES) / 100 if video.frames is endless else kept_seconds(video)

    merged_intervals(path, kept, list(videos.values()), extracted, seconds)


# Extraction ----------------------------------------------------------------------------------------------------------


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder in order."""
    names = [entry.name for entry in folder.iterdir() if entry.name[0] != "."]
    return [folder / name for name in in_order(name for name in names if name.lower().endswith(EXTENSIONS))]


def is_done(job: Job) -> bool:
    """Whether the frames exist: the required number of them, or any if the length of the video is unknown."""
    found = len(picture_files(job.target)) if job.target.is_dir() else 0
    needed = len(picture_files(job.source)) if job.source.is_dir() else job.frames
    return found > 0 and (needed is None or found == needed)


def picture_jpeg(path: Path, quality: int) -> bytes:
    """A picture file as the bytes of a JPEG; a JPEG is left unchanged. Raises InputError when it is damaged."""
    if path.name.lower().endswith((".jpg", ".jpeg")):
        return read_verified(path)
    return encode(read_picture(path), quality)


def jpegs(source: Path, quality: int) -> Iterator[tuple[bytes, float | None]]:
    """The frames of a video file or a folder of pictures: the bytes of a JPEG, and the seconds since the first frame.

    Pictures have no times. Raises InputError when a picture cannot be read, or when a video is cut short.
    """
    if source.is_dir():
        for path in picture_files(source):
            yield picture_jpeg(path, quality), None
        return
    shown = printable(source)
    try:
        reader = Reader(os.fspath(source))
    except InputError as error:
        raise InputError(f"cannot open {shown}: {error}") from error
    clock, jumps = Clock(1 / reader.fps), []
    with contextlib.closing(reader):
        for count, decoded in enumerate(reader):
            seconds, is_gap = clock.place(decoded.seconds)
            if is_gap:
                jumps.append(count)
            yield encode(decoded.picture, quality), seconds
        if problem := reader.problem():
            raise InputError(f"{shown} {problem}: copy or download it again, or re-encode it")
        if reader.lost:
            tqdm.write(f"note: {reader.lost} of the {reader.packets} packets of {shown} cannot be decoded")
        if jumps:
            later = f" and {len(jumps) - 1} times more" if len(jumps) > 1 else ""
            tqdm.write(f"note: the time of {shown} jumps at frame {jumps[0]}{later}")


def announced_frames(job: Job) -> int:
    """The approximate number of frames of a job, as far as it is known without reading them."""
    if job.frames or job.source.is_dir():
        return job.frames or len(picture_files(job.source))
    try:
        reader = Reader(os.fspath(job.source))
    except InputError:
        return 0  # its extraction says why
    reader.close()
    return reader.stream.frames or round((reader.duration or 0) * reader.fps)


def encode(image: np.ndarray, quality: int) -> bytes:
    """uint8 (h, w, 3) -> the bytes of a JPEG. cv2.imwrite is not used: it hides errors and rejects some paths."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def extract(job: Job, quality: int, stop: threading.Event, bar: tqdm) -> None:
    """Write the frames of one video, which appear under its name when complete. Gives up when `stop` is set."""
    part = new_part(job.target.parent)
    try:
        part.mkdir(parents=True)
        # leading zeros for programs that sort names as text; official frames have three digits
        digits = 3 if job.source.is_dir() else 5
        times: list[float | None] = []
        for index, (jpeg, seconds) in enumerate(jpegs(job.source, quality)):
            if stop.is_set():
                return
            (part / f"{index:0{digits}}.jpg").write_bytes(jpeg)
            bar.update()
            times.append(seconds)
        if not times:
            raise InputError(f"no frames in {job.source}")
        if is_done(job):  # by another preparation at the same time
            return
        if known := [seconds for seconds in times if seconds is not None]:
            write_times(times_path(job.target), known)  # first, so that an extracted video has its times
        shutil.rmtree(job.target, ignore_errors=True)  # it has the wrong number of frames
        part.rename(job.target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def extract_all(jobs: list[Job], workers: int, quality: int) -> list[str]:
    """Extract the missing videos, several at once. Returns what went wrong, one line per video.

    Raises InputError when frames cannot be written.
    """
    for directory in {job.target.parent for job in jobs}:
        with contextlib.suppress(OSError):  # of another user
            remove_parts(directory)
    todo = [job for job in jobs if not is_done(job)]
    print(f"{len(todo)} videos to extract, {len(jobs) - len(todo)} exist already", flush=True)
    failures, stop = [], threading.Event()
    total = sum(map(announced_frames, todo))
    # threads are enough: PyAV and OpenCV work outside Python's lock
    with tqdm(total=total, unit="frame", disable=None) as bar, ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(extract, job, quality, stop, bar): job for job in todo}
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                except InputError as error:
                    failures.append(str(error))
                except OSError as error:
                    raise cannot_write(futures[future].target, error) from error
                except MemoryError:
                    raise
                except Exception as error:  # of a library, about this file; the others go on
                    what = f"{printable(futures[future].source)} cannot be read"
                    failures.append(one_line(f"{what}: {type(error).__name__}: {error}"))
        except BaseException:  # usually Ctrl-C: the other extractions end at their next frame
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return failures


def print_others(jobs: list[Job]) -> None:
    """Print a note for each split that holds videos of earlier runs, which are none of these jobs."""
    for directory in sorted({job.target.parent for job in jobs}):
        given = {job.target.name for job in jobs if job.target.parent == directory}
        videos = [video.name for video, _ in scan(directory)] if directory.is_dir() else []
        if others := [name for name in videos if name not in given]:
            print(
                f"note: {directory} also holds {named(others)}, which this command does not name; remove a folder "
                "to leave its video out"
            )


# What is on disk now --------------------------------------------------------------------------------------------------


def print_counts(dataset: Path, dataset_type: str) -> list[str]:
    """Print the videos and frames on disk as a table, for official data sets with the official numbers.

    Returns the differences, one per line.
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
            problems += differences(split, found, dataset_type)
        elif not found:
            problems.append(f"no {split} videos")
        print(f"{split:<10}{cells[0]:>12}{cells[1]:>20}")
    return problems


# Command line --------------------------------------------------------------------------------------------------------


def parse(arguments: list[str] | None) -> argparse.Namespace:
    common = Parser(add_help=False)
    common.add_argument(
        "--dataset_path",
        "--output",  # its earlier name
        type=Path,
        default=Path("dataset"),
        help="the folder that contains the data sets, as for Train.py (./dataset)",
    )
    common.add_argument("--quality", type=int, default=95, help="JPEG quality, from 1 to 100")
    common.add_argument("--workers", type=int, default=os.cpu_count(), help="number of videos extracted at once")
    parser = Parser(
        prog="python -m data.prepare", description="Turn archives and videos into frames; see data/README.md."
    )
    commands = parser.add_subparsers(dest="command", metavar="ped2|avenue|shanghai|video", required=True)
    for dataset_type in BUILT_IN:
        if dataset_type in ARCHIVES:
            about = f"the official {dataset_type} archive; downloaded unless its folder is given"
            command = commands.add_parser(dataset_type, parents=[common], help=about)
            folder = "the folder of the unpacked archive; it is downloaded if not given"
            command.add_argument("source", type=Path, nargs="?", metavar="SOURCE", help=folder)
            command.add_argument(
                "--download_dir", type=Path, help="where to keep archives; <dataset_path>/downloads if not given"
            )
            command.add_argument("--url", nargs="+", help="mirrors of the archives, which must have the same checksums")
        else:
            about = f"the official {dataset_type} archive; its folder must be given"
            command = commands.add_parser(dataset_type, parents=[common], help=about)
            folder = f"the folder of the unpacked archive, which comes from {PAGES[dataset_type]}"
            source = command.add_argument("source", type=Path, metavar="SOURCE", help=folder)
            source.required = False  # where it is missing, `fetch` says where to get the archive
            command.set_defaults(download_dir=None, url=None)
    command = commands.add_parser("video", parents=[common], help="your own videos")
    command.add_argument("train", type=Path, metavar="TRAIN_VIDEOS", help="normal videos: a folder or one file")
    command.add_argument(
        "--test", type=Path, required=True, help="videos to search for anomalies: a folder or one file"
    )
    command.add_argument("--name", required=True, help="name of the data set, for --dataset_type")
    command.add_argument("--labels", type=Path, help="csv file of abnormal intervals: video,first,last")
    args = parser.parse_args(arguments)
    if not 1 <= args.quality <= 100:
        parser.error("--quality must be 1 to 100")
    if args.workers < 1:
        parser.error("--workers must be 1 or more")
    if args.command == "video":
        if not re.fullmatch(r"\w[\w.-]*", args.name) or args.name in (*BUILT_IN, "synthetic"):
            parser.error(f"--name {args.name!r}: use letters, digits, - and _, and not the name of a built-in data set")
        if args.labels and not args.labels.is_file():
            parser.error(f"--labels: there is no file {args.labels}")
    return args


@contextlib.contextmanager
def archive(args: argparse.Namespace) -> Iterator[Path]:
    """The folder of an official archive: SOURCE, or a downloaded one, which is removed again. Raises InputError."""
    if args.source is None:
        paths = fetch(args.command, args.download_dir or args.dataset_path / "downloads", args.url)
        with unpacked(args.command, paths) as folder:
            yield folder
        return
    source = args.source.resolve()  # so that it has parents
    if not source.is_dir():
        raise InputError(f"there is no folder {source}: unpack the archive first and give its folder")
    yield source


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    failures: list[str] = []
    if args.command == "video":
        dataset_type, dataset = args.name, args.dataset_path / args.name
        testing, kept = dataset / "testing" / "frames", dataset / "frame_labels.csv"
        jobs, failures = video_jobs(args.train, dataset / "training" / "frames")
        test_jobs, more = video_jobs(args.test, testing)
        if args.labels:
            check_labels(args.labels, kept, testing, test_jobs)
        failures += more + extract_all(jobs + test_jobs, args.workers, args.quality)
        print_others(jobs + test_jobs)
    else:
        dataset_type, dataset = args.command, args.dataset_path / args.command
        with archive(args) as source:
            failures += check_truth(dataset_type, source)
            failures += extract_all(archive_jobs(dataset_type, source, dataset), args.workers, args.quality)
            failures += write_archive_masks(dataset_type, source, dataset)
    problems = print_counts(dataset, dataset_type)
    for line in (*problems, *(f"failed: {failure}" for failure in failures)):
        print(line)
    if args.command == "video" and args.labels:
        extracted = [job.target.name for job in test_jobs]
        write_intervals(kept, merged_intervals(args.labels, kept, find_videos(testing), extracted))
    complete = not problems and not failures
    print("complete" if complete else "not complete: add what is missing and run this again; finished videos are kept")
    return 0 if complete else 1


if __name__ == "__main__":
    run_script(main)
