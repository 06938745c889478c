"""Modules written as the examples of MONAI are: right numbers, weights as without the monitor, windows named."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from irrbench.callbacks import Rated, RaterBoundsMonitor
from irrbench.callbacks.batch import read_batch
from tests.callbacks import by_hand
from tests.callbacks.toys import trainer

pytest.importorskip("monai", reason="MONAI is not installed")

from monai.data import Dataset, MetaTensor, decollate_batch, list_data_collate
from monai.inferers import sliding_window_inference
from monai.losses import DiceLoss
from monai.metrics import DiceMetric
from monai.networks.layers import Norm
from monai.networks.nets import UNet
from monai.transforms import (
    AsDiscrete,
    Compose,
    EnsureChannelFirstd,
    EnsureType,
    EnsureTyped,
    RandCropByPosNegLabeld,
    RandFlipd,
    ScaleIntensityRanged,
)
from monai.utils import set_determinism

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:monai"),
]
SHAPE, PATCH = (24, 20, 16), (16, 16, 8)


@pytest.fixture(autouse=True)
def determinism():
    yield
    set_determinism(None)


def files(shape, n=3):
    """Images, labels and three raters' masks, as arrays in dicts."""
    rng = np.random.default_rng(len(shape))
    image = rng.normal(size=(n, *shape)).astype(np.float32)
    for axis in range(1, image.ndim):
        image = (image + np.roll(image, 1, axis) + np.roll(image, 2, axis)) / 1.7
    masks = image[:, None] + 0.4 * rng.normal(size=(n, 3, *shape)) > 0.4
    return [
        {"image": x, "label": m[0].astype(np.float32), "masks": m.astype(np.float32), "id": f"scan {i}"}
        for i, (x, m) in enumerate(zip(image, masks, strict=True))
    ]


class Spleen(pl.LightningModule):
    """Two classes; trained on patches, validated by sliding windows, post-processed one by one."""

    def __init__(self, shape=SHAPE, show=None):
        super().__init__()
        self._model = UNet(
            spatial_dims=len(shape),
            in_channels=1,
            out_channels=2,
            channels=(4, 8),
            strides=(2,),
            num_res_units=1,
            norm=Norm.BATCH,
        )
        self.loss_function = DiceLoss(to_onehot_y=True, softmax=True)
        self.post_pred = Compose([EnsureType("tensor", device="cpu"), AsDiscrete(argmax=True, to_onehot=2)])
        self.post_label = Compose([EnsureType("tensor", device="cpu"), AsDiscrete(to_onehot=2)])
        self.dice_metric = DiceMetric(include_background=False, reduction="mean", get_not_nans=False)
        self.shape, self.show, self.validation_step_outputs = shape, show, []

    def forward(self, x):
        return self._model(x)

    def prepare_data(self):
        set_determinism(seed=0)
        keys, crop = ["image", "label", "masks"], ["image", "label"]
        first = [
            EnsureChannelFirstd(keys=crop, channel_dim="no_channel"),
            ScaleIntensityRanged(keys=["image"], a_min=-3, a_max=3, b_min=0.0, b_max=1.0, clip=True),
            EnsureTyped(keys=keys),
        ]
        size = PATCH[: len(self.shape)]
        crops = RandCropByPosNegLabeld(keys=crop, label_key="label", spatial_size=size, pos=1, neg=1, num_samples=2)
        flip = RandFlipd(keys=crop, prob=0.5, spatial_axis=0)
        keep = lambda item: {key: item[key] for key in crop}  # noqa: E731
        self.train_ds = Dataset(files(self.shape), Compose([*first, keep, crops, flip]))
        self.val_ds = Dataset(files(self.shape), Compose(first))

    def train_dataloader(self):
        return DataLoader(self.train_ds, batch_size=2, shuffle=True, collate_fn=list_data_collate)

    def val_dataloader(self):
        return DataLoader(self.val_ds, batch_size=1, collate_fn=list_data_collate)

    def training_step(self, batch, _):
        loss = self.loss_function(self.forward(batch["image"]), batch["label"])
        return {"loss": loss, "log": {"train_loss": loss.item()}}

    def validation_step(self, batch, _):
        images, labels = batch["image"], batch["label"]
        logits = sliding_window_inference(images, PATCH[: len(self.shape)], 4, self.forward)
        loss = self.loss_function(logits, labels)
        outputs = [self.post_pred(i) for i in decollate_batch(logits)]
        labels = [self.post_label(i) for i in decollate_batch(labels)]
        self.dice_metric(y_pred=outputs, y=labels)
        shown = {None: {}, "logits": {"logits": logits}, "hard": {"hard": torch.stack(outputs)[:, 1:].bool()}}[
            self.show
        ]
        self.validation_step_outputs.append({"val_loss": loss, "val_number": len(outputs)})
        return {"val_loss": loss, "val_number": len(outputs)} | shown

    def on_validation_epoch_end(self):
        self.log("val_dice", self.dice_metric.aggregate().item())
        self.dice_metric.reset()
        self.validation_step_outputs.clear()

    def configure_optimizers(self):
        return torch.optim.Adam(self._model.parameters(), 1e-2)


