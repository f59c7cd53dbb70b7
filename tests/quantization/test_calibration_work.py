"""What calibration keeps on disk: taken up after a kill where the same is asked, begun anew otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers_glm.checkpoint.formats.dtypes import bits_of, convert, name_of
from mindformers_glm.cli.quantize import main as quantize
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.quantization.work import Work


def test_it_goes_on_where_it_was(tmp_path):
    asked = {"rows": 3}
    work, states = Work(tmp_path / "out", asked), [np.ones((2, 4), np.float32), np.zeros((3, 4), np.float32)]
    assert work.done == 0 and work.states([2, 3]) is None
    work.write(0, {"a.weight": np.arange(6, dtype=np.int8).reshape(2, 3)}, states)
    work.write(1, {"b.weight": np.ones((2, 2), np.uint8), "b.weight_scale": np.ones((2, 1), np.float16)}, states)
    again = Work(tmp_path / "out", asked)
    assert again.done == 2
    for found, given in zip(again.states([2, 3]), states, strict=True):
        assert np.array_equal(found, given)
    tensors = again.tensors()
    assert np.array_equal(tensors["a.weight"], [[0, 1, 2], [3, 4, 5]]) and tensors["b.weight_scale"].dtype == np.float16
    assert len(list(again.folder.glob("states-*"))) == 1
    assert Work(tmp_path / "out", {"rows": 4}).done == 0
    again.remove()
    assert not again.folder.exists()


def test_tensors_of_bfloat16_come_back_as_such(tmp_path):
    work, given = Work(tmp_path / "out", {}), convert(np.array([1.5, -2.0], np.float32), "bfloat16")
    work.write(0, {"a.weight": given}, None)
    found = work.tensors()["a.weight"]
    assert name_of(found) == "bfloat16" and np.array_equal(bits_of(found), bits_of(given))


def test_a_layer_without_its_states_is_computed_again(tmp_path):
    work = Work(tmp_path / "out", {})
    work.write(0, {"a": np.zeros(1, np.int8)}, [np.ones((1, 4), np.float32)])
    (work.folder / "states-0.npy").unlink()
    assert Work(tmp_path / "out", {}).done == 0


def test_a_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work/mine.txt").write_text("x")
    with pytest.raises(CheckpointError, match="not a folder of an interrupted calibration"):
        Work(tmp_path / "out", {})
    assert (tmp_path / "out.work/mine.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("words", "fault"),
    [("--scheme w8a8 --to ours-panels", "AscendV1: leave it out"), ("--scheme w8a8-token", "needs no folder")],
)
def test_what_cannot_be_written_is_told_before_rows_are_read(tmp_path, words, fault):
    given = ["--checkpoint", "glm2_tiny", "--data_path", str(tmp_path / "absent.jsonl"), *words.split()]
    with pytest.raises(ConfigError, match=fault):
        quantize([*given, "--output_path", str(tmp_path / "out")])
