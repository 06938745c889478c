"""What a benchmark writes, from made-up predictions: nothing is trained."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from irrbench._files import read_frame
from irrbench.commands import raters
from irrbench.commands.outputs import (
    FILES,
    FOLDERS,
    galleries_of,
    log_artifacts,
    make_results,
    prepare_output,
    write_outputs,
)
from irrbench.config import BenchmarkConfig, ConfigError, StatisticsConfig
from irrbench.data import RaterData
from irrbench.metrics import SegmentationBounds
from irrbench.training.results import CellResult

RATERS = ["anna", "ben", "cem"]
SIZE = (20, 26)
TEST, TRAIN = 24, 3


class Cell(CellResult):
    """A cell whose test masks are at hand."""

    shifts: dict[str, np.ndarray]

    def prediction(self, image_id):
        return self.shifts[image_id]


def disk(rng, wider=0.0):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.hypot(y - 10 + rng.integers(-2, 3), x - 13) < 5 + wider


def make_data(groups):
    rng = np.random.default_rng(0)
    count = TEST + TRAIN
    masks = [np.stack([disk(rng, rng.normal(0, 1)) for _ in RATERS]) for _ in range(count)]
    manifest = pd.DataFrame(
        {
            "split": ["test"] * TEST + ["train"] * TRAIN,
            "patient": [f"p{place % groups}" for place in range(TEST)] + ["t"] * TRAIN,
            "site": ["A" if place % 8 else "B" for place in range(count)],
        },
        index=[f"i{place}" for place in range(count)],
    )
    images = [rng.random((1, *SIZE), dtype=np.float32) for _ in range(count)]
    return RaterData.from_arrays(
        images,
        masks,
        image_ids=list(manifest.index),
        manifest=manifest,
        raters=RATERS,
        group_column="patient",
        name="disks",
        note="made up",
    )


def make_cell(data, config, name, seed, shift):
    metric, shifts = SegmentationBounds(tuple(config.scores), from_logits=False), {}
    for place in range(TEST):
        masks = torch.from_numpy(data.masks(place))
        image_id = data.image_ids[place]
        shifts[image_id] = np.roll(data.masks(place)[0], shift, axis=1)
        metric.update(torch.from_numpy(shifts[image_id])[None], masks[None], image_id=[image_id])
    ends = {f"{score}_{end}": value for score in config.scores for end, value in (("floor", 0.1), ("ceiling", 0.8))}
    curve = pd.DataFrame({"epoch": [0, 1], **{score: [0.2, 0.5] for score in config.scores}, **ends})
    facts = {"config": {"seed": seed, "data_digest": "0123456789abcdef"}, "digest": f"{name}-digest", "run_id": "r"}
    axes = {"model": name, "label": "majority", "seed": seed}
    cell = Cell(f"{name} majority seed {seed}", None, metric.per_image(), curve, facts, axes)
    cell.shifts = shifts
    return cell


def make_benchmark(output, *, groups=12):
    config = BenchmarkConfig(
        output=str(output), scores=["iou", "tpr"], statistics=StatisticsConfig(subgroups=["site"], margins={"iou": 0.3})
    )
    data = make_data(groups)
    models = [
        make_cell(data, config, name, seed, shift + seed)
        for name, shift in (("near", 1), ("far", 5))
        for seed in (0, 1)
    ]
    colours = {model.name: "#007896" if model.name.startswith("near") else "#C30F1E" for model in models}
    results = make_results(config, data, models, colours=colours, command="python benchmark.py")
    return results, galleries_of(results, data, models)


def write(output, **options):
    results, galleries = make_benchmark(output, **options)
    return results, galleries, write_outputs(results, output, galleries=galleries)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    output = tmp_path_factory.mktemp("outputs") / "out"
    (output / "figures").mkdir(parents=True)
    for name in ("ranked-99.png", "mine.txt"):
        (output / "figures" / name).touch()
    return output, *write(output)


def test_everything_is_written_and_single_images_are_not_for_mlflow(written):
    output, _, _, files = written
    tables = ("leaderboard", "per_image", "comparisons", "verdicts", "failures", "alternative", "separation", "seeds")
    tables = (*tables, "subgroups")
    names = ("band", "scores", "curves", "agreement", "subgroups")
    figures = [f"figures/{name}.{kind}" for name in names for kind in ("png", "svg", "pdf")]
    expected = {*(f"{name}.csv" for name in tables), *figures, "config.yaml", "report.html", "results.json"}
    assert {path.relative_to(output).as_posix() for path in files} == expected
    pictures = {path.name for path in (output / "figures").iterdir()} - {path.name for path in files} - {"mine.txt"}
    assert {name.rpartition("-")[0] for name in pictures} == {"ranked", "failures", "disagreement"}


def test_one_strict_json_has_all_but_the_long_tables(written):
    output, results, _, _ = written
    text = (output / "results.json").read_text()
    found = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert (found["format"], found["kind"]) == (1, "benchmark")
    assert list(found)[:6] == ["format", "kind", "created", "command", "versions", "data"]
    assert found["data"]["raters"] == list(results.raters)
    assert found["data"]["split"] == "test"
    assert found["rules"]["ties"] == results.config["rules"]["ties"]
    board = read_frame(output / "leaderboard.csv")
    assert [candidate["name"] for candidate in found["candidates"]] == board["name"].tolist()
    for candidate, row in zip(found["candidates"], board.to_dict("records"), strict=True):
        for score in results.scores:
            for name, column in (("mean", score), ("low", f"{score}_low"), ("normalized", f"{score}_normalized")):
                assert candidate["scores"][score][name] == (
                    pytest.approx(row[column]) if row[column] == row[column] else None
                )
    for name in ("verdicts", "comparisons", "failures"):
        assert len(found[name]) == len(read_frame(output / f"{name}.csv"))
    assert "per_image" not in found["tables"]


def test_figures_are_pictures(written):
    output, _, _, _ = written
    for path in (output / "figures").glob("*.png"):
        assert np.asarray(Image.open(path)).std() > 0
    assert "made up" in (output / "figures" / "band.svg").read_text()


def test_images_and_groups_are_counted(written):
    output, _, _, _ = written
    board = pd.read_csv(output / "leaderboard.csv")
    assert (board["n_images"] == TEST).all()
    assert (board["n_groups"] == 12).all()


def test_the_page_says_everything(written):
    output, _, _, _ = written
    page = (output / "report.html").read_text()
    for text in (
        *("made up", "24 images of 12 groups (patient)", "anna", "python benchmark.py", "0123456789abcdef"),
        *("near-digest", "margins: iou 0.3", "Krippendorff", "Numbers are means over seeds", "SD of seeds"),
        *(
            "Subgroups of fewer than 10 images are weak evidence: site B (3).",
            "Worst: i",
            "skewness",
            "alternative annotator",
        ),
    ):
        assert text.lower() in page.lower(), text


def test_curves_have_the_models_names_and_a_line_for_each_seed(written):
    _, results, _, _ = written
    curves = results.curves
    assert set(zip(curves["name"], curves["seed"], strict=True)) == {
        (n, s) for n in ("near majority", "far majority") for s in (0, 1)
    }


def test_contours_are_of_the_best_model(written):
    _, _, galleries, _ = written
    ranked = galleries[0]
    assert "the best of 2 models, near majority," in ranked.lead
    assert len(ranked.pictures) == 9


def test_few_patients_have_no_verdicts_on_the_page(tmp_path):
    write(tmp_path, groups=4)
    page = (tmp_path / "report.html").read_text()
    assert "Only 4 independent groups of images (patient)" in page
    assert "p (Holm)" not in page
    assert "inconclusive" not in page


def test_pictures_of_an_earlier_run_are_gone_and_other_files_stay(written):
    output, _, _, _ = written
    assert not (output / "figures" / "ranked-99.png").exists()
    assert (output / "figures" / "mine.txt").exists()


def test_a_model_of_several_seeds_has_the_colour_of_its_first(written):
    _, results, _, _ = written
    assert results.colours["near majority"] == "#007896"
    assert results.colours["far majority"] == "#C30F1E"


class Run:
    def __init__(self):
        self.logged, self.views = [], []

    def log_file(self, path, folder):
        self.logged.append((path.name, folder))

    def save_view(self, scores):
        self.views.append(scores)


def test_every_model_gets_the_report_and_the_charts_one_view(written):
    _, _, _, files = written
    runs = {"unet": Run(), "fpn": Run()}
    log_artifacts(runs, files, ["iou"])
    assert [len(run.logged) for run in runs.values()] == [len(files)] * 2
    assert {("report.html", "benchmark"), ("band.svg", "benchmark/figures")} <= set(runs["fpn"].logged)
    assert [view for run in runs.values() for view in run.views] == [["iou"]]


def test_of_many_models_the_first_get_the_results(written):
    _, _, _, files = written
    runs = {f"m{number}": Run() for number in range(30)}
    log_artifacts(runs, files, ["iou"])
    assert [len(run.logged) for run in runs.values()] == [len(files)] * 20 + [0] * 10


@pytest.mark.parametrize("name", ["mlruns", "mlruns/study"])
def test_a_store_in_the_output_folder_writes_through_no_link_out_of_it(tmp_path, name):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).symlink_to(tmp_path / "theirs")
    for own in ((FOLDERS, FILES), ([raters.TABLES],)):
        with pytest.raises(ConfigError, match=f"out/{name} is a link that leads out of the output folder"):
            prepare_output(tmp_path / "out", *own)
