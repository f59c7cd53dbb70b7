"""Serves a model over OpenAI's HTTP interface, with a page to talk to it.

    mindformers-glm serve --model glm2_tiny
    mindformers-glm serve --model output/law --port 8000 --api_key_file keys.txt
    mindformers-glm serve --model glm3_folder --adapter law=lora1 --adapter shop=lora2 --quantization_bit 4

Clients: base_url http://127.0.0.1:8000/v1. SIGTERM finishes what is on its way. See docs/serving.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_glm.cli.options import (
    FormerName,
    Parser,
    add_prompt_lookup,
    lookup_tokens,
    number,
    tell_of_lookup,
    whole,
)
from mindformers_glm.cli.ranks import add_tp_size, lost, start
from mindformers_glm.errors import ConfigError, DataError, DeviceError
from mindformers_glm.files import read_small, user_path
from mindformers_glm.runtime import rank, serve_as_scheduler

if TYPE_CHECKING:
    from mindformers_glm.serving.http.service import Served
    from mindformers_glm.serving.http.settings import ServerSettings


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument(
        "--model",
        "--model-path",
        default="glm2_tiny",
        help="registered name, folder, weight file, run or YAML (glm2_tiny)",
    )
    p.add_argument("--adapter", action="append", default=[], metavar="NAME=PATH", help="LoRA served as model NAME")
    p.add_argument("--lora_alpha", type=number(above=True), help="alpha of the adapters, where no file tells it")
    p.add_argument("--tokenizer", help="tokenizer instead of the model's own: name, folder or tokenizer.model")
    p.add_argument("--seq_length", type=whole(), help="longest conversation in tokens, answer included (the model's)")
    p.add_argument("--quantization_bit", type=int, choices=(4, 8), help="weights of so many bits")
    p.add_argument(
        "--backend",
        choices=("kernels", "graph", "lite"),
        help="C++ kernels, MindSpore's graphs, or MindSpore Lite for an export (the quicker of the first two)",
    )
    p.add_argument(
        "--cache_dtype",
        choices=("float32", "float16", "int8"),
        help="keys and values in the cache (float16; float32 where weights are, and with W8A8)",
    )
    p.add_argument("--cache_tokens", type=whole(), help="tokens that all answers and kept prefixes may hold together")
    p.add_argument("--lite_python", metavar="PYTHON", help="interpreter with mindspore_lite for --backend lite")
    p.add_argument("--device_target", choices=("CPU", "Ascend"), help="CPU, or what the YAML says")
    add_tp_size(p)
    p.add_argument("--served_model_name", action="append", metavar="NAME", help="what clients call the model")
    p.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1; 0.0.0.0: every network)")
    p.add_argument("--port", type=whole(0, 65535), default=8000, help="port (8000; 0: any free one)")
    p.add_argument("--api_key", action="append", default=[], metavar="KEY", help="clients must send one of these")
    p.add_argument("--api_key_file", metavar="FILE", help="the same, one a line; it is not seen in the process list")
    p.add_argument("--admin_key", action="append", default=[], metavar="KEY", help="for adapters and /stopService")
    p.add_argument("--cors_origin", action="append", default=[], metavar="ORIGIN", help="pages that may ask (none)")
    p.add_argument("--max_num_seqs", type=whole(1, 1024), default=16, help="answers on their way at once (16)")
    p.add_argument("--max_rows", dest="max_num_seqs", action=FormerName, type=whole(1, 1024))
    p.add_argument(
        "--max_num_batched_tokens",
        type=whole(16, 1 << 20),
        help="tokens of a step, of answers and of pieces of prompts, while answers are on their way "
        "(16, and 6 for each answer)",
    )
    add_prompt_lookup(p)
    p.add_argument(
        "--scheduling_policy",
        choices=("fcfs", "priority"),
        default="fcfs",
        help="of requests that wait: as they come, or those with the lowest priority first (fcfs)",
    )
    p.add_argument("--max_queue", type=whole(0), default=256, help="answers that may wait before clients get 429 (256)")
    p.add_argument("--max_body_mb", type=number(above=True), default=8.0, help="largest request in MB (8)")
    p.add_argument("--request_timeout", type=number(above=True), default=600.0, help="seconds for one request (600)")
    p.add_argument("--drain_timeout", type=number(), default=60.0, help="seconds to finish after SIGTERM (60)")
    p.add_argument(
        "--controller", "--controller-address", metavar="URL", help="be a worker of this FastChat controller too"
    )
    p.add_argument(
        "--worker_address",
        "--worker-address",
        metavar="URL",
        help="what the controller calls this server (where it listens)",
    )
    p.add_argument("--log_requests", action="store_true", help="an access log of JSON lines on the standard error")
    p.add_argument("--no_page", action="store_true", help="no page at /")
    return p


def main(argv: list[str] | None = None) -> int:
    """Serves until it is told to stop."""
    chosen = parser().parse_args(argv)
    os.environ.setdefault("GLOG_v", "3")
    if os.environ.get("MS_ROLE") == "MS_SCHED":  # msrun starts the scheduler with the same words
        serve_as_scheduler()
        return 0
    names = adapter_names(chosen.adapter)
    settings = read_settings(chosen, names)
    serve = need_serve()
    start(chosen.tp_size, "serve", sys.argv[1:] if argv is None else argv)
    if chosen.tp_size > 1 and rank() > 0:
        load_served(chosen, settings, names)  # works for rank 0 until that ends
        return 0
    load = partial(load_served, chosen, settings, names)
    return serve(load, settings, host=chosen.host, port=chosen.port, lost=lost)


def fastchat_worker(argv: list[str] | None = None) -> int:
    """The same as a worker of FastChat, with its usual addresses where none are given."""
    words = list(sys.argv[1:] if argv is None else argv)
    given = {word.partition("=")[0] for word in words}
    if "--port" not in given:
        words += ["--port", "21002"]
    if not given & {"--controller", "--controller-address"}:
        words += ["--controller", "http://localhost:21001"]
    return main(words)


def need_serve() -> Callable[..., int]:
    """The server, or one line that names what is missing.

    Raises:
        DeviceError: starlette or uvicorn is not installed.
    """
    try:
        from mindformers_glm.serving.http.server import serve  # noqa: PLC0415 - optional packages
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("starlette", "uvicorn", "anyio"):
            raise
        raise DeviceError(f"serve: {error.name} is not installed. pip install 'mindformers_glm[serve]'") from error
    return serve


def read_settings(chosen: argparse.Namespace, adapters: dict[str, str]) -> ServerSettings:
    """The server's settings of a command line.

    Raises:
        UserError: a file of keys that cannot be used, or a name that is used twice.
    """
    from mindformers_glm.serving.http.settings import ServerSettings  # noqa: PLC0415

    names = tuple(chosen.served_model_name or [Path(chosen.model).name or chosen.model])
    if set(names) & set(adapters):
        raise ConfigError("--adapter", ", ".join(set(names) & set(adapters)), "The base model has this name.")
    keys = [*chosen.api_key, *(read_keys(chosen.api_key_file) if chosen.api_key_file else [])]
    for option, given in (("--api_key", keys), ("--admin_key", chosen.admin_key)):
        if any(not key.strip() or not key.isascii() for key in given):
            raise ConfigError(option, "...", "A key is text of ASCII characters that is not empty.")
    return ServerSettings(
        names=names,
        keys=tuple(keys),
        admin_keys=tuple(chosen.admin_key),
        cors_origins=tuple(chosen.cors_origin),
        has_priorities=chosen.scheduling_policy == "priority",
        max_queue=chosen.max_queue,
        max_body=int(chosen.max_body_mb * 1024 * 1024),
        request_seconds=chosen.request_timeout,
        drain_seconds=chosen.drain_timeout,
        log_requests=chosen.log_requests,
        has_page=not chosen.no_page,
        controller=chosen.controller,
        worker_address=chosen.worker_address,
    )


def read_keys(path: str) -> list[str]:
    """Keys of a file, one a line; empty lines and those that begin with # are no keys.

    Raises:
        DataError: it cannot be read, or holds none.
    """
    try:
        lines = read_small(user_path(path)).decode("utf-8-sig").splitlines()
    except ValueError as error:  # CheckpointError is one
        raise DataError(path, "the keys cannot be read", "Name a text file with one key a line") from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise DataError(path, "there is no key in it", "Write one key a line")
    return keys


def adapter_names(given: list[str]) -> dict[str, str]:
    """Name -> path of `--adapter NAME=PATH`.

    Raises:
        ConfigError: another form, or a name twice.
    """
    found: dict[str, str] = {}
    for item in given:
        name, _, path = item.partition("=")
        if not name or not path:
            raise ConfigError("--adapter", item, "Write NAME=PATH; clients choose the adapter by its name.")
        if name in found:
            raise ConfigError("--adapter", item, "This name is used twice.")
        found[name] = path
    return found


def load_served(
    chosen: argparse.Namespace, settings: ServerSettings, adapters: dict[str, str]
) -> tuple[Served, list[Served], Callable[[str, str], Served] | None]:
    """The base, its adapters, and what loads more of them; None where there can be none.

    Raises:
        UserError: whatever is missing or does not fit.
    """
    if chosen.backend == "lite":
        return load_export(chosen, settings, adapters)
    if chosen.lite_python is not None:
        raise ConfigError("--lite_python", chosen.lite_python, "It runs an export: add --backend lite.")
    from mindformers_glm.serving.http.service import Served  # noqa: PLC0415
    from mindformers_glm.serving.loading import load  # noqa: PLC0415

    options: dict[str, Any] = {
        "tokenizer": chosen.tokenizer,
        "seq_length": chosen.seq_length,
        "device_target": chosen.device_target,
        "quantization_bit": chosen.quantization_bit,
        "tp_size": chosen.tp_size,
        "engine": {
            "max_num_seqs": chosen.max_num_seqs,
            "max_num_batched_tokens": chosen.max_num_batched_tokens,
            "prompt_lookup_num_tokens": lookup_tokens(chosen),
            "backend": chosen.backend,
            "cache_dtype": chosen.cache_dtype,
            "cache_tokens": chosen.cache_tokens,
        },
    }
    if chosen.tp_size > 1 and (adapters or chosen.quantization_bit):
        fix = "Adapters by name and --quantization_bit need the whole network in one process: leave them out."
        raise ConfigError("--tp_size", chosen.tp_size, fix)
    loaded = load(chosen.model, **options)
    tell_of_lookup(chosen, loaded.engine)
    base = Served(settings.names[0], loaded.engine, loaded.tokenizer, root=chosen.model)

    def load_adapter(name: str, path: str) -> Served:
        if chosen.tp_size > 1:
            raise ConfigError("--tp_size", chosen.tp_size, "Adapters by name need the whole network in one process.")
        engine, number = loaded.adapted(path, lora_alpha=chosen.lora_alpha, options=options["engine"])
        return Served(name, engine, loaded.tokenizer, root=path, parent=base.name, adapter=number)

    others = [load_adapter(name, path) for name, path in adapters.items()]
    print(f"loaded {chosen.model}", file=sys.stderr, flush=True)
    return base, others, load_adapter


def load_export(
    chosen: argparse.Namespace, settings: ServerSettings, adapters: dict[str, str]
) -> tuple[Served, list[Served], Callable[[str, str], Served] | None]:
    """An exported model in MindSpore Lite.

    Raises:
        UserError: it is none, Lite cannot run it, or an option that an export cannot follow.
    """
    from mindformers_glm.export.lite.engine import open_lite  # noqa: PLC0415
    from mindformers_glm.serving.http.service import Served  # noqa: PLC0415

    baked = "The export holds the network as it is: choose this when you export."
    for name in ("quantization_bit", "cache_dtype", "cache_tokens", "max_num_batched_tokens", "lora_alpha"):
        if getattr(chosen, name) is not None:
            raise ConfigError(f"--{name}", getattr(chosen, name), baked)
    if adapters:
        raise ConfigError("--adapter", ", ".join(adapters), "Merge it before you export: merge-lora.")
    if chosen.tp_size > 1:
        raise ConfigError("--tp_size", chosen.tp_size, "An export runs in one process.")
    target = (chosen.device_target or "CPU").lower()
    lite = open_lite(
        chosen.model,
        tokenizer=chosen.tokenizer,
        lite_python=chosen.lite_python,
        target=target,
        max_num_seqs=chosen.max_num_seqs,
    )
    try:
        if lite.tokenizer is None:
            raise ConfigError("--tokenizer", None, "The export has no tokenizer: name tokenizer.model.")
        if chosen.seq_length not in (None, lite.config.seq_length):
            raise ConfigError("--seq_length", chosen.seq_length, f"It was exported with {lite.config.seq_length}.")
    except ConfigError:
        lite.close()
        raise
    tell_of_lookup(chosen, lite.engine)
    return Served(settings.names[0], lite.engine, lite.tokenizer, root=chosen.model), [], None
