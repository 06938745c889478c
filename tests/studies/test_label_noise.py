"""The demonstration of label noise: what it trains, what it watches, what it says and draws."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from studies.label_noise import SmallUnet, label_noise_curves, label_noise_table, rater_as_model
from studies.noise_plot import noise_fit_curves

from irrbench import VotePatterns, segmentation_bounds
from irrbench.data import RaterData
from irrbench.scores import SCORES, Score
from irrbench.simulate import draw_lesions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def data():
    drawn = draw_lesions(30, sensitivity=[1, 1, 1], specificity=[1, 1, 1], size=(32, 32), edge=1.0, rng=0)
    images = [truth[None].numpy().astype(np.float32) for truth in drawn.truth]
    return RaterData.from_arrays(images, [masks.numpy() for masks in drawn.masks])


@pytest.fixture(scope="module")
def curves(data):
    told = []
    found = label_noise_curves(
        data, labels=["rater:r2", "random"], num_images=6, max_epochs=4, on_epoch=lambda *at: told.append(at)
    )
    assert told == [(label, epoch) for label in ("rater:r2", "random") for epoch in range(4)]
    return found


def test_bounds_are_those_of_the_images_that_were_asked_for(data, curves):
    def ceiling(part):
        masks = torch.from_numpy(np.stack([part.masks(i) for i in range(len(part))]))
        return segmentation_bounds(VotePatterns.from_masks(masks), ["iou"]).ceiling["iou"].nanmean().item()

    held_out = data.subset([i for i, split in enumerate(data.manifest["split"]) if split != "train"])
    assert set(curves["train_ceiling"].round(9)) == {round(ceiling(data.split("train").subset(range(6))), 9)}
    assert set(curves["val_ceiling"].dropna().round(9)) == {round(ceiling(held_out), 9)}
    assert curves.groupby("name")["val"].count().tolist() == [2, 2]  # every second epoch
    assert curves["noise_fit"].notna().tolist() == curves["val"].notna().tolist()
    assert curves.groupby("name")["epoch"].apply(list).tolist() == [[0, 1, 2, 3]] * 2


def test_it_learns_and_is_the_same_each_time(data, curves):
    first = curves[curves["name"] == "rater:r2"]["train_label"]
    assert first.iloc[-1] > first.iloc[0]
    again = label_noise_curves(data, labels=["rater:r2"], num_images=6, max_epochs=2)
    assert again["train_label"].tolist() == first[:2].tolist()


def test_both_sides_need_images(data):
    with pytest.raises(ValueError, match="training split and outside, found 0 and"):
        label_noise_curves(data.split("test"))


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_a_rater_in_place_of_a_model_who_has_seen_no_label(data):
    found, error = rater_as_model(data, label="rater:r2", rater="r3", num_images=6)
    train = data.split("train").subset(range(6))
    held_out = data.subset([i for i, split in enumerate(data.manifest["split"]) if split != "train"])
    gaps = []
    for part in (train, held_out):
        masks = [part.masks(i) for i in range(len(part))]
        gaps.append(np.array([iou(c, b) - (iou(c, a) + iou(c, b)) / 2 for a, b, c in masks]))
    assert found == pytest.approx(gaps[0].mean() - gaps[1].mean(), abs=1e-9)
    assert error == pytest.approx(math.sqrt(sum(gap.var(ddof=1) / len(gap) for gap in gaps)), abs=1e-9)
    assert abs(found) < 3 * error


def test_the_network_takes_every_even_size():
    assert SmallUnet(2)(torch.zeros(3, 2, 8, 12)).shape == (3, 1, 8, 12)


@pytest.fixture
def made_up():
    """One that learns its labels by heart from epoch 6 on and loses in validation, and one that does neither."""
    epochs = np.arange(12)
    fits = pd.DataFrame({"name": "fits", "epoch": epochs, "train_label": np.where(epochs < 6, 0.4, 0.9)})
    fits["val"], fits["noise_fit"] = np.where(epochs < 6, 0.7, 0.5), np.where(epochs < 6, 0.01, 0.3)
    calm = pd.DataFrame({"name": "calm", "epoch": epochs, "train_label": 0.6, "val": 0.65, "noise_fit": -0.01})
    return pd.concat([fits, calm]).assign(train_ceiling=0.8, val_ceiling=0.75)


def test_the_table_says_when_and_how_much(made_up):
    table = label_noise_table(made_up)
    fits, calm = table.loc["fits"], table.loc["calm"]
    assert (fits["fit_at_best"], fits["fit_at_end"], fits["excess"]) == pytest.approx((0.01, 0.3, 0.1))
    assert (fits["best"], fits["best_epoch"], fits["last"], fits["lost"]) == pytest.approx((0.7, 0, 0.5, 0.2))
    assert (calm["fit_at_best"], calm["fit_at_end"], calm["lost"], calm["excess"]) == pytest.approx(
        (-0.01, -0.01, 0, -0.2)
    )


def test_an_error_that_falls_below_that_of_raters_is_better(made_up, monkeypatch):
    error = Score("error", "Error rate", lambda t: (t.fp + t.fn) / t.total, higher_is_better=False)
    monkeypatch.setitem(SCORES, "error", error)
    columns = ["train_label", "train_ceiling", "val", "val_ceiling"]
    turned = made_up.assign(**{column: 1 - made_up[column] for column in columns})
    expected, found = label_noise_table(made_up), label_noise_table(turned, score="error")
    same = ["fit_at_best", "fit_at_end", "best_epoch", "lost", "excess"]
    pd.testing.assert_frame_equal(found[same], expected[same], check_exact=False)
    np.testing.assert_allclose(found[["best", "last"]], 1 - expected[["best", "last"]])
    ax = noise_fit_curves(turned, score="error").axes[1]
    assert ax.get_ylabel() == "Error rate (lower is better)"
    low, high = ax.get_ylim()
    assert low < 0.25
    assert 0.5 < high <= 1


def test_the_figure_has_both_sides_and_what_they_are_read_against(made_up):
    figure = noise_fit_curves(made_up, score="iou", names={"fits": "one rater"})
    left, right = figure.axes
    for ax, column, level in ((left, "noise_fit", 0), (right, "val", 0.75)):
        dots = [line for line in ax.lines if line.get_linestyle() == "None"]
        assert dots[0].get_ydata().tolist() == made_up[made_up["name"] == "fits"][column].tolist()
        assert [line.get_ydata()[0] for line in ax.lines if line.get_gid() == "level"] == pytest.approx([level])
        low, high = ax.get_ylim()
        assert low < made_up[column].quantile(0.1)
        assert high > max(level, made_up[column].max())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one rater", "calm"]
    with pytest.raises(ValueError, match="val_ceiling"):
        noise_fit_curves(made_up.drop(columns="val_ceiling"), score="iou")
