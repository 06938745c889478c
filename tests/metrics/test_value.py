"""One number of the bounds as a metric: what takes a metric of one number takes it."""

import pickle

import pytest
import pytorch_lightning as pl
import torch
from torchmetrics import MetricCollection, MetricTracker
from torchmetrics.utilities.data import dim_zero_cat

from irrbench import SegmentationBounds
from tests.callbacks.toys import trainer
from tests.metrics.processes import among

N, R = 9, 3
OPTIONS = [
    {"scores": ["iou", "false_alarm"]},
    {"scores": ["f1"], "num_classes": 3},
    {"scores": ["iou", "tpr"], "num_classes": 3, "class_names": ["rest", "cyst", "tumour"], "include_background": True},
    {"scores": ["accuracy"], "from_logits": False, "threshold": 0.7, "ties": "exclude", "empty_reference": "score"},
]


def data(options, seed=0):
    g = torch.Generator().manual_seed(seed)
    num_classes = options.get("num_classes")
    truth = torch.randint(0, num_classes or 2, (N, 1, 8, 7), generator=g)
    masks = torch.where(torch.rand(N, R, 8, 7, generator=g) < 0.2, 0, truth)
    masks[0] = 0
    shape = (N, num_classes, 8, 7) if num_classes else (N, 8, 7)
    preds = torch.randn(shape, generator=g)
    return preds if options.get("from_logits", True) else preds.sigmoid(), masks


@pytest.mark.parametrize("options", OPTIONS)
def test_its_value_is_the_one_of_the_dict(options):
    preds, masks = data(options)
    bounds = SegmentationBounds(**options)
    bounds.update(preds, masks)
    values = bounds.compute()
    asked = [key for key in values if not key.startswith("detection") and key.startswith((*bounds.scores, "n_images"))]
    assert len(asked) >= 9 * len(bounds.scores) * max(1, len(bounds.scored_names)) + 1
    for key in asked:
        metric = bounds.as_metric(key)
        assert not metric.update_called
        for part in (slice(0, 4), slice(4, N)):
            metric.update(preds[part], masks[part])
        found = metric.compute()
        assert found.shape == ()
        assert torch.equal(found.nan_to_num(-9), values[key].nan_to_num(-9)), key
    assert len(bounds.per_image()) == N  # it has its own images still


def test_which_way_is_better_is_the_scores_own():
    bounds = SegmentationBounds(["iou", "false_alarm"])
    found = {key: bounds.as_metric(key).higher_is_better for key in ("iou", "iou_ceiling", "iou_normalized")}
    assert set(found.values()) == {True}
    assert bounds.as_metric("false_alarm").higher_is_better is bounds.as_metric("false_alarm_floor").higher_is_better
    assert not bounds.as_metric("false_alarm").higher_is_better
    assert bounds.as_metric("false_alarm_normalized").higher_is_better
    assert bounds.as_metric("n_images").higher_is_better is bounds.as_metric("iou_n_images").higher_is_better is None


def test_another_key_is_refused_with_the_list():
    with pytest.raises(
        ValueError, match=r"`key` must be n_images, or one of iou, alone or .* _normalized, .*'iou_norm'"
    ):
        SegmentationBounds(["iou"]).as_metric("iou_norm")
    with pytest.raises(ValueError, match=r"one of f1, f1_class1, f1_class2, alone.* found 'iou'. Other scores: name"):
        SegmentationBounds(["f1"], num_classes=3).as_metric("iou")


def collection(**options):
    bounds = SegmentationBounds(["iou", "f1"], **options)
    return MetricCollection({key: bounds.as_metric(key) for key in ("iou", "iou_ceiling", "f1_normalized")})


