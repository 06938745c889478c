import logging
import math

import mlflow
import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger
from torch import nn
from torch.utils.data import DataLoader

from irrbench import VotePatterns, segmentation_bounds
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.tracking.calls import CALLS
from tests.callbacks.toys import Module, N, Toy, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def monitor(**kwargs):
    return RaterBoundsMonitor("masks", roi="roi", image_id="id", print_link=False, **kwargs)


def expected(module, name="iou", seed=0):
    """The same numbers without trainer, callback or metric."""
    data = Toy(seed=seed)
    with torch.no_grad():
        preds = module(data.image).squeeze(1) > 0
    bounds = segmentation_bounds(VotePatterns.from_masks(data.masks, roi=data.roi, preds=preds))
    return {who: getattr(bounds, who)[name].nanmean().item() for who in ("model", "floor", "ceiling")}


def check(found, module, prefix="val", seed=0):
    for name in ("iou", "f1"):
        right = expected(module, name, seed)
        assert found[f"{prefix}/{name}"] == pytest.approx(right["model"], abs=1e-9)
        assert found[f"{prefix}/{name}_floor"] == pytest.approx(right["floor"], abs=1e-9)
        assert found[f"{prefix}/{name}_ceiling"] == pytest.approx(right["ceiling"], abs=1e-9)
    assert found[f"{prefix}/n_images"] == N


@pytest.mark.parametrize("call", ["self", "net", "forward"])
@pytest.mark.parametrize("give", ["nothing", "scalar", "tensor"])
def test_finds_the_predictions_of_a_step_it_does_not_know(tmp_path, give, call):
    watcher, module = monitor(), Module(give, call)
    trainer(watcher, tmp_path).fit(module, loader(), loader())
    check(watcher.history[-1], module)
    assert [row["epoch"] for row in watcher.history] == [0, 1]


def test_a_key_or_a_function_says_where_predictions_are(tmp_path):
    for predictions in ("preds", lambda module, batch, outputs: module(batch["image"])):
        watcher, module = monitor(predictions=predictions), Module("dict")
        trainer(watcher, tmp_path).fit(module, loader(), loader())
        check(watcher.history[-1], module)


def test_two_candidates_are_an_error_that_lists_them(tmp_path):
    with pytest.raises(
        ValueError, match=r"2 tensors .*outputs\['preds'\] \(4, 1, 8, 10\), outputs\['doubt'\].*Say which"
    ):
        trainer(monitor(), tmp_path).fit(Module("dict"), loader(), loader())


class TwoPasses(Module):
    def validation_step(self, batch, _):
        (self.net(batch["image"]) + self.net(batch["image"].flip(-1)).flip(-1)).mean()


class NoMatch(Module):
    def validation_step(self, batch, _):
        self.net(batch["image"][..., :4])


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (TwoPasses(), {}, r"2 tensors have the shape of predictions: net \(4, 1, 8, 10\), net \(4, 1, 8, 10\)"),
        (
            NoMatch(),
            {},
            r"No predictions found: expected a tensor \(4, 8, 10\) or \(4, 1, 8, 10\).*the step returned None",
        ),
        (
            Module("dict"),
            {"predictions": "logits"},
            r"`predictions='logits'` is not in what the step returned: a dict with 'loss'",
        ),
        (
            Module("dict"),
            {"masks": "mask"},
            r"`masks='mask'` is not in the batch, which is a dict with 'image': float32 \(4, 1, 8, 10\)",
        ),
        (Module("dict"), {"masks": "id"}, r"masks must be a tensor \(B, R, \*S\), one mask a rater, found a list of 4"),
        (
            Module(),
            {"masks": lambda b: b["masks"].permute(0, 2, 3, 1)},
            r"No predictions found: .*masks are \(4, 8, 10, 3\)",
        ),
    ],
)
def test_what_does_not_fit_is_an_error_at_the_first_batch(tmp_path, module, options, message):
    steps = []
    module.training_step = lambda *_: steps.append(1)
    watcher = RaterBoundsMonitor(**({"masks": "masks"} | options))
    with pytest.raises(ValueError, match=message):
        trainer(watcher, tmp_path).fit(module, loader(), loader())
    assert not steps  # already the sanity check says so


def test_early_stopping_and_checkpoints_watch_it_wherever_it_stands(tmp_path):
    for order in (1, -1):
        stopper = EarlyStopping("val/iou", mode="max", patience=0, min_delta=2.0)
        saver = ModelCheckpoint(tmp_path / str(order), monitor="val/iou_normalized", mode="max")
        run = trainer([monitor(), stopper, saver][::order], tmp_path, max_epochs=9, enable_checkpointing=True)
        run.fit(Module(), loader(), loader())
        assert run.current_epoch < 9
        assert saver.best_model_score == pytest.approx(run.callback_metrics["val/iou_normalized"].item(), abs=1)


