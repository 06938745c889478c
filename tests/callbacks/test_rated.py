"""Samples of a step that unpacks `image, label = batch`: what it unpacks stays, what the monitor reads comes along."""

import pickle
import re

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.data import extract_batch_size
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate, default_convert

from irrbench.callbacks import Rated, RaterBoundsMonitor
from irrbench.callbacks.batch import read_batch, select
from tests.callbacks import by_hand
from tests.callbacks.toys import N, Toy, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*pin_memory"),
    pytest.mark.filterwarnings("ignore:.*persistent_workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Samples(Dataset):
    """Tuples with everything beside them; `convert` makes what a data set of somebody's gives."""

    def __init__(self, convert=lambda x: x, kind=Rated):
        self.toy, self.convert, self.kind = Toy(), convert, kind

    def __len__(self):
        return N

    def __getitem__(self, i):
        item = self.toy[i]
        parts = (self.convert(item["image"]), self.convert(item["masks"].float().mean(0, keepdim=True)))
        if self.kind is tuple:
            return parts
        others = {name: self.convert(item[name]) for name in ("masks", "roi")}
        return Rated(parts, **others, id=item["id"], present=self.convert(torch.tensor([True, i % 2 == 0, True])))


class Unpacks(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Conv2d(1, 1, 3, padding=1)

    def step(self, batch):
        image, mask = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self.net(image), mask.to(image))
        self.log("loss", loss)
        return loss

    def training_step(self, batch, _):
        return self.step(batch)

    def validation_step(self, batch, _):
        self.step(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(samples, path, watcher, **options):
    module = Unpacks()
    options = {"max_epochs": 2} | options
    loader = {"batch_size": 4} | options.pop("loader", {})
    trainer(watcher or [], path, **options).fit(module, DataLoader(samples, **loader), DataLoader(samples, **loader))
    return module


def by_numpy(module, data):
    """Raters who are not there have no fold and no vote."""
    with torch.no_grad():
        preds = module.net(data.image.to(module.dtype)).squeeze(1) > 0
    images = [([0, 1, 2] if i % 2 == 0 else [0, 2], i) for i in range(N)]
    return np.nanmean([by_hand.iou(data.masks[i, who][None], preds[i][None], data.roi[i][None]) for who, i in images])


@pytest.mark.parametrize(
    ("convert", "options"),
    [
        (lambda x: x, {}),
        (lambda x: x.numpy(), {}),
        (lambda x: x, {"loader": {"batch_size": None, "sampler": range(2)}}),
        (lambda x: x, {"precision": "bf16-true"}),
    ],
    ids=["tensors", "arrays", "no automatic batch", "half precision"],
)
def test_a_step_that_unpacks_two_trains_as_before_and_is_scored(tmp_path, convert, options):
    samples = Batches(convert) if "loader" in options else Samples(convert)
    watcher = RaterBoundsMonitor(print_link=False)
    module = fit(samples, tmp_path, watcher, **options)
    found = watcher.history[-1]["val/iou"]
    assert found == pytest.approx(by_numpy(module, Toy()), abs=1e-9)
    if "loader" not in options:
        plain = fit(Samples(convert, tuple), tmp_path, None, **options)
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))
    assert watcher.history[-1]["val/n_images"] == N
    assert list(watcher.tables["val"]["image_id"]) == [f"image {i}" for i in range(N)]


class Batches(Dataset):
    """Whole batches, for loaders without a batch size."""

    def __init__(self, convert):
        self.samples = Samples(convert)

    def __len__(self):
        return 2

    def __getitem__(self, half):
        return default_collate([self.samples[i] for i in range(5 * half, 5 * half + 5)])


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_from_worker_processes(tmp_path, context):
    watcher = RaterBoundsMonitor(print_link=False)
    loader = {"num_workers": 1, "multiprocessing_context": context, "pin_memory": True}
    module = fit(Samples(as_it_is), tmp_path, watcher, max_epochs=1, loader=loader)
    assert watcher.history[-1]["val/iou"] == pytest.approx(by_numpy(module, Toy()), abs=1e-9)


