"""What may be asked of the statistics, and what is refused before anything is trained."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from irrbench.commands import ConfigError, load_config
from irrbench.commands.outputs import check_questions, resampling_of
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
        "student",
        {"image00000": "image00000"},
    )
    assert resampling_of(load_config(), data).method == "student"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["generalize=all", "interval=bca"],
            "interval must be auto, student, expanded or percentile with .*: all; found bca",
        ),
        (["margins={iuo: 0.1}"], "margins must give scores .* found iuo: 0.1"),
        (["margins={iou: 0}"], "greater than 0, .* found iou: 0"),
        (["alternative_margin=1"], r"alternative_margin must lie between 0 and 1 \(below 1\), found 1"),
        (["quantiles=1"], "quantiles must be 2 or more, found 1"),
        (["interval=wide"], "statistics.interval"),
    ],
)
def test_what_cannot_be_used_is_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [f"--statistics.{flag}" for flag in flags])


def test_unknown_subgroups_are_refused_before_training():
    manifest = pd.DataFrame({"split": ["test"], "site": ["a"]}, index=pd.Index(["i"], name="image_id"))
    data = RaterData.from_arrays(
        [np.zeros((1, 2, 2), np.float32)], [np.ones((2, 2, 2), bool)], image_ids=["i"], manifest=manifest
    )
    check_questions(load_config(None, ["--statistics.subgroups", "[site]"]), data)
    with pytest.raises(ConfigError, match=r"statistics.subgroups: the manifest has no column 'sight'; found site"):
        check_questions(load_config(None, ["--statistics.subgroups", "[sight]"]), data)
