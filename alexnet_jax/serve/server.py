"""The server of `serve`: Werkzeug's, with limits, which finishes what is under way."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from alexnet_jax.errors import RunError

IDLE_SECONDS = 20  # after which a connection that sends or takes nothing is closed
BUSY = (
    b'HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n'
    b'Content-Type: application/json\r\n\r\n{"error": "busy; try again"}\n'
)


class _Handler(WSGIRequestHandler):
    timeout = IDLE_SECONDS

    def log(self, type: str, message: str, *args: Any) -> None:
        """Write nothing: the server prints no line per request."""


class Server(ThreadedWSGIServer):
    """Serves a WSGI application until `stop`; connections above a number get a 503."""

    request_queue_size = 256

    def __init__(self, host: str, port: int, app: Callable, most: int):
        """Bind the address.

        Args:
          host: The name or address to listen on.
          port: The port; 0 for any that is free.
          app: The WSGI application.
          most: The most connections at a time.

        Raises:
          RunError: The address cannot be bound.
        """
        self._slots = threading.BoundedSemaphore(most)
        self._most = most
        try:
            family = socket.AF_INET6 if ':' in host else socket.AF_INET
            listening = socket.create_server(
                (host, port), family=family, backlog=self.request_queue_size
            )
        except OSError as error:
            raise RunError(f'cannot listen on {host}:{port}: {error.strerror or error}') from error
        with listening:
            super().__init__(host, listening.getsockname()[1], app, _Handler, fd=listening.fileno())

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a connection to a thread of its own, or turn it away."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        try:
            request.settimeout(0)
            request.send(BUSY)
        except OSError:
            pass
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a connection that broke off."""

    def stop(self) -> None:
        """Accept nothing more, and wait until every answer has been sent."""
        self.shutdown()
        self.server_close()
        until = time.monotonic() + IDLE_SECONDS
        free = [
            self._slots.acquire(timeout=max(0, until - time.monotonic())) for _ in range(self._most)
        ]
        for _ in filter(None, free):
            self._slots.release()
