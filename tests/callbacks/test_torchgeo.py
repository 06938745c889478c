"""The segmentation task of torchgeo: right numbers, and weights as without the monitor."""

import pytest
import torch
from torch.utils.data import DataLoader

from irrbench.callbacks import RaterBoundsMonitor
from tests.callbacks import by_hand
from tests.callbacks.test_ecosystem import Images

lightning = pytest.importorskip("lightning.pytorch")
tasks = pytest.importorskip("torchgeo.trainers", reason="torchgeo is not installed (it brings GDAL)")

pytestmark = pytest.mark.filterwarnings("ignore")


class Scenes(Images):
    def __getitem__(self, i):
        return {"image": self.image[i], "mask": self.label[i], "masks": self.masks[i], "id": f"scene {i}"}


def fit(path, data, watcher, **options):
    torch.manual_seed(0)
    module = tasks.SemanticSegmentationTask(
        model="unet", backbone="resnet18", weights=None, in_channels=3, lr=1e-3, **options
    )
    loader = DataLoader(data, batch_size=2)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    run = lightning.Trainer(callbacks=[watcher] if watcher else [], default_root_dir=path, max_epochs=2, **options)
    run.fit(module, loader, loader)
    return module.eval()


@pytest.mark.parametrize("classes", [2, 3])
def test_torchgeo(tmp_path, classes):
    data = Scenes(classes=classes)
    binary = classes == 2
    options = {"task": "binary", "loss": "bce"} if binary else {"task": "multiclass", "loss": "ce", "num_classes": 3}
    key = "val/iou" if binary else "val/iou_class1"
    watcher = RaterBoundsMonitor(image_id="id", print_link=False, num_classes=None if binary else 3)
    module, plain = fit(tmp_path, data, watcher, **options), fit(tmp_path, data, None, **options)
    with torch.no_grad():
        logits = module(data.image)
    preds = logits.squeeze(1) > 0 if binary else logits.argmax(1) == 1
    assert watcher.history[-1][key] == pytest.approx(by_hand.iou(data.masks == 1, preds), abs=1e-9)
    states = module.state_dict(), plain.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
