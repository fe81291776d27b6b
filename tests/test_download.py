"""Archives fetched from a server that is slow, breaks off, answers something else: whole and right, or one line."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data import download
from data.download import Archive, fetch, unpacked
from utils import InputError


def tar_of(members):
    """A .tar.gz of {name: bytes}; a value that is a TarInfo stands for itself."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


CONTENT = tar_of({"top/UCSDped1/1.tif": b"one" * 999, "top/UCSDped2/Train/Train001/001.tif": b"two" * 999})


@pytest.fixture
def server():
    """serve(answer) -> the address of a real server on the loopback; answer(handler, content) answers a GET."""
    servers = []

    def serve(answer, content=CONTENT, head_status=200):
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.head() if head_status == 200 else self.send_error(head_status)

            def head(self, length=None):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content) if length is None else length))
                self.end_headers()

            def do_GET(self):
                requests.append(self.path)
                answer(self, content)

            def log_message(self, *args):
                pass

        requests = []
        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        http.ended = threading.Event()
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(http)
        return f"http://127.0.0.1:{http.server_port}/ped2.tar.gz", requests

    yield serve
    for http in servers:
        http.ended.set()
        http.shutdown()
        http.server_close()


def whole(handler, content):
    handler.head()
    handler.wfile.write(content)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    archive = Archive("http://nowhere/ped2.tar.gz", hashlib.sha256(CONTENT).hexdigest(), "UCSDped2")
    monkeypatch.setitem(download.ARCHIVES, "ped2", [archive])


def left(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_an_archive_is_fetched_once_and_unpacked(tmp_path, server):
    url, requests = server(whole)
    for _ in range(2):
        paths = fetch("ped2", tmp_path / "downloads", [url])
    assert len(requests) == 1
    assert paths[0].read_bytes() == CONTENT
    with unpacked("ped2", paths) as folder:
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        assert [str(path) for path in files] == ["top/UCSDped2/Train/Train001/001.tif"]
    assert left(tmp_path / "downloads") == ["ped2.tar.gz"]


def test_a_damaged_file_is_fetched_again(tmp_path, server):
    (tmp_path / "ped2.tar.gz").write_bytes(CONTENT[:-1])
    url, _ = server(whole)
    assert fetch("ped2", tmp_path, [url])[0].read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 405])
def test_a_mirror_that_tells_no_size(status, tmp_path, server):
    url, _ = server(whole, head_status=status)
    assert fetch("ped2", tmp_path, [url])[0].read_bytes() == CONTENT


def test_a_file_address_is_a_mirror(tmp_path):
    (tmp_path / "mirror.tgz").write_bytes(CONTENT)
    assert fetch("ped2", tmp_path / "d", [(tmp_path / "mirror.tgz").as_uri()])[0].read_bytes() == CONTENT


def breaks_off(handler, content):
    handler.head()
    handler.wfile.write(content[: len(content) // 2])
    handler.connection.close()


def not_found(handler, content):
    handler.send_error(404)


def a_page_of_a_proxy(handler, content):
    handler.head(length=6)
    handler.wfile.write(b"<html>")


def silent(handler, content):
    handler.head()
    handler.wfile.write(content[:9])
    handler.wfile.flush()
    handler.server.ended.wait()


def breaks_off_in_a_chunk(handler, content):
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"fff\r\n" + content[:9])
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (breaks_off, "broke off"),
        (breaks_off_in_a_chunk, "cannot download"),
        (not_found, "404"),
        (a_page_of_a_proxy, "did not send the expected"),
        (silent, "cannot download"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_what_was_there(answer, words, tmp_path, server, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.5)
    url, _ = server(answer)
    (tmp_path / "ped2.tar.gz").write_bytes(b"older")
    with pytest.raises(InputError) as error:
        fetch("ped2", tmp_path, [url])
    assert words in str(error.value) and "yourself" in str(error.value) and "\n" not in str(error.value)
    assert left(tmp_path) == ["ped2.tar.gz"]
    assert (tmp_path / "ped2.tar.gz").read_bytes() == b"older"


def test_no_server_and_no_room(tmp_path, server, monkeypatch):
    with pytest.raises(InputError, match="cannot download"):
        fetch("ped2", tmp_path, ["http://127.0.0.1:9/x"])
    with pytest.raises(InputError, match="cannot download"):
        fetch("ped2", tmp_path, ["no address"])
    with pytest.raises(InputError, match="cannot download"):
        fetch("ped2", tmp_path, ["http://127.0.0.1/with a space"])
    monkeypatch.setitem(download.FRAMES, "ped2", 1e18)
    with pytest.raises(InputError, match="no room"):
        fetch("ped2", tmp_path, [server(whole)[0]])


def test_shanghai_has_no_link(tmp_path):
    with pytest.raises(InputError, match="campus_dataset"):
        fetch("shanghai", tmp_path)


def test_as_many_mirrors_as_archives(tmp_path):
    with pytest.raises(InputError, match="--url"):
        fetch("avenue", tmp_path, ["http://127.0.0.1/1"])


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.mark.parametrize(
    "members",
    [{"UCSDped2/../../out": b"x"}, {"/UCSDped2/x": b"x", "UCSDped2/up": link("UCSDped2/up", "../../..")}],
    ids=["parent", "link"],
)
def test_no_member_leaves_the_folder(members, tmp_path):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "ped2.tar.gz"
    path.write_bytes(tar_of(members))
    with pytest.raises(InputError, match="cannot unpack"), unpacked("ped2", [path]):
        pass
    assert left(tmp_path) == ["a"] and left(tmp_path / "a") == ["ped2.tar.gz"]


def test_a_zip_is_unpacked_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(download.ARCHIVES, "avenue", [Archive("http://x/a.zip", "")])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../out.txt", "x")
        archive.writestr("in/1.txt", "x")
    with unpacked("avenue", [tmp_path / "a.zip"]) as folder:
        assert sorted(p.name for p in folder.rglob("*.txt")) == ["1.txt", "out.txt"]
    assert left(tmp_path) == ["a.zip"]
