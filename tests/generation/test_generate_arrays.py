"""What model.generate takes for prompts, and streamers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from mindspore import Tensor

from mindformers_glm.errors import GenerationError
from mindformers_glm.generation import GenerationConfig, TextIteratorStreamer, TextStreamer, stop_at
from mindformers_glm.generation.generate import generate_rows, read_prompts
from mindformers_glm.registry import service
from mindformers_glm.tokenizers import ChatGLM2Tokenizer


@pytest.mark.parametrize(
    "given",
    [
        [1, 2, 3],
        [[1, 2, 3]],
        np.array([1, 2, 3]),
        np.array([[1, 2, 3, 0, 0]], np.int64),
        Tensor(np.array([[1, 2, 3, 0]], np.int32)),
        [np.array([1, 2, 3])],
        ([1, 2, 3, 0],),
    ],
)
def test_one_row_in_every_form(given):
    assert read_prompts(given, pad_id=0) == [[1, 2, 3]]


def test_several_rows():
    assert read_prompts([[1, 2], [3], [0, 4, 0, 5]], pad_id=0) == [[1, 2], [3], [4, 0, 5]]
    assert read_prompts([[1, 2, 9], [9, 3, 9]], pad_id=9) == [[1, 2], [3]]
    mask = [[1, 1, 1], [0, 1, 1]]
    assert read_prompts([[1, 2, 0], [0, 3, 0]], pad_id=0, attention_mask=mask) == [[1, 2, 0], [3, 0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "Give one sequence of ids, or a list of them"),
        ("text", "Give one sequence of ids, or a list of them"),
        ([[0, 0]], "row 0 is empty, or nothing but padding"),
        ([[1], []], "row 1 is empty"),
        ([[1.5]], "Give each sequence as a list of whole numbers"),
        ([[[1]]], "Give each sequence as a list of whole numbers"),
    ],
)
def test_what_is_no_prompt(given, message):
    with pytest.raises(GenerationError, match=message):
        read_prompts(given, pad_id=0)


def test_a_mask_of_another_shape():
    with pytest.raises(GenerationError, match="attention_mask"):
        read_prompts([[1, 2]], pad_id=0, attention_mask=[[1]])


def test_services_are_registered():
    for name in ("generate", "chat", "stream_chat"):
        assert callable(service(name))


@pytest.fixture(scope="module")
def tokenizer(glm2_vocab):
    return ChatGLM2Tokenizer(glm2_vocab)


def test_a_streamer_shows_the_decoded_whole(tokenizer, capsys):
    ids = tokenizer.encode("你好👋！Hello world.\n写一首诗", add_special_tokens=False)
    streamer = TextStreamer(tokenizer)
    streamer.put(ids[:3])
    for index in ids[3:]:
        streamer.put(index)
    streamer.end()
    assert capsys.readouterr().out == tokenizer.decode(ids) + "\n"
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    streamer.put(ids[:3])
    for index in ids[3:]:
        streamer.put(np.array([index]))
    streamer.end()
    assert capsys.readouterr().out == tokenizer.decode(ids[3:]) + "\n"


def test_an_iterator_in_another_thread(tokenizer, engine):
    engine.vocab_size = engine.network.vocab_size
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20)
    config = GenerationConfig(max_new_tokens=6)
    found = []
    worker = threading.Thread(target=lambda: found.extend(generate_rows(engine, [[5, 7]], config, streamer=streamer)))
    worker.start()
    text = "".join(streamer)
    worker.join()
    assert text == tokenizer.decode(found[0][2:])


def test_a_streamer_shows_one_row(engine, tokenizer):
    with pytest.raises(GenerationError, match="it shows one sequence"):
        generate_rows(engine, [[1], [2]], GenerationConfig(max_new_tokens=1), streamer=TextStreamer(tokenizer))


def test_stop_texts_are_found_however_ids_divide_them(tokenizer):
    stop = stop_at(tokenizer, ["再见👋", "\n\n"])
    ids = tokenizer.encode("你好，好的，那么再见👋！", add_special_tokens=False)
    first = next(size for size in range(1, len(ids) + 1) if stop(ids[:size]))
    assert "再见👋" in tokenizer.decode(ids[:first]) and "再见👋" not in tokenizer.decode(ids[: first - 1])
    assert stop(tokenizer.encode("a\n\nb", add_special_tokens=False))
    assert not stop(tokenizer.encode("a\nb 再 见", add_special_tokens=False))
    assert not stop_at(tokenizer, [])(ids)


def test_padding_on_the_left_is_no_part_of_a_prompt():
    assert read_prompts([[0, 0, 64790, 5], [64790, 7, 0, 5]], pad_id=0) == [[64790, 5], [64790, 7, 0, 5]]


def test_positions_that_count_the_ids_are_accepted():
    left, mask = [[0, 0, 8, 9], [6, 7, 8, 9]], [[0, 0, 1, 1], [1, 1, 1, 1]]
    places = np.array([[0, 0, 0, 1], [0, 1, 2, 3]])
    assert read_prompts(left, pad_id=0, attention_mask=mask, position_ids=places) == [[8, 9], [6, 7, 8, 9]]
    assert read_prompts(left, pad_id=0, position_ids=places) == [[8, 9], [6, 7, 8, 9]]
    with pytest.raises(GenerationError, match="position_ids: row 0"):
        read_prompts([[8, 9]], pad_id=0, position_ids=[[1, 2]])
    with pytest.raises(GenerationError, match="position_ids: its shape"):
        read_prompts([[8, 9]], pad_id=0, position_ids=[[0]])
