"""A model in bfloat16 quantised from the command line: what is written is what MindSpore's operators can hold."""

import numpy as np
from tiny_networks import logits_of, random_network

from mindformers_glm import AutoModel
from mindformers_glm.assembly.engine import held_engine, load_held
from mindformers_glm.checkpoint.convert import save_directory
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.cli.quantize import main as quantize
from mindformers_glm.generation.config import GenerationConfig


def test_its_embedding_is_written_as_floats(tmp_path):
    model = random_network(param_init_type="bfloat16", embedding_type="bfloat16", ffn_hidden_size=64)
    arrays = {parameter.name: parameter.asnumpy() for parameter in model.get_parameters()}
    save_directory(tmp_path / "floats", arrays, model.config.model_copy(update={"embedding_type": "float32"}))
    quantize(["--checkpoint", str(tmp_path / "floats"), "--bits", "8", "--output_path", str(tmp_path / "integers")])
    source = read_weights(tmp_path / "integers")
    table = next(name for name in source.names if name.endswith("embedding_table"))
    assert source.dtype(table) == "float32"
    assert np.array_equal(source.read(table), arrays[table].astype(np.float32))
    made = AutoModel.from_pretrained(tmp_path / "integers", compute_dtype="float32")
    assert str(made.parts.table.dtype) == "Float32"
    ids = [5, 7, 30]
    engine = held_engine(load_held(str(tmp_path / "integers")), {})
    first = engine.submit(ids, GenerationConfig(max_new_tokens=1, do_sample=False)).results()[0].ids
    assert first == [int(logits_of(made, np.array([ids], np.int32))[0, -1].argmax())]
