"""How far apart raters draw a border: distances of pairs, their quantile over images, and the tables of a study."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from scipy import ndimage

from irrbench import mask_bounds
from irrbench.config import ConfigError, StudyOptions, load_study_config
from irrbench.data import DataError, RaterData
from irrbench.reliability import study
from irrbench.reliability.borders import (
    BORDER_TOLERANCE,
    as_tolerance,
    border_distances,
    far_images,
    pooled_quantile,
    quantile_interval,
    rater_tolerance,
)
from irrbench.report.raters import findings
from irrbench.surfaces import rater_distances
from tests.reliability.conftest import QUICK

RNG = np.random.default_rng(5)


def slow_distances(masks, roi, present, spacing):
    """By scipy's distance transform and erosion, pair by pair."""
    found = {}
    marks = [mask & roi for mask in masks]
    borders = [m & ~ndimage.binary_erosion(m, ndimage.generate_binary_structure(m.ndim, 1)) for m in marks]
    for one, other in combinations(range(len(masks)), 2):
        if present[one] and present[other] and marks[one].any() and marks[other].any():
            both = [(borders[one], borders[other]), (borders[other], borders[one])]
            found[one, other] = np.concatenate(
                [ndimage.distance_transform_edt(~to, sampling=spacing)[of] for of, to in both]
            )
    return found


def random_images(shape, raters=4, number=12, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(number):
        smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.2)
        masks = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 1) / 3 + smooth > 0.1 for _ in range(raters)])
        masks[rng.integers(raters)] &= rng.random() < 0.8
        yield masks, rng.random(shape) < 0.9, rng.random(raters) < 0.8, rng.uniform(0.3, 2, len(shape))


@pytest.mark.parametrize("shape", [(11, 17), (5, 8, 9)])
def test_distances_of_pairs_equal_those_of_a_slow_loop(shape):
    some = 0
    for masks, roi, present, spacing in random_images(shape):
        expected = slow_distances(masks, roi, present, spacing)
        found = rater_distances(torch.from_numpy(masks), roi=roi, present=present, spacing=spacing)
        assert found.keys() == expected.keys()
        for pair, values in expected.items():
            np.testing.assert_allclose(found[pair], values, rtol=1e-9)
            some += len(values)
    assert some > 1000


def test_by_hand():
    masks = np.zeros((4, 6, 9), bool)
    masks[0, 2, 1:4] = masks[1, 2, 1:7] = masks[2, 4, 2:3] = True  # three lines; rater 3 marks nothing
    found = rater_distances(masks, spacing=(2.0, 1.0))
    assert list(found) == [(0, 1), (0, 2), (1, 2)]
    assert found[0, 1].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3]
    assert found[0, 2].tolist() == [math.sqrt(17), 4, math.sqrt(17), 4]
    image = border_distances(masks, roi=None, present=np.ones(4, bool), spacing=(2.0, 1.0))
    assert image.pairs[0].tolist() == [pytest.approx(6 / 9), pytest.approx(2.6)]
    assert np.isnan(image.pairs[[2, 4, 5]]).all()  # those with rater 3
    everything = np.concatenate(list(found.values()))
    assert pooled_quantile([image]) == pytest.approx(np.quantile(everything, 0.95))
    absent = border_distances(masks, roi=None, present=np.array([1, 1, 0, 1], bool), spacing=(2.0, 1.0))
    assert pooled_quantile([absent]) == pytest.approx(np.quantile(found[0, 1], 0.95))


def test_the_quantile_is_of_all_distances_of_all_images_whatever_their_order():
    cases = list(random_images((9, 10), number=8))
    images = [border_distances(m, roi=roi, present=p, spacing=s) for m, roi, p, s in cases]
    gathered = np.concatenate([x for m, roi, p, s in cases for x in slow_distances(m, roi, p, s).values()])
    for share in (0.0, 0.5, 0.95, 1.0):
        assert pooled_quantile(images, share) == pytest.approx(np.quantile(gathered, share), rel=1e-9)
        assert pooled_quantile(images[::-1], share) == pooled_quantile(images, share)
    for order in list(permutations(range(4)))[5:7]:
        other = [border_distances(m[list(order)], roi=roi, present=p[list(order)], spacing=s) for m, roi, p, s in cases]
        assert pooled_quantile(other) == pytest.approx(pooled_quantile(images))
    assert math.isnan(pooled_quantile([]))


