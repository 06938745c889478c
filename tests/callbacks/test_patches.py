"""Patches, void and classes in somebody's training: told in the sanity check, scored right where the user says so."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from irrbench import SegmentationBounds
from irrbench.callbacks import RaterBoundsMonitor
from tests.callbacks.toys import Module, Toy, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Tiles(Dataset):
    """Each image in four tiles, one after another; or each time another crop."""

    def __init__(self, *, unique=False, crops=False):
        self.whole, self.unique, self.crops, self.visits = Toy(), unique, crops, 0

    def __len__(self):
        return 4 * len(self.whole)

    def __getitem__(self, i):
        item, tile = self.whole[i // 4], i % 4
        top, left = 4 * (tile // 2), 5 * (tile % 2)
        if self.crops:
            self.visits += 1
            top = self.visits % 3
        parts = {key: item[key][..., top : top + 4, left : left + 5] for key in ("image", "masks", "roi")}
        return parts | {"id": f"{item['id']}/{tile}" if self.unique else item["id"]}


class Pixelwise(Module):
    """A network that sees one pixel at a time, so that tiles do not matter."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(1, 1, 1)


def monitor(**options):
    given = {"roi": "roi", "image_id": "id", "scores": ["iou", "f1"], "print_link": False} | options
    return RaterBoundsMonitor(**given)


def image_of(patch):
    return patch.partition("/")[0]


@pytest.mark.parametrize(("unique", "aggregate"), [(False, "image"), (True, image_of)])
def test_tiles_of_images_are_the_images(tmp_path, unique, aggregate):
    module, whole, tiled = Pixelwise(), monitor(), monitor(aggregate=aggregate)
    trainer(whole, tmp_path).validate(module, loader(), verbose=False)
    trainer(tiled, tmp_path).validate(module, DataLoader(Tiles(unique=unique), batch_size=6), verbose=False)
    assert tiled.history == whole.history
    assert tiled.tables["val"].equals(whole.tables["val"])


@pytest.mark.parametrize("stage", ["validate", "train"])
def test_patches_are_told_before_anything_is_trained(tmp_path, stage):
    module, watcher = Module(), monitor(stages=(stage,))
    before = [x.clone() for x in module.parameters()]
    data = DataLoader(Tiles(), batch_size=8)
    with pytest.raises(ValueError, match=r"`image_id` 'image 0' came twice .*`aggregate=\"image\"`"):
        trainer(watcher, tmp_path, max_epochs=1).fit(
            module, *((data, loader()) if stage == "train" else (loader(), data))
        )
    if stage == "validate":
        assert all(torch.equal(x, y) for x, y in zip(before, module.parameters(), strict=True))


def test_random_crops_in_validation_are_told(tmp_path, caplog):
    watcher = monitor(aggregate="image")
    data = DataLoader(Tiles(crops=True), batch_size=7)
    trainer(watcher, tmp_path, max_epochs=3).fit(Module(), loader(), data)
    told = [
        record.getMessage()
        for record in caplog.records
        if "other masks than in the epoch before" in record.getMessage()
    ]
    assert len(told) == 1
    assert told[0].startswith("val: ")


def test_void_and_classes_reach_the_metric(tmp_path):
    class Classes(Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Conv2d(1, 3, 1)

        def loss(self, logits, _batch):
            return logits.square().mean()

    def labels(batch):
        return (batch["masks"].long() + (batch["image"] > 0.8)).masked_fill(batch["image"] < -1, 255)

    options = {"num_classes": 3, "class_names": ("rest", "edema", "tumour"), "ignore_index": 255}
    watcher, module = monitor(masks=labels, **options), Classes()
    trainer(watcher, tmp_path).validate(module, loader(), verbose=False)
    metric, data = SegmentationBounds(["iou"], **options), Toy()
    with torch.no_grad():
        metric.update(module(data.image), labels({"masks": data.masks, "image": data.image}), data.roi)
    for key in ("iou", "iou_tumour", "iou_edema_ceiling", "iou_tumour_normalized"):
        assert watcher.history[0][f"val/{key}"] == metric.compute()[key]
    assert "val/iou_rest" not in watcher.history[0]
    with pytest.raises(ValueError, match="`class_names` must be one name for each of num_classes=3"):
        monitor(num_classes=3, class_names=("a", "b"))


def test_raters_that_vary_are_told_at_the_batch(tmp_path):
    class Varying(Toy):
        def __getitem__(self, i):
            item = super().__getitem__(i)
            return item if i < 4 else item | {"masks": item["masks"][:2]}

    watcher = monitor()
    with pytest.raises(ValueError, match=r"same number of raters: `masks` is \(4, 2, 8, 10\) .*`present=`"):
        trainer(watcher, tmp_path).validate(Module(), DataLoader(Varying(), batch_size=4), verbose=False)


@pytest.mark.parametrize("options", [{}, {"image": "image"}, {"num_classes": 2}])
def test_findings_are_no_slices(tmp_path, options):
    class Findings(Toy):
        def __getitem__(self, i):
            item = super().__getitem__(i)
            return item | {"masks": torch.stack([item["masks"], item["image"].expand_as(item["masks"]) > 1], 1)}

    module, data = Module(), DataLoader(Findings(), batch_size=4)
    module.net = torch.nn.Conv2d(1, 2, 1)
    module.loss = lambda logits, _batch: logits.mean()
    message = r"`masks` \(4, 3, 2, 8, 10\) = .* of 2 slices.*`num_classes=2`.*a monitor with a `name=`"
    with pytest.raises(ValueError, match=message):
        trainer(monitor(roi=None, **options), tmp_path).fit(module, data, data)
    one, other = (
        monitor(roi=None, masks=lambda batch, c=c: batch["masks"][:, :, c], name=name, predictions=pick(c))
        for c, name in enumerate(("lesion", "edema"))
    )
    trainer([one, other], tmp_path).validate(module, data, verbose=False)
    assert {"val/lesion/iou", "val/edema/iou"} <= {key for x in (one, other) for key in x.history[0]}


def pick(channel):
    return lambda module, batch, _: module.net(batch["image"])[:, channel]
