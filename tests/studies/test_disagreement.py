"""Two models that two scores rank differently, as the documentation says."""

import pytest
from studies.disagreement import draw_disagreement, examples, score_example

from irrbench.scores import gain

pytestmark = pytest.mark.slow  # all nodules are read for a few


def test_two_scores_prefer_different_models():
    questions = []
    for example in examples(images=60):
        table = score_example(example)
        first, second = (gain(score, table[score]).round(6) for score in example.scores)
        assert second.nunique() == 2
        other = 1 - second.idxmax()
        assert first[other] >= first[1 - other], example.question
        questions.append(example.question)
        if example.scores == ("iou", "nsd"):
            axes = draw_disagreement(example, table).axes
            bars = [ax.texts[0].get_text() for ax in axes if ax.texts]
            assert [text.endswith("better") for text in bars] == [False, True, True, False]
    assert len(questions) == len(set(questions)) == 6
