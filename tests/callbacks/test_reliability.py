"""The raters' agreement on each image, beside the model's scores."""

import mlflow
import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import MLFlowLogger

from irrbench import VotePatterns, krippendorff_alpha
from irrbench.callbacks import CeilingStopping, RaterBoundsMonitor
from irrbench.evaluation import evaluator as stages
from irrbench.icc import pixel_icc
from tests.callbacks.toys import Module, N, Toy, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
COLUMNS = ["icc_pixel", "ac1", "agreement"]


def monitor(**kwargs):
    return RaterBoundsMonitor(roi="roi", image_id="id", print_link=False, **kwargs)


def by_hand(seed=0):
    """Agreement by loops over pixels; ICC from the masks without metric or callback."""
    data = Toy(seed=seed)
    rows = {}
    for name, masks, roi in zip(data.names, data.masks, data.roi, strict=True):
        marks = masks[:, roi].double().numpy()  # (R, pixels)
        raters, share = len(marks), marks.mean()
        pairs = [(marks[a] == marks[b]).mean() for a in range(raters) for b in range(a)]
        agreement = np.mean(pairs)
        chance = 2 * share * (1 - share)
        patterns = VotePatterns.from_masks(masks[None], roi=roi[None])
        rows[name] = [pixel_icc(patterns).icc.item(), (agreement - chance) / (1 - chance), agreement]
    return rows


@pytest.fixture
def counted(monkeypatch):
    """How often agreement was computed."""
    calls = []

    def count(images):
        calls.append(1)
        return agreement_table(images)

    agreement_table = stages.agreement_table
    monkeypatch.setattr(stages, "agreement_table", count)
    return calls


def test_each_image_has_its_agreement_computed_once(tmp_path, counted):
    watcher = monitor(reliability=True)
    run = trainer([watcher, CeilingStopping(patience=9)], tmp_path, max_epochs=3)
    run.fit(Module(), loader(), loader())
    run.test(Module(), loader(seed=3), verbose=False)
    assert len(counted) == 2  # validation and test
    for split, seed in (("val", 0), ("test", 3)):
        table = watcher.tables[split].set_index("image_id")
        assert len(table) == N
        for name, right in by_hand(seed).items():
            assert table.loc[name, COLUMNS].tolist() == pytest.approx(right, abs=1e-9, nan_ok=True)


def test_masks_that_change_are_looked_at_again(tmp_path, counted):
    watcher, seeds = monitor(reliability=True), iter([1, 2])
    data = torch.utils.data.DataLoader(Toy(seed=1), batch_size=4)

    class Redrawn(Module):
        def on_train_epoch_start(self):
            data.dataset.masks = Toy(seed=next(seeds)).masks

    trainer(watcher, tmp_path, num_sanity_val_steps=0).fit(Redrawn(), loader(), data)
    assert len(counted) == 2
    masks, roi = Toy(seed=2).masks, Toy(seed=1).roi
    right = krippendorff_alpha(VotePatterns.from_masks(masks, roi=roi))
    table = watcher.tables["val"]
    assert table["alpha"].tolist() == pytest.approx(right.tolist())
    fits = pixel_icc(VotePatterns.from_masks(masks, roi=roi))
    assert table["icc_pixel"].tolist() == pytest.approx(fits.icc.tolist(), abs=1e-9)


def test_several_classes_have_the_mean_over_their_classes(tmp_path):
    maps = lambda batch: batch["masks"].long() + (batch["image"] > 0.8).long()  # noqa: E731
    watcher = RaterBoundsMonitor(
        maps, image_id="id", num_classes=3, predictions=lambda *_: torch.zeros(4, 8, 10).long(), reliability=True
    )
    trainer(watcher, tmp_path).validate(Module(), loader(8), verbose=False)
    data = Toy(8)
    labels = data.masks.long() + (data.image > 0.8).long()
    fits = [pixel_icc(p) for p in VotePatterns.from_labels(labels, num_classes=3)]
    right = torch.stack([fit.icc.masked_fill(~fit.converged, torch.nan) for fit in fits]).nanmean(0)
    assert watcher.tables["val"]["icc_pixel"].tolist() == pytest.approx(right.tolist(), abs=1e-9, nan_ok=True)


def test_unanimous_images_are_1_and_empty_ones_undefined(tmp_path):
    masks = torch.zeros(4, 3, 8, 10, dtype=torch.bool)
    masks[0, :, :4] = True
    watcher = RaterBoundsMonitor(lambda _: masks, image_id="id", predictions=lambda *_: masks[:, 0], reliability=True)
    trainer(watcher, tmp_path).validate(Module(), loader(4), verbose=False)
    assert watcher.tables["val"]["icc_pixel"].tolist() == pytest.approx([1, *[float("nan")] * 3], nan_ok=True)


def test_mlflow_has_it_and_the_bounds_stay_the_same(tmp_path, uri):
    tags = []
    for reliability in (False, True):
        logger = MLFlowLogger(
            "toys", run_name=str(reliability), tracking_uri=uri, artifact_location=(tmp_path / "artifacts").as_uri()
        )
        watcher = monitor(reliability=reliability)
        trainer(watcher, tmp_path, logger=logger, max_epochs=1).fit(Module(), loader(), loader())
        client = mlflow.MlflowClient(uri)
        tags.append(client.get_run(logger.run_id).data.tags["irrbench.bounds_id"])
        table = client.load_table(logger.experiment_id, "per_image/val.json", run_ids=[logger.run_id])
        assert ("alpha" in table, "icc_pixel" in table) == (True, reliability)
    assert tags[0] == tags[1]
    assert len(client.search_runs([logger.experiment_id])) == 4  # two models, one pair of bounds
    assert list(table.columns[:2]) == ["image", "iou"]
    right = watcher.tables["val"][["alpha", *COLUMNS]].to_numpy(float)
    assert np.allclose(table[["alpha", *COLUMNS]].astype(float), right, atol=1e-6, equal_nan=True)
