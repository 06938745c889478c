"""A loop with Lightning Fabric; the seven lines marked "irrbench" are all that was added."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from irrbench.evaluation import CSVSink, Evaluator  # irrbench


class Lesions(Dataset):
    """Smooth blobs that three raters outline, each with a threshold of their own: put your own data here."""

    def __init__(self, count, seed):
        g = torch.Generator().manual_seed(seed)
        smooth = nn.functional.avg_pool2d(torch.randn(count, 1, 48, 48, generator=g), 9, stride=1, padding=4)
        self.masks = smooth + 0.05 * torch.randn(count, 3, 1, 1, generator=g) > 0.1
        self.image = smooth + 0.05 * torch.randn(smooth.shape, generator=g)

    def __len__(self):
        return len(self.image)

    def __getitem__(self, i):
        return {"id": i, "image": self.image[i], "label": self.masks[i, :1].float(), "masks": self.masks[i]}


fabric = L.Fabric(accelerator="auto", devices=1)
fabric.launch()
fabric.seed_everything(0)
net = nn.Sequential(nn.Conv2d(1, 16, 9, padding=4), nn.ReLU(), nn.Conv2d(16, 1, 5, padding=2))
net, optimizer = fabric.setup(net, torch.optim.Adam(net.parameters(), 1e-2))
loaders = (DataLoader(Lesions(n, seed), batch_size=8, shuffle=not seed) for seed, n in enumerate((48, 24)))
train, val = fabric.setup_dataloaders(*loaders)
loss = nn.BCEWithLogitsLoss()
sink = CSVSink("results")  # irrbench
evaluator = Evaluator("val", sinks=[sink])  # irrbench

for epoch in range(8):
    net.train()
    for batch in train:
        optimizer.zero_grad()
        fabric.backward(loss(net(batch["image"]), batch["label"]))
        optimizer.step()
    net.eval()
    with torch.no_grad():
        for batch in val:
            logits = net(batch["image"])
            evaluator.update(logits, batch["masks"], image_id=batch["id"])  # irrbench
    values = evaluator.finish(epoch)  # irrbench
    fabric.print(f"epoch {epoch}: {values['val/iou']:.2f} of {values['val/iou_ceiling']:.2f}")  # irrbench

evaluator.close()  # irrbench
