"""Settings: one meaning for lengths, readable errors, defaults of the model."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers_glm.errors import GenerationError
from mindformers_glm.generation.config import GenerationConfig, make_config
from mindformers_glm.models.glm.config import ChatGLM2Config


def test_max_new_tokens_wins_and_max_length_counts_both():
    prompt = list(range(1, 11))
    assert GenerationConfig(max_new_tokens=3, max_length=5).limits(prompt, seq_length=100).max_new == 3
    assert GenerationConfig(max_length=15).limits(prompt, seq_length=100).max_new == 5
    assert GenerationConfig(max_decode_length=15).limits(prompt, seq_length=100).max_new == 5
    assert GenerationConfig(max_length=12, max_decode_length=15).limits(prompt, seq_length=100).max_new == 2
    assert GenerationConfig().limits(prompt, seq_length=100).max_new == 90
    assert GenerationConfig(max_length=4000).limits(prompt, seq_length=100).max_new == 90
    assert GenerationConfig(max_new_tokens=4000).limits(prompt, seq_length=100).max_new == 90


def test_minimum_lengths():
    config = GenerationConfig(max_new_tokens=50, min_length=30, min_new_tokens=5)
    assert config.limits([1] * 10, seq_length=100).min_new == 20
    assert config.limits([1] * 28, seq_length=100).min_new == 5


@pytest.mark.parametrize(
    ("settings", "prompt", "message"),
    [
        ({"max_length": 10}, [1] * 10, "prompt 4 has 10 tokens and max_length is 10"),
        ({"max_new_tokens": 3}, [1] * 100, "seq_length is 100"),
        ({"max_new_tokens": 3}, [], "prompt 4 is empty"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(settings, prompt, message):
    with pytest.raises(GenerationError, match=message):
        GenerationConfig(**settings).limits(prompt, seq_length=100, row=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_token": 5}, "max_new_token: got 5. .* Did you mean 'max_new_tokens'?"),
        ({"temprature": 1}, "Did you mean 'temperature'?"),
        ({"zzz": 1}, "Known: bad_words_ids"),
        ({"temperature": -1}, "temperature: got -1. Use a number from 0"),
        ({"temperature": "hot"}, "temperature: got 'hot'. Use a number"),
        ({"top_p": 1.5}, "top_p: got 1.5. Use a number from 0 to 1"),
        ({"top_k": 2.5}, "top_k: got 2.5. Use a whole number"),
        ({"do_sample": "yes"}, "do_sample: got 'yes'. Use True or False"),
        ({"repetition_penalty": 0}, "repetition_penalty: got 0. Use a number above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
        ({"num_return_sequences": 2}, "Greedy search has one result"),
        ({"num_return_sequences": 4, "num_beams": 2}, "At most num_beams"),
        ({"bad_words_ids": [[]]}, "A word has at least one id"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"stop": "text"}, "stop: got 'text'. Give a function"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, "It exceeds max_new_tokens"),
        ({"early_stopping": "soon"}, "'never'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(GenerationError, match=message):
        GenerationConfig().updated(**settings)


def test_defaults_come_from_the_model():
    model = ChatGLM2Config(seq_length=96, max_decode_length=64, eos_token_id=[2, 5], repetition_penalty=1.2)
    config = GenerationConfig.from_model(model)
    assert (config.max_length, config.stop_ids, config.repetition_penalty) == (64, (2, 5), 1.2)
    assert config.do_sample and config.top_k == 1 and config.greedy
    assert GenerationConfig.from_model(ChatGLM2Config(seq_length=96)).max_length == 96
    assert GenerationConfig.from_model(ChatGLM2Config(max_new_tokens=7, max_length=9)).total_length is None


def test_a_length_in_the_call_replaces_those_of_the_model():
    model = GenerationConfig.from_model(ChatGLM2Config(seq_length=96, max_new_tokens=7))
    assert make_config(None, model, max_length=20).limits([1] * 5, seq_length=96).max_new == 15
    assert make_config(None, model, max_length=None).limits([1] * 5, seq_length=96).max_new == 7
    assert make_config({"max_length": 20}, model).total_length == 20
    given = GenerationConfig(top_k=3, do_sample=True)
    assert make_config(given, model, top_p=0.5) == GenerationConfig(top_k=3, do_sample=True, top_p=0.5)
    with pytest.raises(GenerationError, match="generation_config"):
        make_config(7, model)


def test_none_means_not_given():
    assert GenerationConfig(top_k=None, min_new_tokens=None) == GenerationConfig()
    assert GenerationConfig(top_k=3).updated(top_k=None).top_k == 3


def test_a_drawn_seed_follows_numpys_seed():
    np.random.seed(5)
    first = GenerationConfig().drawn_seed()
    np.random.seed(5)
    assert GenerationConfig().drawn_seed() == first
    assert GenerationConfig(seed=0).drawn_seed() == 0


def test_mindformers_names_without_effect_are_accepted(caplog):
    config = GenerationConfig().updated(renormalize_logits=True, encoder_repetition_penalty=1.0, bos_token_id=1)
    assert config.greedy


def test_a_file_that_asks_for_sampling_and_names_no_top_k_is_not_greedy():
    sampling = GenerationConfig.from_model(ChatGLM2Config(do_sample=True))
    assert (sampling.top_k, sampling.greedy) == (50, False)
    assert GenerationConfig.from_model(ChatGLM2Config(do_sample=True, top_k=1)).greedy
    assert GenerationConfig.from_model(ChatGLM2Config()).greedy


@pytest.mark.parametrize("model", [{}, {"top_k": 1, "do_sample": True}, {"top_p": 0.0}, {"temperature": 0.0}])
@pytest.mark.parametrize("as_mapping", [True, False])
def test_a_call_that_says_do_sample_draws(model, as_mapping):
    defaults = GenerationConfig.from_model(ChatGLM2Config(**model))
    asked = {"do_sample": True, "num_return_sequences": 2}
    config = make_config(asked, defaults) if as_mapping else make_config(None, defaults, **asked)
    assert not config.greedy
    assert make_config(None, defaults, do_sample=True, top_k=1).greedy  # said by the call itself
    assert make_config(GenerationConfig(top_k=1), defaults, do_sample=True).greedy


@pytest.mark.parametrize("name", ["temperature", "repetition_penalty", "length_penalty"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_are_finite(name, value):
    with pytest.raises(GenerationError, match=f"{name}: got -?(inf|nan). Use a number"):
        GenerationConfig(**{name: value})
