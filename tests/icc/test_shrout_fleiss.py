import math

import numpy as np
import pytest

from irrbench.icc import shrout_fleiss

TABLE = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
# R psych 2.2.9, ICC(x, lmer = FALSE): value, F, degrees of freedom, p, interval of 95 %, interval of 90 %.
ONE_WAY, TWO_WAY = (1.79467849224, (5, 18), 0.164768808344640), (11.02724795640, (5, 15), 0.000134566516484)
PSYCH = {
    "ICC(1,1)": (0.165741768405, ONE_WAY, (-0.1329323248748, 0.722560062328), (-0.0967222036577, 0.643398310704)),
    "ICC(2,1)": (0.289763779528, TWO_WAY, (0.0187865133747, 0.761084369649), (0.0429011915405, 0.691070606618)),
    "ICC(3,1)": (0.714840714841, TWO_WAY, (0.3424647650339, 0.945858259955), (0.4118341309190, 0.925832807680)),
    "ICC(1,k)": (0.442797133679, ONE_WAY, (-0.8844421552381, 0.912415420341), (-0.5450417247369, 0.878301035406)),
    "ICC(2,k)": (0.620050547599, TWO_WAY, (0.0711368153025, 0.927232040168), (0.1520370538560, 0.899476700114)),
    "ICC(3,k)": (0.909315542377, TWO_WAY, (0.6756747138163, 0.985891678169), (0.7368976785771, 0.980366056047)),
}
PUBLISHED = dict(zip(PSYCH, (0.165742, 0.289764, 0.714841, 0.442797, 0.620051, 0.909316), strict=True))


@pytest.mark.parametrize("form", PSYCH)
def test_figures_of_psych(form):
    value, (f, df, p), interval, narrow = PSYCH[form]
    found, narrower = shrout_fleiss(TABLE)[form], shrout_fleiss(TABLE, level=0.9)[form]
    assert found.df == df
    assert (found.value, found.f, found.p) == pytest.approx((value, f, p), rel=1e-9)
    assert (found.low, found.high) == pytest.approx(interval, rel=1e-9)
    assert (narrower.low, narrower.high) == pytest.approx(narrow, rel=1e-9)
    assert found.value == pytest.approx(PUBLISHED[form], abs=5e-7)


def test_two_targets_two_raters_by_hand():
    # 1 2 / 3 4: squares of targets 4, raters 1, residual 0, within 1 with 1, 1, 1 and 2 degrees of freedom.
    found = shrout_fleiss([[1, 2], [3, 4]])
    assert found["ICC(1,1)"].value == pytest.approx((4 - 0.5) / (4 + 0.5))
    assert found["ICC(2,1)"].value == pytest.approx(4 / (4 + 2 * 1 / 2))
    assert found["ICC(3,1)"].value == 1
    assert found["ICC(3,1)"].f == math.inf
    assert found["ICC(3,1)"].p == 0
    assert found["ICC(2,k)"].value == pytest.approx(4 / (4 + 1 / 2))
    assert found["ICC(3,1)"][1:3] == (1, 1)


def test_mean_squares_target_by_target():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(7, 3)) + rng.normal(size=(7, 1))
    grand = sum(sum(row) for row in y) / 21
    between = 3 * sum((sum(row) / 3 - grand) ** 2 for row in y) / 6
    within = sum((x - sum(row) / 3) ** 2 for row in y for x in row) / 14
    assert shrout_fleiss(y)["ICC(1,1)"].value == pytest.approx((between - within) / (between + 2 * within))
    assert shrout_fleiss(y)["ICC(1,k)"].value == pytest.approx((between - within) / between)


def test_identical_raters_give_1_and_shifts_matter_to_absolute_agreement_alone():
    same = np.repeat([[1.0], [4.0], [2.0], [7.0]], 3, 1)
    for form in shrout_fleiss(same).values():
        assert (form.value, form.low, form.high, form.p) == (1, 1, 1, 0)
    shifted = shrout_fleiss(same + np.array([0, 2, 5]))
    assert shifted["ICC(3,1)"].value == 1
    assert shifted["ICC(1,1)"].value < shifted["ICC(2,1)"].value < 1
    turned, scaled = shrout_fleiss(TABLE[::-1, ::-1]), shrout_fleiss(3 * TABLE + 8)
    for name, form in shrout_fleiss(TABLE).items():
        assert turned[name].value == pytest.approx(form.value)
        assert scaled[name].low == pytest.approx(form.low)


def test_ratings_that_are_all_alike_have_no_reliability():
    for form in shrout_fleiss(np.full((4, 3), 0.1)).values():
        assert math.isnan(form.value)
        assert math.isnan(form.p)


@pytest.mark.parametrize("form", ["ICC(1,1)", "ICC(2,1)", "ICC(3,1)"])
def test_intervals_cover_the_truth(form):
    rng, hits = np.random.default_rng(1), 0
    rater = {"1": 0.0, "2": 0.5, "3": 0.5}[form[4]]
    truth = 1 / (1 + 0.5 + (rater**2 if form[4] == "2" else 0))
    for _ in range(200):
        y = rng.normal(size=(15, 1)) + rng.normal(0, rater, 12) + rng.normal(0, 0.5**0.5, (15, 12))
        hits += shrout_fleiss(y)[form].low < truth < shrout_fleiss(y)[form].high
    assert 180 <= hits <= 199


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ([[1, 2]], r"at least two targets by two raters; found \(1, 2\)"),
        ([1, 2], r"complete \(N, R\) table"),
        ([[1, math.nan], [2, 3]], r"found \(2, 2\) with 1 missing. Leave incomplete rows out, or use `extent_icc`"),
    ],
)
def test_refuses_tables(ratings, message):
    with pytest.raises(ValueError, match=message):
        shrout_fleiss(ratings)


def test_refuses_levels():
    with pytest.raises(ValueError, match="0 < `level` < 1, found 95"):
        shrout_fleiss(TABLE, level=95)
