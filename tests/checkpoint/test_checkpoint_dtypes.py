"""Number types and their conversion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_glm.checkpoint.formats.dtypes import (
    DTYPES,
    bfloat16,
    bits_of,
    convert,
    convert_bits,
    float_name,
    is_finite,
    name_of,
    typed,
)
from mindformers_glm.errors import ConfigError


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_bfloat16_is_rounded_as_mindspore_rounds(values):
    array = np.array(values, np.float32)
    ours = convert(array, "bfloat16")
    theirs = array.astype(bfloat16())
    assert name_of(ours) == "bfloat16"
    nan = np.isnan(array)
    np.testing.assert_array_equal(bits_of(ours)[~nan], theirs.view(np.uint16)[~nan])
    assert np.isnan(ours.astype(np.float32)[nan]).all()


def test_every_bfloat16_survives_float32_and_back():
    bits = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    finite = (bits & 0x7F80) != 0x7F80
    back = convert_bits(convert_bits(bits, "bfloat16", "float32"), "float32", "bfloat16")
    np.testing.assert_array_equal(back[finite], bits[finite])


def test_every_float16_survives_float32_and_back():
    bits = np.arange(2**16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    back = convert(convert(bits, "float32"), "float16")
    finite = np.isfinite(bits)
    np.testing.assert_array_equal(back[finite], bits[finite])


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float64"])
def test_nan_and_infinity_are_seen(name):
    for value, finite in ((1.0, True), (-2.5, True), (np.nan, False), (np.inf, False), (-np.inf, False)):
        with np.errstate(invalid="ignore"):
            bits = bits_of(convert(np.array([0.0, value]), name))
        assert is_finite(bits, name) is finite
    assert is_finite(np.array([1, 2]), "int64")


@pytest.mark.parametrize("source", ["bfloat16", "float16"])
@pytest.mark.parametrize("target", ["bfloat16", "float16", "float32"])
def test_many_numbers_are_converted_as_few(source, target):
    every = np.arange(2**16, dtype=np.uint32).astype(np.uint16).view(DTYPES[source].storage)
    few = [convert_bits(part, source, target) for part in np.array_split(every, 7)]
    many = convert_bits(np.tile(every, 8).reshape(8, -1), source, target)
    assert many.shape == (8, 2**16)
    assert {row.tobytes() for row in many} == {np.concatenate(few).tobytes()}


@pytest.mark.parametrize("target", ["bfloat16", "float16"])
def test_many_wide_numbers_are_converted_as_few(target):
    values = np.random.default_rng(0).standard_normal(2**18 + 5).astype(np.float32)
    few = [convert_bits(part, "float32", target) for part in np.array_split(values, 3)]
    assert convert_bits(values, "float32", target).tobytes() == np.concatenate(few).tobytes()


def test_integers_are_not_converted():
    array = np.array([1, 2], np.int32)
    assert convert(array, "float16") is array


def test_typed_and_bits_share_memory():
    bits = np.array([0x3F80], np.uint16)
    assert float(typed(bits, "bfloat16")[0]) == 1.0
    assert np.shares_memory(bits_of(typed(bits, "bfloat16")), bits)


def test_names():
    assert float_name("bf16") == "bfloat16"
    assert float_name("float32") == "float32"
    with pytest.raises(ConfigError, match="dtype: got 'int8'"):
        float_name("int8")
