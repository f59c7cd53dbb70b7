"""The tokenizer of GLM-4 and what came after it: byte-level BPE, special tokens as ids only.

Reads tiktoken's ranks (tokenizer.model of glm-4-9b-chat) and tokenizer.json (-hf, 0414, Z1, Edge). Ids agree with the
official tokenizers; the text "<|user|>" is encoded as ordinary characters, so that a message cannot forge a role.
"""

from __future__ import annotations

from mindformers_glm.errors import DataError
from mindformers_glm.registry import TOKENIZERS
from mindformers_glm.tokenizers import files
from mindformers_glm.tokenizers.byte_pairs import BytePairs, read_json_vocabulary, read_ranks
from mindformers_glm.tokenizers.chatglm import RoleTokenizer
from mindformers_glm.tokenizers.glm import Marks
from mindformers_glm.tokenizers.vocabulary import readable

GLM4_SPECIALS = (
    *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
_END = "<|endoftext|>"
_BARE = ("glm4_0414", "glm_z1", "glm_edge")


@TOKENIZERS.register("GLM4Tokenizer", "GLMForCausalLMTokenizer")
class ChatGLM4Tokenizer(RoleTokenizer):
    """GLM-4: fourteen special tokens after 151,329 pieces (GLM-Edge: after 59,246)."""

    chat_format = "glm4"
    specials = GLM4_SPECIALS
    marks = Marks("<sop>", _END, _END, "[MASK]", "[gMASK]", _END, _END)
    side = "left"
    prints_specials = True

    def read_vocabulary(self, vocab_file: str | None, special_start: int | None) -> BytePairs:
        """See GLMTokenizer; a folder is read by the file in it."""
        path = readable(vocab_file)
        if files.kind(path) != "json":
            return read_ranks(path, self.specials, special_start=special_start)
        read = read_json_vocabulary(path)
        missing = [name for name in self.specials[:10] if name not in read.special_ids]
        if missing:
            raise DataError(str(path), f"it has no special token {missing[0]}", "Is it the tokenizer of a GLM?")
        return read

    def get_prefix_tokens(self) -> list[int]:
        """`[gMASK] <sop>`, which opens every conversation but GLM-Edge's."""
        return [self.vocabulary.special_ids["[gMASK]"], self.vocabulary.special_ids["<sop>"]]

    def text_prefix(self) -> list[int]:
        """The same for a text; the models that came as tokenizer.json with a template have nothing there."""
        return [] if self.chat_format in _BARE else self.get_prefix_tokens()

    def _command_table(self) -> dict[str, int]:
        ids = self.vocabulary.special_ids
        end = self.vocabulary.eos
        table = {"sop": ids["<sop>"], "eop": ids["<eop>"], "<pad>": end, "<eos>": end, "</s>": end, "<unk>": end}
        return {**table, **ids}
