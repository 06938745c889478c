"""Stopping under label noise: what is trained on, what is scored, and where rules stop."""

import numpy as np
import pandas as pd
import pytest
import torch
from studies.noise_stopping import BEST, CEILING, LAST, SpoiltLabels, stopping_curve, stopping_epochs, stopping_table

from irrbench import VotePatterns, segmentation_bounds
from irrbench.data import RaterData, SegmentationDataset
from irrbench.scores import SCORES, Score
from irrbench.simulate import draw_lesions
from irrbench.training.doses import DoseError
from irrbench.training.noise import make_noise

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def data():
    drawn = draw_lesions(40, sensitivity=[1, 1, 1], specificity=[1, 1, 1], size=(32, 32), edge=1.0, rng=0)
    images = [truth[None].numpy().astype(np.float32) for truth in drawn.truth]
    return RaterData.from_arrays(images, [masks.numpy() for masks in drawn.masks])


def test_spoilt_labels_are_the_same_in_each_epoch_and_nothing_else_changes(data):
    spoilt = SpoiltLabels(data, "majority", make_noise("shift"), 3.0, [0, 1])
    others = SpoiltLabels(data, "majority", make_noise("shift"), 3.0, [0, 2])
    clean = SegmentationDataset(data)
    assert len(spoilt) == len(data)
    for i in range(len(data)):
        assert torch.equal(spoilt[i]["label"], spoilt[i]["label"])
        assert torch.equal(spoilt[i]["masks"], clean[i]["masks"])
        assert torch.equal(spoilt[i]["image"], clean[i]["image"])
        assert spoilt[i]["label"].shape == clean[i]["label"].shape
    assert not all(torch.equal(a["label"], b["label"]) for a, b in zip(spoilt, others, strict=True))
    assert not any(torch.equal(spoilt[i]["label"], clean[i]["label"]) for i in range(3))


def test_validation_and_test_images_are_scored_apart(data, monkeypatch):
    def forward(self, image):
        return 9 + 0 * self.net.head.bias.sum() + 0 * image[:, :1]

    monkeypatch.setattr("studies.label_noise.SmallUnet.forward", forward)
    curve = stopping_curve(data, noise="boundary", dose=1.0, num_images=8, max_epochs=4, seed=3)
    assert curve["epoch"].tolist() == [1, 3]
    assert set(curve["name"]) == {"boundary 1"}
    assert set(curve["seed"]) == {3}
    for column, split in (("val", "val"), ("test", "test")):
        part = data.split(split)
        votes = VotePatterns.from_masks(torch.from_numpy(np.stack([part.masks(i) for i in range(len(part))])))
        floor = segmentation_bounds(votes, ["iou"]).floor["iou"].nanmean().item()
        assert curve[column].to_numpy() == pytest.approx([floor, floor], abs=1e-6)
    assert curve["val"][0] != curve["test"][0]
    assert not curve["good_enough"].any()


def test_the_labels_of_a_dose_are_learnt_by_heart_and_the_same_each_time(data):
    asked = {"num_images": 6, "max_epochs": 4}
    told = []
    curve = stopping_curve(data, dose=2.0, on_epoch=told.append, **asked)
    assert told == [0, 1, 2, 3]
    pd.testing.assert_frame_equal(curve, stopping_curve(data, dose=2.0, **asked))
    clean = stopping_curve(data, **asked)
    assert set(clean["name"]) == {"no noise"}
    assert clean["train_label"].tolist() != curve["train_label"].tolist()
    assert clean["train_ceiling"].tolist() == curve["train_ceiling"].tolist()


def test_a_dose_that_noise_cannot_reach_is_refused(data):
    with pytest.raises(DoseError, match="boundary cannot reach dose 50"):
        stopping_curve(data, dose=50.0, num_images=4, max_epochs=1)


@pytest.fixture
def made_up():
    """Two seeds of one noise; the second has no epoch in which a rule but the best validation ends the training."""
    epochs = np.arange(1, 17, 2)
    fits = np.array([0, 0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.24])
    val = np.array([0.1, 0.5, 0.7, 0.68, 0.66, 0.64, 0.62, 0.6])
    good = [False, False, False, True, True, False, False, False]
    first = pd.DataFrame({"epoch": epochs, "val": val, "noise_fit": fits, "test": val - 0.05, "good_enough": good})
    second = first.assign(noise_fit=0.01, good_enough=False, test=np.linspace(0.5, 0.57, 8))
    return pd.concat([first.assign(seed=0), second.assign(seed=1)]).assign(name="boundary 2")


def test_where_rules_end_a_training(made_up):
    first, second = (made_up[made_up["seed"] == seed] for seed in (0, 1))
    # medians of the five latest: 0, 0, 0, .02, .04, .08, .12, .16
    assert stopping_epochs(first) == {
        BEST: (5, True),
        LAST: (15, True),
        "noise_fit > 0.05": (11, True),
        "noise_fit > 0.1": (13, True),
        CEILING: (7, True),
    }
    ends = stopping_epochs(second)
    assert [ends[rule] for rule in ("noise_fit > 0.05", "noise_fit > 0.1", CEILING)] == [(15, False)] * 3
    assert stopping_epochs(first.sample(frac=1, random_state=0)) == stopping_epochs(first)


def test_rules_are_compared_with_the_best_validation_in_each_seed(made_up):
    table = stopping_table(made_up).set_index("rule")
    last = table.loc[LAST]
    assert (last["test"], last["difference"]) == pytest.approx(((0.55 + 0.57) / 2, (-0.1 + 0.05) / 2))
    assert (last["least"], last["most"], last["seeds"]) == pytest.approx((-0.1, 0.05, 2))
    assert table.loc[BEST, ["difference", "least", "most"]].tolist() == [0, 0, 0]
    limit = table.loc["noise_fit > 0.05"]
    assert (limit["epoch"], limit["stopped"], limit["fit"]) == pytest.approx((13, 1, (0.16 + 0.01) / 2))


def test_of_an_error_less_is_better(made_up, monkeypatch):
    error = Score("error", "Error rate", lambda t: (t.fp + t.fn) / t.total, higher_is_better=False)
    monkeypatch.setitem(SCORES, "error", error)
    turned = made_up.assign(val=1 - made_up["val"], test=1 - made_up["test"])
    expected, found = stopping_table(made_up), stopping_table(turned, score="error")
    same = ["rule", "epoch", "difference", "least", "most", "stopped"]
    pd.testing.assert_frame_equal(found[same], expected[same])
