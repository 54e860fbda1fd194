"""Drive headless Chromium by the DevTools protocol, over pipes."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
FLAGS = (
    *('--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'),
    *('--no-first-run', '--disable-background-networking', '--remote-debugging-pipe'),
)


class Page:
    """A page of a browser.

    Attributes:
      requested: The URLs that it has asked for.
      errors: What its scripts raised or wrote to the console.
    """

    def __init__(self, commands: int, replies: int):
        self._commands, self._replies = commands, replies
        self._count, self._buffer, self._session = 0, b'', None
        self.requested: list[str] = []
        self.errors: list[str] = []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Network', 'Runtime', 'Log', 'DOM'):
            self.call(f'{domain}.enable')

    def call(self, method: str, **parameters) -> dict[str, Any]:
        """Send a command and return its result; events that come before it are noted."""
        self._count += 1
        message = {'id': self._count, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._commands, json.dumps(message).encode() + b'\0')
        while True:
            found = self._receive()
            if found.get('id') == self._count:
                assert 'error' not in found, found
                return found['result']
            self._note(found.get('method'), found.get('params', {}))

    def _receive(self) -> dict[str, Any]:
        while b'\0' not in self._buffer:
            received = os.read(self._replies, 1 << 20)
            assert received, 'the browser has ended'
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b'\0')
        return json.loads(message)

    def _note(self, event: str | None, parameters: dict[str, Any]) -> None:
        match event:
            case 'Network.requestWillBeSent':
                self.requested.append(parameters['request']['url'])
            case 'Runtime.exceptionThrown' | 'Log.entryAdded' | 'Runtime.consoleAPICalled':
                self.errors.append(json.dumps(parameters)[:1000])

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or of what it promises."""
        found = self.call(
            'Runtime.evaluate', expression=expression, awaitPromise=True, returnByValue=True
        )
        assert 'exceptionDetails' not in found, found['exceptionDetails']
        return found['result'].get('value')

    def wait_for(self, expression: str, seconds: float = 120) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < until, (expression, self.errors)
            time.sleep(0.05)

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file in an input, as a user does in its dialog."""
        root = self.call('DOM.getDocument')['root']['nodeId']
        node = self.call('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.call('DOM.setFileInputFiles', nodeId=node, files=[str(path)])

    def drop(self, selector: str, path: Path) -> None:
        """Drop a file onto the middle of an element."""
        box = f'document.querySelector({selector!r}).getBoundingClientRect()'
        x, y = self.evaluate(
            f'(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({box})'
        )
        data = {'items': [], 'files': [str(path)], 'dragOperationsMask': 1}
        for kind in ('dragEnter', 'dragOver', 'drop'):
            self.call('Input.dispatchDragEvent', type=kind, x=x, y=y, data=data)

    def screenshot(self, path: Path, width: int = 900, height: int = 1000) -> None:
        """Write what is seen as PNG."""
        size = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': False}
        self.call('Emulation.setDeviceMetricsOverride', **size)
        image = self.call('Page.captureScreenshot', captureBeyondViewport=True)['data']
        path.write_bytes(base64.b64decode(image))


@contextlib.contextmanager
def open_page(url: str, profile: Path) -> Iterator[Page]:
    """Start a browser with a new profile in a folder, and open a page in it."""
    assert CHROMIUM
    read_commands, commands = os.pipe()
    replies, write_replies = os.pipe()

    # Chromium expects the pipes at 3 and 4.
    redirected = f'exec "$@" 3<&{read_commands} 4>&{write_replies}'
    process = subprocess.Popen(
        ['bash', '-c', redirected, 'bash', CHROMIUM, *FLAGS, f'--user-data-dir={profile}'],
        pass_fds=(read_commands, write_replies),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_commands)
    os.close(write_replies)
    try:
        page = Page(commands, replies)
        page.call('Page.navigate', url=url)
        yield page
    finally:
        process.terminate()
        process.wait(30)
        os.close(commands)
        os.close(replies)
