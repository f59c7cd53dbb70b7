"""The process: a socket, signals, loading while it answers 503 already, and draining before it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from mindformers_glm.errors import ConfigError
from mindformers_glm.serving.http.app import build_app
from mindformers_glm.serving.http.fastchat import Registration
from mindformers_glm.serving.http.guard import set_up_access_log
from mindformers_glm.serving.http.service import Service
from mindformers_glm.serving.http.settings import ServerSettings

Load = Callable[[], tuple[Any, ...]]  # base, adapters, and where there is one what loads more of them


def serve(
    load: Load,
    settings: ServerSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    lost: Callable[[], str | None] = lambda: None,
) -> int:
    """Serves what `load` gives until SIGTERM or SIGINT, after which what is on its way is finished; the exit status.

    Loading happens in this thread, which MindSpore wants to be the main one; HTTP has another. A second signal ends
    the process at once. `lost` names what this process cannot work without any more: then it ends with status 1.

    Raises:
        UserError: the address cannot be taken, or whatever `load` raises.
    """
    listening = _listen(host, port)
    service = Service(settings)
    if settings.log_requests:
        set_up_access_log()
    process = _Process(service, lost)
    process.watch_signals()
    process.start(listening)
    try:
        loaded = load()
    except BaseException:
        service.state = "failed"
        process.end()
        raise
    process.call(service.serve, *loaded)
    address = _address(host, listening.getsockname()[1])
    print(f"serving {', '.join(service.settings.names)} at {address} (API below {address}/v1)", flush=True)
    if settings.controller:
        process.register(settings.controller, settings.worker_address or address)
    process.watch_signals()  # MindSpore takes SIGINT for itself when it is loaded
    return process.wait()


class _Process:
    """The server's thread, and its end."""

    def __init__(self, service: Service, lost: Callable[[], str | None]) -> None:
        self._service, self._lost = service, lost
        self._stopping = threading.Event()
        self._signals = 0
        self._registration: Registration | None = None
        app = build_app(service, stop=self._stopping.set)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=64 * 1024,
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def watch_signals(self) -> None:
        """SIGTERM and SIGINT drain the server; outside the main thread nothing changes."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._signalled)
            signal.signal(signal.SIGINT, self._signalled)

    def start(self, listening: socket.socket) -> None:
        """Begins to answer; returns when it does."""
        begun = threading.Event()

        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            begun.set()
            await self._server.serve(sockets=[listening])

        self._thread = threading.Thread(target=lambda: asyncio.run(run()), name="http", daemon=True)
        self._thread.start()
        begun.wait()

    def call(self, function: Callable[..., Any], *given: Any) -> None:
        """Runs a function in the event loop's thread; returns when it is done."""
        assert self._loop is not None
        done = threading.Event()
        self._loop.call_soon_threadsafe(function, *given)
        self._loop.call_soon_threadsafe(done.set)
        done.wait()

    def register(self, controller: str, address: str) -> None:
        """Tells FastChat's controller of this server for as long as it takes requests."""
        self._registration = Registration(self._service, controller, address)
        self._registration.start()

    def wait(self) -> int:
        """Returns when the server is asked to stop and has drained: 0, or 1 when something was cut off."""
        while not self._stopping.wait(0.5):
            if self._thread is None or not self._thread.is_alive():
                return 1
            self._check_lost()
        self._service.state = "draining"
        if self._registration is not None:
            self._registration.end()
        until = time.monotonic() + self._service.settings.drain_seconds
        print(f"draining: {self._service.open_answers} answers are on their way", file=sys.stderr, flush=True)
        while self._service.open_answers and time.monotonic() < until:
            self._check_lost()
            time.sleep(0.02)
        left = self._service.open_answers
        self.end()
        if left:
            print(f"{left} answers were cut off after {self._service.settings.drain_seconds:g} s", file=sys.stderr)
        return 1 if left else 0

    def _check_lost(self) -> None:
        """Ends the process when another one that it needs has ended; its engine would wait for that and never stop."""
        lost = self._lost()
        if lost is not None:
            print(f"serve: {lost} has ended; the server cannot go on", file=sys.stderr, flush=True)
            os._exit(1)

    def end(self) -> None:
        """Closes the sockets."""
        self._server.should_exit = True
        for engine in {id(served.engine): served.engine for served in self._service.models.values()}.values():
            engine.close()
        if self._thread is not None:
            self._thread.join(10)

    def _signalled(self, number: int, frame: Any) -> None:
        self._signals += 1
        if self._service.state == "loading" or self._signals > 1:
            os._exit(128 + number)
        self._stopping.set()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512, reuse_port=False)
    except OSError as error:
        raise ConfigError(
            "--port", f"{host}:{port}", f"It cannot be taken ({error.strerror or error}). Name another one."
        ) from error


def _address(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
