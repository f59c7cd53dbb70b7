"""How a server is told to behave. What a command line says ends here; nothing is read from anywhere else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Bounds and other settings. Sizes in bytes, times in seconds.

    `keys` open the API (none: no key is asked for), `admin_keys` open what changes the server and also the API.
    With `has_priorities` a request may say its own; otherwise all are served as they come.
    `max_queue` answers may wait beyond those on their way before a client is told 429.
    """

    names: tuple[str, ...] = ("model",)
    keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    has_priorities: bool = False
    max_queue: int = 256
    max_body: int = 8 * 1024 * 1024
    max_messages: int = 1024
    max_answers: int = 64
    request_seconds: float = 600.0
    drain_seconds: float = 60.0
    ping_seconds: float = 15.0
    log_requests: bool = False
    log_text: bool = False
    has_page: bool = True
    controller: str | None = None  # FastChat's, that is told of this worker
    worker_address: str | None = None  # what it calls this server; None: the address where it listens
