"""Serves a ParrotNetwork: python parrot_server.py [--max_queue N] [--key KEY] [--admin KEY] [--drain SECONDS] ..."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from parrot_network import ParrotNetwork

from mindformers_glm.config.names import ASSETS
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.serving.http.server import serve
from mindformers_glm.serving.http.service import Served
from mindformers_glm.serving.http.settings import ServerSettings
from mindformers_glm.tokenizers import ChatGLM3Tokenizer


def load():
    tokenizer = ChatGLM3Tokenizer(str(ASSETS / "glm2_tiny" / "tokenizer.model"))
    network = ParrotNetwork(tokenizer)
    engine = Engine(network, defaults=GenerationConfig(max_length=network.max_length), max_num_seqs=4)
    other = Engine(network, defaults=GenerationConfig(max_length=network.max_length), max_num_seqs=4)
    return Served("parrot", engine, tokenizer), [Served("parrot-law", other, tokenizer, parent="parrot")]


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--max_queue", type=int, default=64)
    p.add_argument("--key", action="append", default=[])
    p.add_argument("--admin", action="append", default=[])
    p.add_argument("--drain", type=float, default=30)
    p.add_argument("--port", type=int, default=0)
    p.add_argument("--controller")
    p.add_argument("--cors", action="append", default=[])
    p.add_argument("--load_after", type=Path, help="a pipe that the test writes to")
    chosen = p.parse_args()
    settings = ServerSettings(
        names=("parrot", "the-other-name"),
        keys=tuple(chosen.key),
        admin_keys=tuple(chosen.admin),
        max_queue=chosen.max_queue,
        max_body=1024 * 1024,
        drain_seconds=chosen.drain,
        ping_seconds=0.2,
        log_requests=True,
        controller=chosen.controller,
        cors_origins=tuple(chosen.cors),
    )

    def loaded():
        if chosen.load_after:
            chosen.load_after.read_text()
        return load()

    sys.exit(serve(loaded, settings, port=chosen.port))
