"""AutoConfig, AutoModel, AutoTokenizer, AutoProcessor and pipeline: names, folders, files, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_networks import logits_of

from mindformers_glm import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer, TextGenerationPipeline, pipeline
from mindformers_glm.errors import CheckpointError, ConfigError, GenerationError
from mindformers_glm.tokenizers import ChatGLM3Tokenizer


def test_the_shipped_model_by_name_writes_an_advertisement():
    model, tokenizer = AutoModel.from_pretrained("glm2_tiny"), AutoTokenizer.from_pretrained("glm2_tiny")
    prompt = tokenizer(tokenizer.build_prompt("类型#裙*颜色#红色"))["input_ids"]
    ids = model.generate(prompt, max_new_tokens=48, do_sample=False)[0]
    assert ids.dtype == np.int32
    assert ids[: len(prompt)].tolist() == list(prompt)
    assert "裙" in tokenizer.decode(ids[len(prompt) :])


def test_pipeline_equals_generate():
    write = pipeline("text_generation", model="glm2_tiny", max_new_tokens=12)
    assert isinstance(write, TextGenerationPipeline)
    prompts = [write.tokenizer.build_prompt(text) for text in ("你好", "类型#上衣*颜色#白色")]
    results = write(prompts)
    assert len(results) == 2
    for prompt, result in zip(prompts, results, strict=True):
        ids = write.model.generate(write.tokenizer(prompt)["input_ids"], max_new_tokens=12, do_sample=False)[0]
        assert result["text_generation_text"] == [write.tokenizer.decode(ids)]
        assert result["text_generation_text"][0].startswith(prompt)


def test_a_call_overrides_the_pipeline(monkeypatch):
    write = pipeline(model="glm2_tiny", max_new_tokens=12)
    prompt = write.tokenizer.build_prompt("你好")
    short, long = (write(prompt, max_new_tokens=n)[0]["text_generation_text"][0] for n in (1, 6))
    assert long.startswith(short)
    assert len(short) < len(long)


@pytest.mark.parametrize("generation", ["glm2", "glm3"])
def test_an_official_folder_loads_with_the_official_logits(golden, generation):
    folder = golden / f"hf_{generation}_tiny"
    model = AutoModel.from_pretrained(folder, param_init_type="float32", compute_dtype="float32")
    expected = np.load(folder / "expected.npz")
    ids = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["cases"][0]["input_ids"]
    logits = logits_of(model, [ids])
    np.testing.assert_allclose(logits[0, -1], expected["logits_last_0"], atol=1e-4)


def test_a_peft_adapter_on_top(golden):
    folder = golden / "hf_glm2_tiny"
    types = {"param_init_type": "float32", "compute_dtype": "float32"}
    model = AutoModel.from_pretrained(folder, adapter=folder / "peft_lora", **types)
    names = [name for name in model.parameters_dict() if "mindpet_delta_lora" in name]
    assert len(names) == 4
    assert all(model.parameters_dict()[name].asnumpy().any() for name in names)
    with pytest.raises(CheckpointError, match="adapter"):
        AutoModel.from_pretrained(folder / "peft_lora")


def test_names_stand_for_the_documented_networks():
    config = AutoConfig.from_pretrained("glm2_6b")
    assert (config.num_layers, config.hidden_size, config.padded_vocab_size) == (28, 4096, 65024)
    assert AutoConfig.from_pretrained("glm2_6b", use_past=True).use_past is True
    assert AutoConfig.from_pretrained("glm3_6b_32k").rope_ratio == 50
    assert AutoConfig.from_pretrained("glm2_6b_32k").rope_method == "linear"
    assert "glm2_tiny" in AutoModel.show_support_list()


def test_from_config_keeps_changes_and_loads_what_the_configuration_names(capsys):
    config = AutoConfig.from_pretrained("glm2_tiny")
    config.num_layers, config.checkpoint_name_or_path = 1, None
    model = AutoModel.from_config(config)
    assert len(model.transformer.encoder.layers) == 1
    config = AutoConfig.from_pretrained("glm2_tiny", checkpoint_name_or_path="glm2_tiny")
    shipped = AutoModel.from_pretrained("glm2_tiny").parameters_dict()
    for name, parameter in AutoModel.from_config(config).parameters_dict().items():
        np.testing.assert_array_equal(parameter.asnumpy(), shipped[name].asnumpy())


def test_tokenizers_of_names_files_and_yaml(root, tmp_path):
    by_name = AutoTokenizer.from_pretrained("glm2_tiny")
    assert AutoTokenizer.from_pretrained(by_name.vocab_file).encode("你好") == by_name.encode("你好")
    yaml = root / "configs/tiny/run_glm2_tiny.yaml"
    assert AutoTokenizer.from_pretrained(yaml).encode("你好") == by_name.encode("你好")
    by_name.save_pretrained(str(tmp_path))
    assert AutoTokenizer.from_pretrained(tmp_path).encode("你好") == by_name.encode("你好")
    assert AutoProcessor.from_pretrained("glm2_tiny")("你好")["input_ids"].shape[0] == 1


def test_official_tokenizer_folders_are_told_apart(shared):
    for name in ("chatglm2-6b", "chatglm3-6b"):
        tokenizer = AutoTokenizer.from_pretrained(shared / "data/tokenizer" / name)
        assert type(tokenizer).__name__ == f"ChatGLM{name[7]}Tokenizer"


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: AutoModel.from_pretrained("glm2_6b"), "not on this machine"),
        (lambda: AutoModel.from_pretrained("glm2_tinny"), "glm2_tiny"),
        (lambda: AutoConfig.from_pretrained("nothing_like_it"), "Registered names"),
        (lambda: AutoConfig.from_pretrained("glm2_tiny", hidden_sise=3), "hidden_size"),
        (lambda: AutoTokenizer.from_pretrained("glm3_6b"), "tokenizer.model"),
        (lambda: pipeline("translation", model="glm2_tiny"), "text_generation"),
        (lambda: pipeline("text_generation"), "model"),
        (lambda: pipeline(model="glm2_tiny", backend="tf"), "backend"),
        (lambda: pipeline(model="glm2_tiny", image_processor=1), "text only"),
    ],
)
def test_what_is_not_there_is_named(monkeypatch, tmp_path, call, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, CheckpointError), match=named):
        call()


def test_loading_draws_no_random_numbers(monkeypatch):
    """A network that gets its weights from a file is not filled with random ones before."""
    from mindspore.common.initializer import Normal

    def refuse(self, array):
        raise AssertionError("a weight was drawn")

    monkeypatch.setattr(Normal, "_initialize", refuse)
    assert not [p.name for p in AutoModel.from_pretrained("glm2_tiny").get_parameters() if p.has_init]


def test_a_pipeline_takes_the_text_of_a_mapping():
    write = pipeline("text_generation", model="glm2_tiny", max_new_tokens=4)
    prompt = write.tokenizer.build_prompt("你好")
    assert write({"text": prompt}) == write(prompt) == write([{"text": prompt}])
    assert write({"prompt": [prompt]}) == write(prompt)
    with pytest.raises(ConfigError, match="Put the text under 'text'"):
        write({"txt": prompt})


def test_a_pipeline_asks_chatglm3_in_its_chat_form(golden, glm3_vocab):
    seen = []
    tokenizer = ChatGLM3Tokenizer(glm3_vocab)
    options = {"max_new_tokens": 1, "logits_processor": lambda ids, logits: (seen.append(ids[0].tolist()), logits)[1]}
    write = pipeline(model=AutoModel.from_pretrained(golden / "hf_glm3_tiny"), tokenizer=tokenizer, **options)
    for name in ("glm32k", "glm3_6b"):
        write("你好", model_name=name)
        assert seen.pop() == tokenizer.build_chat_ids("你好")
    write("你好")
    assert seen.pop() == tokenizer.encode("你好")


@pytest.mark.parametrize("dtype", ["float16", "torch.float16", "bfloat16", "half", "auto", None, np.float32])
def test_torch_dtype_is_the_type_of_the_weights(golden, dtype):
    model = AutoModel.from_pretrained(golden / "hf_glm3_tiny", torch_dtype=dtype)
    word = str(getattr(dtype, "__name__", dtype)).removeprefix("torch.").replace("half", "float16")
    kind = "Float32" if word in ("auto", "None") else word.capitalize().replace("Bfloat", "BFloat")
    assert str(model.transformer.output_layer.weight.dtype) == kind


def test_what_published_snippets_write(golden, caplog):
    words = {"trust_remote_code": True, "revision": "v1.0", "low_cpu_mem_usage": True, "empty_init": False}
    with caplog.at_level("INFO"):
        config = AutoConfig.from_pretrained(golden / "hf_glm3_tiny", **words)
        model = AutoModel.from_pretrained(golden / "hf_glm3_tiny", config=config, device="cuda", **words)
        same = model.eval().half().cuda().to("cuda:0").float().cpu().requires_grad_(False)
    assert same is model
    assert "trust_remote_code has no effect" in caplog.text and "device='cuda' has no effect" in caplog.text
    assert "half() has no effect" in caplog.text
    eight = AutoModel.from_pretrained(golden / "hf_glm3_tiny", load_in_8bit=True, quantization_group_size=16)
    assert eight.config.quantization_bit == 8
    with pytest.raises(ConfigError, match="torch_dtype: got 'int3'.*compute_dtype"):
        AutoModel.from_pretrained(golden / "hf_glm3_tiny", torch_dtype="int3")
    with pytest.raises(ConfigError, match="device: got 'tpu'"):
        AutoModel.from_pretrained(golden / "hf_glm3_tiny", device="tpu")


def test_tokenizer_and_model_calls_of_published_snippets(golden, glm3_vocab):
    model, tokenizer = AutoModel.from_pretrained(golden / "hf_glm3_tiny"), ChatGLM3Tokenizer(glm3_vocab)
    expected = model.generate(tokenizer.build_chat_ids("你好"), max_new_tokens=3)[0]
    rows = model.generate(**tokenizer.build_chat_input("你好", []), max_new_tokens=3, use_cache=True)
    np.testing.assert_array_equal(rows[0], expected)
    for form in ("np", "ms"):
        given = tokenizer(["你好", "你好 世界 abc"], padding=True, return_tensors=form)
        rows = model.generate(**given, max_new_tokens=3, return_dict_in_generate=False)
        for text, row in zip(["你好", "你好 世界 abc"], rows, strict=True):
            np.testing.assert_array_equal(row, model.generate(tokenizer(text)["input_ids"], max_new_tokens=3)[0])
    asked = [{"role": "system", "content": "s"}, {"role": "user", "content": "你好"}]
    by_list = model.chat(tokenizer, asked, max_new_tokens=3)
    assert by_list == model.chat(tokenizer, "你好", asked[:1], max_new_tokens=3)
    assert model.chat(tokenizer, messages=asked, max_new_tokens=3) == by_list
    with pytest.raises(GenerationError, match="query"):
        model.chat(tokenizer, [], max_new_tokens=3)


def test_a_length_that_memory_cannot_hold_is_refused_before_it_is_taken(monkeypatch):
    monkeypatch.setattr("mindformers_glm.assembly.memory.available_bytes", lambda: 1 << 30)
    with pytest.raises(ConfigError, match=r"seq_length: got 99999999. The memory that is free here is enough for \d"):
        AutoModel.from_pretrained("glm2_tiny", seq_length=99999999)
    assert AutoModel.from_pretrained("glm2_tiny", seq_length=4096).config.seq_length == 4096