def test_the_interval_holds_the_quantile_of_the_population():
    """300 samples of 30 images, whose distances are drawn image by image around one of many levels."""
    rng = np.random.default_rng(1)
    sizes, held = rng.integers(5, 60, (300, 30)), 0

    def draw(size):
        values = np.round(rng.exponential(rng.uniform(0.5, 2), size), 1)
        distances, counts = np.unique(values, return_counts=True)
        return BORDERS._replace(distances=distances, counts=counts)

    truth = pooled_quantile([draw(30) for _ in range(20_000)])
    for sample in sizes:
        low, high = quantile_interval([draw(size) for size in sample], range(30), level=0.95)
        held += low <= truth <= high
    assert 0.88 < held / 300 < 0.99


BORDERS = border_distances(np.ones((2, 2, 2), bool), roi=None, present=np.ones(2, bool), spacing=None)


def test_one_group_has_no_interval():
    images = [border_distances(m, roi=None, present=p, spacing=None) for m, _, p, _ in random_images((9, 10), number=3)]
    assert np.isnan(quantile_interval(images, ["a"] * 3, level=0.95)).all()


def test_a_tolerance_holds_its_distance():
    for distance in (2**0.5, 13**0.5, 0.1 * 3, 123.456, 0.00071):
        assert distance <= as_tolerance(distance) * (1 + 1e-6) <= distance * 1.001
    assert as_tolerance(3.0) == 3.0


def test_a_tolerance_that_is_a_multiple_of_a_spacing_in_single_precision_holds_so_many_pixels():
    masks = torch.zeros(1, 2, 3, 12, dtype=torch.bool)
    masks[0, 0, 1, 2:6] = masks[0, 1, 1, 2:9] = True  # lines, one 3 pixels longer
    spacing = [float(np.float32(0.8))] * 2
    for tolerance, share in ((2.4, 1.0), (2.39, 10 / 11)):
        bounds = mask_bounds(masks, scores=["nsd"], spacing=spacing, tolerance=tolerance)
        assert bounds.ceiling["nsd"].item() == pytest.approx(share)


def data_of(masks, **options):
    return RaterData.from_arrays([np.zeros((1, *m.shape[1:]), np.float32) for m in masks], masks, **options)


def squares(number=14, raters=3, *, seed=0):
    rng, masks = np.random.default_rng(seed), np.zeros((number, raters, 20, 24), bool)
    for image in masks:
        for mask in image:
            top, left, size = rng.integers(3, 6), rng.integers(3, 9), rng.integers(6, 11)
            mask[top : top + size, left : left + size] = True
    return masks


def test_raters_who_give_no_tolerance():
    nothing, alike = np.zeros((2, 3, 8, 8), bool), np.ones((2, 3, 8, 8), bool)
    for masks, why in ((nothing, "no two raters marked something"), (alike, "95 % of all border pixels coincide")):
        with pytest.raises(ConfigError, match=f"on the training images, and {why}. Give a number"):
            rater_tolerance(data_of(list(masks)), progress=False)
    masks = squares()
    expected = as_tolerance(
        pooled_quantile([border_distances(m, roi=None, present=np.ones(3, bool), spacing=None) for m in masks])
    )
    assert rater_tolerance(data_of(list(masks)), progress=False) == (expected, "")
    in_mm = data_of(list(masks), spacings=[(0.5, 0.5)] * len(masks))
    assert rater_tolerance(in_mm, progress=False)[0] == pytest.approx(expected / 2, rel=2e-3)


