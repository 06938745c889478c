"""Losses, noise and all raters' masks as axes of a grid: what is trained on, what is refused, what is written."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from irrbench._files import read_frame
from irrbench.commands import ConfigError, load_config
from irrbench.commands.loading import load_data
from irrbench.config import BenchmarkConfig
from irrbench.data import RaterData
from irrbench.grid_config import LossConfig, ModelConfig, NoiseConfig, TrainConfig
from irrbench.training.axes import cell_names, check_grid, noise_axis
from irrbench.training.batches import PLANES, TrainingSet, WatchedSet, can_watch, make_loaders
from irrbench.training.cell import Tracking, make_cells
from irrbench.training.label_noise import DOSES, NOISE, VAL_NOISE, CellNoise, CleanLabels, find_doses, label_noise
from irrbench.training.results import read_plain
from tests.training.conftest import run_recorded, runs, small_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:sqlalchemy")

TRACKING = Tracking("sqlite:///unused.db", "unused", "#000000")
PLAIN = TrainConfig(augment=False)


def blobs(number: int = 30, *, raters: int = 3, empty: int = 0, missing: bool = False) -> RaterData:
    """Discs of a radius of 6 to 9 pixels, which raters draw half a pixel to a pixel apart; the first ones are empty."""
    rng, images, masks, rois = np.random.default_rng(4), [], [], []
    rows, columns = np.mgrid[:36, :44]
    for index in range(number):
        y, x, radius = rng.uniform(12, 24), rng.uniform(12, 32), rng.uniform(6, 9)
        distance = np.hypot(rows - y, columns - x)
        stack = np.stack([distance < radius + rng.normal(r - 1, 0.5) for r in range(raters)])
        images.append(np.float32(distance < radius)[None] + rng.normal(0, 0.3, (1, 36, 44)).astype(np.float32))
        masks.append(stack & (index >= empty))
        rois.append(columns < 40 if index % 2 else None)
    present = np.ones((number, raters), bool)
    if missing:
        present[::3, 0] = False
        masks = [mask * drew[:, None, None] for mask, drew in zip(masks, present, strict=True)]
    return RaterData.from_arrays(images, masks, rois=rois, present=present)


def noisy(model: str = "boundary", doses=(0, 1.0), **options) -> BenchmarkConfig:
    noise = NoiseConfig(model, [float(dose) for dose in doses], **options)
    return BenchmarkConfig(models=[ModelConfig()], labels=["majority"], noise=[noise], scores=["iou"])


def iou(one, other) -> float:
    both = [(bool(a), bool(b)) for a, b in zip(one.flatten().tolist(), other.flatten().tolist(), strict=True)]
    return sum(a and b for a, b in both) / sum(a or b for a, b in both)


# Names, axes, digests


def test_names_and_axes_of_a_grid_with_losses_and_noise():
    config = replace(
        noisy(doses=(0, 0.5)),
        losses=[LossConfig("gce"), LossConfig("gce", init_args={"q": 0.5})],
        labels=["majority", "random"],
        seeds=[0, 1],
    )
    config = replace(config, noise=[*config.noise, NoiseConfig("grow", [2.0], labels=["majority"])])
    rows = cell_names(config)
    assert [name for name, _ in rows[:8]] == [
        "unet-resnet18 majority gce seed 0",
        "unet-resnet18 majority gce seed 1",
        "unet-resnet18 majority gce boundary 0.5 seed 0",
        "unet-resnet18 majority gce boundary 0.5 seed 1",
        "unet-resnet18 majority gce grow 2 seed 0",
        "unet-resnet18 majority gce grow 2 seed 1",
        "unet-resnet18 majority gce(q=0.5) seed 0",
        "unet-resnet18 majority gce(q=0.5) seed 1",
    ]
    assert not any("random" in name and "grow" in name for name, _ in rows)
    assert dict(rows)["unet-resnet18 majority gce grow 2 seed 1"] == {
        "model": "unet-resnet18", "label": "majority", "loss": "gce", "noise": "grow", "dose": 2.0, "seed": 1,
    }  # fmt: skip


def test_without_dose_0_there_is_no_clean_cell():
    assert [name for name, _ in noise_axis(noisy(doses=(1, 2)), "majority")] == ["boundary"] * 2


def test_cells_keep_their_digest_however_the_loss_is_given_and_beside_noise():
    data = blobs()
    plain = replace(noisy(), noise=[])
    (before,) = make_cells(plain, data, TRACKING)
    doses = find_doses(noisy(), data)
    clean, spoilt = make_cells(noisy(), data, TRACKING, doses)
    assert (clean.name, clean.config.digest) == (before.name, before.config.digest)
    assert spoilt.config.digest != before.config.digest
    named = replace(plain, losses=[LossConfig("bce")])
    as_train = replace(plain, train=TrainConfig(loss="bce"))
    (one,), (other,) = make_cells(named, data, TRACKING), make_cells(as_train, data, TRACKING)
    assert one.config.digest == other.config.digest
    options = [LossConfig("gce", init_args={"q": q}, name=name) for q, name in ((0.5, "a"), (0.6, "b"))]
    cells = make_cells(replace(plain, losses=[*options, LossConfig("gce")]), data, TRACKING)
    assert len({cell.config.digest for cell in cells}) == 3
    renamed = make_cells(replace(plain, losses=[replace(options[0], name="x")]), data, TRACKING)
    assert renamed[0].config.digest == cells[0].config.digest
    changes = [{"dose": 2.0}, {"model": "grow"}, {"renewed": True}, {"class_path": "a.b", "model": "class_path"}]
    base = spoilt.config.noise
    digests = {replace(spoilt.config, noise=replace(base, **change)).digest for change in changes}
    assert len({*digests, spoilt.config.digest}) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": [LossConfig("gec")]}, r"losses\[0\]: There is no loss 'gec'.*Did you mean 'gce'"),
        ({"losses": [LossConfig("gce", init_args={"p": 1})]}, r"losses\[0\]: .*unknown option 'p'. Known are q"),
        (
            {"losses": [LossConfig("lovasz")], "labels": ["soft"]},
            r"losses\[0\]: loss lovasz takes labels",
        ),
        ({"train": TrainConfig(loss="diec")}, r"train.loss: There is no loss 'diec'.*Did you mean"),
        (
            {"noise": [NoiseConfig("bondary")]},
            r"noise\[0\]: there is no noise model 'bondary'. Did you mean 'boundary'",
        ),
        ({"noise": [NoiseConfig(labels=["soft"])]}, r"noise\[0\]: labels must be among .* majority; found 'soft'"),
        ({"noise": [NoiseConfig(class_path="irrbench.Nose")]}, r"noise\[0\]: class_path 'irrbench.Nose'"),
        ({"noise": [NoiseConfig(labels=[])]}, r"noise\[0\]: labels must be among .* majority; found none"),
        ({"noise": [NoiseConfig("grow", class_path="a.B")]}, r"noise\[0\]: give a model or a class_path"),
        (
            {"noise": [NoiseConfig("grow"), NoiseConfig("grow")]},
            r"found two cells called 'unet-resnet18 majority grow 0.5'",
        ),
        ({"losses": [LossConfig("bce"), LossConfig("bce")]}, r"found two cells called 'unet-resnet18 majority"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_grid(replace(noisy(), **changes))


@pytest.mark.parametrize("doses", [[-1.0], [float("nan")], [], [1.0, 1.0], [float("inf")]])
def test_doses_that_are_none_are_refused(doses):
    with pytest.raises(ConfigError, match="doses must be distinct numbers of 0 or more"):
        NoiseConfig(doses=doses)


def test_a_dose_below_0_in_a_file_is_named():
    with pytest.raises(ConfigError, match=r"noise\[0\].doses must be a list .* a number of 0 or more; found \[-1\]"):
        load_config(None, ["--noise", "[{model: grow, doses: [-1]}]"])


def test_a_text_alone_is_a_name():
    config = load_config(None, ["--losses", "[gce, {loss: sce}]", "--noise", "[grow]"])
    assert [loss.loss for loss in config.losses] == ["gce", "sce"]
    assert config.noise[0].doses == [0.0, 0.5, 1.0, 2.0]


@pytest.mark.parametrize("changes", [{"losses": [LossConfig("gce")]}, {"labels": ["annotators"]}])
def test_a_module_that_trains_itself_takes_no_loss(with_nets, changes):
    config = replace(noisy(), models=[ModelConfig(class_path="tiny_nets.OnPlateau")], **changes)
    with pytest.raises(ConfigError, match="OnPlateau is a LightningModule, which has a loss of its own"):
        check_grid(config)


# Strengths


def test_the_dose_is_that_of_the_labels_that_are_trained_on():
    """Counted in plain loops over the items of the training set."""
    data, config = blobs(60), noisy("grow", (1.0,))
    doses = find_doses(config, data)
    noise = CellNoise("grow", 1.0)
    found = doses.of(noise, "majority", 0)
    train = data.split("train")
    spoil = label_noise(NOISE, noise=noise, found=found, train=train, label="majority", seed=0)
    clean, spoilt = (TrainingSet(train, label="majority", seed=0, train=PLAIN, noise=each) for each in (None, spoil))
    scores = []
    for index in range(len(train)):
        one, other = clean[index], spoilt[index]
        region = one["roi"]
        scores.append(iou(one["label"][0][region], other["label"][0][region]))
        assert torch.equal(one["label"][0][~region], other["label"][0][~region])
        assert torch.equal(one["masks"], other["masks"])
    assert np.mean(scores) == pytest.approx(found.label_iou, abs=1e-6)
    assert 1 - np.mean(scores) == pytest.approx(1 - found.train_ceiling, rel=0.02)


def test_strengths_are_kept_and_read_and_found_anew_for_other_data(tmp_path):
    data, said = blobs(), []
    first = find_doses(noisy(), data, place=tmp_path, report=said.append)
    again = find_doses(noisy(), data, place=tmp_path, report=said.append)
    noise = CellNoise("boundary", 1.0)
    assert said == ["finding the strength of boundary on majority, seed 0"]
    assert again.of(noise, "majority", 0) == first.of(noise, "majority", 0)
    find_doses(noisy(), blobs(31), place=tmp_path, report=said.append)
    find_doses(replace(noisy(), seeds=[1]), data, place=tmp_path, report=said.append)
    more = find_doses(noisy(doses=(0, 1, 2)), data, place=tmp_path, report=said.append)
    assert len(said) == 4
    assert len(json.loads((tmp_path / DOSES).read_text())) == 4
    assert more.of(noise, "majority", 0) == first.of(noise, "majority", 0)


@pytest.mark.parametrize("model", ["boundary", "grow", "shift", "miss", "flip"])
def test_a_strength_depends_on_no_other_dose(model):
    """Else a dose that is added to a grid would change the labels of cells that are trained later."""
    data, noise = blobs(50), CellNoise(model, 1.0)
    alone, *others = (
        find_doses(noisy(model, doses), data).of(noise, "majority", 0)
        for doses in ((1.0,), (0.5, 1.0), (1.0, 2.0), (2.0, 1.5, 1.0))
    )
    assert all(other == alone for other in others)


def test_all_doses_out_of_reach_are_named_with_label_and_seed():
    config = replace(noisy("shift", (99,)), seeds=[0, 3])
    with pytest.raises(ConfigError) as caught:
        find_doses(config, blobs())
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["noise on majority, seed 0", "noise on majority, seed 3"]


def test_lines_say_strength_and_area():
    data = blobs(60)
    doses = find_doses(replace(noisy("shrink", (0.5, 1)), seeds=[0, 1]), data)
    (line,) = doses.lines
    found = doses.of(CellNoise("shrink", 1.0), "majority", 0)
    assert line.startswith("shrink on majority: dose 0.5 at ")
    assert line.endswith(f"dose 1 at {found.strength:.3g} (area {found.area:.2f})")
    spoil = label_noise(
        NOISE, noise=CellNoise("shrink", 1.0), found=found, train=data.split("train"), label="majority", seed=0
    )
    train = data.split("train")
    clean, spoilt = (TrainingSet(train, label="majority", seed=0, train=PLAIN, noise=each) for each in (None, spoil))
    areas = [
        sum(float((each[i]["label"][0] * each[i]["roi"]).sum()) for i in range(len(train))) for each in (spoilt, clean)
    ]
    assert found.area == pytest.approx(areas[0] / areas[1])
    assert found.area < 0.9


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": {"dose": "x"}}', "\0"])
def test_a_damaged_file_of_strengths_is_written_anew(tmp_path, content):
    (tmp_path / DOSES).write_text(content)
    assert len(find_doses(noisy(), blobs(), place=tmp_path)) == 1
    assert len(read_plain(tmp_path / DOSES)) == 1


def test_raters_who_agree_exactly_leave_no_unit():
    data = blobs()
    same = RaterData.from_arrays(
        [data.image(i) for i in range(len(data))], [np.stack([data.masks(i)[0]] * 3) for i in range(len(data))]
    )
    with pytest.raises(ConfigError, match=r"seed 0: label noise has no unit here: .* their mean IoU ceiling is 1"):
        find_doses(noisy(), same)


def test_a_dose_out_of_reach_is_named_with_the_largest():
    with pytest.raises(ConfigError, match=r"label noise shift cannot reach dose 99 .* Choose doses up to"):
        find_doses(noisy("shift", (99,)), blobs())


def test_coarse_steps_are_said():
    """Of 26 images with one component each, some number is left out."""
    data = blobs(35)
    doses = find_doses(noisy("miss", (1.0,)), data)
    reached = doses.of(CellNoise("miss", 1.0), "majority", 0).reached
    assert abs(reached - 1) > 0.02
    (said,) = doses.cautions
    start = "Noise miss comes in coarse steps on these training images: it gives the doses"
    assert said.startswith(f"{start} {reached:.3g}")


def test_steps_that_are_too_coarse_are_refused():
    with pytest.raises(
        ConfigError, match=r"label noise miss changes these .* too coarse for dose 0.1: it gives none near"
    ):
        find_doses(noisy("miss", (0.1,)), blobs(16))


# What is trained on


def spoiler(data: RaterData, *, label: str = "majority", seed: int = 0, purpose: int = NOISE, renewed: bool = False):
    noise = CellNoise("boundary", 1.0, renewed=renewed)
    config = replace(noisy(renewed=renewed), labels=[label], seeds=[seed])
    found = find_doses(config, data).of(noise, label, seed)
    return label_noise(purpose, noise=noise, found=found, train=data.split("train"), label=label, seed=seed)


@pytest.mark.parametrize("renewed", [False, True])
def test_the_wrong_label_of_an_image_stays_or_is_drawn_anew(renewed):
    data = blobs()
    spoil = spoiler(data, renewed=renewed)
    items = TrainingSet(data.split("train"), label="majority", seed=0, train=PLAIN, noise=spoil)
    first = [items[i]["label"] for i in range(4)]
    assert all(torch.equal(items[i]["label"], label) for i, label in enumerate(first))
    items.set_epoch(1)
    same = [torch.equal(items[i]["label"], label) for i, label in enumerate(first)]
    assert not any(same) if renewed else all(same)


def test_seeds_and_images_have_noise_of_their_own():
    data = blobs()
    label, everywhere = torch.zeros(1, 36, 44), torch.ones(36, 44, dtype=torch.bool)
    label[:, 10:24, 12:30] = 1
    spoils = [spoiler(data, seed=0), spoiler(data, seed=1), spoiler(data, purpose=VAL_NOISE)]
    made = [spoil(label, index, 0, everywhere) for spoil in spoils for index in (0, 1)]
    assert len({each.numpy().tobytes() for each in made}) == 6


def test_noise_changes_together_with_its_image_and_not_the_masks():
    data = blobs()
    turned = TrainConfig(augment=True)
    plain, moved = (
        TrainingSet(data.split("train"), label="majority", seed=3, train=train, noise=spoiler(data, seed=3))
        for train in (PLAIN, turned)
    )
    for index in range(6):
        assert plain[index]["label"].sum() == moved[index]["label"].sum()
        assert set(np.unique(plain[index]["label"])) <= {0.0, 1.0}


def test_soft_labels_stay_between_0_and_1():
    data = blobs()
    items = TrainingSet(data.split("train"), label="soft", seed=0, train=PLAIN, noise=spoiler(data, label="soft"))
    values = torch.cat([items[i]["label"].flatten() for i in range(len(items))])
    assert values.min() == 0
    assert values.max() == 1
    assert len(values.unique()) > 2


def test_validation_has_labels_spoilt_likewise_beside_its_own():
    data = blobs(60)
    spoil = spoiler(data, purpose=VAL_NOISE)
    items = WatchedSet(data.split("val"), label="majority", seed=0, noise=spoil)
    spoilt = [
        iou(items[i]["trained_label"][0][items[i]["roi"]], items[i]["label"][0][items[i]["roi"]])
        for i in range(len(items))
    ]
    assert 0.4 < np.mean(spoilt) < 0.97
    clean = WatchedSet(data.split("val"), label="majority", seed=0, noise=None)
    assert torch.equal(clean[0]["trained_label"], clean[0]["label"])


def test_labels_that_cannot_be_watched():
    data = blobs(missing=True)
    first = data.raters[0]
    assert [can_watch(data, label) for label in ("majority", "random", "soft", "annotators", f"rater:{first}")] == [
        True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("with_noise", [False, True])
def test_annotators_are_trained_on_every_raters_own_mask(with_noise):
    data = blobs(missing=True)
    spoil = spoiler(data, label="annotators") if with_noise else None
    train = data.split("train")
    items = TrainingSet(train, label="annotators", seed=0, train=PLAIN, noise=spoil)
    for index in range(len(train)):
        item, present = items[index], train.present(index)
        assert item["annotations"].shape == (3, 36, 44)
        assert not item["annotations"][~present].any()
        assert torch.equal(item["masks"], torch.from_numpy(train.masks(index)).to(torch.uint8))
        assert torch.equal(item["annotations"], item["masks"]) != with_noise
        share = item["annotations"][present].float().mean(0)
        assert torch.allclose(item["label"][0], share)
    drawn = sum(int(train.present(i).sum()) for i in range(len(train)))
    assert len(CleanLabels(train, "annotators", seed=0)) == drawn


def test_crops_lie_where_they_would_lie_without_noise():
    """Else noise that marks pixels everywhere would also move the crops away from the lesions."""
    data, crop = blobs(), TrainConfig(augment=False, crop=32, crop_foreground=1.0)
    noise = CellNoise("flip", 1.0)
    found = find_doses(noisy("flip", (1.0,)), data).of(noise, "majority", 0)
    train = data.split("train")
    spoil = label_noise(NOISE, noise=noise, found=found, train=train, label="majority", seed=0)
    clean, spoilt = (TrainingSet(train, label="majority", seed=0, train=crop, noise=each) for each in (None, spoil))
    for index in range(len(train)):
        assert torch.equal(clean[index]["image"], spoilt[index]["image"])
        assert not torch.equal(clean[index]["label"], spoilt[index]["label"])


def test_batches_turn_and_pad_annotations_with_their_image():
    data = blobs()
    train = TrainConfig(batch_size=4, crop=32)
    loaders = make_loaders(data, label="annotators", seed=0, train=train)
    batch = next(iter(loaders.train))
    assert batch["annotations"].shape == (4, 3, 32, 32)
    assert torch.equal(batch["annotations"], batch["masks"])
    assert "annotations" in PLANES


# The grid


def grid_config(study, place, store, **changes):
    options = {
        "models": [{"class_path": "tiny_nets.Net", "name": "net"}],
        "labels": ["majority"],
        "noise": [{"model": "boundary", "doses": [0, 1]}],
        "scores": ["iou"],
        "train.max_epochs": 2,
        **changes,
    }
    return small_config(study, place, store, **options)


def test_a_grid_of_losses_and_noise_writes_its_tables_and_is_resumed(with_nets, study, store, tmp_path):
    losses = ["bce", {"class_path": "tiny_nets.Squares", "init_args": {"weight": 2.0}, "name": "squares"}]
    config = grid_config(study, tmp_path / "out", store, losses=losses)
    grid = run_recorded(config)
    assert grid.code == 0, grid.text
    board = read_frame(tmp_path / "out" / "leaderboard.csv")
    names = {
        "net majority bce",
        "net majority bce boundary 1",
        "net majority squares",
        "net majority squares boundary 1",
    }
    assert names <= {*board["name"]}
    frame = read_frame(tmp_path / "out" / "robustness.csv")
    assert frame["dose"].tolist() == [0, 1, 0, 1]
    assert frame["loss"].tolist() == ["bce"] * 2 + ["squares"] * 2
    noisy_rows = frame[frame["dose"] > 0]
    assert (abs(noisy_rows["reached"] - 1) <= 0.25).all()
    expected = 1 - noisy_rows["reached"] * (1 - noisy_rows["train_ceiling"])
    assert noisy_rows["label_iou"].to_numpy() == pytest.approx(expected.to_numpy())
    assert frame["noise_fit"].notna().all()
    assert len(read_frame(tmp_path / "out" / "tolerance.csv")) == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "How much label noise the recipes stand" in page
    assert "Noisy labels of one training image" in page
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"doses.svg", "tolerance.svg", "noise.svg"} <= figures
    assert "label noise: doses in units of the average rater" in grid.text
    doses = {
        run.data.metrics.get("noise/dose") for run in runs(store, config) if run.data.tags["irrbench.role"] == "model"
    }
    assert doses == {0.0, 1.0}
    again = run_recorded(config)
    assert again.text.count("finished before") == 4
    roles = Counter(run.data.tags["irrbench.role"] for run in runs(store, config))
    assert roles == {"model": 4, "robustness": 2, "ceiling": 1, "floor": 1}
    assert read_frame(tmp_path / "out" / "robustness.csv").equals(frame)


def test_a_loss_that_gives_nan_fails_its_cell_and_no_other(with_nets, study, store, tmp_path):
    losses = [{"class_path": "tiny_nets.NaNLoss"}, "dice"]
    grid = run_recorded(grid_config(study, tmp_path / "out", store, losses=losses, noise=[]))
    assert grid.code == 1
    assert "the loss 'NaNLoss' was nan in epoch 1" in " ".join(grid.text.split())
    board = read_frame(tmp_path / "out" / "leaderboard.csv")
    assert "net majority dice" in set(board["name"])


def test_annotators_in_a_grid_report_what_was_learnt_of_each_rater(with_nets, study, store, tmp_path):
    config = grid_config(study, tmp_path / "out", store, labels=["annotators"], losses=["bce"], noise=[])
    grid = run_recorded(config)
    assert grid.code == 0, grid.text
    (done,) = (tmp_path / "out" / "cells").glob("*/done.json")
    learnt = read_plain(done)["annotators"]
    assert set(learnt) == {"anna", "ben", "cem"}
    assert all(0 < value < 1 for rater in learnt.values() for value in rater.values())


def test_that_labels_are_watched_changes_no_number(with_nets, study, store, tmp_path):
    """Scoring training batches must touch neither random numbers nor the statistics of batch norm."""
    tables = []
    for name, noise in (("a", []), ("b", [{"model": "boundary", "doses": [0, 1]}])):
        config = grid_config(study, tmp_path / name, store, noise=noise, experiment=name, **{"train.max_epochs": 3})
        assert run_recorded(config).code == 0
        table = read_frame(tmp_path / name / "per_image.csv")
        tables.append(table[table["name"] == "net majority"].reset_index(drop=True))
    assert tables[0].equals(tables[1])


def test_cells_of_an_earlier_grid_without_noise_stay_finished(with_nets, study, store, tmp_path):
    place = tmp_path / "out"
    assert run_recorded(grid_config(study, place, store, noise=[])).code == 0
    grid = run_recorded(grid_config(study, place, store))
    assert grid.code == 0
    assert grid.text.count("finished before") == 1
    assert np.isnan(read_frame(place / "robustness.csv")["noise_fit"].tolist()[0])


def test_nothing_is_claimed_of_the_bias_of_a_users_noise(with_nets, study, store, tmp_path):
    noise = [{"class_path": "tiny_nets.Opposite", "doses": [0, 1]}, {"model": "grow", "doses": [0, 1]}]
    config = grid_config(study, tmp_path / "out", store, noise=noise)
    assert run_recorded(config).code == 0
    frame = read_frame(tmp_path / "out" / "robustness.csv")
    own = frame[(frame["noise"] == "Opposite") & (frame["dose"] > 0)].iloc[0]
    assert own["bias"] == "unknown"
    assert own["area"] > 1
    assert not (tmp_path / "out" / "biases.csv").exists()


def test_a_module_that_trains_itself_is_warned_and_has_its_own_loss(with_nets, study, store, tmp_path):
    models = [{"class_path": "tiny_nets.OnPlateau", "name": "net"}]
    grid = run_recorded(grid_config(study, tmp_path / "out", store, models=models))
    assert grid.code == 0
    assert "net is a LightningModule: noise spoils batch['label'], and batch['masks'] stay clean." in " ".join(
        grid.text.split()
    )
    assert set(read_frame(tmp_path / "out" / "robustness.csv")["loss"]) == {"OnPlateau's own"}


def test_the_strength_of_a_users_noise_is_found_too(with_nets, study, tmp_path):
    noise = [{"class_path": "tiny_nets.Opposite", "doses": [0, 1, 2]}]
    config = grid_config(study, tmp_path / "out", "sqlite:///unused.db", noise=noise)
    doses = find_doses(config, load_data(config))
    own = CellNoise("class_path", 2.0, "tiny_nets.Opposite")
    assert doses.of(own, "majority", 0).reached == pytest.approx(2, rel=0.02)


@pytest.mark.slow
def test_several_processes_train_on_the_same_wrong_labels(with_nets, study, store, tmp_path):
    seen = []
    for workers in (1, 2):
        changes = {"workers": workers, "experiment": f"e{workers}", "train.max_epochs": 1}
        config = grid_config(study, tmp_path / str(workers), store, **changes)
        assert run_recorded(config).code == 0
        seen.append(read_frame(tmp_path / str(workers) / "per_image.csv"))
    assert seen[0].equals(seen[1])
