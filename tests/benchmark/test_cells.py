"""Names, colours and digests of the cells of a grid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from irrbench.config import BenchmarkConfig, ConfigError, ModelConfig, RulesConfig, TrainConfig
from irrbench.training.cell import CellConfig
from irrbench.training.grid import cell_colours, cell_names


def test_names_of_cells():
    config = BenchmarkConfig(models=[ModelConfig(), ModelConfig(name="mine")], labels=["soft", "rater:a"])
    names = [name for name, *_ in cell_names(config)]
    own = BenchmarkConfig(models=[ModelConfig(class_path="a.b.Net")], labels=["soft"])
    assert cell_names(own)[0][0] == "Net soft"
    assert names == ["unet-resnet18 soft", "unet-resnet18 rater:a", "mine soft", "mine rater:a"]
    assert cell_names(replace(config, seeds=[0, 7]))[1][0] == "unet-resnet18 soft seed 7"


def test_the_seeds_of_a_model_share_a_colour_and_models_do_not():
    config = BenchmarkConfig(models=[ModelConfig(), ModelConfig(name="mine")], labels=["soft", "rater:a"], seeds=[0, 7])
    colours = cell_colours(config)
    assert list(colours) == [name for name, *_ in cell_names(config)]
    assert len(set(colours.values())) == 4
    assert len({colour for name, colour in colours.items() if name.startswith("mine soft")}) == 1
    assert list(cell_colours(replace(config, seeds=[3])).values()) == list(dict.fromkeys(colours.values()))


def test_an_empty_grid():
    with pytest.raises(ConfigError, match="at least one cell and each its own name; found none"):
        cell_names(BenchmarkConfig(labels=[]))


def test_two_cells_of_one_name():
    with pytest.raises(ConfigError, match="found two cells called 'unet-resnet18 soft'"):
        cell_names(BenchmarkConfig(models=[ModelConfig()], labels=["soft", "soft"]))


CELL = CellConfig(ModelConfig(), "soft", 0, TrainConfig(), ("iou",), RulesConfig(), "study", "abc", "1")


def test_the_digest_is_of_what_the_numbers_depend_on():
    renamed = [
        replace(CELL, data="other name"),
        replace(CELL, model=ModelConfig(name="x")),
        replace(CELL, train=TrainConfig(num_workers=2)),
    ]
    assert {cell.digest for cell in renamed} == {CELL.digest}
    changed = [
        replace(CELL, label="random"),
        replace(CELL, seed=1),
        replace(CELL, data_digest="abd"),
        replace(CELL, version="2"),
        replace(CELL, train=TrainConfig(lr=1.0)),
        replace(CELL, rules=RulesConfig(ties="positive")),
        replace(CELL, model=ModelConfig("fpn")),
        replace(CELL, scores=("f1",)),
        replace(CELL, code=(("a.B", "0123"),)),
        replace(CELL, model=ModelConfig(class_path="a.B")),
        replace(CELL, model=ModelConfig(init_args={"decoder_channels": [8]})),
        replace(CELL, train=TrainConfig(transforms=[{"class_path": "a.B"}])),
        replace(CELL, train=TrainConfig(precision="16-mixed")),
    ]
    assert len({CELL.digest, *(cell.digest for cell in changed)}) == len(changed) + 1