def test_images_that_decide_the_tolerance_are_named():
    def image(*distances):
        return BORDERS._replace(distances=np.array(distances), counts=np.array([95, *[5] * (len(distances) - 1)]))

    near = [image(0.0, 1.0, 2.0)] * 7  # the 95th percentile of each is 1
    ids = list("abcdefgh")
    assert pooled_quantile(near[:1]) == 1
    assert far_images(near, ids[:7], "px") == far_images([], [], "px") == ""
    wide = BORDERS._replace(distances=np.array([60.0]), counts=np.array([100]))
    assert far_images([*near, wide], ids, "mm") == (
        "1 of 8 images (h) decides the tolerance by the raters, 60 mm: without it it is 1 mm. Look whether raters "
        "drew different objects there."
    )
    nobody = BORDERS._replace(distances=np.empty(0), counts=np.empty(0, np.int64))
    assert "1 of 7 images (c)" in far_images([nobody, near[0], wide, *near[:5]], ids, "px")
    text = far_images([*near, *[wide] * 4], [*map(str, range(11))], "px")
    assert text.startswith(
        "4 of 11 images (7, 8, 9 and 1 more) decide the tolerance by the raters, 60 px: without them"
    )
    few = wide._replace(counts=np.array([10]))  # as far, but too little to decide anything
    assert far_images([*near, few], ids, "px") == ""


def test_a_study_and_a_tolerance_warn_of_an_image_on_which_another_object_was_drawn():
    masks = np.zeros((8, 2, 60, 70), bool)
    masks[:, 0, 3:9, 3:9] = masks[:, 1, 3:10, 3:9] = True
    masks[7, 1] = False
    masks[7, 1, 40:58, 50:68] = True
    data = data_of(list(masks))
    tolerance, caution = rater_tolerance(data, progress=False)
    assert tolerance > 30
    assert f"1 of 8 images ({data.image_ids[7]})" in caution
    assert "without it it is 1 px" in caution
    made = study(data, OPTIONS, progress=False)
    assert caution in made.warnings
    assert caution in made.remarks
    row = made.across[made.across["measure"] == BORDER_TOLERANCE].iloc[0]
    assert row["reason"] == f"of 8 pairs of raters on 8 images, who both marked something. {caution.rstrip('.')}"
    assert any(caution in text for text in findings(made))  # beside the value


OPTIONS = StudyOptions(
    **{**{n: getattr(QUICK, n) for n in ("cells", "resamples", "quadrature", "min_images")}, "exclude_below": 0.0},
    scores=["iou", "nsd", "hd95", "lesion_f1"],
    tolerance=1.5,
)


@pytest.fixture(scope="module")
def masks():
    found = squares()
    found[3, 1] = False  # a rater who saw nothing there
    return found


@pytest.fixture(scope="module")
def found(masks):
    present = np.ones((len(masks), 3), bool)
    present[5, 0] = False
    return study(data_of(list(masks), present=present, spacings=[(0.5, 2.0)] * len(masks)), OPTIONS, progress=False)


def test_a_study_scores_borders_as_the_function_does(masks, found):
    for i in (0, 3, 5):
        there = torch.tensor([[i != 5, True, True]])
        rules = {"spacing": (0.5, 2.0), "tolerance": 1.5, "present": there}
        bounds = mask_bounds(torch.from_numpy(masks[i])[None], None, OPTIONS.scores, **rules)
        for score in OPTIONS.scores:
            for who in ("ceiling", "floor"):
                value = getattr(bounds, who)[score].item()
                assert found.per_image[f"{score}_{who}"][i] == pytest.approx(value, nan_ok=True)
    table = found.scores.set_index("score")
    assert table.loc["nsd", "ceiling"] == pytest.approx(found.per_image["nsd_ceiling"].mean())
    assert table.loc["hd95", "blank"] > table.loc["hd95", "ceiling"]
    assert table["title"].tolist() == ["IoU", "NSD at 1.5 mm (surface Dice)", "HD95 in mm", "Lesion F1 at IoU 0.1"]
    assert {"nsd", "hd95"} <= set(found.raters)


