"""The small models' training: growing keeps the replies, rows keep conversations apart, stopped runs go on."""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import pytest
from mindspore import Tensor
from mindspore_modes import pynative  # noqa: F401 - a fixture
from tiny_networks import logits_of

from mindformers_glm.checkpoint.formats.safetensors_file import open_safetensors
from mindformers_glm.checkpoint.load.model_files import read_config, to_yaml
from mindformers_glm.config.names import ASSETS
from mindformers_glm.labels import IGNORED
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.tokenizers import Renderer
from tools.tiny import corpus, rows, train
from tools.tiny.families import FAMILIES
from tools.tiny.grow import grown, layers, pieces_of
from tools.tiny.seed import seeded

BASE = {
    "kv_channels": 16, "multi_query_group_num": 2, "seq_length": 16, "param_init_type": "float32",
    "compute_dtype": "float32", "layernorm_compute_type": "float32",
}  # fmt: skip
TOKENIZER = ASSETS / "glm2_tiny/tokenizer.model"


@pytest.fixture(scope="module")
def family():
    return FAMILIES["glm3"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    corpus.write(path, 120)
    return path


def test_a_grown_network_says_the_same(pynative):  # noqa: F811
    from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration  # noqa: PLC0415

    small = ChatGLM2Config(
        **BASE, num_layers=2, hidden_size=32, ffn_hidden_size=24, num_attention_heads=4, padded_vocab_size=32
    )
    large = ChatGLM2Config(
        **BASE, num_layers=4, hidden_size=48, ffn_hidden_size=40, num_attention_heads=6, padded_vocab_size=40
    )
    first, second = (ChatGLM2ForConditionalGeneration(config) for config in (small, large))
    rng = np.random.default_rng(0)
    for parameter in first.get_parameters():
        parameter.set_data(Tensor(rng.normal(0, 0.3, parameter.shape).astype(np.float32)))
    order = rng.permutation(40)  # of the new ids, those of 32 old tokens and 8 new ones
    old = {parameter.name: parameter.asnumpy() for parameter in first.get_parameters()}
    new = grown(old, small, large, [[int(i)] if i < 32 else [] for i in order])
    assert set(new) == {parameter.name for parameter in second.get_parameters()}
    for parameter in second.get_parameters():
        parameter.set_data(Tensor(new[parameter.name]))
    ids = rng.integers(0, 32, (2, 9))
    place = np.argsort(order)
    expected, found = logits_of(first, ids), logits_of(second, place[ids])
    np.testing.assert_allclose(found[..., place[:32]], expected, atol=1e-3)


def test_a_seeded_network_copies_from_the_start(pynative):  # noqa: F811
    from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration  # noqa: PLC0415

    shape = {"num_layers": 2, "hidden_size": 256, "ffn_hidden_size": 64, "num_attention_heads": 4, "kv_channels": 32}
    config = ChatGLM2Config(**{**BASE, **shape, "seq_length": 256, "padded_vocab_size": 1024})
    model = ChatGLM2ForConditionalGeneration(config).set_train(False)
    weights = seeded({parameter.name: parameter.shape for parameter in model.get_parameters()}, config)
    for parameter in model.get_parameters():
        parameter.set_data(Tensor(weights[parameter.name]))
    piece = np.random.default_rng(2).integers(300, 1000, 60)
    found = logits_of(model, np.tile(piece, 2)[None])[0].argmax(-1)
    right = (found[60:-1] == piece[1:]).mean()
    assert right > 0.6, right


def test_added_layers_are_spread():
    assert layers(4, 6) == [(0, False), (1, False), (1, True), (2, False), (2, True), (3, False)]
    for old, new in itertools.product(range(1, 6), range(1, 11)):
        if old <= new <= 2 * old:
            found = layers(old, new)
            assert len(found) == new and [number for number, added in found if not added] == list(range(old))


def test_tokens_keep_their_vectors_by_their_text(family):
    tokenizer = family.reads(TOKENIZER)
    processor = tokenizer.vocabulary.processor
    found = pieces_of(processor, processor, {processor.get_piece_size(): [5]})
    assert found == [*([i] for i in range(processor.get_piece_size())), [5]]


def test_rows_hold_whole_conversations_that_do_not_see_each_other(text, family, tmp_path):
    made = rows.write(text, family, TOKENIZER, tmp_path / "rows.npy")
    tokenizer, count = family.reads(TOKENIZER), 0
    expected = sorted(map(str, rows.encoded(text, family, TOKENIZER)))
    found = []
    for ids, first, labels in np.asarray(made, np.int64):
        starts = sorted(set(first.tolist()))
        for start, end in zip(starts, [*starts[1:], rows.LENGTH], strict=True):
            assert set(first[start:end].tolist()) == {start}
            if (labels[start:end] != IGNORED).any():
                found.append((ids[start:end].tolist(), labels[start:end].tolist()))
                count += 1
    assert len(found) == len(expected)
    assert (made[:, 0] != tokenizer.pad_token_id).mean() > 0.9
    assert sorted(len(ids) for ids, _ in rows.encoded(text, family, TOKENIZER))[-1] <= rows.LENGTH
    again = rows.write(text, family, TOKENIZER, tmp_path / "rows.npy")
    np.testing.assert_array_equal(again, made)


def test_each_epoch_has_every_row_once(text, family, tmp_path):
    made = rows.write(text, family, TOKENIZER, tmp_path / "rows.npy")
    taken = [rows.batch(made, step, 1).input_ids[0] for step in range(2 * len(made))]
    for part in (taken[: len(made)], taken[len(made) :]):
        assert sorted(row.tobytes() for row in part) == sorted(row.astype(np.int32).tobytes() for row in made[:, 0])


def test_a_drill_teaches_what_was_there_before():
    ids, first, labels = np.asarray(rows.drilled(np.random.default_rng(3), 4000), np.int64)
    learned = np.flatnonzero(labels != IGNORED)
    assert len(learned) > rows.LENGTH / 3 and ids.max() < 4000
    for place in learned:
        begin = first[place]
        assert labels[place] in ids[begin:place]  # it can be copied
        if place + 1 < rows.LENGTH and first[place + 1] == begin:
            assert labels[place] == ids[place + 1]


def test_drills_take_the_place_of_rows(text, family, tmp_path):
    made = rows.write(text, family, TOKENIZER, tmp_path / "rows.npy")
    plain, mixed = rows.batch(made, 3, 8), rows.batch(made, 3, 8, drill=0.5, vocabulary=4000)
    same = (plain.input_ids == mixed.input_ids).all(1)
    assert 0 < same.sum() < 8
    np.testing.assert_array_equal(mixed.input_ids, rows.batch(made, 3, 8, drill=0.5, vocabulary=4000).input_ids)


def test_glm2_learns_what_its_form_can_say(text, tmp_path):
    family = FAMILIES["glm2"]
    tokenizer = family.reads(TOKENIZER)
    texts = [tokenizer.decode(ids) for ids, _ in rows.encoded(text, family, TOKENIZER)]
    assert texts and all("GLM3-Tiny" not in one for one in texts)
    assert Renderer(tokenizer).example([("a", "b")]).ids
    packaged = read_config(ASSETS / "glm2_tiny/config.yaml")[0]
    assert to_yaml(family.shipped()) == to_yaml(packaged) != to_yaml(family.config())


def test_the_rate_is_constant_and_falls_at_the_end():
    rates = [train.rate(step, 1000, 1.0, 0.3) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / train.WARM)
    assert set(rates[train.WARM : 700]) == {1.0}
    assert all(a > b for a, b in itertools.pairwise(rates[700:])) and rates[-1] == pytest.approx(0.02, abs=0.01)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(text, family, tmp_path, monkeypatch):
    small = {
        "num_layers": 5,
        "hidden_size": 192,
        "ffn_hidden_size": 640,
        "num_attention_heads": 6,
        "padded_vocab_size": 4096,
    }
    monkeypatch.setitem(FAMILIES, "glm3", family._replace(shape=small))
    found = []
    for name, stops in (("whole", [4]), ("parts", [2, 4])):
        work = tmp_path / name
        work.mkdir()
        (work / "corpus.jsonl").write_bytes(text.read_bytes())
        (work / "tokenizer.model").write_bytes(TOKENIZER.read_bytes())
        for stop in stops:
            given = {"work": str(work), "family": "glm3", "steps": 4, "until": stop, "batch": 1, "peak": 1e-3}
            train.run(argparse.Namespace(**given, save_steps=2, seed=0, grow=False, decay=0.3, drill=0.5))
        weights = open_safetensors(work / "model/model.safetensors")
        found.append({key: weights.read_bits(key) for key in weights.entries})
    assert set(found[0]) == set(found[1])
    assert all(np.array_equal(found[0][key], found[1][key]) for key in found[0])