def test_test_and_validate_alone(tmp_path):
    watcher, module = monitor(), Module()
    run = trainer(watcher, tmp_path)
    run.validate(module, loader(), verbose=False)
    run.test(module, loader(seed=3), verbose=False)
    check(watcher.history[0], module)
    check(watcher.history[1], module, "test", 3)
    assert set(watcher.tables) == {"val", "test"}
    assert watcher.summaries["test"]["iou"].n_images == N


def test_several_loaders(tmp_path):
    watcher, module = monitor(), Module()
    trainer(watcher, tmp_path, max_epochs=1).fit(module, loader(), {"clinic": loader(), "screening": loader(seed=5)})
    check(watcher.history[0], module, "val/clinic")
    check(watcher.history[1], module, "val/screening", 5)


class OneRater(Module):
    """Trained on the first rater's masks."""

    def loss(self, logits, batch):
        return nn.functional.binary_cross_entropy_with_logits(logits, batch["masks"][:, :1].float())


def test_training_images_against_the_very_label(tmp_path):
    watcher = monitor(stages=("train", "validate"), label=lambda batch: batch["masks"][:, 0])
    run, module = trainer(watcher, tmp_path), OneRater()
    run.fit(module, loader(), loader())
    train, val = watcher.history[-1], watcher.history[-2]
    assert train["train/iou_ceiling"] == val["val/iou_ceiling"] == pytest.approx(expected(Module())["ceiling"])
    assert 0 <= train["train/iou_label"] <= 1
    gaps = train["train/iou_label_gap"], val["val/iou_label_gap"]
    assert train["train/iou_noise_fit"] == pytest.approx(gaps[0] - gaps[1])
    with torch.no_grad():
        preds = module(Toy().image)[:, 0] > 0
    assert gaps[1] == pytest.approx(gap_to_first_rater(preds), abs=1e-9)
    assert run.callback_metrics["train/iou_noise_fit"] == pytest.approx(train["train/iou_noise_fit"], abs=1e-6)
    assert not [key for key in {**train, **val} if "label" in key and "iou" not in key]  # of the main score alone
    assert not [key for key in val if "noise" in key]


def gap_to_first_rater(preds):
    data, gaps = Toy(), []
    for i in range(N):
        p, masks = preds[i][data.roi[i]], data.masks[i][:, data.roi[i]]
        ious = [(p & mask).sum().item() / (p | mask).sum().item() for mask in masks]
        gaps.append(ious[0] - sum(ious) / len(ious))
    return sum(gaps) / N


def test_the_fit_to_labels_needs_validation_in_the_same_epoch_and_takes_all_its_loaders(tmp_path, caplog):
    options = {"stages": ("train", "validate"), "label": lambda batch: batch["masks"][:, 0], "scores": ["iou"]}
    watcher = monitor(**options)
    trainer(watcher, tmp_path, max_epochs=4, check_val_every_n_epoch=2).fit(OneRater(), loader(), loader())
    train = [row for row in watcher.history if "train/iou" in row]
    assert ["train/iou_noise_fit" in row for row in train] == [False, True, False, True]
    watcher = monitor(**options)
    val = {"clinic": loader(), "screening": loader(n=6, seed=5)}
    trainer(watcher, tmp_path, max_epochs=1).fit(OneRater(), loader(), val)
    clinic, screening, train = watcher.history
    both = (10 * clinic["val/clinic/iou_label_gap"] + 6 * screening["val/screening/iou_label_gap"]) / 16
    assert train["train/iou_noise_fit"] == pytest.approx(train["train/iou_label_gap"] - both)
    assert "noise_fit" not in caplog.text


class WithLabel(Toy):
    def __getitem__(self, i):
        return super().__getitem__(i) | {"label": self.masks[i, 0].float()}


@pytest.mark.parametrize("label", ["label", lambda batch: batch["label"]])
def test_a_validation_without_labels_costs_the_fit_to_labels_and_one_message(tmp_path, caplog, label):
    watcher = monitor(stages=("train", "validate"), label=label)
    labelled = DataLoader(WithLabel(), batch_size=4)
    trainer(watcher, tmp_path).fit(OneRater(), labelled, loader())
    assert "train/iou_label_gap" in watcher.history[-1]
    assert not [key for row in watcher.history for key in row if "noise_fit" in key or key.startswith("val/iou_label")]
    assert caplog.text.count("train/iou_noise_fit is not logged: no label was found in the validation batches by") == 1
    assert "let the validation data give a label that is made in the same way as in training" in caplog.text
    with pytest.raises((ValueError, KeyError), match="label"):  # what is trained on must be there
        trainer(monitor(stages=("train",), label=label), tmp_path).fit(OneRater(), loader(), loader())


