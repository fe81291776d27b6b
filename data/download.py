"""Download UCSD Ped2 and CUHK Avenue from their authors: `python -m data.prepare ped2` without SOURCE.

An archive is checked against its known SHA-256 as it arrives, and appears under its name when it is complete and
correct. It is kept, so that the next preparation need not download it again. Unpacked files are removed after use.
"""

import hashlib
import shutil
import socket
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from utils import FULL_DISK, InputError

PATIENCE = 60  # seconds that a server may be silent
NO_HEAD = (403, 405, 501)  # answers of servers that may still answer a GET: they only keep the size to themselves


class Archive(NamedTuple):
    """A file to download."""

    url: str
    sha256: str
    wanted: str = ""  # only members below a folder of this name are unpacked; "" for all

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.rpartition("/")[2]


AVENUE = "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal"
ARCHIVES = {
    "ped2": [
        Archive(
            "http://www.svcl.ucsd.edu/projects/anomaly/UCSD_Anomaly_Dataset.tar.gz",
            "2329af326951f5097fdd114c50e853957d3e569493a49d22fc082a9fd791915b",
            "UCSDped2",  # Ped1, the larger part, is not used
        )
    ],
    "avenue": [
        Archive(f"{AVENUE}/Avenue_Dataset.zip", "fc9cb8432a11ca79c18aa180c72524011411b69d3b0ff27c8816e41c0de61531"),
        Archive(f"{AVENUE}/ground_truth_demo.zip", "60fec1728ec8f73a58aad3aeb5729d70a805a47e0b8eb4bf91ab67ef06386d77"),
    ],
}
PAGES = {
    "ped2": "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm",
    "avenue": f"{AVENUE}/dataset.html",
    "shanghai": "https://svip-lab.github.io/dataset/campus_dataset.html",
}
FRAMES = {"ped2": 0.11e9, "avenue": 2.4e9}  # bytes that the extracted frames take


def fetch(dataset_type: str, folder: Path, urls: list[str] | None = None) -> list[Path]:
    """Download the archives of "ped2" or "avenue" into a folder, unless they are there. Returns their paths.

    urls: mirrors, http or file addresses in the same order; the checksums must match all the same. Raises InputError,
    which says how to do it by hand, when a download fails or the disk has no room.
    """
    if dataset_type not in ARCHIVES:
        raise InputError(
            f"{dataset_type} has no direct link: get it from {PAGES[dataset_type]}, unpack it, and give its folder:"
            f" python -m data.prepare {dataset_type} SOURCE"
        )
    archives = ARCHIVES[dataset_type]
    if urls and len(urls) != len(archives):
        names = ", ".join(archive.name for archive in archives)
        raise InputError(f"--url: {dataset_type} has {len(archives)} archives ({names}): give an address for each")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    paths = []
    for archive, url in zip(archives, urls or [archive.url for archive in archives], strict=True):
        path = folder / archive.name
        if not (path.is_file() and _sha256(path) == archive.sha256):
            _download(archive, url, path, dataset_type)
        paths.append(path)
    return paths


def _download(archive: Archive, url: str, path: Path, dataset_type: str) -> None:
    """Download one archive to a path, where it appears complete or not at all."""
    from torch.hub import download_url_to_file  # here, since torch takes a second to import

    manual = f"download {archive.name} from {PAGES[dataset_type]} yourself and save it as {path}"
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        _check_room(url, path.parent, FRAMES[dataset_type])
        print(f"downloading {url}", flush=True)
        download_url_to_file(url, str(path), archive.sha256, progress=sys.stderr.isatty())
    except HTTPError as error:
        raise InputError(f"{url} answers {error.code} {error.reason}: {manual}") from error
    except RuntimeError as error:  # a wrong checksum
        raise InputError(
            f"{url} did not send the expected {archive.name}, or the download broke off: {manual}"
        ) from error
    except (URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise InputError(f"cannot download {url} ({getattr(error, 'reason', error)}): {manual}") from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place with --download_dir") from error
    finally:
        socket.setdefaulttimeout(before)


def _check_room(url: str, folder: Path, frames: float) -> None:
    """Raise InputError when the disk has no room for the archive, its unpacked files and the frames."""
    try:
        with urlopen(Request(url, headers={"User-Agent": "mnad"}, method="HEAD")) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
    except HTTPError as error:
        if error.code not in NO_HEAD:
            raise
        size = 0
    needed, free = 3 * size + frames, shutil.disk_usage(folder).free  # an archive unpacks to twice its size at most
    if needed > free:
        raise InputError(
            f"no room in {folder}: archive, unpacked files and frames need about {needed / 1e9:.1f} GB, but"
            f" {free / 1e9:.1f} GB are free; choose another disk with --download_dir"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def unpacked(dataset_type: str, paths: list[Path]) -> Iterator[Path]:
    """A temporary folder with the unpacked archives of a data set. No member can be written outside it.

    Raises InputError for an archive that cannot be unpacked.
    """
    with tempfile.TemporaryDirectory(prefix=f".{dataset_type}-", dir=paths[0].parent) as folder:
        for archive, path in zip(ARCHIVES[dataset_type], paths, strict=True):
            print(f"unpacking {path}", flush=True)
            try:
                _unpack(path, Path(folder), archive.wanted)
            except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
                raise InputError(f"cannot unpack {path}: {error}") from error
            except OSError as error:
                mend = "make room" if error.errno in FULL_DISK else "check it"
                raise InputError(f"cannot unpack {path}: {error.strerror or error}; {mend}") from error
        yield Path(folder)


def _unpack(path: Path, folder: Path, wanted: str) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)  # which drops absolute paths and ".."
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if not wanted or wanted in Path(member.name).parts:
                archive.extract(member, folder, filter="data")
