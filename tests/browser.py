"""A real browser without a window: Chromium over a pipe (the Chrome DevTools Protocol), with what it complains of.

Chromium is no Python package: Debian has it (``apt-get install chromium``), and ``.ci/run`` installs it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Final

__all__ = ["Browser", "Tab", "chromium", "open_browser"]

ANSWER_SECONDS: Final = 60.0  # a loaded machine draws a page in far less
_STARTER: Final = """
import fcntl, os, sys
commands, answers = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads commands at 3 and writes at 4."""

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Where Chromium is, or None."""
    return next((path for name in _NAMES if (path := shutil.which(name)) is not None), None)


class Browser:
    """A running browser. Messages go out and come in as JSON, each with a NUL at its end."""

    def __init__(self, process: subprocess.Popen[bytes], send: int, receive: int) -> None:
        self.process = process
        self._send = send
        self._receive = receive
        self._number = 0
        self._inbox: Queue[dict[str, Any] | None] = Queue()
        self.events: list[dict[str, Any]] = []
        threading.Thread(target=self._read, name="browser", daemon=True).start()

    def _read(self) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(self._receive, 65_536):
                *messages, rest = (rest + chunk).split(b"\0")
                for message in messages:
                    self._inbox.put(json.loads(message))
        self._inbox.put(None)

    def _next(self) -> dict[str, Any]:
        try:
            message = self._inbox.get(timeout=ANSWER_SECONDS)
        except Empty:
            raise RuntimeError("the browser does not answer") from None
        if message is None:
            raise RuntimeError("the browser has ended")
        return message

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Tell the browser to do something, and wait for what comes of it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def wait_for(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event that is so, of those that came and those to come."""
        for event in self.events:
            if holds(event):
                return event
        while True:
            event = self._next()
            self.events.append(event)
            if holds(event):
                return event

    def tab(self) -> Tab:
        """A new tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        return Tab(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])


class Tab:
    """A page that a person sees."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """As `Browser.call`, in this tab."""
        return self._browser.call(method, self._session, **parameters)

    def look(self, *, width: int, height: int = 1_200, dark: bool = False, media: str = "screen") -> None:
        """How the page is looked at."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def cookie(self, url: str, name: str, value: str) -> None:
        """Be signed in."""
        self.call("Network.setCookie", url=url, name=name, value=value)

    def _loading(self, act: Callable[[], object]) -> None:
        self._browser.events.clear()
        act()
        self._browser.wait_for(lambda event: event.get("sessionId") == self._session and event["method"] == "Page.loadEventFired")

    def open(self, url: str) -> None:
        """Open a page, and wait until it is there."""
        self._loading(lambda: self.call("Page.navigate", url=url))

    def press(self, key: str, *, loads: bool = False) -> None:
        """Press a key, and wait for the page that it leads to, where it *loads* one."""
        codes = {"Tab": (9, None), "Enter": (13, "\r"), " ": (32, " ")}
        code, text = codes.get(key, (ord(key.upper()) if len(key) == 1 else 0, key))

        def strike() -> None:
            shape = {"key": key, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", type="keyDown", **shape, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **shape)

        self._loading(strike) if loads else strike()

    def write(self, text: str) -> None:
        """Write into the field that has the focus."""
        self.call("Input.insertText", text=text)

    def says(self, expression: str) -> Any:
        """What an expression says of the page; it is not bound by the page's own policy."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """What the browser held against the page since it was opened: refused by its policy, failed to load, raised, asked."""
        found: list[str] = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            match event["method"]:
                case "Log.entryAdded":
                    found.append(event["params"]["entry"]["text"])
                case "Runtime.exceptionThrown" | "Page.javascriptDialogOpening" | "Runtime.consoleAPICalled":
                    found.append(str(event["params"]))
                case _:
                    pass
        return found

    def requests(self) -> list[str]:
        """What was fetched since the page was opened."""
        sent = (event for event in self._browser.events if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent if event.get("sessionId") == self._session]

    def screenshot(self, path: Path) -> bytes:
        """The whole page as PNG, kept at *path*."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"])
        path.write_bytes(data)
        return data


@contextmanager
def open_browser(program: str, folder: Path) -> Iterator[Browser]:
    """Run a browser whose profile is kept in *folder*."""
    their_in, our_out = os.pipe()
    our_in, their_out = os.pipe()
    options = [
        "--headless=new",
        "--no-sandbox",  # containers run tests as root
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={folder}",
        "--remote-debugging-pipe",
    ]
    command = [sys.executable, "-c", _STARTER, str(their_in), str(their_out), program, *options]
    process = subprocess.Popen(
        command, pass_fds=(their_in, their_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(their_in)
    os.close(their_out)
    try:
        yield Browser(process, our_out, our_in)
    finally:
        os.close(our_out)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        os.close(our_in)