def test_a_collection_counts_once_and_gives_the_same_in_every_way():
    preds, masks = data({})
    whole = SegmentationBounds(["iou", "f1"])
    whole.update(preds, masks)
    expected = whole.compute()
    metrics = collection()
    for part in (slice(0, 2), slice(2, 5)):
        metrics.update(preds[part], masks[part])
    assert len(metrics.compute_groups) == 1
    copies = [metrics.clone(), pickle.loads(pickle.dumps(metrics)), metrics]  # noqa: S301
    for copy in copies:
        batch = copy(preds[5:], masks[5:])  # of a metric that shares its state with others
        assert batch["iou"] != expected["iou"]
        found = copy.compute()
        assert all(torch.equal(found[key], expected[key]) for key in found), found
        copy.reset()
        copy.update(preds, masks)
        assert copy.compute() == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"threshold": 0.6}, {"threshold": 0.7}),
        ({"from_logits": False}, {"from_logits": True, "threshold": 0.5}),
        ({"ignore_index": 9}, {}),
    ],
)
def test_metrics_that_count_differently_share_no_state_though_they_begin_alike(one, other):
    metrics = [SegmentationBounds(["iou"], **options).as_metric("iou") for options in (one, other)]
    several = MetricCollection(dict(zip("ab", metrics, strict=True)))
    _, masks = data({})
    several.update(torch.zeros(N, 8, 7), masks)  # the same for both
    assert len(several.compute_groups) == 2


def test_several_processes_give_the_number_of_one():
    preds, masks = data({})
    bounds = SegmentationBounds(["iou"])
    parts, whole = [bounds.as_metric("iou_normalized") for _ in range(3)], bounds.as_metric("iou_normalized")
    bounds.update(preds, masks)
    whole.update(preds, masks)
    parts[0].update(preds[:2], masks[:2])
    parts[1].update(preds[2:], masks[2:])
    for rank in (0, 1):
        metric = among(parts, [rank])[0]
        assert metric.compute() == whole.compute() or torch.isnan(whole.compute())
        assert dim_zero_cat(metric.info).shape[0] < N


def test_a_tracker_finds_the_best_epoch():
    preds, masks = data({})
    for key, best in (("iou", 1), ("n_images", None)):
        metric = SegmentationBounds(["iou"]).as_metric(key)
        if best is None:
            with pytest.raises(AttributeError, match="higher_is_better"):
                MetricTracker(metric)
            continue
        tracker = MetricTracker(metric)
        for epoch in (preds, masks[:, 0], preds):
            tracker.increment()
            tracker.update(epoch, masks)
        assert tracker.best_metric(return_step=True)[1] == best


class Module(pl.LightningModule):
    """Somebody's module, which logs metrics as torchmetrics' own."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(1, 1, 1)
        bounds = SegmentationBounds(["iou"])
        self.value, self.ceiling = bounds.as_metric("iou"), bounds.as_metric("iou_ceiling")

    def validation_step(self, batch, _):
        preds, masks = batch
        self.value(preds, masks)
        self.ceiling.update(preds, masks)
        self.log("iou", self.value, on_step=False, on_epoch=True)
        self.log("ceiling", self.ceiling, on_epoch=True)

    def training_step(self, batch, _):
        return self.net(batch[0][:, None].float()).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers", "ignore:The number of training")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
def test_a_trainer_logs_it_at_the_end_of_each_epoch(tmp_path):
    preds, masks = data({})
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(preds, masks), batch_size=4)
    seen = []
    watcher = pl.callbacks.LambdaCallback(on_validation_end=lambda t, _: seen.append(dict(t.callback_metrics)))
    trainer(watcher, tmp_path).fit(Module(), loader, loader)
    whole = SegmentationBounds(["iou"])
    whole.update(preds, masks)
    expected = whole.compute()
    assert len(seen) == 3
    for epoch in seen[1:]:
        assert epoch["iou"] == pytest.approx(float(expected["iou"]), abs=1e-7)
        assert epoch["ceiling"] == pytest.approx(float(expected["iou_ceiling"]), abs=1e-7)


def test_it_is_drawn_like_other_metrics_of_one_number():
    metric = SegmentationBounds(["iou"]).as_metric("iou_normalized")
    metric.update(*data({}))
    _, axes = metric.plot([torch.tensor(0.2), torch.tensor(-0.4)])
    assert axes.get_ylim()[0] < -0.4
