"""A small simulation: blobs in noise, raters of known sensitivity and specificity, a network and its training."""

import torch
from torch import nn
from torch.nn import functional

SENSITIVITY = torch.tensor([0.95, 0.75, 0.6, 0.9])
SPECIFICITY = torch.tensor([0.99, 0.97, 0.995, 0.9])
SIZE, PEOPLE = 32, 4


def made(images, seed):
    """Images, the true masks, masks of the raters, and who drew what; one pixel in eight belongs to a lesion."""
    draw = torch.Generator().manual_seed(seed)

    def smooth(width):
        noise = torch.randn(images, 1, SIZE + width - 1, SIZE + width - 1, generator=draw)
        return width * functional.avg_pool2d(noise, width, 1)

    field = smooth(11)
    truth = (field > field.flatten().quantile(7 / 8)).float()
    pixels = truth + 0.35 * torch.randn(truth.shape, generator=draw) + 0.16 * smooth(5)
    sensitivity, specificity = SENSITIVITY.view(1, -1, 1, 1), SPECIFICITY.view(1, -1, 1, 1)
    marked = truth * sensitivity + (1 - truth) * (1 - specificity)
    masks = (torch.rand(images, PEOPLE, SIZE, SIZE, generator=draw) < marked).float()
    present = torch.rand(images, PEOPLE, generator=draw) < 0.6
    kept = present.any(1)
    return pixels[kept], truth[kept], masks[kept], present[kept]


def trained(network, loss, images, steps, parameters):
    """Train on random batches as the package does: AdamW and one cycle of the learning rate."""
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randint(images, (8,), generator=draw)).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def small_network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(12, 1, 3, padding=1))


@torch.no_grad()
def dice_of(network):
    pixels, truth, _, _ = made(60, 1000)
    found = network(pixels) > 0
    return (2 * (found * truth).sum() / (found.sum() + truth.sum())).item()
