"""A training loop in plain PyTorch, without a trainer; the seven lines marked "irrbench" are all that was added."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from irrbench.evaluation import Evaluator, MLflowSink  # irrbench


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


torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 16, 9, padding=4), nn.ReLU(), nn.Conv2d(16, 1, 5, padding=2))
optimizer, loss = torch.optim.Adam(net.parameters(), 1e-2), nn.BCEWithLogitsLoss()
train, val = (DataLoader(Lesions(n, seed), batch_size=8, shuffle=not seed) for seed, n in enumerate((48, 24)))
sink = MLflowSink.new_run("sqlite:///mlflow.db", "lesions", name="small net")  # irrbench
evaluator = Evaluator("val", sinks=[sink])  # irrbench

for epoch in range(10):
    net.train()
    for batch in train:
        optimizer.zero_grad()
        loss(net(batch["image"]), batch["label"]).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        for batch in val:
            logits = net(batch["image"])
            evaluator.update(logits, batch["masks"], image_id=batch["id"], image=batch["image"])  # irrbench
    values = evaluator.finish(epoch)  # irrbench

evaluator.close()  # irrbench
sink.close()  # irrbench
