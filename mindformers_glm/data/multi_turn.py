"""MultiTurnDataset: whole conversations as rows, learned where the loss policy says."""

from __future__ import annotations

from typing import Any, Literal

from mindformers_glm.data.batch import Example
from mindformers_glm.data.conversations import Conversation
from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.data.order import Order
from mindformers_glm.data.recognised import as_conversation
from mindformers_glm.data.record import Fault
from mindformers_glm.data.records import judge
from mindformers_glm.data.section import built_loader, built_tokenizer, require, require_rows, takes_section
from mindformers_glm.errors import DataError, GenerationError
from mindformers_glm.labels import IGNORED
from mindformers_glm.tokenizers import GLMTokenizer, Renderer

_OVERLONG = ("cut", "fit", "drop", "error")


@takes_section
class MultiTurnDataset(TokenDataset):
    """Rows (B, max_seq_length), rendered by the same code that chat and server use (tokenizers/chat.py).

    `loss_policy`: "all" learns every reply, "last" those after the last question, "per_message" those marked with
    `loss: true`; a message's own `loss` decides over the first two.
    `overlong`: "cut" drops the end of a conversation that does not fit, so that its last reply stays open (no eos
    is learned there); "fit" does so too, and leaves out those of which nothing would be learned; "drop" leaves all such
    conversations out; "error" stops and names the line.
    `tools_indent` is the indentation of tool descriptions: 4 as in chat, None for one line as MindFormers trains.
    Pairs (ADGenDataLoader) are conversations of one round.
    `packing` puts several rows into one while training, each attending to itself alone; see packing.py.
    With `generates` rows are made to be answered: prompts up to the last reply (B, max_source_length) and that reply as
    reference (B, max_target_length); what is longer is left out.
    """

    def __init__(
        self,
        data_loader: dict | Any = None,
        tokenizer: dict | Any = None,
        max_seq_length: int = 2048,
        loss_policy: Literal["all", "last", "per_message"] = "all",
        overlong: Literal["cut", "fit", "drop", "error"] = "cut",
        tools_indent: int | None = 4,
        generates: bool = False,
        max_source_length: int | None = None,
        max_target_length: int = 256,
        packing: Literal["neat", "sequential"] | None = None,
        max_unsupervised: int = 0,
        batch_size: int = 8,
        drop_remainder: bool = True,
        repeat: int = 1,
        seed: int | None = 0,
        rank: int = 0,
        rank_size: int = 1,
        prefetch_size: int = 2,
    ) -> None:
        self.loader = loader = built_loader(data_loader, "data_loader")
        require_rows(loader, "conversations or pairs", self)
        require(not loader.encoded, "data_loader", type(loader).__name__, "This dataset needs conversations as text.")
        require(max_seq_length > 2, "max_seq_length", max_seq_length, "Use 3 or more.")
        require(overlong in _OVERLONG, "overlong", overlong, f"Use one of {', '.join(_OVERLONG)}.")
        self.tokenizer: GLMTokenizer = built_tokenizer(tokenizer, "tokenizer")
        self.renderer = Renderer(self.tokenizer, tools_indent=tools_indent)
        self.policy, self.overlong, self.length = loss_policy, overlong, max_seq_length
        self.place, self.packing = str(loader.path), packing
        self.generates, self.counts_labels = generates, not generates
        self.source, self.target = max_source_length or max_seq_length, max_target_length
        self.rows = self._usable([as_conversation(row) for row in loader.rows])
        shard, shards = loader.shard or (rank, rank_size)
        order = Order(
            num_rows=len(self.rows),
            batch_size=batch_size,
            seed=seed or 0,
            shuffle=loader.shuffle,
            drop_remainder=drop_remainder,
            repeat=repeat,
            rank=shard,
            rank_size=shards,
        )
        super().__init__(order=order, place=self.place, prefetch_size=prefetch_size, max_unsupervised=max_unsupervised)
        self.probe()

    def example(self, index: int) -> Example:
        """Row `index` as padded ids and labels."""
        row = self.rows[index]
        if self.generates:
            return self._asked(row)
        ids, labels = self.renderer.example(row.messages, loss=self.policy)
        used, rest = len(ids), self.length - len(ids)
        if rest < 0 and self.overlong == "error":
            fix = "Raise max_seq_length, or set overlong: cut or drop"
            raise DataError(f"{self.place}:{row.line}", f"{used} tokens, {-rest} more than max_seq_length", fix)
        if rest < 0:
            return Example(ids[: self.length], labels[: self.length], self.length, True)
        pad = [self.tokenizer.pad_token_id] * rest
        return Example(ids + pad, labels + [IGNORED] * rest, used)

    def line(self, index: int) -> int:
        """Line of the file, from 1, that row `index` came from."""
        return self.rows[index].line

    def _asked(self, row: Conversation) -> Example:
        """The prompt that the last reply answered, and this reply.

        Raises:
            GenerationError: the prompt is too long, or nothing was asked.
        """
        last = max(number for number, message in enumerate(row.messages) if message.role == "assistant")
        prompt = self.renderer.prompt(row.messages[:last])
        if len(prompt) > self.source or not last:
            fault = (
                f"more than max_source_length {self.source} tokens of prompt" if last else "a reply without a question"
            )
            raise GenerationError(fault)
        answer = self.tokenizer.encode(row.messages[last].content, max_length=self.target)
        pad = self.tokenizer.pad_token_id
        ids = prompt + [pad] * (self.source - len(prompt))
        return Example(ids, answer + [pad] * (self.target - len(answer)), len(prompt))

    def _usable(self, rows: list[Conversation]) -> list[Conversation]:
        """Conversations that this model can hold; the others are reported by line."""
        kept, faults = [], []
        for row in rows:
            try:
                self.renderer.check(row.messages)
                if self.generates:
                    self._asked(row)
                elif self.overlong == "fit":
                    labels = self.renderer.example(row.messages, loss=self.policy).labels[: self.length]
                    if all(label == IGNORED for label in labels):
                        raise GenerationError(f"nothing to learn in its first {self.length} tokens (max_seq_length)")
                elif self.overlong == "drop" and len(self.renderer.example(row.messages).ids) > self.length:
                    raise GenerationError(f"more than max_seq_length {self.length} tokens")
            except GenerationError as error:
                faults.append(Fault(row.line, str(error)))
            else:
                kept.append(row)
        short = any("max_seq_length" in fault.reason or "max_source_length" in fault.reason for fault in faults)
        fix = "Raise max_seq_length (and seq_length of the model): inspect-data tells the lengths" if short else ""
        judge(self.loader.path, len(kept), faults, self.loader.max_bad_ratio, fix=fix)
        return kept
