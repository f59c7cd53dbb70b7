"""The paged KV cache: blocks, which sequences share where they have a common prefix. The layout of a block is the
kernels' affair (ops/kernels/source/cached_attention.h). Shapes: R sequences, L layers, K kv heads, E head_dim.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import numpy as np

from mindformers_glm.errors import GenerationError
from mindformers_glm.ops.kernels.memory import aligned

BLOCK = 64  # tokens


class CacheFull(GenerationError):
    """All memory that the cache may take is in use."""


class Block:
    """The memory for 64 tokens; `users` is the number of sequences that hold it."""

    __slots__ = ("memory", "users")

    def __init__(self, memory: np.ndarray) -> None:
        self.memory, self.users = memory, 1


class BlockPool:
    """Hands out blocks of `block_bytes` with numbers of type `dtype`: for at most `max_tokens` tokens in all (None: as
    many as fit into memory).

    `free_blocks` says how many are left. Caches may be dropped in any thread.
    """

    def __init__(self, block_bytes: int, *, dtype: str = "float32", max_tokens: int | None = None) -> None:
        self.block_bytes, self.dtype = block_bytes, dtype
        self.max_blocks = None if max_tokens is None else max(1, max_tokens // BLOCK)
        self.used_blocks = 0
        self._spare: list[np.ndarray] = []
        self._lock = threading.RLock()  # a collected cache returns its blocks in whatever thread the collector runs

    @property
    def free_blocks(self) -> int | None:
        """Blocks that `take` can still hand out; None where there is no limit."""
        return None if self.max_blocks is None else self.max_blocks - self.used_blocks

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks in use, each counted once."""
        return self.used_blocks * self.block_bytes

    def take(self) -> Block:
        """A block that nobody else has.

        Raises:
            CacheFull: all are in use.
        """
        with self._lock:
            if self.max_blocks is not None and self.used_blocks >= self.max_blocks:
                raise CacheFull(f"the cache is full: it may hold {self.max_blocks * BLOCK} tokens")
            memory = self._spare.pop() if self._spare else aligned(self.block_bytes)
            self.used_blocks += 1
        return Block(memory)

    def give_back(self, block: Block) -> None:
        """One sequence less holds this block."""
        with self._lock:
            block.users -= 1
            if block.users == 0:
                self.used_blocks -= 1
                if len(self._spare) < 1 + self.used_blocks // 4:
                    self._spare.append(block.memory)

    def share(self, block: Block) -> Block:
        """One sequence more holds it."""
        with self._lock:
            block.users += 1
        return block


