"""Names, colours and digests of the cells of a grid, and cells that the first version finished."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, make_dataclass, replace

import numpy as np
import pandas as pd
import pytest

from irrbench.config import BenchmarkConfig, ConfigError, RulesConfig
from irrbench.grid_config import ModelConfig, NoiseConfig, TrainConfig
from irrbench.training.axes import cell_colours, cell_names
from irrbench.training.batches import data_digest, image_facts
from irrbench.training.cell import TRAINING_VERSION, CellConfig, Tracking, cell_folders, make_cells, unfinish_damaged
from irrbench.training.grid import run_grid
from irrbench.training.results import CellResult, PackedMask, is_finished, load_cell, pack_masks
from tests.training.test_batches import make_data


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


def test_the_doses_of_a_recipe_share_a_colour():
    noise = [NoiseConfig("grow", [0.0, 1.0]), NoiseConfig("shift", [0.0, 2.0])]
    config = BenchmarkConfig(models=[ModelConfig()], labels=["soft", "random"], noise=noise, seeds=[0, 7])
    colours = cell_colours(config)
    assert len(colours) == 12
    assert len(set(colours.values())) == 2
    assert len({colour for name, colour in colours.items() if "soft" in name}) == 1


def test_an_empty_grid():
    with pytest.raises(ConfigError, match="at least one cell and each its own name; found none"):
        cell_names(BenchmarkConfig(labels=[]))


def test_two_cells_of_one_name():
    with pytest.raises(ConfigError, match="found two cells called 'unet-resnet18 soft'"):
        cell_names(BenchmarkConfig(models=[ModelConfig()], labels=["soft", "soft"]))


def folders_of(tmp_path, *names: str) -> dict[str, str]:
    found = cell_folders(tmp_path, dict.fromkeys(names, "0a1b"))
    return {name: folder.relative_to(tmp_path / "cells").as_posix() for name, folder in found.items()}


def finish(tmp_path, folder: str, name: str | None) -> None:
    (tmp_path / "cells" / folder).mkdir(parents=True)
    if name is not None:
        (tmp_path / "cells" / folder / "done.json").write_text(json.dumps({"name": name}))


@pytest.mark.parametrize(
    "names",
    [("loss[0] soft", "loss(0) soft"), ("Net soft", "net soft"), ("a b soft", "a-b soft"), ("x" * 90, "x" * 91)],
)
def test_names_that_differ_share_no_folder_in_whatever_order(tmp_path, names):
    found = folders_of(tmp_path, *names)
    assert len({folder.casefold() for folder in found.values()}) == 2
    assert all(folder.endswith("-0a1b") for folder in found.values())
    assert folders_of(tmp_path, *reversed(names)) == found
    for name in names:
        finish(tmp_path, found[name], name)
        assert folders_of(tmp_path, *names) == found


def test_a_cell_keeps_its_folder_beside_a_new_one_of_the_same_configuration(tmp_path):
    """Alone it has the plain name; the other one of the pair is trained, though it comes first."""
    assert folders_of(tmp_path, "loss(0) soft") == {"loss(0) soft": "loss-0-soft-0a1b"}
    finish(tmp_path, "loss-0-soft-0a1b", "loss(0) soft")
    found = folders_of(tmp_path, "loss[0] soft", "loss(0) soft")
    assert found["loss(0) soft"] == "loss-0-soft-0a1b"
    assert found["loss[0] soft"].startswith("loss-0-soft-")
    assert found["loss[0] soft"] != found["loss(0) soft"]


def test_a_model_with_a_new_name_finds_its_cell_unless_the_old_name_is_in_the_grid(tmp_path):
    finish(tmp_path, "old-soft-0a1b", "old soft")
    assert folders_of(tmp_path, "new soft") == {"new soft": "old-soft-0a1b"}
    assert folders_of(tmp_path, "new soft", "old soft") == {"new soft": "new-soft-0a1b", "old soft": "old-soft-0a1b"}
    assert folders_of(tmp_path, "new soft", "newer soft") == {
        "new soft": "old-soft-0a1b",
        "newer soft": "newer-soft-0a1b",
    }


def test_a_folder_that_does_not_say_whose_it_is_belongs_to_one_cell(tmp_path):
    finish(tmp_path, "loss-0-soft-0a1b", None)
    found = folders_of(tmp_path, "loss[0] soft", "loss(0) soft")
    assert found["loss[0] soft"] == "loss-0-soft-0a1b" != found["loss(0) soft"]


def test_a_model_with_a_new_name_keeps_its_cell_though_another_one_gets_the_old_name(tmp_path):
    finish(tmp_path, "x-soft-0a1b", "x soft")
    found = cell_folders(tmp_path, {"x soft": "2c3d", "y soft": "0a1b"})
    assert {name: folder.name for name, folder in found.items()} == {"x soft": "x-soft-2c3d", "y soft": "x-soft-0a1b"}


@pytest.mark.parametrize("alone", ["loss[0] soft", "loss(0) soft"])
def test_one_of_an_unfinished_pair_goes_on_in_its_own_folder(tmp_path, alone):
    pair = folders_of(tmp_path, "loss[0] soft", "loss(0) soft")
    for folder in pair.values():
        finish(tmp_path, folder, None)
    assert folders_of(tmp_path, alone) == {alone: pair[alone]}


def test_an_unfinished_cell_keeps_its_folder_beside_a_new_one_whose_name_differs_in_case(tmp_path):
    finish(tmp_path, "Net-soft-0a1b", None)
    found = folders_of(tmp_path, "net soft", "Net soft")
    assert found["Net soft"] == "Net-soft-0a1b"
    assert found["net soft"].startswith("net-soft-")
    assert found["net soft"].endswith("-0a1b")
    assert found["net soft"] != "net-soft-0a1b"


def test_equal_models_with_two_names_are_two_cells_when_they_are_found_again(tmp_path):
    models = [ModelConfig(name="a"), ModelConfig(name="b")]
    config = BenchmarkConfig(models=models, labels=["soft"], output=str(tmp_path))
    data, tracking = make_data(["train", "val", "test"]), Tracking("sqlite:///unused.db", "unused", "#000000")
    for _ in range(2):
        cells = make_cells(config, data, tracking)
        assert [cell.folder.name.partition("-")[0] for cell in cells] == ["a", "b"]
        for cell in cells:
            cell.folder.mkdir(parents=True, exist_ok=True)


CELL = CellConfig(ModelConfig(), "soft", 0, TrainConfig(), ("iou",), RulesConfig(ties="negative"), "study", "abc", "1")


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


def test_digests_are_those_of_the_first_version():
    assert CELL.digest == "37af744214bf"
    train = TrainConfig(max_epochs=3, transforms=[{"class_path": "e.F"}], num_workers=2, devices=2)
    other = CellConfig(
        model=ModelConfig(class_path="a.B", init_args={"x": {"class_path": "c.D"}}, name="mine"),
        label="rater:r1",
        seed=7,
        train=train,
        scores=("f1", "kappa"),
        rules=RulesConfig(ties="positive", threshold=0.4),
        data="lidc",
        data_digest="0123",
        version="0.1.0",
        code=(("a.B", "cdef"),),
    )
    assert other.digest == "a2b36bbb527c"


@dataclass(frozen=True)
class WarmUp:
    kind: str = "none"
    steps: float = 0.0


def test_fields_that_are_added_later_change_no_digest_unless_they_are_used():
    later = {
        "CellConfig": make_dataclass(
            "CellConfig", [("warm_up", WarmUp, WarmUp()), ("schedule", str, "cycle")], bases=(CellConfig,), frozen=True
        ),
        "TrainConfig": make_dataclass("TrainConfig", [("clip", int, 0)], bases=(TrainConfig,), frozen=True),
    }
    values = {name: getattr(CELL, name) for name in CELL.__dataclass_fields__} | {"train": later["TrainConfig"]()}
    cell = later["CellConfig"](**values)
    assert cell.digest == CELL.digest
    used = [
        replace(cell, warm_up=WarmUp("linear", 1.0)),
        replace(cell, warm_up=WarmUp("linear", 2.0)),
        replace(cell, schedule="steps"),
        replace(cell, train=later["TrainConfig"](clip=64)),
    ]
    assert len({CELL.digest, *(each.digest for each in used)}) == 5


TABLE = {"": 0.5, "_floor": 0.1, "_ceiling": 0.7}


def write_first_version_cell(output, name, data, *, seed, version=TRAINING_VERSION):
    """A finished cell as the first version left it, with its ``done.json`` and its formula of the digest."""
    config = {
        "model": {
            "architecture": "unet",
            "encoder": "resnet18",
            "encoder_weights": None,
            "class_path": None,
            "init_args": {},
            "name": None,
        },
        "label": "soft",
        "seed": seed,
        "train": {
            "max_epochs": 8,
            "batch_size": 8,
            "lr": 0.002,
            "weight_decay": 0.0001,
            "augment": True,
            "transforms": [],
            "num_workers": 0,
            "accelerator": "auto",
            "devices": 1,
            "strategy": "auto",
            "precision": "32-true",
        },
        "scores": ["iou", "accuracy", "tpr", "ppv", "f1"],
        "rules": {"ties": "negative", "empty_reference": "drop", "threshold": 0.5},
        "data": "toy",
        "data_digest": data_digest(data, image_facts(data)),
        "version": version,
        "code": [],
    }
    model, train = {**config["model"], "name": None}, {**config["train"], "num_workers": None}
    plain = json.dumps({**config, "data": None, "model": model, "train": train}, sort_keys=True)
    digest = hashlib.sha256(plain.encode()).hexdigest()[:12]
    folder = output / "cells" / f"{name}-{digest}"
    folder.mkdir(parents=True)
    facts = {"run_id": "151139ff40bf", "bounds": {"val": "ce1b", "test": "50b9"}, "best_epoch": 1, "seconds": 1.1}
    done = {"name": name, "config": config, "digest": digest, **facts}
    (folder / "done.json").write_text(json.dumps(done, indent=1))
    scores = config["scores"]
    columns = {f"{score}{who}": [value] for score in scores for who, value in TABLE.items()}
    pd.DataFrame({"image_id": ["i2"], **columns}).to_csv(folder / "per_image.csv", index=False)
    pd.DataFrame({"epoch": [0, 1], **{score: [0.1, 0.2] for score in scores}}).to_csv(folder / "curve.csv", index=False)
    shape = data.shape(list(data.image_ids).index("i2"))
    packed = {"ids": np.array(["i2"]), "shapes": np.array([shape]), "bits": np.packbits(np.ones(shape, bool))}
    np.savez_compressed(folder / "predictions.npz", **packed)
    return done


def test_finished_cells_with_the_fields_of_the_first_version_are_kept(tmp_path, monkeypatch):
    data = make_data(["train", "val", "test"])
    first = [write_first_version_cell(tmp_path, f"my-old-name-{seed}", data, seed=seed) for seed in (0, 3)]
    rules = RulesConfig(ties="negative")
    config = BenchmarkConfig(models=[ModelConfig()], labels=["soft"], seeds=[0, 3], rules=rules, output=str(tmp_path))
    cells = make_cells(config, data, Tracking("sqlite:///unused.db", "unused", "#000000"))
    monkeypatch.setattr("irrbench.training.grid.run_cell", lambda *_: pytest.fail("a finished cell is trained again"))
    unfinish_damaged(cells, data)
    outcome = run_grid(cells, data)
    assert [result.facts for result in outcome.results] == first
    assert not outcome.failures
    assert not outcome.unfinished
    assert [result.name for result in outcome.results] == ["unet-resnet18 soft seed 0", "unet-resnet18 soft seed 3"]
    assert {result.group for result in outcome.results} == {"unet-resnet18 soft"}


def test_cells_whose_tables_meant_something_else_are_not_kept(tmp_path):
    data = make_data(["train", "val", "test"])
    write_first_version_cell(tmp_path, "old", data, seed=0, version="0.1.0")
    rules = RulesConfig(ties="negative")
    config = BenchmarkConfig(models=[ModelConfig()], labels=["soft"], rules=rules, output=str(tmp_path))
    (cell,) = make_cells(config, data, Tracking("sqlite:///unused.db", "unused", "#000000"))
    assert not is_finished(cell.folder)


def test_another_version_of_ones_own_network_is_another_cell(tmp_path, monkeypatch):
    data, source = make_data(["train", "val", "test"]), tmp_path / "own_net_of_a_test.py"
    monkeypatch.syspath_prepend(tmp_path)
    config = BenchmarkConfig(models=[ModelConfig(class_path="own_net_of_a_test.Net")], labels=["soft"])
    digests = []
    for size in (1, 3):
        source.write_text(f"import torch\n\n\nclass Net(torch.nn.Conv2d):\n    size = {size}\n")
        (cell,) = make_cells(config, data, Tracking("sqlite:///unused.db", "unused", "#000000"))
        digests.append(cell.config.digest)
    monkeypatch.delitem(sys.modules, "own_net_of_a_test", raising=False)
    assert len(set(digests)) == 2


def test_cells_are_grouped_by_their_axes_and_not_by_their_names(tmp_path):
    config = BenchmarkConfig(
        models=[ModelConfig(name="net seed 1"), ModelConfig(name="net")], labels=["soft"], seeds=[1]
    )
    results = [
        CellResult(name, tmp_path, pd.DataFrame(), pd.DataFrame(), {}, axes) for name, axes in cell_names(config)
    ]
    assert [result.group for result in results] == ["net seed 1 soft", "net soft"]
    assert results[0]._replace(name="anything seed 1", axes={}).group == "anything seed 1"
    assert [axes for _, axes in cell_names(config)][1] == {"model": "net", "label": "soft", "seed": 1}


def test_a_cell_is_loaded_without_knowing_its_axes(tmp_path):
    write_first_version_cell(tmp_path, "a", make_data(["train", "val", "test"]), seed=0)
    (folder,) = (tmp_path / "cells").iterdir()
    assert load_cell("b", folder).group == "b"


@pytest.mark.parametrize("packing", ["of the first version", "now"])
def test_predicted_masks_come_back_from_their_file(tmp_path, packing):
    rng = np.random.default_rng(0)
    masks = {name: rng.random(shape) < 0.5 for name, shape in {"a b": (3, 5), "c/d": (8, 2), "e": (1, 7)}.items()}
    if packing == "now":
        stored = pack_masks({name: PackedMask(mask.shape, np.packbits(mask)) for name, mask in masks.items()})
    else:
        bits = np.packbits(np.concatenate([mask.ravel() for mask in masks.values()]))
        stored = {"ids": np.array(list(masks)), "shapes": np.array([m.shape for m in masks.values()]), "bits": bits}
    np.savez_compressed(tmp_path / "predictions.npz", **stored)
    cell = CellResult("cell", tmp_path, pd.DataFrame(), pd.DataFrame(), {})
    for name, mask in masks.items():
        assert np.array_equal(cell.prediction(name), mask)
