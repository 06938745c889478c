"""Which columns become covariates, and the linear models on them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from irrbench.reliability.covariates import OTHER, make_design, regress_all, why_of_masks

N = 60


def manifest(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns, index=[f"i{place}" for place in range(N)])


def numbers(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=N)


def regress(frame: pd.DataFrame, y: np.ndarray, groups=range(N), wanted=None, level: float = 0.95) -> pd.DataFrame:
    design = make_design(frame, wanted, raters=["r1"], group_column=None)
    return regress_all(pd.DataFrame({"alpha": y}), design, list(groups), level=level)


class TestColumns:
    def test_what_looks_like_a_covariate_is_one(self):
        frame = manifest(
            age=numbers(),
            site=["A", "B", "C"] * (N // 3),
            smoker=[True, False] * (N // 2),
            grade=np.arange(N) % 4,
            years=20 + np.arange(N) % (N - 1),
            split=["train", "val"] * (N // 2),
            patient=[f"p{i // 2}" for i in range(N)],
            annotation=np.arange(N),
            code=[f"x{i}" for i in range(N)],
            words=[f"w{i % 12}" for i in range(N)],
            area_r1=numbers(),
            constant=[1] * N,
            empty=[np.nan] * N,
        )
        design = make_design(frame, None, raters=["r1"], group_column="patient")
        assert list(dict.fromkeys(term.covariate for term in design.terms.values())) == [
            "age",
            "site",
            "smoker",
            "grade",
            "years",
        ]
        assert design.skipped == {
            "split": "says how images are used",
            "patient": "groups the images",
            "annotation": "every image has its own whole number, as a name has",
            "code": "nearly every image has its own value",
            "words": "12 categories, more than 10",
            "area_r1": "about a single rater",
            "constant": "one value only",
            "empty": "no values",
        }

    def test_what_is_computed_from_the_masks_is_none(self):
        measures = pd.DataFrame({"prevalence": np.exp(numbers(3)), "alpha": numbers(4)})
        frame = manifest(
            mean_pair_dice=numbers(5),
            Area=numbers(6),
            paired_eyes=[True, False] * (N // 2),  # no word of its own
            areal=numbers(7),
            diameter=measures["prevalence"].to_numpy() ** 0.5,
            size_class=pd.qcut(measures["prevalence"], 4, labels=list("abcd")).astype(str).to_numpy(),
            ease=(measures["alpha"] + 0.2 * numbers(8)).to_numpy(),
            texture=(measures["alpha"] + 1.5 * numbers(9)).to_numpy(),
            site=["A", "B", "C"] * (N // 3),
        )
        design = make_design(frame, None, raters=[], group_column=None, measures=measures)
        kept = list(dict.fromkeys(term.covariate for term in design.terms.values()))
        assert kept == ["paired_eyes", "areal", "texture", "site"]
        assert design.skipped["mean_pair_dice"].startswith("computed from the masks, by its name ('pair')")
        assert design.skipped["Area"].startswith("computed from the masks, by its name ('Area')")
        for name, measure in (("diameter", "prevalence"), ("size_class", "prevalence"), ("ease", "alpha")):
            assert design.skipped[name].startswith("probably computed from the masks: it shares ")
            assert f"of its ranks with {measure}; --covariates takes it in" in design.skipped[name]
        wanted = make_design(frame, ["diameter", "Area"], raters=[], group_column=None, measures=measures)
        assert list(dict.fromkeys(term.covariate for term in wanted.terms.values())) == ["diameter", "Area"]

    def test_many_small_categories_are_not_taken_for_the_masks(self):
        measures = pd.DataFrame({"prevalence": np.exp(numbers(3)), "alpha": numbers(4)})[:20]
        site = pd.Series([f"s{i % 9}" for i in range(20)], name="site")
        assert why_of_masks(site, measures) == ""

    def test_what_is_asked_for_is_taken(self):
        frame = manifest(annotation=np.arange(N), age=numbers())
        design = make_design(frame, ["annotation"], raters=[], group_column=None)
        assert [term.covariate for term in design.terms.values()] == ["annotation"]
        assert not make_design(frame, [], raters=[], group_column=None).terms

    def test_an_unknown_column_is_refused(self):
        with pytest.raises(ValueError, match="covariates: no column 'agee' in the manifest; its columns are age"):
            make_design(manifest(age=numbers()), ["agee"], raters=[], group_column=None)

    def test_the_most_frequent_category_is_the_reference_and_rare_ones_are_joined(self):
        site = ["A"] * 20 + ["B"] * 30 + ["C"] * 3 + ["D"] * 3 + ["E"] * 4
        design = make_design(manifest(site=site), None, raters=[], group_column=None)
        assert [term.contrast for term in design.terms.values()] == ["A vs B", f"{OTHER} vs B"]
        assert design.table.sum().tolist() == [20, 10]

    def test_numbers_are_standardised(self):
        design = make_design(manifest(age=10 + 3 * numbers()), None, raters=[], group_column=None)
        column = design.table.iloc[:, 0]
        assert (column.mean(), column.std()) == pytest.approx((0, 1))


class TestModel:
    def test_finds_what_was_put_in(self):
        age, site = numbers(), np.array(["A", "B", "B"] * (N // 3))
        y = 0.5 + 0.2 * (age - age.mean()) / age.std(ddof=1) + 0.1 * (site == "A")
        table = regress(manifest(age=age, site=site), y)
        assert table["contrast"].tolist() == [f"per SD ({age.std(ddof=1):.3g})", "A vs B"]
        np.testing.assert_allclose(table["estimate"], [0.2, 0.1], atol=1e-12)
        assert (table["n"] == N).all()

    def test_without_groups_the_interval_is_hc3(self):
        x, y = numbers(1), numbers(2)
        row = regress(manifest(x=x), y, level=0.9).iloc[0]
        design = np.column_stack([np.ones(N), (x - x.mean()) / x.std(ddof=1)])
        bread = np.linalg.inv(design.T @ design)
        beta = bread @ design.T @ y
        variance = np.zeros((2, 2))
        for one, value in zip(design, y, strict=True):
            leverage = one @ bread @ one
            variance += np.outer(one, one) * ((value - one @ beta) / (1 - leverage)) ** 2
        half = stats.t.ppf(0.95, N - 2) * math.sqrt((bread @ variance @ bread)[1, 1])
        assert (row["estimate"], row["low"], row["high"]) == pytest.approx((beta[1], beta[1] - half, beta[1] + half))

    def test_with_groups_images_of_one_group_may_be_alike(self):
        x, y, groups = numbers(1), numbers(2), np.arange(N) // 4
        row = regress(manifest(x=x), y, groups).iloc[0]
        design = np.column_stack([np.ones(N), (x - x.mean()) / x.std(ddof=1)])
        bread = np.linalg.inv(design.T @ design)
        residual = y - design @ (bread @ design.T @ y)
        meat = np.zeros((2, 2))
        for group in range(15):
            score = sum(design[i] * residual[i] for i in np.flatnonzero(groups == group))
            meat += np.outer(score, score)
        variance = bread @ meat @ bread * 15 / 14 * (N - 1) / (N - 2)
        half = stats.t.ppf(0.975, 14) * math.sqrt(variance[1, 1])
        assert row["high"] - row["estimate"] == pytest.approx(half)
        assert row["units"] == 15

    def test_terms_that_follow_from_others_are_named(self):
        x = numbers()
        table = regress(manifest(x=x, twice=2 * x + 1), numbers(3))
        assert table["reason"].tolist() == ["", "follows from the terms before it"]
        assert table["estimate"].isna().tolist() == [False, True]

    def test_gaps_are_left_out(self):
        x, y = numbers(), numbers(2)
        holes = x.copy()
        holes[:5] = np.nan
        y[-3:] = np.nan
        assert regress(manifest(x=holes), y)["n"].tolist() == [N - 8]

    @pytest.mark.parametrize(
        ("y", "groups", "reason"),
        [
            (np.ones(N), range(N), "the measure does not vary"),
            (np.full(N, np.nan), range(N), "0 images for 0 terms, expected 5 or more for each and for the intercept"),
            (numbers(2), np.arange(N) // 12, "60 images of 5 groups for 1 terms, expected 5 or more"),
        ],
    )
    def test_no_estimate_has_a_reason(self, y, groups, reason):
        row = regress(manifest(x=numbers()), y, groups).iloc[0]
        assert reason in row["reason"]
        assert math.isnan(row["estimate"])

    @pytest.mark.parametrize("groups", [range(N), np.arange(N) // 2])
    def test_a_category_of_one_image_or_patient_has_no_interval(self, groups):
        site = ["A"] * (N - 2) + ["B"] * (1 if len(set(groups)) == N else 2)
        site += ["A"] * (N - len(site))
        x, y = numbers(1), numbers(2)
        table = regress(manifest(x=x, site=site), y, groups).set_index("contrast")
        row = table.loc["B vs A"]
        assert math.isfinite(row["estimate"])
        assert math.isnan(row["low"])
        assert row["reason"] == "one image or group alone determines it"
        other = table.iloc[0]
        assert other["reason"] == ""
        assert math.isfinite(other["low"])

    def test_no_covariates_no_rows(self):
        assert regress(manifest(constant=[1] * N), numbers()).empty
