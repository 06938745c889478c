"""Cautions and notes, each with the case in which it would be untrue."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from irrbench import SegmentationBounds
from irrbench.analysis.results import Questions, build_results
from irrbench.commands.outputs import ties_in_words
from tests.analysis.test_leaderboard import table

N, SIDE = 24, 12


def masks(seed=0, raters=4):
    """Squares whose edges each rater moves by a pixel or not, (N, R, SIDE, SIDE)."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((N, raters, SIDE, SIDE), bool)
    for image in drawn:
        for rater in image:
            top, left = 3 + rng.integers(-1, 2, 2)
            rater[top : top + 5, left : left + 5] = True
    return torch.from_numpy(drawn)


def scored(preds, drawn, scores=("iou",), present=None, **rules):
    metric = SegmentationBounds(scores, from_logits=False, **rules)
    metric.update(preds, drawn, None, [f"i{i:02}" for i in range(len(drawn))], present)
    return metric.per_image()


def cautions(frame, **asked):
    return list(build_results({"net": frame}, questions=Questions(**asked)).cautions)


def notes(frame):
    return " ".join(build_results({"net": frame}).notes)


class TestPredictionsThatAreNoNumbers:
    def frames(self, *broken):
        """A table for each set of images whose predictions are no numbers."""
        drawn, ids = masks(), [f"i{i:02}" for i in range(N)]
        frames = []
        for number, images in enumerate(broken):
            logits = torch.randn(N, SIDE, SIDE, generator=torch.Generator().manual_seed(number))
            logits[list(images), 1, 2] = [torch.nan, torch.inf, -torch.inf][number]
            metric = SegmentationBounds(["iou"])
            metric.update(logits, drawn, None, ids)
            frames.append(metric.per_image())
        return frames

    def test_are_said_of_each_model_and_are_in_the_table(self):
        one, two, none = self.frames([3], [0, 5], [])
        results = build_results({"unet": one, "fpn": two, "good": none})
        worse = "that are no numbers; they count as the worse of marking everything and nothing."
        assert results.cautions == (
            f"unet: 1 of 24 test images had predictions {worse}",
            f"fpn: 2 of 24 test images had predictions {worse}",
        )
        board = results.leaderboard.set_index("name")["caution"]
        assert board["unet"] == f"1 of 24 test images had predictions {worse}"
        assert set(board.drop(["unet", "fpn"])) == {""}
        table = results.per_image
        bad = table[table["unusable"]]
        assert set(zip(bad["name"], bad["image_id"], strict=True)) == {("unet", "i03"), ("fpn", "i00"), ("fpn", "i05")}
        assert results.above_majority == ()

    def test_no_column_where_all_are_numbers(self):
        results = build_results({"good": self.frames([])[0]})
        assert "unusable" not in results.per_image
        assert results.cautions == ()

    def test_seeds_of_a_model(self):
        one, two, none = self.frames([3], [3, 5], [])
        seeds = dict.fromkeys(("s0", "s1", "s2"), "unet")
        results = build_results({"s0": one, "s1": two, "s2": none}, models=seeds)
        (text,) = results.cautions
        assert text.startswith(
            "unet: 2 of 24 test images had predictions that are no numbers (from 2 of 3 seeds); they"
        )
        assert results.per_image.query("unusable")["image_id"].tolist() == ["i03", "i05"]

    def test_beside_a_leak(self):
        drawn = masks()
        logits = drawn[:, 1].float() - 0.5
        logits[4, 0, 0] = torch.nan
        metric = SegmentationBounds(["iou"])
        metric.update(logits, drawn, None, [f"i{i:02}" for i in range(N)])
        results = build_results({"net": metric.per_image()})
        caution = results.leaderboard.query("name == 'net'")["caution"].item()
        assert caution.startswith("its mask equals a rater's on 100 % of the 23 images")
        assert "1 of 24 test images had predictions that are no numbers" in caution
        assert [text.split(" ")[1] for text in results.cautions] == ["its", "1"]


