"""preprocess_data: byte-equal to ModelLink's and Megatron's, in any number of processes, after any kill."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest

from mindformers_glm.cli.preprocess import main
from mindformers_glm.data.indexed.instructions import Instructions
from mindformers_glm.data.indexed.pair import IndexedPair
from mindformers_glm.data.preprocess import run as running
from mindformers_glm.data.preprocess.handlers import HANDLERS, Handler
from mindformers_glm.data.preprocess.run import outputs_of, preprocess
from mindformers_glm.data.preprocess.source import chunks, files_of, parsed
from mindformers_glm.errors import ConfigError, DataError, UserError
from mindformers_glm.registry import TOKENIZERS


@pytest.fixture(scope="module")
def tokenizer(glm3_vocab):
    return TOKENIZERS.build({"type": "ChatGLM3Tokenizer", "vocab_file": glm3_vocab}, "tokenizer")


@pytest.fixture(scope="module")
def tiny(root):
    folder = root / "mindformers_glm/assets/glm2_tiny"
    return TOKENIZERS.build({"type": "ChatGLM2Tokenizer", "vocab_file": str(folder / "tokenizer.model")}, "tokenizer")


def bytes_of(prefix, handler):
    return [path.read_bytes() for path in outputs_of(prefix, handler)]


def texts(tmp_path, count, name="c.jsonl"):
    random.seed(count)
    path = tmp_path / name
    lines = [json.dumps({"text": "字" * random.randrange(0, 30) + f" {i}"}) for i in range(count)]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("workers", [1, 2])
def test_modellinks_handlers_byte_for_byte(golden, tokenizer, tmp_path, workers):
    folder = golden / "megatron_data/modellink"
    for row in json.loads((folder / "runs.json").read_text()):
        kind = HANDLERS.get(row["handler"])
        handler = kind(tokenizer, append_eod=row["append_eod"], seq_length=row["seq_length"])
        source = folder / ("alpaca30.jsonl" if "Instruction" in row["handler"] else "pretrain34.jsonl")
        preprocess(source, tmp_path / row["output_prefix"], handler, workers=workers)
        for name in row["files"]:
            for ending in (".bin", ".idx"):
                assert (tmp_path / f"{name}{ending}").read_bytes() == (folder / f"{name}{ending}").read_bytes()


@pytest.mark.parametrize(("eod", "name"), [(True, "docs_u16_eod"), (False, "docs_u16_noeod")])
def test_megatrons_builder_byte_for_byte(golden, tokenizer, tmp_path, eod, name):
    folder = golden / "megatron_data/indexed"
    handler = HANDLERS.get("MegatronHandler")(tokenizer, append_eod=eod)
    preprocess(folder / "documents.jsonl", tmp_path / "d", handler)
    for ending in (".bin", ".idx"):
        assert (tmp_path / f"d_text_document{ending}").read_bytes() == (folder / f"{name}{ending}").read_bytes()


def test_every_form_of_a_file_gives_the_same_pair(tiny, tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import ipc, parquet

    values = [{"text": text} for text in ("一 , 二", 'say "hi"', "x", "行")]
    lines = "\n".join(json.dumps(value, ensure_ascii=False) for value in values)
    files = {
        name: tmp_path / name for name in ("a.jsonl", "b.json", "c.csv", "d.tsv", "e.txt", "f.jsonl.gz", "g.parquet")
    }
    files["a.jsonl"].write_text("\ufeff" + lines.replace("\n", "\r\n\n"))
    files["b.json"].write_text(json.dumps(values, ensure_ascii=False, indent=2))
    quoted = [value["text"].replace('"', '""') for value in values]
    files["c.csv"].write_text("text\n" + "\n".join(f'"{text}"' for text in quoted))
    files["d.tsv"].write_text("text\n" + "\n".join(f'"{text}"' for text in quoted))
    files["e.txt"].write_text("\n".join(value["text"] for value in values))
    files["f.jsonl.gz"].write_bytes(gzip.compress(lines.encode()))
    parquet.write_table(pa.Table.from_pylist(values), files["g.parquet"])
    files["h.arrow"] = tmp_path / "h.arrow"
    with ipc.new_stream(files["h.arrow"], pa.Table.from_pylist(values).schema) as out:
        out.write_table(pa.Table.from_pylist(values))
    handler = HANDLERS.get("GeneralPretrainHandler")(tiny)
    made = set()
    for name, path in files.items():
        preprocess(path, tmp_path / f"out-{name}", handler)
        made.add(tuple(bytes_of(tmp_path / f"out-{name}", handler)))
    assert len(made) == 1


def test_folders_globs_and_lists_are_read_in_order(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt", "notes.md"):
        (tmp_path / name).write_text('{"text": "x"}\n')
    names = [path.name for path in files_of(tmp_path)]
    assert names == ["a.jsonl", "b.jsonl", "c.txt"]
    assert [path.name for path in files_of(str(tmp_path / "*.jsonl"))] == ["a.jsonl", "b.jsonl"]
    assert [path.name for path in files_of(f"{tmp_path / 'b.jsonl'},{tmp_path / 'a.jsonl'}")] == ["b.jsonl", "a.jsonl"]


def test_a_long_array_is_read_in_pieces(tmp_path):
    values = [{"text": "长" * (i % 7000)} for i in range(900)]
    (tmp_path / "a.json").write_text(json.dumps(values, ensure_ascii=False))
    found = [value for chunk in chunks(files_of(tmp_path / "a.json"), size=64) for _, value in parsed(chunk)]
    assert found == values


def test_skipping_goes_on_after_any_record(tmp_path):
    path = texts(tmp_path, 20)
    whole = [value for chunk in chunks([path], size=3) for _, value in parsed(chunk)]
    for skip in range(21):
        assert [v for chunk in chunks([path], size=3, skip=skip) for _, v in parsed(chunk)] == whole[skip:]


class _Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3, 7])
def test_an_interrupted_run_goes_on_where_it_was(tiny, tmp_path, monkeypatch, after):
    monkeypatch.setattr(Handler, "chunk_records", 16)
    source = texts(tmp_path, 150)
    handler = HANDLERS.get("GeneralPretrainHandler")(tiny, append_eod=True)
    preprocess(source, tmp_path / "whole", handler)

    class Breaking(running.LocalEngine):
        def map(self, work):
            for number, outputs in enumerate(super().map(work)):
                if number == after:
                    raise _Stopped
                yield outputs

    with pytest.raises(_Stopped):
        preprocess(source, tmp_path / "cut", handler, engine=lambda made: Breaking(made, 1), commit_seconds=0.0)
    counts = preprocess(source, tmp_path / "cut", handler)
    assert counts.resumed_at == 16 * after and counts.records == 150
    assert bytes_of(tmp_path / "cut", handler) == bytes_of(tmp_path / "whole", handler)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_other_settings_start_anew(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "chunk_records", 4)
    source = texts(tmp_path, 30)
    first, other = (HANDLERS.get("GeneralPretrainHandler")(tiny, append_eod=eod) for eod in (False, True))

    class Breaking(running.LocalEngine):
        def map(self, work):
            yield next(iter(super().map(work)))
            raise _Stopped

    with pytest.raises(_Stopped):
        preprocess(source, tmp_path / "a", first, engine=lambda made: Breaking(made, 1))
    assert preprocess(source, tmp_path / "a", other).resumed_at == 0
    preprocess(source, tmp_path / "b", other)
    assert bytes_of(tmp_path / "a", other) == bytes_of(tmp_path / "b", other)


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_in_the_same_bytes(tiny, root, tmp_path):
    source = texts(tmp_path, 40_000)
    handler = HANDLERS.get("GeneralPretrainHandler")(tiny)
    preprocess(source, tmp_path / "whole", handler)
    vocab = root / "mindformers_glm/assets/glm2_tiny"
    words = [sys.executable, root / "tools/preprocess_data.py", "--input", source, "--tokenizer-name-or-path", vocab]
    command = [*map(str, words), "--output-prefix", str(tmp_path / "cut"), "--workers", "2", "--log-interval", "500"]
    kills = 0
    for _ in range(40):
        child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            child.communicate(timeout=random.uniform(1.0, 6.0))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            kills += 1
            continue
        assert child.returncode == 0
        break
    assert bytes_of(tmp_path / "cut", handler) == bytes_of(tmp_path / "whole", handler)
    assert kills


@pytest.mark.parametrize("workers", [1, 2])
def test_packed_instructions_are_the_rows_apart_when_they_are_read(tiny, golden, tmp_path, workers):
    source = golden / "megatron_data/modellink/alpaca30.jsonl"
    kind, length = HANDLERS.get("GeneralInstructionHandler"), 2048
    preprocess(source, tmp_path / "plain", kind(tiny, append_eod=True, seq_length=length))
    preprocess(source, tmp_path / "packed", kind(tiny, append_eod=True, seq_length=length, pack=True), workers=workers)
    settings = {"split": "1,0,0", "part": "train", "seq_length": length, "seed": 0}
    plain, packed = (Instructions(tmp_path / name, **settings) for name in ("plain", "packed"))
    assert not plain.packed and packed.packed and len(packed) < len(plain) / 2
    assert set(packed.ids.lengths.tolist()) == {length}
    apart = []
    for number in range(len(packed)):
        ids, labels, first = packed.row(number)
        for begin in np.unique(first):
            part = first == begin
            if (labels[part] != -100).any():
                apart.append((ids[part].tolist(), labels[part].tolist()[:-1]))
    expected = [plain.row(number) for number in range(len(plain))]
    assert sorted(ids[:-1] for ids, _ in apart) == sorted(row.input_ids.tolist() for row in expected)
    assert sorted(labels for _, labels in apart) == sorted(row.labels.tolist() for row in expected)


@pytest.mark.parametrize(
    ("name", "settings"), [("GeneralPretrainHandler", {"seq_length": 8}), ("GeneralInstructionHandler", {})]
)
def test_packing_needs_instructions_and_a_length(tiny, name, settings):
    with pytest.raises(ConfigError, match="--pack"):
        HANDLERS.get(name)(tiny, pack=True, **settings)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", '{"text": "中文"}\n'.encode("gbk"), "line 1 is not UTF-8.*iconv"),
        ("a.jsonl", b'{"content": "x"}\n', "line 1 has no text under 'text' .its columns: content.*--json-keys"),
        ("a.jsonl", b'{"text": 5}\n', "line 1 has no text"),
        ("a.json", b'[{"text": "x"}, {"text": ', "JSON array breaks at line 1"),
        ("a.json", b'[{"text": "x"}] 5', "more after the JSON array"),
        ("a.jsonl.gz", b"nothing", "line 1 is not JSON"),
        ("a.parquet", b"nothing", "not a parquet file"),
        ("a.jsonl", b"\n\n", "no records"),
        ("a.docx", b"x", "ending says no format"),
    ],
)
def test_what_cannot_be_read_is_named_and_leaves_nothing(tiny, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    handler = HANDLERS.get("GeneralPretrainHandler")(tiny)
    with pytest.raises(DataError, match=said):
        preprocess(tmp_path / name, tmp_path / "out", handler)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_record_that_cannot_be_used_is_named_by_any_number_of_processes(tiny, tmp_path, workers):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 700 + '{"title": "x"}\n')
    with pytest.raises(DataError, match="line 701 has no text under 'text'"):
        preprocess(tmp_path / "a.jsonl", tmp_path / "out", HANDLERS.get("MegatronHandler")(tiny), workers=workers)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_an_existing_output_is_not_replaced_unasked(tiny, tmp_path):
    source, handler = texts(tmp_path, 3), HANDLERS.get("GeneralPretrainHandler")(tiny)
    preprocess(source, tmp_path / "a", handler)
    before = bytes_of(tmp_path / "a", handler)
    with pytest.raises(DataError, match="--overwrite"):
        preprocess(source, tmp_path / "a", handler)
    assert bytes_of(tmp_path / "a", handler) == before
    assert preprocess(source, tmp_path / "a", handler, overwrite=True).records == 3


def test_the_command_of_the_modellink_page(golden, tmp_path, capsys, root):
    source = golden / "megatron_data/modellink/pretrain34.jsonl"
    vocab = str(root / "mindformers_glm/assets/glm2_tiny")
    words = f"--tokenizer-name-or-path {vocab} --tokenizer-type PretrainedFromHF --workers 1 --log-interval 1000"
    main(["--input", str(source), "--output-prefix", str(tmp_path / "p"), *words.split()])
    assert "34 documents" in capsys.readouterr().out
    pair = IndexedPair(tmp_path / "p_text_document")
    assert pair.num_documents == 33
    main(["--verify", str(tmp_path / "p_text_document")])
    assert "documents: 33" in capsys.readouterr().out
    main(["--split", str(tmp_path / "p_text_document"), "3", "--output-prefix", str(tmp_path / "s")])
    main(["--merge", *[str(tmp_path / f"s_{i}") for i in range(3)], "--output-prefix", str(tmp_path / "m")])
    for ending in (".bin", ".idx"):
        assert (tmp_path / f"m{ending}").read_bytes() == (tmp_path / f"p_text_document{ending}").read_bytes()


@pytest.mark.parametrize(
    "words",
    ["--input x.jsonl", "--output-prefix a", "--output-prefix a --input x --handler-name Nothing", "--verify no"],
)
def test_wrong_words_are_one_line(words, root):
    vocab = ["--tokenizer-name-or-path", str(root / "mindformers_glm/assets/glm2_tiny")]
    with pytest.raises(UserError):
        main([*words.split(), *vocab])


def test_preprocess_needs_no_mindspore(root, tmp_path):
    """Nor its memory: half a gigabyte, in every process."""
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n')
    code = (
        "import sys; sys.modules['mindspore'] = None; import mindformers_glm.cli.preprocess as p; p.main(sys.argv[1:])"
    )
    words = ["--input", tmp_path / "c.jsonl", "--tokenizer-name-or-path", root / "mindformers_glm/assets/glm2_tiny"]
    command = [sys.executable, "-c", code, *words, "--output-prefix", tmp_path / "out", "--workers", "2"]
    done = subprocess.run([str(word) for word in command], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 documents" in done.stdout
