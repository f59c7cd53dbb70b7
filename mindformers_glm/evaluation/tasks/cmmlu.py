"""CMMLU: 67 subjects, four categories and the subjects that are specific to China. https://github.com/haonan-li/CMMLU"""

from mindformers_glm.evaluation.tasks.choice import ChoiceTask
from mindformers_glm.evaluation.tasks.ways import Wording


class CMMLU(ChoiceTask):
    """The test split: 11,582 questions."""

    name, table, split, group = "cmmlu", "cmmlu", "test", "cmmlu"
    wording = Wording("以下是关于{title}的单项选择题，请直接给出正确答案的选项。\n\n", "答案：")
