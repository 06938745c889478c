"""The demonstration of label noise: what it trains, what it watches, what it says and draws."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from studies.label_noise import SmallUnet, label_noise_curves, label_noise_table
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
    assert curves.groupby("name")["epoch"].apply(list).tolist() == [[0, 1, 2, 3]] * 2


def test_it_learns_and_is_the_same_each_time(data, curves):
    first = curves[curves["name"] == "rater:r2"]["train_label"]
    assert first.iloc[-1] > first.iloc[0]
    again = label_noise_curves(data, labels=["rater:r2"], num_images=6, max_epochs=2)
    assert again["train_label"].tolist() == first[:2].tolist()


def test_both_sides_need_images(data):
    with pytest.raises(ValueError, match="training split and outside, found 0 and"):
        label_noise_curves(data.split("test"))


def test_the_network_takes_every_even_size():
    assert SmallUnet(2)(torch.zeros(3, 2, 8, 12)).shape == (3, 1, 8, 12)


@pytest.fixture
def made_up():
    """One that passes its ceiling at epoch 6 and loses in validation, and one that does neither."""
    epochs = np.arange(12)
    fits = pd.DataFrame({"name": "fits", "epoch": epochs, "train_label": np.where(epochs < 6, 0.4, 0.9)})
    fits["val"] = np.where(epochs < 6, 0.7, 0.5)
    calm = pd.DataFrame({"name": "calm", "epoch": epochs, "train_label": 0.6, "val": 0.65})
    return pd.concat([fits, calm]).assign(train_ceiling=0.8, val_ceiling=0.75)


def test_the_table_says_when_and_how_much(made_up):
    table = label_noise_table(made_up)
    fits, calm = table.loc["fits"], table.loc["calm"]
    assert fits["passes"] == 8  # the first median of five epochs that is above
    assert (fits["noise_fit"], fits["lost"]) == pytest.approx((0.1, 0.2))
    assert (fits["best"], fits["best_epoch"], fits["last"]) == (0.7, 0, 0.5)
    assert math.isnan(calm["passes"])
    assert (calm["noise_fit"], calm["lost"]) == pytest.approx((-0.2, 0))


def test_an_error_that_falls_below_that_of_raters_is_better(made_up, monkeypatch):
    error = Score("error", "Error rate", lambda t: (t.fp + t.fn) / t.total, higher_is_better=False)
    monkeypatch.setitem(SCORES, "error", error)
    columns = ["train_label", "train_ceiling", "val", "val_ceiling"]
    turned = made_up.assign(**{column: 1 - made_up[column] for column in columns})
    expected, found = label_noise_table(made_up), label_noise_table(turned, score="error")
    same = ["passes", "noise_fit", "best_epoch", "lost"]
    pd.testing.assert_frame_equal(found[same], expected[same], check_exact=False)
    np.testing.assert_allclose(found[["best", "last"]], 1 - expected[["best", "last"]])
    ax = noise_fit_curves(turned, score="error").axes[0]
    assert ax.get_ylabel() == "Error rate (lower is better)"
    low, high = ax.get_ylim()
    assert low < 0.1
    assert 0.6 <= high <= 1


def test_the_figure_has_both_sides_and_the_ceilings(made_up):
    figure = noise_fit_curves(made_up, score="iou", names={"fits": "one rater"})
    left, right = figure.axes
    for ax, column, ceiling in ((left, "train_label", 0.8), (right, "val", 0.75)):
        dots = [line for line in ax.lines if line.get_linestyle() == "None"]
        assert dots[0].get_ydata().tolist() == made_up[made_up["name"] == "fits"][column].tolist()
        assert [line.get_ydata()[0] for line in ax.lines if line.get_gid() == "ceiling"] == pytest.approx([ceiling])
        low, high = ax.get_ylim()
        assert low < 0.5
        assert high > 0.9
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one rater", "calm"]
    with pytest.raises(ValueError, match="val_ceiling"):
        noise_fit_curves(made_up.drop(columns="val_ceiling"), score="iou")
