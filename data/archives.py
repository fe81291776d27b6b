"""The official archives: where each keeps its videos and ground truth, and how many there should be."""

import re
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from data.labels import built_in_labels

# Where an archive keeps things: a pattern for names of entries, whose group is the name of the video, and the folders.
# The complete name must match, which excludes Test001_gt, ._01.avi and the like.
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "ped2": {
        "training": (r"Train0(\d\d)", "UCSDped2/Train"),
        "testing": (r"Test0(\d\d)", "UCSDped2/Test"),
        "truth": (r"(UCSDped2)\.m", "UCSDped2/Test", ""),
        "masks": (r"Test0(\d\d)_gt", "UCSDped2/Test"),
    },
    "avenue": {
        "training": (r"(\d\d)\.avi", "training_videos"),
        "testing": (r"(\d\d)\.avi", "testing_videos"),
        "truth": (r"(\d+)_label\.mat", "testing_label_mask", "ground_truth_demo/testing_label_mask"),
        "masks": (r"(\d+)_label\.mat", "testing_label_mask", "ground_truth_demo/testing_label_mask"),
    },
    "shanghai": {
        "training": (r"(\d\d_\d+)\.avi", "training/videos"),
        "testing": (r"(\d\d_\d+)", "testing/frames"),
        "truth": (r"(\d\d_\d+)\.npy", "testing/test_frame_mask"),
    },
}
TRAINING_COUNTS = {"ped2": (16, 2550), "avenue": (16, 15328), "shanghai": (330, 274515)}  # videos, frames


def find_entries(source: Path, pattern: str, *folders: str) -> dict[str, Path]:
    """The entries of an archive, {video name: path}, in the first of the folders that has any; {} if none has.

    A folder is searched for in source, up to two levels above it (source may be a part of the archive) and three below.
    """
    for folder in folders:
        places = [base / folder for base in (source, source.parent, source.parent.parent)]
        for depth in (1, 2, 3):
            places += sorted(source.glob("*/" * depth + folder))
        for place in places:
            if place.is_dir() and "__MACOSX" not in place.parts:
                matches = {path: re.fullmatch(pattern, path.name) for path in sorted(place.iterdir())}
                if entries := {match[1]: path for path, match in matches.items() if match}:
                    return entries
    return {}


def official(dataset_type: str, split: str) -> tuple[int, int, dict[str, int | None]]:
    """The content of a split of an official data set: (videos, frames, {name: frames, or None if unknown})."""
    if split == "testing":
        lengths: dict[str, int | None] = {name: len(labels) for name, labels in built_in_labels(dataset_type).items()}
        return len(lengths), sum(map(len, built_in_labels(dataset_type).values())), lengths
    videos, frames = TRAINING_COUNTS[dataset_type]
    numbered = dataset_type != "shanghai"  # its training videos are named by scene and are not listed here
    return videos, frames, {f"{number:02}": None for number in range(1, videos + 1)} if numbered else {}


def differences(split: str, found: dict[str, int], dataset_type: str) -> list[str]:
    """The differences between {video name: frames} on disk and the official data set, a line each."""
    videos, frames, lengths = official(dataset_type, split)
    problems = []
    if missing := [name for name in lengths if name not in found]:
        problems.append(f"missing in {split}: {', '.join(missing)}")
    if lengths and (others := [name for name in found if name not in lengths]):
        problems.append(f"not part of this data set, in {split}: {', '.join(others)}")
    for name, length in lengths.items():
        if length and found.get(name, length) != length:
            problems.append(f"{split} video {name} has {found[name]} frames, but officially {length}")
    if not problems and (len(found), sum(found.values())) != (videos, frames):
        problems.append(f"{split} does not have its {videos} videos and {frames} frames")
    return problems


def read_truth(dataset_type: str, name: str, path: Path) -> dict[str, np.ndarray]:
    """The ground truth in one file of an archive: {official video name: (frames,) of 0 and 1}."""
    if dataset_type == "shanghai":
        return {name: np.load(path, allow_pickle=False)}
    if dataset_type == "avenue":  # a pixel mask per frame, in files 1_label.mat, 2_label.mat, ...
        return {name.zfill(2): np.array([mask.any() for mask in loadmat(path)["volLabel"].ravel()])}
    labels = {video: np.zeros_like(values) for video, values in built_in_labels(dataset_type).items()}
    # one line per video, `TestVideoFile{end+1}.gt_frame = [61:180];`, frames counted from 1
    ranges_of_videos = re.findall(r"gt_frame *= *\[(.*?)\]", path.read_text(encoding="utf-8"))
    for video, ranges in zip(labels, ranges_of_videos, strict=True):
        for first, last in re.findall(r"(\d+):(\d+)", ranges):
            labels[video][int(first) - 1 : int(last)] = 1
    return labels


def check_truth(dataset_type: str, source: Path) -> list[str]:
    """Compare the ground truth in an archive with the built-in labels and print how they agree.

    Avenue's ground truth is pixel masks, so it is compared with the labels made from masks. Returns what failed, a line
    each.
    """
    known = built_in_labels(dataset_type, "masks")
    shipped: dict[str, np.ndarray] = {}
    failures = []
    for name, path in find_entries(source, *LAYOUTS[dataset_type]["truth"]).items():
        try:
            shipped |= read_truth(dataset_type, name, path)
        except Exception as error:  # a broken .mat can raise nearly anything
            failures.append(f"cannot read ground truth {path}: {error}")
    agreeing = 0
    for name, labels in shipped.items():
        builtin = known.get(name, np.empty(0))
        frames = min(len(labels), len(builtin))  # masks and video may be a frame apart in length
        differing = np.count_nonzero(labels[:frames] != builtin[:frames])
        if differing or len(labels) != len(builtin):
            lengths = f"{len(labels)} frames in the archive, {len(builtin)} built in"
            print(f"ground truth of {name}: {differing} frames differ from the built-in labels ({lengths})")
        else:
            agreeing += 1
    if shipped:
        labelled = f"{agreeing} of the {len(shipped)} videos labelled in the archive"
        print(f"ground truth: {labelled} agree with the built-in labels")
    else:
        print("ground truth: there is none in the archive, so the built-in labels are not compared")
    return failures
