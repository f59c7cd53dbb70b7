"""MMLU: 57 subjects in 17 subcategories and four categories. https://github.com/hendrycks/test

Groups are Hendrycks' categories; the harness' own (mmlu_stem ...) stand beside them and put anatomy elsewhere.
"""

from mindformers_glm.evaluation.tasks.choice import ChoiceTask
from mindformers_glm.evaluation.tasks.ways import Wording


class MMLU(ChoiceTask):
    """The test split: 14,042 questions."""

    name, table, split, group = "mmlu", "mmlu", "test", "mmlu"
    wording = Wording("The following are multiple choice questions (with answers) about {title}.\n\n", "Answer:")
    ways = ("lm-eval", "modellink", "chat")
