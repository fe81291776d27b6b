"""Pixel masks, which mark the abnormal pixels in the frames of test videos.

    <dataset_path>/<dataset_type>/testing/masks/<video>/<frame>.png

A mask has the name of its frame, 000.png for 000.jpg. It covers the frame at any size, and its pixels are above 0
where something is abnormal. A video with a folder of masks must have one for each frame; a video without a folder has
none. `python -m data.prepare` makes masks from those of Ped2 (Test001_gt/*.bmp) and Avenue (volLabel in 1_label.mat).
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy.io import loadmat

from data.archives import LAYOUTS, find_entries
from data.frames import EXTENSIONS, LITTER, Video, in_order, printable, scan
from data.intervals import Labels
from data.pictures import read_mask, read_picture
from utils import InputError, cannot_write, named, new_part, reading, remove_parts

Masks = dict[str, list[Path]]  # name of a video -> the mask of each of its frames, in their order


# Masks of a data set --------------------------------------------------------------------------------------------------


def find_masks(dataset: Path, videos: Sequence[Video]) -> tuple[Masks, list[str]]:
    """Find the masks of the test videos of a data set without opening them, and the problems, a line each.

    A video that does not have exactly one mask per frame is a problem, and is left out of the masks.
    """
    directory = dataset / "testing" / "masks"
    if not os.path.isdir(directory):
        return {}, []
    masks: Masks = {}
    problems, folders = [], {}
    try:
        folders = {printable(entry.name): Path(entry.path) for entry in _entries(directory) if entry.is_dir()}
        for video in videos:
            if folder := folders.pop(video.name, None):
                found = {Path(entry.name).stem: Path(entry.path) for entry in _entries(folder) if _is_mask(entry.name)}
                names = [Path(frame).stem for frame in video.frames]
                if problem := _difference(video, folder, names, list(found)):
                    problems.append(problem)
                else:
                    masks[video.name] = [found[name] for name in names]
    except InputError as error:  # a folder that cannot be read
        return {}, [str(error)]
    problems += [f"{folder} holds masks, but there is no such test video: remove it" for folder in folders.values()]
    return masks, problems


def mask_at(masks: Masks, video: str, frame: int) -> np.ndarray | None:
    """The mask of a frame, bool (h, w), for drawing; None if the video has no masks, or this one cannot be read."""
    if video not in masks:
        return None
    try:
        return read_mask(masks[video][frame])
    except InputError:  # the metrics report it
        return None


def _entries(directory: Path) -> list[os.DirEntry]:
    with reading(directory), os.scandir(directory) as entries:
        return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)


def _is_mask(name: str) -> bool:
    return name.lower().endswith(".png")


def _difference(video: Video, folder: Path, names: list[str], found: list[str]) -> str | None:
    """What is wrong if the masks are not exactly one per frame, by the names of frames; None if nothing is."""
    if set(names) == set(found):
        return None
    counts = f"{folder} holds {len(found)} masks for the {len(names)} frames of video {video.name}"
    if missing := [name for name in names if name not in set(found)]:
        return f"{counts}: {_some(missing)} missing"
    others = [name for name in found if name not in set(names)]
    return f"{counts}: there is no frame for {named([f'{name}.png' for name in others], 3)}"


def _some(missing: list[str]) -> str:
    return f"{named([f'{name}.png' for name in missing], 3)} {'is' if len(missing) == 1 else 'are'}"


def mask_findings(dataset: Path, videos: Sequence[Video], labels: Labels | None) -> Iterator[tuple[str, str]]:
    """Open all masks of a data set, and yield (level, text) of findings, as in data.findings.Finding.

    labels: those of the data set, or None.
    """
    masks, problems = find_masks(dataset, videos)
    shares: list[float] = []  # per mask, the share of abnormal pixels
    differ: dict[str, list[str]] = {}  # name of a video -> frames
    for video in videos:
        try:
            marked = [float(read_mask(path).mean()) for path in masks.get(video.name, ())]
        except InputError as error:
            yield "warning", f"{error}; evaluation gives no pixel-level AUC if this frame has a score"
            continue
        shares += marked
        values = labels.get(video.name) if labels else None
        if marked and values is not None:
            unlike = np.flatnonzero((np.array(marked) > 0) != (np.asarray(values) == 1))
            differ |= {video.name: [video.frames[k] for k in unlike]} if len(unlike) else {}
    for problem in problems:
        yield "warning", f"{problem}; evaluation gives no pixel-level AUC"
    if differ:
        counts = named([f"{name}: {len(frames)}" for name, frames in differ.items()])
        name, frames = next(iter(differ.items()))
        text = f"masks and labels disagree on which frames are abnormal ({counts}), the first is {frames[0]} of {name}"
        # the usual labels of Avenue differ from its masks; --avenue_labels masks uses the masks
        yield "note" if dataset.name == "avenue" else "warning", text
    if shares and (not any(shares) or min(shares) == 1):
        kind = "abnormal" if any(shares) else "normal"
        yield "warning", f"all pixels of the masks are {kind}, so evaluation gives no pixel-level AUC"
    without = [video.name for video in videos if video.name not in masks]
    if masks and without and not problems:
        yield (
            "note",
            f"{len(without)} testing videos have no masks and are left out of pixel-level AUC: {named(without)}",
        )


# Masks of the archives ------------------------------------------------------------------------------------------------


def archive_masks(dataset_type: str, source: Path) -> dict[str, Path]:
    """The masks of each test video in an archive: {official name: a folder or file}; {} if there are none."""
    entries = find_entries(source, *LAYOUTS[dataset_type]["masks"]) if "masks" in LAYOUTS[dataset_type] else {}
    return {name.zfill(2): path for name, path in entries.items()}


def read_archive_masks(path: Path) -> list[np.ndarray]:
    """The masks of one video in an archive, in order: arrays (h, w), above 0 where something is abnormal.

    Raises InputError when one cannot be read.
    """
    if path.is_dir():  # Ped2: 001.bmp or frame001.bmp, and files of file managers
        names = [entry.name for entry in _entries(path) if entry.name.lower() not in LITTER]
        pictures = in_order(name for name in names if name.lower().endswith(EXTENSIONS))
        return [np.asarray(read_picture(path / name).any(axis=2)) for name in pictures]
    try:  # Avenue
        return list(loadmat(path)["volLabel"].ravel())
    except Exception as error:  # a broken .mat can raise nearly anything
        raise InputError(f"cannot read masks {path}: {error}") from error


def write_archive_masks(dataset_type: str, source: Path, dataset: Path) -> list[str]:
    """Make masks for the test videos in `dataset` from those in an archive. Returns what failed, a line each.

    The masks of a video appear when all are written; complete ones are kept. Masks and video may differ in length by
    one frame: an extra mask is left out, and an extra frame gets the last mask.
    """
    directory, failures = dataset / "testing", []
    with contextlib.suppress(OSError):  # of another user
        remove_parts(directory / "masks")
    found = scan(directory / "frames") if (directory / "frames").is_dir() else ()
    videos = {video.name: video for video, _ in found}
    there, _ = find_masks(dataset, list(videos.values()))
    for name, path in archive_masks(dataset_type, source).items():
        if name not in videos or name in there:
            continue
        frames = [Path(frame).stem for frame in videos[name].frames]
        try:
            masks = read_archive_masks(path)
        except InputError as error:
            failures.append(str(error))
            continue
        if not masks or abs(len(masks) - len(frames)) > 1:
            failures.append(f"{path} holds {len(masks)} masks for the {len(frames)} frames of video {name}")
            continue
        _write(directory / "masks" / name, dict(zip(frames, [*masks, masks[-1]], strict=False)))
        there[name] = []
    if there:
        print(f"pixel masks of {len(there)} test videos: {directory / 'masks'}")
    return failures


def _write(folder: Path, masks: dict[str, np.ndarray]) -> None:
    """Write {name of a frame: mask} to a folder that appears when it is complete."""
    part = new_part(folder.parent)
    try:
        part.mkdir(parents=True)
        for name, mask in masks.items():
            content = cv2.imencode(".png", (np.asarray(mask) > 0).astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])[
                1
            ]
            (part / f"{name}.png").write_bytes(content.tobytes())
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