@pytest.mark.parametrize("stages", [("train",), ("train", "validate")])
def test_a_training_without_monitored_validation_is_told_so_once(tmp_path, caplog, stages):
    watcher = monitor(stages=stages, label=lambda batch: batch["masks"][:, 0])
    limit = {"limit_val_batches": 0} if "validate" in stages else {}
    trainer(watcher, tmp_path, **limit).fit(OneRater(), loader(), loader())
    assert "train/iou_label_gap" in watcher.history[-1]
    assert caplog.text.count("train/iou_noise_fit is not logged: no validation is monitored") == 1


def test_limits_show_in_the_number_of_images(tmp_path):
    watcher = monitor()
    trainer(watcher, tmp_path, limit_val_batches=1, max_epochs=1).fit(Module(), loader(), loader())
    assert watcher.history[0]["val/n_images"] == 4


def test_training_is_bit_identical_with_and_without_it(tmp_path):
    weights = []
    for callbacks in ([], [monitor()]):
        torch.manual_seed(0)
        module = Module()
        trainer(callbacks, tmp_path, max_epochs=3).fit(module, loader(shuffle=True), loader())
        weights.append([p.detach().clone() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_leaves_the_module_as_it_was(tmp_path):
    module = Module()
    names = [name for name, _ in module.named_modules()]
    trainer(monitor(), tmp_path).fit(module, loader(), loader())
    assert [name for name, _ in module.named_modules()] == names
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


class Diverged(Module):
    def validation_step(self, batch, _):
        return self.net(batch["image"]) * float("nan")


def test_a_diverged_model_does_not_end_the_training(tmp_path, caplog):
    watcher = monitor()
    saver = ModelCheckpoint(tmp_path, monitor="val/iou", mode="max")
    with caplog.at_level(logging.WARNING):
        trainer([watcher, saver], tmp_path, enable_checkpointing=True).fit(Diverged(), loader(), loader())
    assert math.isnan(watcher.history[-1]["val/iou"])
    assert "No bounds for val this time: Predictions must be finite" in caplog.text
    assert caplog.text.count("val/iou is watched by a callback and is NaN: the images could not be scored (") == 1


class MarksAll(Module):
    def validation_step(self, batch, _):
        return self.net(batch["image"]).sigmoid() * 0.8 + 0.1


def test_probabilities_taken_for_logits_are_said_once_and_are_no_error(tmp_path, caplog):
    watcher = monitor()
    trainer(watcher, tmp_path, max_epochs=3).fit(MarksAll(), loader(), loader())
    assert len(watcher.history) == 3
    assert caplog.text.count("The predictions, taken for logits, all lie between 0 and 1") == 1
    assert "pass `from_logits=False`" in caplog.text


def test_nan_is_not_logged_unwatched(tmp_path):
    run = trainer(monitor(), tmp_path, max_epochs=1)
    run.fit(Module(), loader(), loader())
    assert "val/iou_normalized" in run.callback_metrics
    assert "val/tpr_normalized" not in run.callback_metrics  # the naive rater's TPR is 1


def test_other_loggers_get_everything_the_usual_way(tmp_path):
    csv = CSVLogger(tmp_path)
    trainer(monitor(), tmp_path, logger=csv).fit(Module(), loader(), loader())
    csv.save()
    header = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    assert {"val/iou", "val/iou_floor", "val/iou_ceiling", "val/iou_normalized"} <= set(header.split(","))
    short = monitor(log_references=False, log_normalized=False)
    trainer(short, tmp_path, max_epochs=1).fit(Module(), loader(), loader())
    assert not [key for key in short.history[0] if key.endswith(("_floor", "_ceiling", "_normalized"))]


def test_options_are_checked_at_construction():
    with pytest.raises(ValueError, match="`stages` must be among 'train', 'validate', 'test'; found \\['val'\\]"):
        RaterBoundsMonitor(stages=("val",))
    with pytest.raises(ValueError, match="`scores` must be distinct names"):
        RaterBoundsMonitor(scores=["dice"])


def mlflow_run(tmp_path, uri, epochs=3, name="fit"):
    logger = MLFlowLogger("toys", run_name=name, tracking_uri=uri, artifact_location=(tmp_path / "artifacts").as_uri())
    watcher, module = monitor(image="image", num_panels=2, data_name="toys"), Module()
    run = trainer(watcher, tmp_path, max_epochs=epochs, logger=logger)
    run.fit(module, loader(), loader())
    run.test(module, loader(seed=3), verbose=False)
    client = mlflow.MlflowClient(uri)
    runs = {r.info.run_name: r for r in client.search_runs([logger.experiment_id])}
    return client, runs, watcher, logger


def points(client, run, key):
    return [(m.step, m.value) for m in sorted(client.get_metric_history(run.info.run_id, key), key=lambda m: m.step)]


def test_mlflow_shows_models_between_the_two_reference_runs(tmp_path, uri):
    client, runs, watcher, logger = mlflow_run(tmp_path, uri)
    ceiling_run, floor_run = (f"{who} rater · toys · ties average" for who in ("average", "naive"))
    assert set(runs) == {"fit", ceiling_run, floor_run}
    roles = {name: r.data.tags["irrbench.role"] for name, r in runs.items()}
    assert roles == {"fit": "model", ceiling_run: "ceiling", floor_run: "floor"}
    val = [(row["epoch"], row["val/iou"]) for row in watcher.history[:3]]
    assert points(client, runs["fit"], "val/iou") == val
    for name, who in ((ceiling_run, "ceiling"), (floor_run, "floor")):
        level = watcher.summaries["val"]["iou"].__dict__[who]
        line = points(client, runs[name], "val/iou")
        assert {step for step, _ in line} >= {0, 2}
        assert {value for _, value in line} == {level}
        assert points(client, runs[name], "test/iou") == [(0, watcher.summaries["test"]["iou"].__dict__[who])]
    assert "val/iou_floor" not in runs["fit"].data.metrics
    assert {"val/iou_normalized", "test/iou_normalized", "val/n_images"} <= set(runs["fit"].data.metrics)
    assert runs["fit"].data.tags["irrbench.bounds_id"] == runs[floor_run].data.tags["irrbench.bounds_id"]
    assert [i.dataset.name for i in runs["fit"].inputs.dataset_inputs] == ["toys", "toys"]
    experiment = client.get_experiment(logger.experiment_id)
    assert "mlflow.sharedViewState.irrbench" in experiment.tags


def test_mlflow_has_tables_and_pictures(tmp_path, uri):
    client, runs, watcher, _ = mlflow_run(tmp_path, uri, epochs=1)
    for name in runs:
        table = mlflow.MlflowClient(client.tracking_uri).load_table(
            runs[name].info.experiment_id, "per_image/test.json", run_ids=[runs[name].info.run_id]
        )
        assert list(table.columns[:2]) == ["image", "iou"]
        assert len(table) == N
    assert np.allclose(
        client.load_table(runs["fit"].info.experiment_id, "per_image/test.json", run_ids=[runs["fit"].info.run_id])[
            "iou"
        ].astype(float),
        watcher.tables["test"]["iou"],
        equal_nan=True,
    )
    images = [f.path for f in client.list_artifacts(runs["fit"].info.run_id, "images")]
    assert len([path for path in images if path.endswith(".png")]) == 4  # two a split


def test_a_second_run_finds_the_reference_runs(tmp_path, uri):
    mlflow_run(tmp_path, uri, epochs=1, name="short")
    client, runs, _, _ = mlflow_run(tmp_path, uri, epochs=4, name="long")
    assert len(client.search_runs([client.get_experiment_by_name("toys").experiment_id])) == 4
    assert points(client, runs["naive rater · toys · ties average"], "val/iou")[-1][0] == 3


def test_a_store_that_fails_costs_one_warning_and_no_training(tmp_path, uri, caplog, monkeypatch):
    def refuse(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("irrbench.tracking.calls.log_points", refuse)
    monkeypatch.setitem(CALLS, "table", refuse)
    with caplog.at_level(logging.WARNING):
        _, _, watcher, _ = mlflow_run(tmp_path, uri, epochs=2)
    assert len(watcher.history) == 3
    assert caplog.text.count("does not take what is logged") == 1
    assert "disk full" in caplog.text


def test_both_namespaces_take_it():
    lightning = pytest.importorskip("lightning.pytorch")
    import pytorch_lightning

    assert isinstance(monitor(), pytorch_lightning.Callback)
    assert isinstance(monitor(), lightning.Callback)
    assert isinstance(nn.Identity(), nn.Module)
