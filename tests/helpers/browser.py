"""A headless Chromium that is spoken to over a pipe, in its DevTools protocol: no driver, no port, no dependency."""

import base64
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
PHONE, DESKTOP = 390, 1280


def find_chromium():
    """Path of the program, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def opened(program, profile):
    """One tab of a browser with a profile of its own, closed at the end."""
    # The browser reads commands from its descriptor 3 and writes answers and events to 4.
    from_us, to_browser = os.pipe()
    to_us, from_browser = os.pipe()
    words = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with open(profile / "log", "wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{from_us} 4>&{from_browser}', "bash", *words],
            pass_fds=(from_us, from_browser), stdout=log, stderr=log,
        )  # fmt: skip
    os.close(from_us)
    os.close(from_browser)
    with open(to_browser, "wb", buffering=0) as commands, open(to_us, "rb") as answers:
        try:
            yield Tab(commands, answers)
        finally:
            process.terminate()
            process.wait(30)


class Tab:
    """A tab, and what its page asked for and complained about since it was opened."""

    def __init__(self, commands, answers):
        self._commands, self._answers, self._count, self._session = commands, answers, 0, {}
        self.requests, self.errors, self._events = [], [], set()
        targets = self._ask("Target.getTargets")["targetInfos"]
        (target,) = [one["targetId"] for one in targets if one["type"] == "page"]
        asked = {"targetId": target, "flatten": True}
        self._session = {"sessionId": self._ask("Target.attachToTarget", **asked)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def open(self, path, width=DESKTOP):
        """Load a file as a window of this width shows it, and forget what was noted of the one before."""
        self._ask("Page.navigate", url="about:blank")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        self.requests, self.errors, self._events = [], [], set()
        self._ask("Page.navigate", url=Path(path).resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._read()
        self.value("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")

    def value(self, script):
        """What a script gives, as JSON; a promise is waited for."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def pdf(self):
        """The page as it prints."""
        asked = {"preferCSSPageSize": True, "printBackground": True}
        return base64.b64decode(self._ask("Page.printToPDF", **asked)["data"])

    def picture(self):
        """The whole page as a PNG."""
        return base64.b64decode(self._ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def as_printed(self, is_so=True):
        """Show the page with the style of paper, or of the screen again."""
        self._ask("Emulation.setEmulatedMedia", media="print" if is_so else "")

    def press(self, key):
        """One stroke of a key such as Tab."""
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9}[key])

    def _ask(self, method, **params):
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _read(self):
        """The next message; events are noted."""
        message = bytearray()
        while (letter := self._answers.read(1)) != b"\0":
            assert letter, "the browser went away"
            message += letter
        said = json.loads(message)
        method, params = said.get("method", ""), said.get("params", {})
        self._events.add(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
            self.errors.append(str([one.get("value") for one in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        return said
