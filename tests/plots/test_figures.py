"""Figures show the numbers they are given, and leave matplotlib as it was."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.text import Text

from irrbench import plots
from irrbench.plots.files import PAGE_COLOURS, figure_pixels, inline_svg
from irrbench.plots.style import OTHERS, legend_columns, legend_labels, model_styles
from irrbench.plots.words import columns, isolate, shorten
from tests.report.frames import CEILING, curves, leaderboard, per_image

IMPORTS = (ast.Import, ast.ImportFrom)
MODELS = {"unet": 0.6, "fpn": 0.5, "pan": 0.75}


def lines(ax, *, gid=None, marker=None):
    return [line for line in ax.lines if line.get_gid() == gid and (marker is None or line.get_marker() == marker)]


def dots(ax):
    return [line for line in ax.lines if line.get_linestyle() == "None"]


def texts(figure):
    found = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return found + [text.get_text() for ax in figure.axes for text in ax.texts]


def relative_luminance(colour):
    channels = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


class TestColours:
    def test_models_are_distinct_coloured_and_visible_on_white_and_on_dark(self):
        assert len(set(plots.MODEL_COLOURS)) >= 10
        for colour in plots.MODEL_COLOURS:
            channels = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
            assert max(channels) - min(channels) > 40
            assert 1.05 / (relative_luminance(colour) + 0.05) >= 2.5
            assert (relative_luminance(colour) + 0.05) / (relative_luminance("#11171C") + 0.05) >= 2.5

    def test_twenty_four_models_have_twenty_four_styles(self):
        assert len(set(model_styles(f"m{place}" for place in range(24)).values())) == 24

    def test_a_given_colour_is_kept_in_every_figure(self):
        colours = {"pan": "#123456"}
        figures = [
            plots.band_plot(leaderboard(MODELS), colours=colours),
            plots.learning_curves(curves(MODELS), 0.04, 0.71, score="iou", colours=colours),
            plots.score_against_agreement(per_image(MODELS, 12), agreement(12), score="iou", colours=colours),
        ]
        for figure in figures:
            assert any(line.get_color() == "#123456" for ax in figure.axes for line in ax.lines)


class TestSubgroups:
    def frame(self):
        large, small = leaderboard({"unet": 0.6, "fpn": 0.5}), leaderboard({"unet": 0.4, "fpn": 0.3})
        small.loc[small["role"] == "ceiling", "iou"] = 0.55
        parts = [large.assign(column="site", subgroup="A"), small.assign(column="site", subgroup="B", n_images=7)]
        return pd.concat(parts, ignore_index=True)

    def test_each_has_its_own_bounds_models_and_count(self):
        ax = plots.subgroup_plot(self.frame(), score="iou", note="rendered images").axes[0]
        titles = [label.get_text() for label in ax.get_yticklabels()]
        assert titles == ["site:\nA\n(120 images)", "site:\nB\n(7 images)"]
        assert [line.get_xdata()[0] for line in lines(ax, gid="ceiling")] == [CEILING["iou"], 0.55]
        assert [dot.get_xdata()[0] for dot in dots(ax)] == [0.6, 0.5, 0.4, 0.3]
        assert "rendered images" in texts(ax.figure)

    def test_refuses_a_missing_column(self):
        with pytest.raises(ValueError, match=r"`subgroups` must have the columns.*missing subgroup"):
            plots.subgroup_plot(self.frame().drop(columns="subgroup"), score="iou")


class TestBandAxes:
    def test_of_one_score(self):
        figure, ax = plots.band_axes(
            {"iou": torch.tensor(0.62), "iou_floor": 0.04, "iou_ceiling": 0.71, "iou_majority": 0.8, "iou_upper": 0.9}
        )
        assert isinstance(figure, Figure)
        assert [dot.get_xdata()[0] for dot in dots(ax)] == [pytest.approx(0.62)]
        roles = ("floor", "ceiling", "majority", "upper")
        assert [lines(ax, gid=role)[0].get_xdata()[0] for role in roles] == [0.04, 0.71, 0.8, 0.9]

    def test_of_a_metrics_dictionary(self):
        values = {f"val/f1{end}": torch.tensor(0.5) for end in ("", "_floor", "_ceiling", "_upper", "_normalized")}
        values |= {"iou_floor": 0.1, "iou_ceiling": 0.7, "n_images": torch.tensor(3)}
        _, ax = plots.band_axes(values)
        assert [label.get_text() for label in ax.get_yticklabels()] == ["F1 (Dice)", "IoU"]
        assert len(dots(ax)) == 1

    def test_refuses_half_a_band(self):
        with pytest.raises(ValueError, match="needs a floor and a ceiling"):
            plots.band_axes({"iou_floor": 0.04})


def agreement(images=7):
    return pd.Series({f"i{image}": 0.1 * image for image in range(images)}, name="alpha")


class TestCurves:
    def test_lines_are_sorted_by_epoch_and_inside_the_axes(self):
        frame = curves(MODELS).sample(frac=1, random_state=0)
        ax = plots.learning_curves(frame, 0.04, 0.71, score="iou").axes[0]
        found = {tuple(line.get_ydata()) for line in ax.lines if line.get_gid() is None}
        assert found == {tuple(value * np.arange(1, 5) / 4) for value in MODELS.values()}
        low, high = ax.get_ylim()
        assert low < 0.04
        assert high > 0.75
        assert [lines(ax, gid=role)[0].get_ydata()[0] for role in ("floor", "ceiling")] == [0.04, 0.71]

    @pytest.mark.parametrize(("epochs", "expected"), [(1, [0]), (2, [0, 1]), (8, [*range(8)])])
    def test_epochs_are_whole_numbers(self, epochs, expected):
        figure = plots.learning_curves(curves(MODELS, epochs), 0.04, 0.71, score="iou")
        figure.draw_without_rendering()
        low, high = figure.axes[0].get_xlim()
        shown = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
        assert shown == expected
        assert low < 0
        assert high > epochs - 1

    def test_many_epochs_have_fewer_ticks(self):
        ticks = plots.learning_curves(curves(MODELS, 400), 0.04, 0.71, score="iou").axes[0].get_xticks()
        assert 2 < len(ticks) < 20
        assert all(tick == round(tick) for tick in ticks)

    def test_each_seed_has_a_line_and_each_model_one_colour_and_one_name(self):
        frame = pd.concat([curves(MODELS).assign(seed=seed) for seed in range(2)])
        figure = plots.learning_curves(frame, 0.04, 0.71, score="iou")
        drawn = [line for line in figure.axes[0].lines if line.get_gid() is None]
        assert len(drawn) == 2 * len(MODELS)
        assert len({line.get_color() for line in drawn}) == len(MODELS)
        assert [text.get_text() for text in figure.legends[0].get_texts()] == list(MODELS)

    @pytest.mark.parametrize(("floor", "ceiling"), [(0.3, 0.3), (0.5, 0.4), (0.1, 0.7)])
    def test_the_names_of_the_bounds_are_on_their_own_sides(self, floor, ceiling):
        figure = plots.learning_curves(curves(MODELS), floor, ceiling, score="iou")
        figure.draw_without_rendering()
        one, other = (text.get_window_extent() for text in figure.axes[0].texts)
        assert not one.overlaps(other)

    def test_of_many_models_the_best_five_are_coloured_and_named(self):
        models = {f"m{place}": 0.01 * place for place in range(40)}
        figure = plots.learning_curves(curves(models), 0.04, 0.71, score="iou", width="single")
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names == [*(f"m{place}" for place in range(35, 40)), "35 other models"]
        drawn = [line for line in figure.axes[0].lines if line.get_gid() is None]
        assert sum(line.get_color() == OTHERS.colour for line in drawn) == 35
        assert [handle.get_color() for handle in figure.legends[0].legend_handles][-1] == OTHERS.colour
        figure.draw_without_rendering()
        assert not figure.legends[0].get_window_extent().overlaps(figure.axes[0].get_window_extent())

    def test_undefined_bounds_are_left_out(self):
        ax = plots.learning_curves(curves(MODELS), np.nan, 0.71, score="iou").axes[0]
        assert lines(ax, gid="floor") == []

    def test_refuses_a_missing_column(self):
        with pytest.raises(ValueError, match="`curves` must have the columns name, epoch, f1; missing f1"):
            plots.learning_curves(curves(MODELS), 0, 1, score="f1")


class TestAgreement:
    @pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
    def test_one_panel_per_model(self, count):
        models = {f"m{place}": 0.1 * place for place in range(count)}
        figure = plots.score_against_agreement(per_image(models), agreement(), score="iou")
        assert [ax.get_title(loc="left") for ax in figure.axes] == list(models)
        raters, model = figure.axes[-1].collections
        np.testing.assert_allclose(model.get_offsets()[:, 0], agreement())
        np.testing.assert_allclose(model.get_offsets()[:, 1], models[f"m{count - 1}"] + 0.01 * np.arange(7))
        np.testing.assert_allclose(raters.get_offsets()[:, 1], 0.7 + 0.01 * np.arange(7))

    def test_of_many_models_the_best_six_have_panels(self):
        models = {f"m{place}": 0.01 * place for place in range(40)}
        figure = plots.score_against_agreement(per_image(models), agreement(), score="iou", width="double")
        assert [ax.get_title(loc="left") for ax in figure.axes] == [f"m{place}" for place in range(34, 40)]

    def test_in_a_page_each_dot_leads_to_its_image(self):
        frame = per_image({"m": 0.5}, 3).replace({"i1": "case 1/left"})
        svg = inline_svg(plots.score_against_agreement(frame, agreement(3).rename({"i1": "case 1/left"}), score="iou"))
        found = re.findall(r'href="(#image-[^"]*)"', svg)
        assert found == ["#image-i0", "#image-case%201%2Fleft", "#image-i2"]

    def test_line_joins_medians(self):
        ax = plots.score_against_agreement(per_image({"m": 0.0}, 25), agreement(25), score="iou").axes[0]
        np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.02, 0.07, 0.12, 0.17, 0.22])

    @pytest.mark.parametrize(("images", "lines"), [(4, 0), (9, 0), (10, 2)])
    def test_few_images_are_no_trend(self, images, lines):
        frame = per_image({"m": 0.0}, images)
        ax = plots.score_against_agreement(frame, agreement(images), score="iou").axes[0]
        assert len(ax.lines) == lines

    @pytest.mark.parametrize("note", ["", "rendered images"])
    def test_legend_note_and_titles_lie_on_no_data_and_not_on_each_other(self, note):
        frame, x = per_image({f"m{place}": 0.5 for place in range(4)}, 30), agreement(30)
        figure = plots.score_against_agreement(frame, x, score="iou", note=note)
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        boxes = [ax.get_window_extent() for ax in figure.axes]
        boxes += [ax.title.get_window_extent() for ax in figure.axes]
        if note:
            boxes += [text.get_window_extent() for text in figure.texts if text.get_text() == note]
            assert len(boxes) == 9
        assert not any(legend.overlaps(box) for box in boxes)

    def test_images_without_agreement_are_left_out(self):
        known = agreement().drop(["i0", "i1"])
        ax = plots.score_against_agreement(per_image({"m": 0.5}), known, score="iou").axes[0]
        assert len(ax.collections[1].get_offsets()) == 5

    def test_refuses_foreign_ids(self):
        with pytest.raises(ValueError, match="index `agreement` by the frame's image_id"):
            plots.score_against_agreement(per_image(MODELS), agreement().add_prefix("x"), score="iou")


class TestLabels:
    def test_wide_letters_count_twice(self):
        assert columns("unet") == 4
        assert columns("日本") == 4
        assert shorten("日本語のモデルの名前", width=11) == "日本…名前"
        assert columns(shorten("日本語のモデルの名前", width=11)) <= 11
        assert legend_columns(["日" * 20] * 4) < legend_columns(["a" * 20] * 4)

    def test_many_labels_are_shorter_but_never_the_same(self):
        many = [f"{'x' * 20}{place}{'y' * 20}" for place in range(9)]
        assert len(set(legend_labels(many))) == 9
        distinct = [f"{place}{'x' * 40}" for place in range(9)]
        assert max(map(len, legend_labels(distinct))) == 28
        assert max(map(len, legend_labels(distinct[:6]))) == 41

    def test_names_from_right_to_left_are_isolated_in_sentences(self):
        assert isolate("unet") == "unet"
        name = "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}"
        assert isolate(name) == f"\N{FIRST STRONG ISOLATE}{name}\N{POP DIRECTIONAL ISOLATE}"


class TestFiles:
    def test_svg_is_the_same_each_time_and_keeps_text(self, tmp_path):
        files = [
            plots.save_figure(plots.band_plot(leaderboard(MODELS), note="rendered images"), tmp_path / f"{place}.svg")
            for place in range(2)
        ]
        assert files[0].read_bytes() == files[1].read_bytes()
        text = files[0].read_text(encoding="utf-8")
        assert ">rendered images<" in text
        assert "<dc:date>" not in text

    def test_png(self, tmp_path):
        path = plots.save_figure(plots.band_axes({"iou_floor": 0.1, "iou_ceiling": 0.7})[0], tmp_path / "band.png")
        assert path.read_bytes().startswith(b"\x89PNG")

    def test_refuses_other_formats(self, tmp_path):
        with pytest.raises(ValueError, match=r"must end in \.svg, \.png or \.pdf; found 'band\.docx'"):
            plots.save_figure(Figure(), tmp_path / "band.docx")

    def test_settings_of_the_caller_stay(self, tmp_path):
        with mpl.rc_context({"figure.facecolor": "black", "font.size": 3, "svg.fonttype": "path"}):
            before = dict(mpl.rcParams)
            figure = plots.band_plot(leaderboard(MODELS))
            plots.save_figure(figure, tmp_path / "band.svg")
            assert dict(mpl.rcParams) == before
        assert figure.get_facecolor() == (1, 1, 1, 1)
        assert figure.axes[0].get_xticklabels()[0].get_fontsize() == 10

    @pytest.mark.parametrize(("width", "mm"), [("single", 88), ("double", 178), (120, 120)])
    def test_files_have_the_widths_of_journals_and_legible_text_that_stays_text(self, tmp_path, width, mm):
        figure = plots.subgroup_plot(TestSubgroups().frame(), score="iou", width=width)
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
        assert 6 <= min(sizes) <= max(sizes) <= 9
        svg = plots.save_figure(figure, tmp_path / "a.svg").read_text()
        assert float(re.search(r'width="([\d.]+)pt"', svg)[1]) / 72 * 25.4 == pytest.approx(mm, abs=0.1)
        assert re.search(r"<text[^>]*>naive rater \(floor\)</text>", svg)
        pdf = plots.save_figure(figure, tmp_path / "a.pdf").read_bytes()
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)
        assert float(box[1]) / 72 * 25.4 == pytest.approx(mm, abs=0.1)
        assert b"/FontFile2" in pdf  # TrueType fonts are embedded: letters can be edited and searched
        assert b"/Type3" not in pdf

    def test_a_page_lends_its_colours_to_ink_and_paper_and_data_keep_theirs(self):
        figure = plots.band_plot(leaderboard(MODELS), scores=["iou"], note="rendered images")
        svg = inline_svg(figure)
        assert svg.startswith('<svg fill="currentColor"')
        left = {colour for colour in PAGE_COLOURS if re.search(rf"(?<!, ){colour}", svg)}
        assert left == set()
        assert {f"var({name}, " in svg for name in ("--page", "--ink", "--figure-band", "--warn-ink")} == {True}
        assert {colour.lower() in svg for colour in plots.MODEL_COLOURS[:3]} == {True}
        assert '<g id="' not in svg

    def test_drawing_leaves_no_figure_behind_and_chooses_no_backend(self, tmp_path):
        before = mpl.rcParams._get_backend_or_none()
        plots.save_figure(plots.band_axes({"iou_floor": 0.1, "iou_ceiling": 0.7})[0], tmp_path / "band.svg")
        assert mpl.rcParams._get_backend_or_none() == before
        assert pyplot.get_fignums() == []

    def test_matplotlib_is_imported_inside_functions_only(self):
        for file in Path(plots.__file__).parent.glob("*.py"):
            loaded = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, IMPORTS)]
            names = [getattr(node, "module", None) or node.names[0].name for node in loaded]
            assert not [name for name in names if name.startswith(("matplotlib", "PIL"))]


class TestProbabilities:
    RELIABILITY = pd.DataFrame(
        {
            "who": ["model", "model", "peers", "peers", "peers"],
            "low": [0.0, 0.5, 0.0, 0.25, 0.75],
            "high": [0.25, 0.75, 0.25, 0.5, 1.0],
            "probability": [0.1, 0.6, 0.0, 0.5, 1.0],
            "share": [0.2, 0.5, 0.05, 0.45, 0.8],
            "pixels": [90, 10, 80, 10, 10],
        }
    )
    CURVE = pd.DataFrame(
        {"threshold": [0.25, 0.5, 0.75], "iou": [0.4, 0.7, np.nan], "iou_floor": 0.2, "iou_ceiling": 0.6}
    )

    def test_reliability_of_models_and_peers_on_one_diagonal(self):
        figure = plots.reliability_plot({"unet": self.RELIABILITY, "fpn": self.RELIABILITY}, note="rendered images")
        above, below = figure.axes
        diagonal, unet, fpn, peers = above.lines
        assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
        for line in (unet, fpn):
            assert line.get_xydata().tolist() == [[0.1, 0.2], [0.6, 0.5]]
        assert peers.get_xydata().tolist() == [[0.0, 0.05], [0.5, 0.45], [1.0, 0.8]]
        assert len({line.get_color() for line in above.lines}) == 4
        values, edges, _ = below.patches[0].get_data()
        np.testing.assert_array_equal(values, [0.9, np.nan, 0.1, np.nan])
        assert edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert {"unet", "fpn", "peers: the share of the other raters who mark the pixel"} <= set(texts(figure))
        assert "rendered images" in texts(figure)

    def test_scores_over_thresholds_in_their_band_with_the_one_that_is_used(self):
        figure, axes = plots.threshold_axes({"unet": self.CURVE, "fpn": self.CURVE}, "iou", marks={"unet": 0.52})
        (floor,), (ceiling,) = lines(axes, gid="floor"), lines(axes, gid="ceiling")
        assert (floor.get_ydata()[0], ceiling.get_ydata()[0]) == (0.2, 0.6)
        (used,) = dots(axes)
        assert used.get_xydata().tolist() == [[0.5, 0.7]]
        assert axes.get_ylabel() == "IoU"
        assert {"unet", "fpn"} <= set(texts(figure))
        own = Figure().subplots()
        found, same = plots.threshold_axes({"model": self.CURVE}, "iou", ax=own)
        assert same is own
        assert found is own.figure
        assert not found.legends

    def test_a_figure_as_a_picture(self):
        picture = figure_pixels(plots.threshold_axes({"model": self.CURVE}, "iou")[0])
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert picture.std() > 10