class PagedCache:
    """Sequences of different lengths, each a list of blocks: `lengths[row]` tokens, computed with adapter
    `adapters[row]` (0: the network's own).

    Copied sequences share their blocks; a shared block is copied before a sequence writes into it (`prepare`).
    """

    def __init__(self, pool: BlockPool, rows: int) -> None:
        self.pool = pool
        self.lengths = np.zeros(rows, np.int32)
        self.adapters = np.zeros(rows, np.int32)
        self._blocks: list[list[Block]] = [[] for _ in range(rows)]
        self._addresses: np.ndarray | None = None

    def __del__(self) -> None:
        for row in getattr(self, "_blocks", ()):
            self._drop(row)

    @property
    def rows(self) -> int:
        """How many sequences there is room for."""
        return len(self.lengths)

    @property
    def slots(self) -> int:
        """Tokens that the blocks of the longest sequence can hold."""
        return BLOCK * max((len(row) for row in self._blocks), default=0)

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks of these sequences, each counted once."""
        return self.pool.block_bytes * len({id(block) for row in self._blocks for block in row})

    def prepare(self, counts: np.ndarray) -> np.ndarray:
        """Makes room for counts[r] more tokens in sequence r, in blocks that it does not share.

        Returns the addresses of all blocks, (R, B) uintp.

        Raises:
            CacheFull: all blocks are in use; calling it again later is safe.
        """
        for blocks, length, count in zip(self._blocks, self.lengths.tolist(), counts.tolist(), strict=True):
            if count == 0:
                continue
            first, end = length // BLOCK, -(-(length + count) // BLOCK)
            if first < len(blocks) and blocks[first].users > 1:
                blocks[first] = self._copy(blocks[first])
                self._addresses = None
            while len(blocks) < end:
                blocks.append(self.pool.take())
                self._addresses = None
        if self._addresses is None:
            width = max(1, max((len(row) for row in self._blocks), default=1))
            self._addresses = np.zeros((self.rows, width), np.uintp)
            for row, blocks in enumerate(self._blocks):
                self._addresses[row, : len(blocks)] = [block.memory.ctypes.data for block in blocks]
        return self._addresses

    def needed_blocks(self, counts: np.ndarray) -> int:
        """How many blocks `prepare` would take from the pool."""
        needed = 0
        for blocks, length, count in zip(self._blocks, self.lengths, counts, strict=True):
            if count:
                first, end = int(length) // BLOCK, -(-(int(length) + int(count)) // BLOCK)
                needed += max(0, end - len(blocks)) + (first < len(blocks) and blocks[first].users > 1)
        return needed

    def blocks_of(self, row: int) -> list[tuple[int, int]]:
        """The blocks of a sequence: for each an identity, and how many tokens of the sequence it holds."""
        length = int(self.lengths[row])
        return [(id(block), min(BLOCK, length - place * BLOCK)) for place, block in enumerate(self._blocks[row])]

    def missing_blocks(self, row: int, final: int) -> int:
        """How many blocks a sequence takes until it has `final`: new ones, and a copy of one that it shares."""
        blocks, first = self._blocks[row], int(self.lengths[row]) // BLOCK
        return max(0, final - len(blocks)) + (first < len(blocks) and blocks[first].users > 1)

    def advance(self, counts: np.ndarray) -> None:
        """Adds the number of written tokens to the lengths."""
        self.lengths += counts.astype(np.int32)

    def set_rows(self, rows: int) -> None:
        """Makes room for `rows` sequences, or drops those from `rows` on."""
        for blocks in self._blocks[rows:]:
            self._drop(blocks)
        kept = self._blocks[:rows]
        self._blocks = kept + [[] for _ in range(rows - len(kept))]
        for name in ("lengths", "adapters"):
            setattr(self, name, np.concatenate((getattr(self, name)[:rows], np.zeros(rows - len(kept), np.int32))))
        self._addresses = None

    def reorder(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        """Sequence targets[i] becomes what sequence sources[i] was before the call."""
        moved = [(target, source) for target, source in zip(targets, sources, strict=True) if target != source]
        found = [self._shared(self._blocks[source], int(self.lengths[source])) for _, source in moved]
        lengths = [int(self.lengths[source]) for _, source in moved]
        adapters = [int(self.adapters[source]) for _, source in moved]
        for (target, _), blocks, length, adapter in zip(moved, found, lengths, adapters, strict=True):
            self._put(target, blocks, length, adapter)

    def copy_row(self, target: int, other: PagedCache, source: int, length: int | None = None) -> None:
        """Sequence `target` becomes `source` of a cache of the same pool, or its first `length` tokens."""
        length = int(other.lengths[source]) if length is None else length
        self._put(target, self._shared(other._blocks[source], length), length, int(other.adapters[source]))

    def row(self, source: int, length: int) -> PagedCache:
        """A new cache with the first `length` tokens of one sequence."""
        one = PagedCache(self.pool, 1)
        one._put(0, self._shared(self._blocks[source], length), length, int(self.adapters[source]))
        return one

    def forget(self, rows: Iterable[int]) -> None:
        """Empties sequences that are no longer used, and returns their blocks."""
        for row in rows:
            if self._blocks[row]:
                self._put(row, [], 0, 0)

    def own_blocks(self) -> None:
        """Gives every sequence memory of its own; for measurements."""
        for row, length in enumerate(self.lengths):
            for place, block in enumerate(self._blocks[row][: -(-int(length) // BLOCK)]):
                if block.users > 1:
                    self._blocks[row][place] = self._copy(block)
        self._addresses = None

    def _copy(self, block: Block) -> Block:
        own = self.pool.take()
        own.memory[:] = block.memory
        self.pool.give_back(block)
        return own

    def _shared(self, blocks: list[Block], length: int) -> list[Block]:
        return [self.pool.share(block) for block in blocks[: -(-length // BLOCK)]]

    def _put(self, row: int, blocks: list[Block], length: int, adapter: int) -> None:
        self._drop(self._blocks[row])
        self._blocks[row], self.lengths[row], self.adapters[row] = blocks, length, adapter
        self._addresses = None

    def _drop(self, blocks: list[Block]) -> None:
        for block in blocks:
            self.pool.give_back(block)
        blocks.clear()