def fit(path, watcher, **options):
    torch.manual_seed(0)
    module = Spleen(**options)
    trainer([watcher] if watcher else [], path).fit(module)
    return module.eval()


def by_numpy(module):
    """Argmax of the stitched windows."""
    data = list(module.val_ds)
    with torch.no_grad():
        size = PATCH[: len(module.shape)]
        maps = [sliding_window_inference(x["image"][None], size, 4, module).argmax(1)[0] for x in data]
    return by_hand.iou(torch.stack([x["masks"].as_tensor() for x in data]), torch.stack(maps))


@pytest.mark.parametrize("shape", [SHAPE, (32, 24)])
@pytest.mark.parametrize(
    ("show", "options", "key"),
    [
        ("logits", {"predictions": "logits", "num_classes": 2}, "val/iou"),
        ("logits", {"num_classes": 2}, "val/iou"),
        ("logits", {"predictions": lambda m, b, o: o["logits"][:, 1] - o["logits"][:, 0]}, "val/iou"),
        ("hard", {}, "val/iou"),
    ],
)
def test_the_stitched_result_is_scored(tmp_path, shape, show, options, key):
    watcher = RaterBoundsMonitor("masks", image_id="id", print_link=False, **options)
    module, plain = fit(tmp_path, watcher, shape=shape, show=show), fit(tmp_path, None, shape=shape)
    right = by_numpy(module)
    assert watcher.history[-1][key] == pytest.approx(right, abs=1e-9)
    assert 0.02 < right < 0.98
    states = module.state_dict(), plain.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.mark.parametrize("num_classes", [None, 2])
def test_windows_are_named(tmp_path, num_classes):
    watcher = RaterBoundsMonitor("masks", image_id="id", print_link=False, num_classes=num_classes)
    with pytest.raises(
        ValueError, match=r"look like sliding windows of images \(24, 20, 16\): return the stitched"
    ) as caught:
        fit(tmp_path, watcher)
    assert "(4, 2, 16, 16, 8)" in str(caught.value)


class Flat(pl.LightningModule):
    """One channel in two dimensions, of samples that its step unpacks; batches taken apart by MONAI."""

    def __init__(self):
        super().__init__()
        self.net = UNet(2, 1, 1, channels=(4, 8), strides=(2,), num_res_units=1)
        self.loss, self.seen = DiceLoss(sigmoid=True), []

    def training_step(self, batch, _):
        image, label = batch
        return self.loss(self.net(image), label)

    def validation_step(self, batch, _):
        image, label = batch
        logits = self.net(image)
        self.seen += decollate_batch([logits, label])
        self.log("val_loss", self.loss(logits, label))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


def samples(kind=MetaTensor):
    return [
        Rated((kind(x["image"][None]), kind(x["label"][None])), masks=kind(x["masks"]), id=x["id"])
        for x in files((16, 12), n=5)
    ]


def test_unpacked_in_two_dimensions(tmp_path):
    watcher, states = RaterBoundsMonitor(print_link=False), []
    for watchers in ([], [watcher]):
        torch.manual_seed(0)
        module, loader = Flat(), DataLoader(samples(), batch_size=2, collate_fn=list_data_collate)
        trainer(watchers, tmp_path).fit(module, loader, loader)
        states.append(module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert module.seen[0][0].shape == (1, 16, 12)
    with torch.no_grad():
        logits = module.eval().net(torch.stack([x[0].as_tensor() for x in samples()]))
    right = by_hand.iou([x.masks for x in samples()], logits[:, 0] > 0)
    assert watcher.history[-1]["val/iou"] == pytest.approx(right, abs=1e-9)


def test_monai_puts_batches_together_and_takes_them_apart():
    batch = list_data_collate(samples()[:3])
    assert isinstance(batch[0], MetaTensor)
    sample = read_batch(batch, {"masks": "masks", "image_id": None})
    assert sample.masks.shape == (3, 3, 16, 12)
    assert sample.image_id == ["scan 0", "scan 1", "scan 2"]
    image, label = decollate_batch(list(batch))[1]
    assert torch.equal(image, samples()[1][0])
    assert torch.equal(label, samples()[1][1])
