"""What inspect-data says of a file."""

import json

import forked
import numpy as np
import pytest

from mindformers_glm.data.inspection import draw_lengths, inspect_data
from mindformers_glm.errors import DataError
from mindformers_glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer

ROW = {"instruction": "问", "output": "答"}


@pytest.fixture(scope="module")
def vocab(root):
    return str(root / "mindformers_glm/assets/glm2_tiny/tokenizer.model")


def write(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def test_counts(tmp_path, vocab):
    long = {"instruction": "长" * 300, "output": "答"}
    path = write(tmp_path, *[ROW] * 3, {**ROW, "output": "是"}, long, {**ROW, "output": ""}, {"instruction": "x"})
    tokenizer = ChatGLM2Tokenizer(vocab)
    found = inspect_data(path, tokenizer, length=64)
    prompt = len(tokenizer.encode(tokenizer.build_prompt("问")))
    reply = len(tokenizer.encode("答", add_special_tokens=False)) + 1
    assert list(found.lengths[:3]) == [prompt + reply] * 3
    assert list(found.learned[:3]) == [reply] * 3
    assert (found.form, len(found.lengths), found.duplicates, found.cut, found.lost) == ("alpaca", 5, 2, 1, 1)
    assert [fault.line for fault in found.faults] == [6, 7]
    assert found.suggested % 64 == 0
    assert found.suggested >= found.lengths.max()
    text = str(found)
    for words in (
        "5 usable, 2 skipped",
        "2 rows say",
        "at 64",
        "1 rows are cut, 1 of them",
        "`output` is blank (line 6)",
    ):
        assert words in text
    assert draw_lengths(found, tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")


def test_text_and_tools(tmp_path, vocab):
    found = inspect_data(write(tmp_path, {"text": "一段文字"}, {"text": "又一段"}), ChatGLM3Tokenizer(vocab))
    np.testing.assert_array_equal(found.lengths, found.learned)
    assert found.length == found.suggested
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    path = write(tmp_path, {"messages": turns, "tools": [{"name": "f"}]})
    with pytest.raises(DataError, match="no row can be used: line 1: tools: ChatGLM2 knows no tools"):
        inspect_data(path, ChatGLM2Tokenizer(vocab))
    assert len(inspect_data(path, ChatGLM3Tokenizer(vocab)).lengths) == 1


def test_the_command(tmp_path, root):
    command = ["tools/inspect_data.py", write(tmp_path, ROW, ROW), "--png", tmp_path / "a.png"]
    done = forked.run(command, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "2 usable, 0 skipped" in done.stdout
    assert "name the vocabulary of your model with --tokenizer" in done.stdout
    assert (tmp_path / "a.png").is_file()
    done = forked.run([command[0], "none.json"], cwd=root)
    assert done.returncode == 2
    assert "there is no such data file" in done.stderr
