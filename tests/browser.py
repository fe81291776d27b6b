"""A headless Chromium, driven over its DevTools protocol through two pipes, for the tests of report.html."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
GIVE_UP = 600  # seconds without an answer after which the browser hangs: only a failing test gets there


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab. `messages` has what the console said, and `requests` the addresses that were asked for."""

    def __init__(self, executable: str, profile: Path, width: int = 1280, height: int = 900) -> None:
        # the browser reads commands from file descriptor 3 and writes answers to 4
        (its_in, self.to), (self.back, its_out) = os.pipe(), os.pipe()
        high_in, high_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (its_in, its_out))

        def hand_over() -> None:
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        flags = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"]
        flags += ["--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars"]
        flags += ["--autoplay-policy=no-user-gesture-required"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # which root does not get
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(  # the descriptors are set before the program starts, so nothing else runs yet
            [executable, *flags, "about:blank"], preexec_fn=hand_over, close_fds=False, **quiet
        )
        for end in (its_in, its_out, high_in, high_out):
            os.close(end)
        self.number, self.buffer = 0, b""
        self.events: list[dict[str, Any]] = []
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.session: str | None = None
        targets = self.send("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.send("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.resize(width, height)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for what it returns."""
        self.number += 1
        call: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            call["sessionId"] = self.session
        os.write(self.to, json.dumps(call).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == self.number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._take(message)

    def wait_for(self, method: str) -> dict[str, Any]:
        """Wait for an event of the protocol that was not waited for yet."""
        while True:
            for message in self.events:
                if message["method"] == method:
                    self.events.remove(message)
                    return message["params"]
            self._take(self._receive())

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + GIVE_UP
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.back], [], [], max(0, end - time.monotonic()))
            part = os.read(self.back, 1 << 20) if ready else b""
            if not part:
                raise AssertionError("the browser has ended" if ready else f"no answer in {GIVE_UP} s")
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def _take(self, message: dict[str, Any]) -> None:
        method, given = message.get("method"), message.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.messages.append(str([one.get("value", one.get("description")) for one in given["args"]]))
        elif method == "Runtime.exceptionThrown":
            details = given["exceptionDetails"]
            self.messages.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded":
            self.messages.append(given["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        elif method == "Page.loadEventFired":
            self.events.append(message)

    def open(self, page: Path) -> None:
        """Load a page from disk, and wait until it is there."""
        self.messages.clear()
        self.requests.clear()
        self.send("Page.navigate", url=page.absolute().as_uri())
        self.wait_for("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression, or of the promise that it gives once it is kept."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true; it is looked at before each picture that the browser draws."""
        look = f"(done => {{ const look = () => ({condition}) ? done(true) : requestAnimationFrame(look); look(); }})"
        self.run(f"new Promise({look})")

    def hover(self, x: float, y: float) -> None:
        """Move the mouse to a place of the window."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def drag(self, x: float, y: float, to_y: float) -> None:
        """Press the mouse at a place of the window, move it up or down, and release it."""
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        self.hover(x, y)
        self.send("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **held)
        if to_y != y:
            self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=to_y, button="left", buttons=1)
        self.send("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=to_y, button="left", clickCount=1)

    def click(self, x: float, y: float) -> None:
        self.drag(x, y, y)

    def press(self, key: str, code: int, shift: bool = False) -> None:
        """Press a key and release it; code: its Windows virtual key code."""
        for kind in ("rawKeyDown", "keyUp"):
            keys = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
            self.send("Input.dispatchKeyEvent", type=kind, **keys)

    def box(self, selector: str) -> dict[str, float]:
        """Where an element is in the window, after it is scrolled into sight."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{element}.scrollIntoView({{block: 'center'}})")
        sides = "({left, top, width, height})"
        return self.run(f"(({{left, top, width, height}}) => {sides})({element}.getBoundingClientRect())")

    def resize(self, width: int, height: int = 900, phone: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, scheme: str, media: str = "") -> None:
        """Prefer a "dark" or a "light" page, and show it as on `media`, such as "print"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        os.close(self.to)  # the browser ends with its pipe
        try:
            self.process.wait(timeout=GIVE_UP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.back)
