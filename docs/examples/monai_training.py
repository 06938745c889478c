"""A loop with MONAI's transforms, U-Net, loss and sliding window; the six lines marked "irrbench" were added."""

import torch
from monai.data import DataLoader, Dataset
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, ConcatItemsd, RandFlipd
from monai.utils import set_determinism

from irrbench.evaluation import CSVSink, Evaluator  # irrbench
from irrbench.simulate import draw_lesions

RATERS = ["anna", "ben", "carla"]


def cases(count, seed):
    """One dict a case, with each rater's mask under a key: put `LoadImaged` in front where these are files."""
    drawn = draw_lesions(count, sensitivity=[1] * 3, specificity=[1] * 3, edge=1.0, prevalence=0.15, rng=seed)
    noise = torch.randn(count, 64, 64, generator=torch.Generator().manual_seed(seed))
    for i in range(count):
        masks = {name: drawn.masks[i, r : r + 1].float() for r, name in enumerate(RATERS)}
        label = (drawn.masks[i].float().mean(0, keepdim=True) > 0.5).float()
        yield {"id": f"case{i:02d}", "image": (drawn.truth[i] + 0.7 * noise[i])[None], "label": label, **masks}


set_determinism(0)
train_transforms = [
    RandFlipd(["image", "label", *RATERS], prob=0.5, spatial_axis=1)
]  # an image and all its masks alike
val_transforms = []
val_transforms += [ConcatItemsd(RATERS, name="masks")]  # (R, H, W)  # irrbench
train = DataLoader(Dataset(list(cases(32, 0)), Compose(train_transforms)), batch_size=8, shuffle=True)
val = DataLoader(Dataset(list(cases(16, 1)), Compose(val_transforms)), batch_size=8)
net = UNet(spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 16, 32), strides=(2, 2))
optimizer, loss = torch.optim.AdamW(net.parameters(), 5e-3), DiceCELoss(sigmoid=True)
whole_image = SlidingWindowInferer(roi_size=(48, 48), overlap=0.25)
evaluator = Evaluator("val", sinks=[CSVSink("results")])  # irrbench

for epoch in range(8):
    net.train()
    for batch in train:
        optimizer.zero_grad()
        loss(net(batch["image"]), batch["label"]).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        for batch in val:
            logits = whole_image(batch["image"], net)
            evaluator.update(logits, batch["masks"], image_id=batch["id"])  # irrbench
    values = evaluator.finish(epoch)  # irrbench

evaluator.close()  # irrbench
