"""Every number has its range: what lies outside is refused by its key before anything is built."""

from __future__ import annotations

import typing

import pydantic
import pytest

from mindformers_glm.config import load_config
from mindformers_glm.config.ranges import RANGES
from mindformers_glm.config.schema import RunSchema
from mindformers_glm.errors import ConfigErrors

OUTSIDE = [
    "seed=-1", "seed=99999999999", "runner_config.epochs=0", "runner_config.epochs=999999999999999999999999",
    "runner_config.batch_size=-1", "runner_config.batch_size=1e30", "runner_config.gradient_accumulation_steps=0",
    "runner_config.sink_size=-2", "eval_step_interval=-5", "eval_epoch_interval=-2", "context.device_id=-1",
    "context.max_call_depth=0", "parallel_config.data_parallel=0", "parallel_config.mem_coeff=-1",
    "recompute_config.recompute=.inf", "predict_batch_size=0", "layer_decay=2", "moe_config.capacity_factor=-1",
    "lr_schedule.learning_rate=-1", "lr_schedule.learning_rate=0", "lr_schedule.learning_rate=true",
    "lr_schedule.lr_end=-1", "lr_schedule.warmup_steps=-1", "lr_schedule.warmup_steps=1.5",
    "lr_schedule.warmup_ratio=1.5", "lr_schedule.warmup_ratio=-0.1", "lr_schedule.warmup_epochs=-1",
    "lr_schedule.total_steps=0", "lr_schedule.total_steps=-2", "lr_schedule.power=0", "lr_schedule.num_cycles=-1",
    "lr_schedule.decay_steps=0", "optimizer.learning_rate=-0.1", "optimizer.beta1=1", "optimizer.beta2=-0.5",
    "optimizer.eps=0", "optimizer.weight_decay=-1", "optimizer.momentum=-1", "runner_wrapper.scale_sense=0",
    "runner_wrapper.scale_sense.scale_factor=1", "runner_wrapper.scale_sense.scale_window=0",
    "train_dataset.data_loader.max_bad_ratio=7", "train_dataset.data_loader.num_samples=0",
    "train_dataset.max_seq_length=0", "train_dataset.repeat=0", "train_dataset.seed=-3",
    "callbacks.0.per_print_times=0",
    "callbacks.1.save_checkpoint_steps=-1", "callbacks.1.keep_checkpoint_max=-1", "callbacks.1.prefix=../../x",
    "callbacks.1.prefix=/etc/x", "callbacks.1.prefix=..", f"callbacks.1.prefix={'x' * 300}",
]  # fmt: skip


@pytest.mark.parametrize("change", OUTSIDE)
def test_a_number_outside_its_range_is_named(written, change):
    key = change.partition("=")[0]
    if key.startswith("runner_wrapper.scale_sense."):
        change = ["runner_wrapper.scale_sense.type=DynamicLossScaleUpdateCell", change]
    with pytest.raises(ConfigErrors) as caught:
        load_config(written(), [change] if isinstance(change, str) else change)
    assert [error.key for error in caught.value.errors] == [key]
    assert "\n" not in str(caught.value)


INSIDE = [
    "seed=0", "seed=2147483647", "runner_config.sink_size=-1", "eval_step_interval=-1", "eval_step_interval=0",
    "lr_schedule.total_steps=-1", "lr_schedule.warmup_ratio=1", "lr_schedule.lr_end=5e-5", "lr_schedule.warmup_steps=0",
    "optimizer.weight_decay=0", "train_dataset.data_loader.max_bad_ratio=0", "callbacks.1.prefix=glm2-6b.1",
]  # fmt: skip


@pytest.mark.parametrize("change", INSIDE)
def test_the_ends_of_a_range_are_inside(written, change):
    load_config(written(), [change])


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize("key", ["model.model_config.temperature", "optimizer.eps", "lr_schedule.power", "layer_decay"])
def test_no_number_is_infinite(written, key, text):
    path = written()
    section, _, leaf = key.rpartition(".")
    path.write_text(path.read_text() + (f"{key}: {text}\n" if not section else ""))
    with pytest.raises(ConfigErrors) as caught:
        load_config(path, {} if not section else _nested(key, float(text.replace(".", ""))))
    assert [error.key for error in caught.value.errors] == [key]


def _nested(key, value):
    head, _, rest = key.partition(".")
    return {head: _nested(rest, value) if rest else value}


def test_every_number_of_the_schema_has_two_ends():
    """A whole number without a range reaches C code, a float without one may be infinite."""
    unbounded = []

    def visit(model, above=""):
        for name, field in model.model_fields.items():
            key = f"{above}{name}"
            annotation = field.annotation
            inner = [item for item in (annotation, *typing.get_args(annotation)) if isinstance(item, type)]
            sections = [item for item in inner if issubclass(item, pydantic.BaseModel)]
            if sections:
                visit(sections[0], f"{key}.")
                continue
            schema = model.model_json_schema(by_alias=False)["properties"][name]
            for one in [schema, *schema.get("anyOf", [])]:
                if one.get("type") == "integer" and not {"minimum", "maximum"} <= set(one) and "enum" not in one:
                    unbounded.append(key)

    visit(RunSchema)
    assert set(unbounded) <= {
        "context.save_graphs",  # a switch, or MindSpore's level
        "recompute_config.recompute", "recompute_config.select_recompute",  # checked against the layers
    }  # fmt: skip


def test_every_range_says_what_to_write():
    for kind, ranges in RANGES.items():
        for name, allowed in ranges.items():
            assert allowed.fix().startswith("Use a "), (kind, name)
            assert not allowed.holds(float("inf")) and not allowed.holds(float("nan"))
