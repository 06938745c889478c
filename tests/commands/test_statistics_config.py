"""What a benchmark asks of the statistics, checked against the data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from irrbench.commands.outputs import check_questions, resampling_of
from irrbench.config import ConfigError, load_config
from irrbench.data import RaterData


def test_flags_reach_the_resampling():
    config = load_config(
        None,
        [
            "--statistics.generalize",
            "raters",
            "--statistics.margins",
            "{iou: 0.02}",
            "--statistics.subgroups",
            "[site]",
        ],
    )
    assert config.statistics.margins == {"iou": 0.02}
    data = RaterData.from_arrays([np.zeros((1, 2, 2), np.float32)], [np.ones((2, 2, 2), bool)])
    resampling = resampling_of(config, data)
    assert (resampling.generalize, resampling.method, resampling.groups) == (
        "raters",
        "hall",
        {"image00000": "image00000"},
    )
    assert resampling_of(load_config(), data).method == "hall"


@pytest.mark.parametrize("generalize", ["raters", "all"])
def test_a_spread_over_two_raters_is_refused_before_training(generalize):
    config = load_config(None, ["--statistics.generalize", generalize])
    two, three = (
        RaterData.from_arrays([np.zeros((1, 2, 2), np.float32)], [np.ones((raters, 2, 2), bool)]) for raters in (2, 3)
    )
    check_questions(config, three)
    with pytest.raises(
        ConfigError, match=f"generalize: {generalize} leaves out each rater .* three or more; .* have 2"
    ):
        check_questions(config, two)


def test_unknown_subgroups_are_refused_before_training():
    manifest = pd.DataFrame({"split": ["test"], "site": ["a"]}, index=pd.Index(["i"], name="image_id"))
    data = RaterData.from_arrays(
        [np.zeros((1, 2, 2), np.float32)], [np.ones((2, 2, 2), bool)], image_ids=["i"], manifest=manifest
    )
    check_questions(load_config(None, ["--statistics.subgroups", "[site]"]), data)
    with pytest.raises(ConfigError, match=r"statistics.subgroups: the manifest has no column 'sight'; found site"):
        check_questions(load_config(None, ["--statistics.subgroups", "[sight]"]), data)
