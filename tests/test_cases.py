"""Images that are worth a look: by hand, against sorting, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from irrbench.cases import REASONS, Case, choose_cases

IDS = ["a", "b", "c", "d", "e", "f"]


def table_of(score="iou", *, model, ceiling=0.8, alpha=0.5, ids=IDS):
    return pd.DataFrame({"image_id": ids[: len(model)], score: model, f"{score}_ceiling": ceiling, "alpha": alpha})


def chosen(table, score="iou", **options):
    found = choose_cases(table, score=score, **options)
    return {reason: [case.image_id for case in found if case.reason == reason] for reason in REASONS}


def test_four_places_have_one_image_of_each_reason():
    table = table_of(model=[0.1, 0.5, 0.9, 0.6, 0.3, 0.7], alpha=[0.2, 0.9, 0.8, 0.1, 0.4, 0.95])
    # Of the clearest half, b, c and f, b is furthest behind .8.
    assert choose_cases(table, score="iou") == [
        Case("a", "worst"), Case("d", "disputed"), Case("b", "failed"), Case("c", "best"),
    ]  # fmt: skip


def test_where_lower_is_better_the_worst_is_the_largest():
    table = table_of("hd95", model=[1.0, 9.0, 4.0, 0.5], ceiling=2.0, alpha=[0.1, 0.2, 0.9, 0.8])
    assert chosen(table, "hd95") == {"worst": ["b"], "disputed": ["a"], "failed": ["c"], "best": ["d"]}


def test_only_an_image_on_which_raters_agree_and_are_better_is_failed():
    table = table_of(model=[0.2, 0.9, 0.5, 0.95], ceiling=[0.9, 0.8, 0.3, 0.9], alpha=[0.1, 0.9, 0.8, 0.7])
    assert chosen(table, count=8)["failed"] == []
    assert chosen(table.drop(columns="iou_ceiling"))["failed"] == []


def test_an_image_is_both_disputed_and_worst_but_not_worst_and_best():
    table = table_of(model=[0.1, 0.7], alpha=[0.1, 0.9])
    assert chosen(table, count=4) == {"worst": ["a"], "disputed": ["a", "b"], "failed": [], "best": ["b"]}
    assert chosen(table.head(1), count=4) == {"worst": ["a"], "disputed": ["a"], "failed": [], "best": []}


def test_equal_values_come_in_the_order_of_ids_whatever_the_order_of_rows():
    table = table_of(model=[0.5] * 6)
    for seed in range(3):
        again = table.sample(frac=1, random_state=seed)
        assert choose_cases(again, score="iou", count=8) == choose_cases(table, score="iou", count=8)
    assert chosen(table)["worst"] == ["a"]


def test_undefined_values_are_no_reason():
    nan = math.nan
    table = table_of(model=[nan, 0.4, 0.6], ceiling=[0.9, nan, 0.5], alpha=[0.5, nan, 0.7])
    assert chosen(table, count=3) == {"worst": ["b"], "disputed": ["a"], "failed": [], "best": ["c"]}
    assert choose_cases(table.assign(iou=nan, alpha=nan), score="iou") == []
    assert choose_cases(table, score="iou", count=0) == []
    assert choose_cases(table.head(0), score="iou") == []


@pytest.mark.parametrize("count", [1, 3, 6, 11, 16])
@pytest.mark.parametrize("score", ["iou", "hd95"])
def test_choices_are_the_ends_of_sorted_columns(score, count):
    rng = np.random.default_rng(count)
    ids = [f"image {place}" for place in range(40)]
    table = table_of(score, model=rng.random(40), ceiling=rng.random(40), alpha=rng.random(40), ids=ids)
    found, sign = chosen(table, score, count=count), 1 if score == "iou" else -1
    assert sum(map(len, found.values())) == count
    ranked = table.iloc[(sign * table[score]).argsort()]["image_id"].tolist()
    assert found["worst"] == ranked[: len(found["worst"])]
    assert found["best"] == ranked[::-1][: len(found["best"])]
    assert found["disputed"] == table.sort_values("alpha")["image_id"].head(len(found["disputed"])).tolist()
    others = {name for reason in ("worst", "best", "disputed") for name in found[reason]}
    clear = table[table["alpha"] >= table["alpha"].median()].set_index("image_id")
    behind = sign * (clear[f"{score}_ceiling"] - clear[score])
    left = behind[behind > 0].drop(others, errors="ignore").sort_values(ascending=False)
    assert found["failed"] == left.index[: len(found["failed"])].tolist()


def test_what_raters_dispute_does_not_depend_on_the_model():
    rng = np.random.default_rng(0)
    alpha = rng.random(6)
    epochs = [chosen(table_of(model=rng.random(6), alpha=alpha))["disputed"] for _ in range(5)]
    assert epochs == [[IDS[alpha.argmin()]]] * 5


def test_some_images_may_be_chosen_and_the_half_is_of_all():
    table = table_of(model=[0.1, 0.2, 0.3, 0.4], alpha=[0.1, 0.2, 0.8, 0.9])
    assert chosen(table, among={"b", "c", "x"}, count=3) == {
        "worst": ["b"],
        "disputed": ["b"],
        "failed": ["c"],
        "best": [],
    }


def test_reasons_can_be_chosen():
    table = table_of(model=[0.1, 0.5, 0.9, 0.6, 0.3])
    found = choose_cases(table, score="iou", count=3, reasons=("worst", "median", "best"))
    assert [(case.image_id, case.words) for case in found] == [("a", "worst"), ("b", "median"), ("c", "best")]
    assert [case.words for case in choose_cases(table, score="iou", count=2, reasons=["best"])] == ["best", "best 2"]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t, {"score": "f1"}, r"columns 'image_id', 'f1', 'alpha'; it lacks 'f1'"),
        (lambda t: t, {"score": "iou", "agreement": "icc_pixel"}, r"lacks 'icc_pixel'.*`agreement=`"),
        (lambda t: pd.concat([t, t]), {"score": "iou"}, r"one row an image; 2 rows"),
        (lambda t: t, {"score": "iou", "reasons": ["odd"]}, r"`reasons` must be some of 'worst'.*\['odd'\]"),
        (lambda t: t, {"score": "iou", "reasons": ["best", "best"]}, r"each once"),
        (lambda t: t, {"score": "iou", "count": -1}, r"`count` must be 0 or more; found -1"),
    ],
)
def test_refuses(change, options, message):
    with pytest.raises(ValueError, match=message):
        choose_cases(change(table_of(model=[0.1, 0.2])), **options)