def as_it_is(x):
    return x


def test_every_way_that_a_batch_goes_keeps_it():
    batch = default_collate([Samples()[i] for i in range(4)])
    moved = pl.LightningModule().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert (moved[0].is_meta, moved.masks.is_meta, moved.roi.is_meta, moved.id) == (True, True, True, batch.id)
    for same in (batch, default_convert(batch), pickle.loads(pickle.dumps(batch))):  # noqa: S301 (our own)
        image, label = same
        assert (image.shape, label.shape) == ((4, 1, 8, 10), (4, 1, 8, 10))
        assert (same.masks.shape, same.roi.shape, same.present.shape) == ((4, 3, 8, 10), (4, 8, 10), (4, 3))
        assert same.id == [f"image {i}" for i in range(4)]
    assert len(batch) == 2
    assert torch.equal(batch[-1], label)
    assert extract_batch_size(batch) == 4


def test_pinned_memory(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x + 1)
    sample = Rated((torch.zeros(2),), masks=[torch.zeros(2), torch.ones(2)])
    pinned = torch.utils.data._utils.pin_memory.pin_memory(sample)
    assert pinned[0].tolist() == [1, 1]
    assert pinned.masks.tolist() == [[1, 1], [2, 2]]


def test_a_selector_of_the_users_goes_first():
    batch = default_collate([Samples()[i] for i in range(4)])
    sample = read_batch(batch, {"masks": "masks", "roi": lambda b: b.roi & False, "image_id": None, "label": 1})
    assert not sample.roi.any()
    assert list(sample.image_id) == batch.id
    assert sample.label is batch[1]


def test_what_does_not_go_together_is_said():
    image, masks = torch.zeros(1, 8, 10), torch.zeros(3, 8, 10)
    with pytest.raises(
        ValueError, match=r"`Rated\(\(image, label\), masks=...\)`, found a dict. A dict needs no `Rated`"
    ):
        Rated({"image": image}, masks=masks)
    with pytest.raises(ValueError, match=r"`roi` must be in every `Rated` of a batch or in none; 1 of 2 lack it"):
        default_collate([Rated((image,), masks=masks, roi=image[0]), Rated((image,), masks=masks)])
    with pytest.raises(
        ValueError, match=r"`masks` .* one shape, found \(2, 8, 10\), \(3, 8, 10\). Raters who are missing"
    ):
        default_collate([Rated((image,), masks=masks), Rated((image,), masks=masks[:2])])


@pytest.mark.parametrize("batch", [[torch.zeros(4, 1, 8, 10), torch.zeros(4, 8, 10)], (torch.zeros(4, 1, 8, 10),)])
def test_a_bare_tuple_is_told_of_it(batch):
    with pytest.raises(
        ValueError, match=r"Rated\(\(image, label\), masks=...\)`, which a step still unpacks as `image, label"
    ):
        read_batch(batch, {"masks": "masks"})


@pytest.mark.parametrize(
    ("selector", "meant"),
    [
        ("mask", "masks"),
        ("lable", "label"),
        ("target.mask", "target.masks"),
        ("mask_all", "target.mask_all"),
        ("rio", "roi"),
    ],
)
def test_near_names_are_named(selector, meant):
    batch = {"masks": torch.zeros(4, 3, 8, 10), "label": 1, "roi": 2, "target": {"masks": 3, "mask_all": [4]}}
    with pytest.raises(ValueError, match=f"Did you mean `x='{meant}'`"):
        select(batch, selector, name="x")


def test_a_function_that_fails_says_what_the_batch_is():
    with pytest.raises(
        ValueError, match=r"The function given as `masks=` failed with KeyError\('mask'\) .* a dict with 'masks'"
    ):
        read_batch({"masks": torch.zeros(4, 3, 8, 10)}, {"masks": lambda b: b["mask"]})


