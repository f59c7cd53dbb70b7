"""Python: arguments of AutoModel, AutoTokenizer, generate, chat, Trainer, pipeline and of the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from inputs import Input, drawn

FAMILY = "API arguments"
# values as they are typed
_ODD = (
    "None",
    "-1",
    "0",
    "1.5",
    "float('nan')",
    "float('inf')",
    "10**30",
    "''",
    "'x'",
    "'词'",
    "[]",
    "{}",
    "[None]",
    "[[]]",
    "object()",
    "b'x'",
    "{'a': 1}",
    "True",
    "'../..'",
    "'x' * 5000",
    "'a\\nb'",
    "'\\0'",
    "print",
    "np.array([])",
    "np.float32(2)",
)
_HEAD = "import numpy as np\nfrom mindformers_glm import *\nimport mindformers_glm\n"
_MODEL = "model = AutoModel.from_pretrained('glm2_tiny')\n"
_TOKENIZER = "tokenizer = AutoTokenizer.from_pretrained('glm2_tiny')\n"
_AFTER = """from mindformers_glm.errors import UserError
try:
    {}
except UserError:
    pass
assert len(model.generate([5, 6], max_new_tokens=2)) == 1
"""
_TRAINER_CALL = """trainer = Trainer(given, model='glm2_tiny', train_dataset='x.json', device_target='CPU')
print(trainer.config('train').run_mode)
"""
_GENERATION = (
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "num_return_sequences",
    "eos_token_id",
    "pad_token_id",
    "stop",
    "seed",
    "use_past",
    "top_logprobs",
    "logits_processor",
    "streamer",
    "attention_mask",
    "position_ids",
    "generation_config",
    "do_sample",
    "nonsense",
)
_IDS = (
    "None",
    "[]",
    "[[]]",
    "[-1]",
    "[10**9]",
    "[2**70]",
    "[1.5]",
    "['a']",
    "'text'",
    "[[1, 2], [3]]",
    "[[1], []]",
    "[0, 0]",
    "[None]",
    "{}",
    "7",
    "np.zeros((0, 3), int)",
    "np.ones((2, 2, 2), int)",
    "np.array([1.5])",
    "np.array(['a'])",
    "[True]",
    "range(3)",
    "[5] * 100000",
    "object()",
    "np.array([[5, 6]], dtype=object)",
    "[[1, 2], 3]",
    "np.int64(3)",
    "(5, 6)",
    "[np.int64(5)]",
    "np.array(5)",
    "np.array([1+2j])",
)
_TRAINING = (
    "output_dir",
    "batch_size",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "adam_beta1",
    "adam_epsilon",
    "max_grad_norm",
    "num_train_epochs",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "seed",
    "data_seed",
    "resume_training",
    "sink_size",
    "do_eval",
    "eval_step_interval",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "save_seconds",
    "resume_from_checkpoint",
)
_TRAINER = (
    "args",
    "task",
    "model",
    "model_name",
    "train_dataset",
    "eval_dataset",
    "tokenizer",
    "optimizers",
    "wrapper",
    "pet_method",
    "callbacks",
    "compute_metrics",
    "device_target",
    "image_processor",
)
_CONFIG = (
    "num_layers",
    "hidden_size",
    "padded_vocab_size",
    "seq_length",
    "num_attention_heads",
    "kv_channels",
    "ffn_hidden_size",
    "multi_query_group_num",
    "layernorm_epsilon",
    "rope_ratio",
    "rope_method",
    "param_init_type",
    "compute_dtype",
    "pre_seq_len",
    "pet_config",
    "eos_token_id",
    "quantization_bit",
    "hidden_dropout",
    "checkpoint_name_or_path",
    "no_recompute_layers",
    "temperature",
    "top_k",
    "nonsense",
)
_LOADING = (
    "name_or_path",
    "adapter",
    "lora_alpha",
    "partial",
    "config",
    "revision",
    "torch_dtype",
    "device",
    "device_map",
    "load_in_8bit",
    "nonsense",
    "quantization_bit",
    "seq_length",
)
_TEXTS = (
    "None",
    "7",
    "[]",
    "[None]",
    "['a', 3]",
    "b'x'",
    "{}",
    "{'a': 1}",
    "object()",
    "''",
    "['']",
    "'\\ud800'",
    "'a' * 200000",
    "np.array(['a'])",
    "float('nan')",
    "['a', ['b']]",
)


def inputs(bench: Path) -> Iterator[Input]:
    """All of them."""
    del bench
    yield from drawn(_generate(), 130, "generate")
    yield from drawn(_loading(), 90, "loading")
    yield from drawn(_chat(), 80, "chat")
    yield from drawn(_training(), 120, "training")
    yield from drawn(_configurations(), 70, "configurations")
    yield from drawn(_tokenizers(), 70, "tokenizer calls")


def _code(title: str, body: str, *names: str, expected: str = "either") -> Input:
    return Input(FAMILY, title, code=_HEAD + body, expected=expected, names=names)


def _generate() -> Iterator[Input]:
    for name in _GENERATION:
        for value in _ODD:
            more = "" if name in ("max_length", "max_new_tokens") else ", max_new_tokens=2"
            sampled = ", do_sample=True" if name in ("temperature", "top_p", "top_k", "seed") else ""
            expected = "refused" if name == "nonsense" else "either"
            yield _code(
                f"generate {name}={value}",
                f"{_MODEL}print(model.generate([5, 6, 7], {name}={value}{more}{sampled}))",
                name,
                expected=expected,
            )
    for value in _IDS:
        yield _code(
            f"generate {value}",
            f"{_MODEL}print(model.generate({value}, max_new_tokens=2))",
            "input_ids",
            "prompt",
            "row",
        )
        after = _MODEL + _AFTER.format(f"model.generate({value}, max_new_tokens=2)")
        yield _code(f"generate after {value}", after, expected="accepted")


def _loading() -> Iterator[Input]:
    for name in _LOADING:
        for value in _ODD:
            call = (
                f"AutoModel.from_pretrained({value})"
                if name == "name_or_path"
                else f"AutoModel.from_pretrained('glm2_tiny', {name}={value})"
            )
            yield _code(
                f"model {name}={value}",
                f"print(type({call}))",
                name,
                "checkpoint",
                "''",
                "'.'",
                value.strip("'"),
                "dtype",
                "path",
            )
    for kind in ("AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoModel"):
        for value in _ODD:
            yield _code(
                f"{kind} {value}",
                f"print({kind}.from_pretrained({value}))",
                "name",
                "path",
                "checkpoint",
                value.strip("'"),
                "x",
                "nul",
            )
    for value in _ODD:
        yield _code(
            f"from_config {value}",
            f"print(type(AutoModel.from_config({value})))",
            "config",
            "name",
            "path",
            "checkpoint",
        )


def _chat() -> Iterator[Input]:
    for name in (
        "history",
        "system",
        "tools",
        "role",
        "query",
        "messages",
        "nonsense",
        "num_beams",
        "temperature",
        "max_new_tokens",
    ):
        for value in _ODD:
            first = "" if name in ("query", "messages") else "'你好', "
            more = "" if name == "max_new_tokens" else ", max_new_tokens=2"
            yield _code(
                f"chat {name}={value}",
                f"{_MODEL}{_TOKENIZER}print(model.chat(tokenizer, {first}{name}={value}{more}))",
                name,
                "query",
                "role",
                "message",
                "content",
                "prompt",
                "tools",
            )
    for value in _TEXTS:
        yield _code(
            f"pipeline call {value[:20]}",
            f"print(pipeline('text_generation', 'glm2_tiny')({value}, max_new_tokens=2))",
            "inputs",
            "prompt",
            "predict",
            "input",
        )
    for name in ("task", "model", "tokenizer", "backend", "batch_size", "image_processor", "nonsense", "top_k"):
        for value in _ODD:
            given = {"task": "'text_generation'", "model": "'glm2_tiny'", name: value}
            words = ", ".join(f"{key}={item}" for key, item in given.items())
            yield _code(
                f"pipeline {name}={value}",
                f"print(pipeline({words})('你好', max_new_tokens=2))",
                name,
                "checkpoint",
                "path",
                "tokenizer",
                "model",
            )


def _training() -> Iterator[Input]:
    for name in _TRAINING:
        for value in _ODD:
            body = f"given = TrainingArguments({name}={value})\n{_TRAINER_CALL}"
            yield _code(
                f"TrainingArguments {name}={value}",
                body,
                name,
                "batch_size",
                "epochs",
                "beta1",
                "eps",
                "optimizer",
                "lr_schedule",
                "callbacks",
                "load_checkpoint",
            )
    for name in _TRAINER:
        for value in _ODD:
            given = {"model": "'glm2_tiny'", "train_dataset": "'x.json'", "device_target": "'CPU'", name: value}
            words = ", ".join(f"{key}={item}" for key, item in given.items())
            yield _code(
                f"Trainer {name}={value}",
                f"print(Trainer({words}).config('train').run_mode)",
                name,
                "metric",
                "model",
                "runner_wrapper",
                "configuration",
                "path",
                "run_mode",
                "Trainer",
                "YAML",
            )


def _configurations() -> Iterator[Input]:
    for name in _CONFIG:
        for value in _ODD:
            expected = (
                "refused"
                if name == "nonsense" or value in ("float('nan')", "float('inf')", "object()") and name != "pet_config"
                else "either"
            )
            yield _code(
                f"ChatGLM2Config {name}={value}",
                f"print(ChatGLM2Config({name}={value}).num_layers)",
                name,
                expected=expected,
            )


def _tokenizers() -> Iterator[Input]:
    calls = (
        "tokenizer({})",
        "tokenizer.encode({})",
        "tokenizer.tokenize({})",
        "tokenizer.batch_decode({})",
        "tokenizer.convert_tokens_to_ids({})",
        "tokenizer.build_prompt({})",
    )
    for call in calls:
        for value in _TEXTS:
            yield _code(f"{call.format(value[:20])}", f"{_TOKENIZER}print({call.format(value)})", *_NAMES)
    for value in _IDS:
        yield _code(f"decode {value}", f"{_TOKENIZER}print(tokenizer.decode({value}))", *_NAMES)
    for name in (
        "max_length",
        "padding",
        "truncation",
        "return_tensors",
        "add_special_tokens",
        "padding_side",
        "nonsense",
    ):
        for value in _ODD:
            yield _code(
                f"tokenizer {name}={value}", f"{_TOKENIZER}print(tokenizer('你好', {name}={value}))", name, *_NAMES
            )


_NAMES = ("text", "ids", "token", "expected", "history", "query")
