"""A headless Chromium, driven by its own protocol: open a page, ask it something, take its picture."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu-sandbox", "--use-angle=swiftshader"),
    *("--enable-unsafe-swiftshader", "--disable-dev-shm-usage", "--hide-scrollbars"),
    "--remote-debugging-port=0",
)


class Browser:
    """One page; use as a context manager.

    Args:
        folder: for the browser's own files, a new one.
    """

    def __init__(self, folder):
        self.folder = folder
        self._count = 0

    def __enter__(self):
        from websockets.sync.client import connect

        command = [CHROMIUM, *FLAGS, f"--user-data-dir={self.folder}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port_file = self.folder / "DevToolsActivePort"
            wait_until(lambda: port_file.is_file() and "\n" in port_file.read_text(), "the browser started")
            port = port_file.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
                page = next(entry for entry in json.load(answer) if entry["type"] == "page")
            self._socket = connect(page["webSocketDebuggerUrl"], max_size=None, open_timeout=20)
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_):
        self._socket.close()
        self._process.terminate()
        self._process.wait(10)

    def _ask(self, method, **parameters):
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, address, size=(1280, 800)):
        """Go to a page in a window of this width and height, pixels."""
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < height}
        self._ask("Emulation.setDeviceMetricsOverride", **screen)
        self._ask("Page.navigate", url=address)

    def text(self):
        """What the page says."""
        return self.run("document.body.innerText")

    def run(self, script):
        """The value of a JavaScript expression."""
        return self._ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def press(self, key):
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            code = {"ArrowRight": 39, "ArrowLeft": 37}[key]
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self):
        """The page as PNG bytes."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])


def wait_until(condition, what, seconds=120):
    """Wait for a condition; TimeoutError says what never came."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.05)