@pytest.mark.parametrize(
    ("selector", "others", "path"),
    [
        ("masks", {}, 'batch["masks"]'),
        ("target.masks", {}, 'batch["target"]["masks"]'),
        (2, {}, "batch[2]"),
        ("1.masks", {}, 'batch[1]["masks"]'),
        ("masks", {"rated": True}, "batch.masks"),
        (1, {"rated": True}, "batch[1]"),
    ],
)
@pytest.mark.parametrize("change", ["movedim(-1, 1)", "squeeze(2)", "squeeze(4)"])
def test_the_remedy_for_masks_of_another_shape_can_be_pasted(selector, others, path, change):
    right, image = torch.zeros(2, 3, 32, 40), torch.zeros(2, 1, 32, 40)
    masks = right.movedim(1, -1) if change.startswith("movedim") else right.unsqueeze(int(change[-2]))
    batch = {
        "masks": {"masks": masks, "image": image},
        "target.masks": {"image": image, "target": {"masks": masks}},
        2: [image, image, masks],
        "1.masks": (image, {"masks": masks}),
        1: None,
    }[selector]
    if others:
        batch = Rated((image, masks), masks=masks)
    with pytest.raises(ValueError, match=rf"found {re.escape(str(tuple(masks.shape)))}[,.] .*pass") as caught:
        read_batch(batch, {"masks": selector})
    assert "{" not in str(caught.value)
    pasted = re.search("`masks=(lambda batch: .*)`", str(caught.value))[1]
    assert pasted == f"lambda batch: {path}.{change}"
    sample = read_batch(batch, {"masks": eval(pasted)})  # noqa: S307 (our own words)
    assert sample.masks.shape == right.shape
    with pytest.raises(ValueError, match=rf"`masks=` return its result with `\.{re.escape(change)}`"):
        read_batch(batch, {"masks": lambda _: masks})


def test_volumes_of_one_slice_are_volumes():
    batch = {
        "masks": torch.zeros(2, 3, 1, 8, 10),
        "image": torch.zeros(2, 1, 1, 8, 10),
        "mean": torch.zeros(2, 1, 8, 10),
    }
    assert read_batch(batch, {"masks": "masks"}).masks.ndim == 5


@pytest.mark.parametrize("name", ["roi", "image_id", "present", "image"])
@pytest.mark.parametrize("by", [str, "function"])
def test_what_is_asked_for_and_none_is_an_error(name, by):
    image, masks = torch.zeros(2, 1, 8, 10), torch.zeros(2, 3, 8, 10)
    key = {"image_id": "id"}.get(name, name)
    rated, plain = Rated((image,), masks=masks), {"masks": masks, key: None}
    for batch in (plain, rated)[: 1 if name == "image" else 2]:
        read_batch(batch, {"masks": "masks", "roi": None, "image_id": None, "present": None})
        selector = key if by is str else lambda b: b[key] if isinstance(b, dict) else getattr(b, key)
        with pytest.raises(ValueError, match=rf"`{name}=.* None for the batch, .* every sample its {name}, or leave"):
            read_batch(batch, {"masks": "masks", name: selector})
        assert getattr(read_batch(batch, {"masks": "masks", name: selector}, optional=[name]), name) is None


class Unrated(Unpacks):
    """A hook of it gives a tuple for what it got."""

    def on_after_batch_transfer(self, batch, _):
        image, label = batch
        return image * 2, label


def test_a_hook_that_makes_a_tuple_of_it_is_named(tmp_path):
    run = trainer(RaterBoundsMonitor(), tmp_path)
    with pytest.raises(ValueError, match=r"let Unrated\.on_after_batch_transfer keep it: `dataclasses\.replace"):
        run.validate(Unrated(), DataLoader(Samples(), batch_size=4), verbose=False)
    with pytest.raises(ValueError, match="is not in the batch") as caught:
        run.validate(Unpacks(), DataLoader(Samples(kind=tuple), batch_size=4), verbose=False)
    assert "keep it" not in str(caught.value)
