"""The server of `serve`: Werkzeug's, with limits, which finishes what is under way."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from alexnet_jax.errors import RunError

IDLE_SECONDS = 20  # after which a connection that sends or takes nothing is closed
ARRIVAL_SECONDS = 120  # in which a request must have arrived, however little it sends at a time
DRAIN_SECONDS = 2  # for which a client that is turned away may go on sending
BUSY = (
    b'HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n'
    b'Content-Type: application/json\r\n\r\n{"error": "busy; try again"}\n'
)


def check_address(host: str, port: int) -> None:
    """Check that an address can be bound, before the work that comes before a server.

    Raises:
      RunError: It cannot.
    """
    _listen(host, port).close()


def _listen(host: str, port: int, backlog: int | None = None) -> socket.socket:
    try:
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        raise RunError(f'cannot listen on {host}:{port}: {error.strerror or error}') from error


class _Handler(WSGIRequestHandler):
    timeout = IDLE_SECONDS
    server: 'Server'

    def handle_one_request(self) -> None:
        """Answer the next request of a connection."""
        self.server.idle.add(self.connection)
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Read the headers; the connection is no longer idle."""
        self.server.idle.discard(self.connection)
        return super().parse_request()

    def log(self, type: str, message: str, *args: Any) -> None:
        """Write nothing: the server prints no line per request."""


class Server(ThreadedWSGIServer):
    """Serves a WSGI application until `stop`.

    Connections above a number get a 503, and above twice that number no answer.
    """

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
        self.idle: set[socket.socket] = set()  # connections without a request
        self._slots = threading.BoundedSemaphore(most)
        self._turning_away = threading.BoundedSemaphore(most)
        self._most = most
        with _listen(host, port, self.request_queue_size) as listening:
            super().__init__(host, listening.getsockname()[1], app, _Handler, fd=listening.fileno())

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a connection to a thread of its own, or turn it away."""
        slots, serve = self._slots, super().process_request
        if not slots.acquire(blocking=False):
            slots, serve = self._turning_away, self._turn_away
            if not slots.acquire(blocking=False):
                self.shutdown_request(request)
                return
        try:
            serve(request, client_address)
        except BaseException:  # there are too many threads
            slots.release()
            raise

    def _turn_away(self, request: Any, _: Any) -> None:
        threading.Thread(target=self._answer_busy, args=[request], daemon=True).start()

    def _answer_busy(self, request: Any) -> None:
        """Send BUSY, and read what the client still sends: a reset would undo the answer."""
        try:
            request.settimeout(DRAIN_SECONDS / 4)
            request.sendall(BUSY)
            request.shutdown(socket.SHUT_WR)
            until = time.monotonic() + DRAIN_SECONDS
            while time.monotonic() < until and request.recv(2**16):
                pass
        except OSError:
            pass
        finally:
            self.shutdown_request(request)
            self._turning_away.release()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection."""
        late = threading.Timer(ARRIVAL_SECONDS, _stop_reading, [request])
        late.daemon = True
        try:
            with contextlib.suppress(RuntimeError):  # there are too many threads
                late.start()
            super().process_request_thread(request, client_address)
        finally:
            late.cancel()
            self.idle.discard(request)
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a connection that broke off."""

    def stop(self) -> None:
        """Accept nothing more, and wait until every answer has been sent.

        Give up only if IDLE_SECONDS pass in which no connection ends.
        """
        self.shutdown()
        self.server_close()
        until = time.monotonic() + IDLE_SECONDS
        free = 0
        while free < self._most and time.monotonic() < until:
            if self._slots.acquire(timeout=0.1):
                free += 1
                until = time.monotonic() + IDLE_SECONDS
            for connection in list(self.idle):
                _stop_reading(connection)
        for _ in range(free):
            self._slots.release()


def _stop_reading(connection: socket.socket) -> None:
    """Let a connection end; on Linux, what has arrived can still be read."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
