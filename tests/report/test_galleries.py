"""The images that are shown are those that the text says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from irrbench.report.galleries import choose_images, contour_key, empty_masks, image_numbers
from tests.other_scores import register

IDS = [f"i{place}" for place in range(12)]
CEILING = [0.8] * 12
BEST = [0.0, 0.75, 0.3, 0.9, 0.5, 0.79, 0.6, 0.7, 0.1, 0.78, 0.65, 0.85]
OTHER = [0.1, 0.60, 0.79, 0.5, 0.4, 0.20, 0.5, 0.6, 0.2, 0.70, 0.60, 0.80]
ALPHA = [0.9, 0.20, 0.95, 0.3, 0.8, 0.10, 0.7, 0.6, 0.1, 0.85, np.nan, 0.4]


def per_image(**models):
    parts = [("ceiling", "ceiling", CEILING), ("floor", "floor", [0.05] * 12)]
    parts += [(name, "model", values) for name, values in models.items()]
    return pd.concat(
        [
            pd.DataFrame({"name": name, "role": role, "image_id": IDS, "iou": values}).sample(frac=1, random_state=0)
            for name, role, values in parts
        ]
    )


def choose(**models):
    agreement = pd.Series(ALPHA, index=IDS).sample(frac=1, random_state=1)
    choices = choose_images(per_image(**models), agreement, score="iou", best=next(iter(models)))
    return {choice.name: choice for choice in choices}


def test_worst_median_and_best_of_the_best_model():
    captions = choose(unet=BEST, fpn=OTHER)["ranked"].captions
    order = [IDS[place] for place in np.argsort(BEST, kind="stable")]
    assert list(captions) == [*order[:3], *order[5:8], *order[-3:]]
    assert [caption.split(":")[0] for caption in captions.values()] == ["Worst"] * 3 + ["Median"] * 3 + ["Best"] * 3


def test_all_models_fail_where_raters_agree():
    # Above the median agreement (0.6): i0, i2, i4, i6, i7, i9; behind by .7, .01, .3, .2, .1, .02.
    captions = choose(unet=BEST, fpn=OTHER)["failures"].captions
    assert list(captions) == ["i0", "i4", "i6", "i7"]


@pytest.mark.parametrize("gallery", ["ranked", "failures", "disagreement"])
def test_where_lower_is_better_the_same_images_are_chosen(monkeypatch, gallery):
    register(monkeypatch)
    frame = per_image(unet=BEST, fpn=OTHER)
    agreement = pd.Series(ALPHA, index=IDS)
    turned = frame.assign(error=1 - frame["iou"]).drop(columns="iou")
    one, other = (
        {choice.name: list(choice.captions) for choice in choose_images(table, agreement, score=score, best="unet")}
        for table, score in ((frame, "iou"), (turned, "error"))
    )
    assert one[gallery] == other[gallery]


def test_no_failure_where_some_model_reaches_the_raters():
    assert "failures" not in choose(unet=BEST, good=[0.9] * 12)


def test_raters_disagree():
    assert list(choose(unet=BEST)["disagreement"].captions) == ["i5", "i8", "i1", "i3"]


def test_captions_have_the_numbers():
    captions = choose(unet=BEST, fpn=OTHER)["failures"].captions
    assert captions["i0"] == (
        "i0. IoU 0.00; average rater 0.80, naive rater 0.05; agreement 0.90; the 2 models 0.00 to 0.10."
    )
    assert "models" not in choose(unet=BEST)["disagreement"].captions["i5"]


def test_numbers_of_an_image_do_not_depend_on_the_order_of_rows():
    numbers = image_numbers(per_image(unet=BEST, fpn=OTHER), pd.Series(ALPHA, index=IDS), score="iou", best="unet")
    assert numbers.index.tolist() == sorted(IDS)
    assert numbers.loc["i2", ["best", "lowest", "highest", "agreement"]].tolist() == [0.3, 0.3, 0.79, 0.95]


def test_undefined_scores_and_agreements_are_left_out():
    gaps = [np.nan, *BEST[1:]]
    found = choose(unet=gaps)
    assert "i0" not in found["ranked"].captions
    assert "i0" not in found["failures"].captions
    assert "i10" not in found["disagreement"].captions


def test_nothing_is_chosen_where_nothing_is_defined():
    assert choose_images(per_image(unet=[np.nan] * 12), pd.Series(dtype=float), score="iou", best="unet") == []


@pytest.mark.parametrize("count", range(1, 13))
def test_each_image_of_the_ranking_is_shown_once_and_all_ranks_are_there(count):
    values = [*BEST[:count], *[np.nan] * (12 - count)]
    captions = choose(unet=values)["ranked"].captions
    assert len(captions) == min(count, 3 * max(1, min(3, count // 3)))
    words = [caption.split(":")[0] for caption in captions.values()]
    assert [*dict.fromkeys(words)] == [["Worst"], ["Worst", "Best"], ["Worst", "Median", "Best"]][min(count, 3) - 1]
    ranked = [IDS[place] for place in np.argsort(values[:count], kind="stable")]
    assert sorted(captions, key=ranked.index) == list(captions)
    assert ranked[0] in captions
    assert ranked[-1] in captions
    assert ranked[count // 2] in captions


def test_who_marked_nothing():
    assert empty_masks([3, 0], prediction=0) == "1 of 2 raters marked nothing; the model marked nothing"
    assert empty_masks([3, 1], prediction=2) == ""


def test_the_key_names_raters_as_long_as_there_are_colours():
    assert [stroke.label for stroke in contour_key(["anna", "ben"])] == ["the model", "anna", "ben"]
    each, majority = "thin: one line per rater", "their majority"
    assert [stroke.label for stroke in contour_key([])] == ["the model", each]
    many = contour_key([f"rater {place}" for place in range(9)])
    assert [stroke.label for stroke in many] == ["the model", each, majority]