class TestLeaks:
    def test_a_raters_own_masks(self):
        drawn = masks()
        (text,) = cautions(scored(drawn[:, 1], drawn))
        copy = "pixel by pixel: a copy of the masks, not a prediction of them."
        assert text == f"net: its mask equals a rater's on 100 % of the 24 images on which it marks something, {copy}"
        board = build_results({"net": scored(drawn[:, 1], drawn)}).leaderboard
        assert board.loc[board["role"] == "model", "caution"].item().startswith("its mask equals a rater's")
        assert (board.loc[board["role"] != "model", "caution"] == "").all()

    def test_a_rater_who_often_marks_nothing(self):
        drawn = masks()
        drawn[:15, 1] = False
        (text,) = cautions(scored(drawn[:, 1], drawn))
        assert text.startswith("net: its mask equals a rater's on 100 % of the 9 images on which it marks something")

    @pytest.mark.parametrize(("copied", "is_copy"), [(N // 2, False), (N // 2 + 1, True)])
    def test_a_copy_is_one_on_most_images(self, copied, is_copy):
        frame = table([0.7] * N, ceiling=[0.7] * N, floor=[0.1] * N).assign(marked_pixels=5, roi_pixels=99)
        frame["equals_rater"] = np.arange(N) < copied
        assert build_results({"net": frame}).copies == (("net",) if is_copy else ())

    def test_there_is_no_verdict_on_a_copy_and_it_is_not_the_best(self):
        drawn = masks()
        other = drawn[:, 1].clone()
        other[:, 0] = ~other[:, 0]
        tables = {"copy": scored(drawn[:, 1], drawn), "net": scored(other, drawn)}
        results = build_results(tables, questions=Questions(margins={"iou": 0.9}, min_images=1))
        assert results.copies == ("copy",)
        assert results.leaderboard.query("rank == 1")["name"].item() == "copy"
        assert results.best["name"] == "net"
        verdict = results.verdicts.set_index(["name", "score"]).loc[("copy", "iou")]
        assert set(verdict[["floor_verdict", "ceiling_verdict", "equivalence_verdict"]]) == {"no verdict"}
        assert verdict["reason"] == "a copy of the raters' masks, not a prediction"
        stand_in = results.alternative.query("name == 'copy' and score == 'iou'")
        assert set(stand_in["verdict"]) == {"no verdict"}
        assert "copy" not in results.verdicts.set_index(["name", "score"]).loc[("net", "iou"), "reason"]
        alone = build_results({"copy": tables["copy"]})
        assert alone.best["name"] == "copy"

    def test_the_majoritys(self):
        drawn = masks(raters=5)
        (text,) = cautions(scored(2 * drawn.sum(1) > 5, drawn))
        assert text.startswith("net: its mask equals the majority's of all raters on 100 % of the 24 images on")

    def test_above_the_majority(self):
        bounds = {"ceiling": [0.5, 0.6, 0.55, 0.65], "floor": [0.1] * 4}
        (text,) = cautions(table([0.9, 0.95, 0.92, 0.93], **bounds))
        assert text == (
            "net: its IoU is better than that of the majority of all raters. Either it has seen these masks (a leak "
            "from the training data), or it agrees with the raters more than their majority."
        )

    @pytest.mark.parametrize("model", [[0.61, 0.71, 0.66, 0.74], [0.2, 0.9, 0.9, 0.95]])
    def test_none_where_the_interval_holds_the_majority(self, model):
        bounds = {"ceiling": [0.5, 0.6, 0.55, 0.65], "floor": [0.1] * 4}  # the majority is 0.1 higher
        assert np.mean(model) > 0.675
        assert cautions(table(model, **bounds)) == []

    def test_a_blank_mask_is_no_copy_of_a_rater_who_marks_nothing(self):
        drawn = masks()
        drawn[:, 0] = False
        frame = scored(torch.zeros_like(drawn[:, 0]), drawn)
        assert not frame["equals_rater"].any()
        assert cautions(frame) == []

    def test_a_full_mask_is_no_copy_either(self):
        drawn = masks()
        drawn[:, 0] = True
        frame = scored(torch.ones_like(drawn[:, 0]), drawn)
        assert frame["equals_rater"].all()
        assert cautions(frame) == []

    def test_a_score_of_one_kind_of_error_accuses_nobody(self):
        drawn = masks()
        timid = drawn.all(1)  # has a better PPV than the majority, and misses what all but one mark
        frame = scored(timid, drawn, ("ppv", "iou"))
        assert frame["ppv"].mean() > frame["ppv_majority"].mean()
        assert cautions(frame) == []


class TestEmptyReferences:
    def frame(self, rule="drop", scores=("iou", "accuracy", "kappa")):
        drawn = masks()
        drawn[:6] = False
        return scored(drawn[:, 0] & drawn[:, 1], drawn, scores, empty_reference=rule)

    def test_delineation_leaves_them_out(self):
        (text,) = cautions(self.frame())
        assert text == (
            "25 % of the references mark nothing (on 6 of 24 images). Values of IoU and Cohen's kappa are undefined "
            "there, so that a mark where nobody sees anything costs nothing: read them with Detection and False alarms."
        )

    def test_a_reference_that_is_empty_in_one_reading_alone(self):
        drawn = masks(raters=3)
        drawn[:6, 1:] = False  # one rater of three: a tie, without that one nothing
        frame = scored(drawn[:, 0], drawn, ("iou",))
        (text,) = (c for c in cautions(frame) if "mark nothing" in c)
        assert text.endswith("counts half, and everybody's score on it is that of the other reading.")
        assert "counts half" not in " ".join(cautions(frame, ties="negative"))
        assert "counts half" not in " ".join(cautions(self.frame()))

    def test_not_where_they_are_scored(self):
        (text,) = cautions(self.frame("score"), empty_reference="score")
        assert "Values of IoU are the best value for no mark there and the worst for any" in text
        assert "costs nothing" not in text

    def test_nothing_to_say_without_a_score_that_leaves_them_out(self):
        assert cautions(self.frame(scores=("accuracy",))) == []

    def test_nothing_without_empty_references(self):
        assert cautions(scored(masks(1)[:, 0], masks())) == []

    def test_marks_where_nobody_sees_anything_come_out_worse(self):
        drawn = masks()
        drawn[:6] = False
        careful = torch.roll(drawn[:, 0], 1, -1)
        bold = careful.clone()
        bold[:6, :3, :3] = True
        found = build_results({"bold": scored(bold, drawn), "careful": scored(careful, drawn)})
        board = found.leaderboard.set_index("name")
        assert found.scores == ("iou", "detection", "false_alarm")
        assert board.loc["bold", "iou"] == board.loc["careful", "iou"]
        assert board.loc[["bold", "careful"], "false_alarm"].tolist() == [1, 0]
        assert board.loc[["careful", "bold"], "rank"].tolist() == [1, 2]
        assert list(board.index).index("careful") < list(board.index).index("bold")


class TestDistancesToNothing:
    """Who marks nothing where the reference does is at the diagonal, whoever it is."""

    def said(self, blank_raters, blank_preds, scores=("hd95", "masd")):
        drawn, preds = masks(), masks(1)[:, 0].float()
        drawn[:blank_raters, 0] = False
        preds[:blank_preds] = 0
        return [text for text in cautions(scored(preds, drawn, scores)) if text.startswith("A mask without marks")]

    def test_the_share_of_the_references_of_each_candidate(self):
        assert self.said(0, 0) == []
        (text,) = self.said(12, 6)  # one of four raters on half of the images
        assert ": average rater (ceiling) on 12 %, net on 25 % of the references that mark something." in text
        assert "Values of HD95 and MASD there say who marks nothing" in text

    def test_only_where_it_is_a_relevant_share(self):
        (text,) = self.said(0, 6, ("hd95",))
        assert "image: net on 25 % of the references" in text
        assert self.said(4, 1) == []  # 4 of 96 references
        assert self.said(12, 6, ("iou", "nsd")) == []


class TestNumbersOfRaters:
    def frame(self, **absent):
        drawn, present = masks(), torch.ones(N, 4, dtype=torch.bool)
        for image, raters in absent.items():
            present[int(image[1:]), raters:] = False
        return scored(torch.roll(drawn[:, 0], 1, -1), drawn, present=present)

    def test_different_numbers_do_not_compare(self):
        (text,) = cautions(self.frame(i3=3, i4=2))
        assert text.startswith(
            "Images have 2 to 4 raters. The same mask usually scores higher on the majority of more raters"
        )
        assert "'one rater on one other' does not depend on that number" in text

    def test_an_image_without_bounds_is_no_image_with_another_number(self):
        assert cautions(self.frame(i3=1)) == []

    def test_two_raters_are_a_pair(self):
        drawn = masks(raters=2)
        pair = "Images have two raters: each is scored on the other alone, so the ceiling is the agreement of the pair."
        assert pair in notes(scored(torch.roll(drawn[:, 0], 1, -1), drawn))
        assert "agreement of the pair" not in notes(self.frame())
        assert "agreement of the pair" not in notes(self.frame(i3=2))


class TestNormalized:
    def test_a_reason_is_about_the_bounds_and_not_about_one_candidate(self):
        frame = table([0.5, 0.4, 0.6], ceiling=[0.8, 0.7, 0.75], floor=[0.1, 0.1, 0.2])
        frame["iou_ceiling_of_two"] = frame["iou_upper"] = np.nan  # as of a score that is no function of votes
        results = build_results({"net": frame})
        assert results.no_shares == {}
        assert "No normalized" not in " ".join(results.notes)

    def test_one_image_has_no_interval_that_could_hold_anything(self):
        results = build_results({"net": table([0.5], ceiling=[0.8], floor=[0.1])})
        assert results.no_shares == {"iou": "ceiling - floor has no interval"}


@pytest.mark.parametrize(
    ("rule", "tied", "text"),
    [
        (
            "negative",
            [0.3, 0.32],
            "background (tied are 31 % of the pixels that at least half of the other raters mark)",
        ),
        ("positive", [0.0, 0.0], "foreground (no pixel of a reference is tied here)"),
        ("exclude", [np.nan], "left out of the reference (no pixel of a reference is tied here)"),
    ],
)
def test_ties(rule, tied, text):
    assert ties_in_words(rule, pd.DataFrame({"tied": tied, "n_raters": 3})) == text
    of_four = ties_in_words(rule, pd.DataFrame({"tied": tied, "n_raters": 4}))
    assert of_four == text[:-1] + "; the row 'majority of raters' has ties of its own)"
