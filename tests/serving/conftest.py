"""Tokenizers of both generations over the shipped vocabulary, and an engine that follows a script."""

from __future__ import annotations

import pytest
from scripted_network import ScriptedNetwork

from mindformers_glm.config.names import ASSETS
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer

VOCABULARY = str(ASSETS / "glm2_tiny" / "tokenizer.model")


@pytest.fixture(scope="session")
def glm2() -> ChatGLM2Tokenizer:
    return ChatGLM2Tokenizer(VOCABULARY)


@pytest.fixture(scope="session")
def glm3() -> ChatGLM3Tokenizer:
    return ChatGLM3Tokenizer(VOCABULARY)


@pytest.fixture
def network() -> ScriptedNetwork:
    return ScriptedNetwork()


@pytest.fixture
def engine(network):
    engine = Engine(network, defaults=GenerationConfig(max_length=network.max_length, eos_token_id=2))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def thinking() -> ChatGLM3Tokenizer:
    """A tokenizer whose model thinks before it answers, as GLM-Z1 does."""
    return ChatGLM3Tokenizer(VOCABULARY, chat_format="glm_z1")
