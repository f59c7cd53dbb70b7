"""Pairs of Megatron: byte-equal to Megatron-core's, whatever way they are written, and refused when damaged."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from mindformers_glm.data.indexed.pair import IndexedPair, PairWriter, is_pair, merge, narrowest_dtype, split, verify
from mindformers_glm.errors import DataError


def same(one, other):
    return all(one.with_suffix(e).read_bytes() == other.with_suffix(e).read_bytes() for e in (".bin", ".idx"))


def write(prefix, documents, dtype="<i4", **more):
    writer = PairWriter(prefix, np.dtype(dtype), **more)
    for sequences in documents:
        writer.add(sequences)
    writer.finish()
    return prefix


def test_every_golden_pair_reads_and_is_written_again_byte_for_byte(golden, tmp_path):
    folder = golden / "megatron_data/indexed"
    for row in json.loads((folder / "index.json").read_text()):
        name = row["bin"]["file"][:-4]
        pair = IndexedPair(folder / name)
        assert pair.lengths.tolist() == row["sequence_lengths"]
        assert pair.documents.tolist() == row["document_indices"]
        assert pair.dtype == np.dtype(row["dtype"])
        if "sequence_modes" in row:
            assert pair.modes.tolist() == row["sequence_modes"]
            continue
        expected = json.loads((folder / f"{name}.json").read_text())["ids"]
        assert [pair[index].tolist() for index in range(len(pair))] == expected
        borders = list(zip(pair.documents[:-1], pair.documents[1:], strict=True))
        write(tmp_path / name, [[pair[i] for i in range(a, b)] for a, b in borders], pair.dtype)
        assert same(tmp_path / f"{name}.bin", folder / f"{name}.bin")


def test_merging_shards_gives_the_pair_of_the_whole(golden, tmp_path):
    folder = golden / "megatron_data/indexed"
    merge([folder / f"shard_{i}_u16" for i in range(3)], tmp_path / "all")
    assert same(tmp_path / "all.bin", folder / "docs_u16_eod.bin")
    merge([folder / "multi_u16", folder / "shard_1_u16", folder / "multi_u16"], tmp_path / "mixed")
    assert same(tmp_path / "mixed.bin", folder / "merged_multi_u16.bin")


def test_splitting_and_merging_is_the_identity(golden, tmp_path):
    source = golden / "megatron_data/indexed/multi_u16"
    parts = split(source, tmp_path / "part", 5)
    merge(parts, tmp_path / "again")
    assert same(tmp_path / "again.bin", source.with_suffix(".bin"))


def test_a_writer_goes_on_from_a_saved_state(tmp_path):
    documents = [[[1, 2, 3]], [], [[4], [5, 6]], [[7] * 40]]
    whole = write(tmp_path / "whole", documents)
    for stop in range(len(documents) + 1):
        writer = PairWriter(tmp_path / "cut", np.dtype("<i4"), overwrite=True)
        for sequences in documents[:stop]:
            writer.add(sequences)
        state = writer.state()
        writer.add([[9, 9, 9]])  # written after the last state: gone with the kill
        writer.close()
        writer = PairWriter(tmp_path / "cut", np.dtype("<i4"), overwrite=True, resume=state)
        for sequences in documents[stop:]:
            writer.add(sequences)
        writer.finish()
        assert same(tmp_path / "cut.bin", whole.with_suffix(".bin"))


def test_an_existing_pair_is_kept_until_the_new_one_is_whole(tmp_path):
    write(tmp_path / "a", [[[1, 2]]])
    with pytest.raises(DataError, match="exists already"):
        PairWriter(tmp_path / "a", np.dtype("<i4"))
    writer = PairWriter(tmp_path / "a", np.dtype("<i4"), overwrite=True)
    writer.add([[3]])
    assert IndexedPair(tmp_path / "a")[0].tolist() == [1, 2]
    writer.discard()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.idx"]


def test_the_type_of_ids_is_megatrons_choice():
    assert narrowest_dtype(65024) == np.dtype("<u2")
    assert narrowest_dtype(65500) == narrowest_dtype(None) == np.dtype("<i4")


def test_verify_counts_and_knows_the_vocabulary(tmp_path):
    write(tmp_path / "a", [[[5, 64000]], []])
    found = verify(tmp_path / "a", vocab_size=64001)
    assert (found.sequences, found.documents, found.tokens, found.largest_id) == (1, 2, 2, 64000)
    with pytest.raises(DataError, match="beyond a vocabulary of 64000"):
        verify(tmp_path / "a", vocab_size=64000)


HEAD = struct.Struct("<9sQBQQ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: b"XX" + raw[2:], "no Megatron index"),
        (lambda raw: raw[:20], "no Megatron index"),
        (lambda raw: raw[:9] + struct.pack("<Q", 2) + raw[17:], "version is 2"),
        (lambda raw: raw[:17] + b"\x63" + raw[18:], "type code 99"),
        (lambda raw: raw[:17] + b"\x06" + raw[18:], "type code 6"),
        (lambda raw: raw[:18] + struct.pack("<Q", 1 << 60) + raw[26:], "it states 1152921504606846976 sequences"),
        (lambda raw: raw[:26] + struct.pack("<Q", 1 << 61) + raw[34:], "borders"),
        (lambda raw: raw[:-1], "it states"),
        (lambda raw: raw[: HEAD.size] + struct.pack("<i", 1 << 30) + raw[HEAD.size + 4 :], "lies outside"),
        (lambda raw: raw[: HEAD.size] + struct.pack("<i", -1) + raw[HEAD.size + 4 :], "lies outside"),
        (lambda raw: raw[: HEAD.size + 8] + struct.pack("<q", -8) + raw[HEAD.size + 16 :], "lies outside"),
        (lambda raw: raw[: HEAD.size + 8] + struct.pack("<q", 1) + raw[HEAD.size + 16 :], "lies outside|multiple of 4"),
        (lambda raw: raw[:-8] + struct.pack("<q", 99), "borders do not rise"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, change, said):
    write(tmp_path / "a", [[[1, 2, 3]], [[4]]])
    path = tmp_path / "a.idx"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=said):
        IndexedPair(tmp_path / "a")


def test_a_short_bin_is_refused(tmp_path):
    write(tmp_path / "a", [[[1, 2, 3]], [[4]]])
    (tmp_path / "a.bin").write_bytes((tmp_path / "a.bin").read_bytes()[:-4])
    with pytest.raises(DataError, match="lies outside"):
        IndexedPair(tmp_path / "a")
    (tmp_path / "a.bin").unlink()
    assert not is_pair(tmp_path / "a")
    with pytest.raises(DataError, match="no such file"):
        IndexedPair(tmp_path / "a")


def test_merging_into_a_source_and_mixed_types_are_refused(tmp_path):
    write(tmp_path / "a", [[[1]]])
    write(tmp_path / "b", [[[1]]], "<u2")
    with pytest.raises(DataError, match="read and written at once"):
        merge([tmp_path / "a"], tmp_path / "a", overwrite=True)
    with pytest.raises(DataError, match="uint16"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert not is_pair(tmp_path / "c")