def test_without_a_rater_is_as_if_that_rater_had_never_drawn(masks, found):
    others = study(
        data_of(list(masks[:, 1:]), raters=["r2", "r3"], spacings=[(0.5, 2.0)] * len(masks)), OPTIONS, progress=False
    )
    without = found.leave_one_out[found.leave_one_out["left_out"] == "r1"].set_index("measure")["mean"]
    for name in ("nsd_ceiling", "hd95_ceiling", "lesion_f1_floor", "border_distance", "border_distance_95"):
        assert without[name] == pytest.approx(others.summary.set_index("measure")["mean"][name]), name


def test_a_study_says_how_far_apart_borders_are(masks, found):
    images = [slow_distances(m, np.ones((20, 24), bool), [i != 5, True, True], (0.5, 2.0)) for i, m in enumerate(masks)]
    means = [np.mean([values.mean() for values in image.values()]) for image in images]
    np.testing.assert_allclose(found.per_image["border_distance"], means)
    ninety_fifths = [np.mean([np.quantile(values, 0.95) for values in image.values()]) for image in images]
    np.testing.assert_allclose(found.per_image["border_distance_95"], ninety_fifths)
    row = found.across.set_index("measure").loc[BORDER_TOLERANCE]
    everything = np.concatenate([values for image in images for values in image.values()])
    assert row["value"] == pytest.approx(np.quantile(everything, 0.95))
    assert row["low"] < row["value"] < row["high"]
    assert row["reason"] == "of 38 pairs of raters on 14 images, who both marked something"
    pairs = found.pairs.set_index(["first", "second"])
    of_one = [image[1, 2].mean() for image in images if (1, 2) in image]
    assert pairs.loc[("r2", "r3"), "border"] == pytest.approx(np.mean(of_one))
    assert (pairs["border_low"] <= pairs["border"]).all()
    assert (pairs["border"] < pairs["border_95"]).all()


def test_the_report_says_the_tolerance(found):
    from irrbench.report.page import render
    from irrbench.report.raters import findings, study_page

    (said,) = [text for text in findings(found) if text.startswith("Two raters' borders lie")]
    value = found.across.set_index("measure").loc[BORDER_TOLERANCE, "value"]
    assert f"within {value:.2f} (" in said
    assert "mm: a tolerance for the surface Dice (nsd) by which a model's border is as near as another rater's." in said
    assert said.endswith("Counted are 38 pairs of raters on 14 images, who both marked something.")
    html = render(study_page(found, {}, config={}, command=""))
    assert "Tolerance by the raters in mm" in html
    assert "NSD at 1.5 mm" in html


def test_spacing_of_some_images_alone():
    mixed = data_of(list(squares(6)), spacings=[(0.5, 2.0), None] * 3)
    options = StudyOptions(cells=[2], quadrature=False, exclude_below=0.0, resamples=20)
    in_pixels = study(data_of(list(squares(6))), options, progress=False)
    assert study(mixed, options, progress=False).per_image.equals(in_pixels.per_image)
    with pytest.raises(DataError, match="no spacing; expected one, as 3 of 6 images have: else nsd would mix"):
        study(mixed, StudyOptions(scores=["nsd"]), progress=False)


def test_options_that_no_score_depends_on_change_no_key():
    plain = StudyOptions().as_key()
    assert not {"tolerance", "lesion_iou"} & set(plain)
    assert StudyOptions(tolerance=3.0).as_key() == plain
    assert StudyOptions(scores=["nsd"], tolerance=3.0).as_key()["tolerance"] == 3.0
    with pytest.raises(ConfigError, match=r"study: `ties='exclude'` leaves single pixels out .*, which hd95 cannot"):
        load_study_config(None, ["--study.scores", "[hd95]", "--study.ties", "exclude"])
    with pytest.raises(ConfigError, match=r"study.tolerance"):
        load_study_config(None, ["--study.tolerance", "0"])
