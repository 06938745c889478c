"""Networks of other libraries and papers: two classes are never scored by something of one channel inside."""

import pytest
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from irrbench.callbacks import RaterBoundsMonitor
from tests.callbacks import by_hand
from tests.callbacks.toys import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
ARCHITECTURES = [
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UPerNet",
    "Segformer",
]


class Grey(Dataset):
    """Grey images of 64 x 64 pixels, three raters."""

    def __init__(self, n=4):
        g = torch.Generator().manual_seed(3)
        self.image = torch.nn.functional.avg_pool2d(torch.randn(n, 1, 64, 64, generator=g), 9, 1, 4) * 6
        self.masks = self.image + 0.3 * torch.randn(n, 3, 64, 64, generator=g) > 0.3

    def __len__(self):
        return len(self.image)

    def __getitem__(self, i):
        return {"image": self.image[i], "masks": self.masks[i], "id": i}


class Shown(pl.LightningModule):
    """Calls its network, and returns what it gave if asked."""

    def __init__(self, net, key=None):
        super().__init__()
        self.net, self.key = net, key

    def validation_step(self, batch, _):
        y = self.net(batch["image"])
        return {self.key: y} if self.key else None


def validate(module, path, **options):
    watcher = RaterBoundsMonitor(image_id="id", print_link=False, verbose=False, **options)
    trainer(watcher, path).validate(module.eval(), DataLoader(Grey(), batch_size=2), verbose=False)
    return watcher.history[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_classes_of_smp(tmp_path, architecture):
    """The first part of each encoder gives the grey image itself, which has the shape of predictions."""
    torch.manual_seed(2)
    net, data = smp.create_model(architecture, "resnet18", None, in_channels=1, classes=2), Grey()
    with pytest.raises(
        ValueError, match=r"net \(2, 2, 64, 64\)\. For two classes pass `num_classes=2`, or .*\[:, 1\] - "
    ):
        validate(Shown(net), tmp_path)
    with torch.no_grad():
        logits = net(data.image)
    right = by_hand.iou(data.masks, logits.argmax(1))
    assert right != pytest.approx(by_hand.iou(data.masks, data.image[:, 0] > 0), abs=0.01)
    assert validate(Shown(net), tmp_path, num_classes=2)["val/iou"] == pytest.approx(right, abs=1e-9)
    difference = validate(Shown(net, "y"), tmp_path, predictions=lambda m, b, o: o["y"][:, 1] - o["y"][:, 0])
    assert difference["val/iou"] == pytest.approx(right, abs=1e-9)


class Gaussian(nn.Module):
    """Prior (of the image) or posterior (of image and mask) of a latent vector."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.body = nn.InstanceNorm2d(1, affine=True), nn.Conv2d(channels, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x, mask=None):
        x = self.norm(x) if mask is None else torch.cat([self.norm(x), mask], 1)
        mean, log_scale = self.head(self.body(x).mean((2, 3))).chunk(2, 1)
        return torch.distributions.Independent(torch.distributions.Normal(mean, log_scale.exp()), 1)


class Probabilistic(nn.Module):
    """As Kohl et al. 2018 build it: features of a U-Net, a latent vector, and 1 x 1 convolutions over both."""

    def __init__(self, classes):
        super().__init__()
        self.unet = smp.Unet(
            "resnet18", encoder_depth=3, decoder_channels=(8, 8, 8), encoder_weights=None, in_channels=1
        )
        self.prior, self.posterior = Gaussian(1), Gaussian(2)
        self.combine = nn.Sequential(nn.Conv2d(8 + 2, 8, 1), nn.ReLU(), nn.Conv2d(8, classes, 1))

    def forward(self, x, mask):
        self.features = self.unet.decoder(self.unet.encoder(x))
        self.latent = self.prior(x), self.posterior(x, mask)
        return self.latent

    def sample(self, z):
        return self.combine(torch.cat([self.features, z[..., None, None].expand(-1, -1, *self.features.shape[2:])], 1))


class Kohl(pl.LightningModule):
    """Reconstructs from the posterior for its loss, and samples from the prior."""

    def __init__(self, classes, samples=1, key=None):
        super().__init__()
        self.net, self.samples, self.key = Probabilistic(classes), samples, key

    def validation_step(self, batch, _):
        mask = batch["masks"][:, :1].float()
        prior, posterior = self.net(batch["image"], mask)
        self.net.sample(posterior.mean)
        samples = [self.net.sample(prior.mean + i) for i in range(self.samples)]
        return {self.key: torch.stack(samples).mean(0)} if self.key else None


@pytest.mark.parametrize(("classes", "samples"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_a_probabilistic_unet_is_asked_which_sample(tmp_path, classes, samples):
    torch.manual_seed(1)
    with pytest.raises(ValueError, match=r"several channels|No predictions found|tensors have the shape"):
        validate(Kohl(classes, samples), tmp_path)
    if classes > 1:
        return
    module, data = Kohl(classes, samples, "mean").eval(), Grey()
    found = validate(module, tmp_path, predictions="mean")["val/iou"]
    with torch.no_grad():
        prior, _ = module.net(data.image, data.masks[:, :1].float())
        logits = torch.stack([module.net.sample(prior.mean + i) for i in range(samples)]).mean(0)
    assert found == pytest.approx(by_hand.iou(data.masks, logits[:, 0] > 0), abs=1e-9)


class Supervised(nn.Module):
    """Deep supervision: one output a level, at the size of the level or of the image."""

    def __init__(self, *, resize, classes=1):
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(1, classes, 3, padding=1) for _ in range(3))
        self.resize = resize

    def forward(self, x):
        sizes = [x.shape[2] // 2**i for i in range(3)]
        outputs = [
            level(nn.functional.adaptive_avg_pool2d(x, size)) for level, size in zip(self.levels, sizes, strict=True)
        ]
        return [nn.functional.interpolate(y, size=x.shape[2:]) for y in outputs] if self.resize else outputs


@pytest.mark.parametrize("classes", [1, 2])
def test_deep_supervision(tmp_path, classes):
    torch.manual_seed(4)
    options = {} if classes == 1 else {"num_classes": classes}
    small, large, data = Supervised(resize=False, classes=classes), Supervised(resize=True, classes=classes), Grey()
    large.load_state_dict(small.state_dict())
    with torch.no_grad():
        right = [by_hand.iou(data.masks, y[:, 0] > 0 if classes == 1 else y.argmax(1)) for y in large(data.image)]
    assert validate(Shown(small), tmp_path, **options)["val/iou"] == pytest.approx(right[0], abs=1e-9)
    with pytest.raises(
        ValueError, match=r"3 tensors .*Say which by `predictions='net\[0\]'` or `predictions='net\[1\]'`"
    ):
        validate(Shown(large), tmp_path, **options)
    for i, iou in enumerate(right):
        found = validate(Shown(large), tmp_path, predictions=f"net[{i}]", **options)
        assert found["val/iou"] == pytest.approx(iou, abs=1e-9)


def test_a_call_that_was_named_must_be_one(tmp_path):
    torch.manual_seed(4)
    with pytest.raises(
        ValueError, match=r"`predictions='net\[3\]'` is not in .*forward calls gave net\[0\] .*net\[2\]"
    ):
        validate(Shown(Supervised(resize=True)), tmp_path, predictions="net[3]")
