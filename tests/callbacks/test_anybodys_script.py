"""The callback in scripts of every kind: precision, compilation, layout, stages, resuming, both namespaces."""

import importlib

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

from irrbench import VotePatterns, segmentation_bounds
from irrbench.callbacks import RaterBoundsMonitor
from tests.callbacks.toys import Module, N, Steps, Toy, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def monitor(**kwargs):
    return RaterBoundsMonitor("masks", roi="roi", image_id="id", print_link=False, **kwargs)


def expected(logits, data=None):
    data = data or Toy()
    preds = logits.reshape(data.roi.shape) > 0
    bounds = segmentation_bounds(VotePatterns.from_masks(data.masks, roi=data.roi, preds=preds))
    return bounds.model["iou"].nanmean().item()


def validated(module, path, **kwargs):
    watcher = monitor(**kwargs.pop("options", {}))
    trainer(watcher, path, **kwargs).validate(module, loader(), verbose=False)
    return watcher.history[0]["val/iou"]


def test_bf16_mixed(tmp_path):
    module = Module()
    by_hook = validated(module, tmp_path, precision="bf16-mixed")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = module(Toy().image)
    assert logits.dtype == torch.bfloat16
    assert by_hook == pytest.approx(expected(logits), abs=1e-9)
    again = {"predictions": lambda module, batch, _: module(batch["image"])}
    assert validated(module, tmp_path, precision="bf16-mixed", options=again) == by_hook


class Checkpointed(Module):
    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=False)


class ChannelsLast(Module):
    def forward(self, x):
        return self.net(x.contiguous(memory_format=torch.channels_last))


class Wrapped(Module):
    """The network hidden in a wrapper whose last layer is called by hand."""

    def forward(self, x):
        for layer in self.net:
            x = layer.forward(x) if isinstance(layer, nn.Conv2d) else layer(x)
        return x


@pytest.mark.parametrize("kind", [Checkpointed, ChannelsLast, Wrapped])
def test_networks_called_in_other_ways(tmp_path, kind):
    module = kind()
    with torch.no_grad():
        right = expected(module(Toy().image))
    assert validated(module, tmp_path) == pytest.approx(right, abs=1e-9)


def compiled(module, part, backend):
    if part == "module":
        return torch.compile(module, backend=backend)
    if part == "net":
        module.net = torch.compile(module.net, backend=backend)
    else:
        module.net.compile(backend=backend)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("part", "backend"), [("module", "eager"), ("net", "eager"), ("in place", "eager"), ("module", "inductor")]
)
@pytest.mark.parametrize("give", ["nothing", "tensor"])
def test_compiled(tmp_path, part, backend, give):
    """The right numbers, and as many graphs as without the callback."""
    weights, graphs = [], []
    for watchers in ([], [monitor(stages=("train", "validate"))]):
        torch._dynamo.reset()
        counters.clear()
        torch.manual_seed(1)
        module = Module(give, "self" if part == "module" else "net")
        trainer(watchers, tmp_path, max_epochs=3).fit(compiled(module, part, backend), loader(), loader())
        weights.append([p.detach().clone() for p in module.parameters()])
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    with torch.no_grad():
        right = expected(Module.run_net(restored(weights[1]), Toy().image))
    assert watchers[0].history[-2]["val/iou"] == pytest.approx(right, abs=1e-9)
    assert 0 < right < 1


def restored(weights):
    module = Module()
    for parameter, value in zip(module.parameters(), weights, strict=True):
        parameter.data = value
    return module


class Deep(Module):
    """Deep supervision: the network gives two outputs of the same shape."""

    def forward(self, x):
        logits = self.net(x)
        return [logits, logits / 2]


def test_deep_supervision_is_an_error_that_says_what_to_pass(tmp_path):
    with pytest.raises(ValueError, match=r"2 tensors .*Step\[0\].*Step\[1\].*`predictions='<key>'`"):
        validated_deep(tmp_path)
    first = validated_deep(tmp_path, predictions=lambda module, batch, _: module(batch["image"])[0])
    assert 0 <= first <= 1


def validated_deep(path, **options):
    class Step(Deep):
        def validation_step(self, batch, _, dataloader_idx=0):
            self(batch["image"])

    return validated(Step(), path, options=options)


class Volumes(Toy):
    def __getitem__(self, i):
        item = super().__getitem__(i)
        return {k: v if isinstance(v, str) else torch.stack([v, v.flip(-1), v], -3) for k, v in item.items()}


class Volumetric(Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv3d(1, 1, 3, padding=1)


def test_volumes(tmp_path):
    module, watcher, data = Volumetric(), monitor(image="image"), Volumes()
    batches = torch.utils.data.DataLoader(data, batch_size=4)
    trainer(watcher, tmp_path).validate(module, batches, verbose=False)
    items = [data[i] for i in range(N)]
    masks, roi, image = (torch.stack([item[k] for item in items]) for k in ("masks", "roi", "image"))
    with torch.no_grad():
        preds = module(image).squeeze(1) > 0
    right = segmentation_bounds(VotePatterns.from_masks(masks, roi=roi, preds=preds))
    assert watcher.history[0]["val/iou"] == pytest.approx(right.model["iou"].nanmean().item(), abs=1e-9)
    assert watcher.history[0]["val/iou_ceiling"] == pytest.approx(right.ceiling["iou"].nanmean().item(), abs=1e-9)


class Classes(Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 3, 3, padding=1)

    def loss(self, logits, batch):
        return logits.square().mean()


def test_several_classes(tmp_path):
    module = Classes()
    labels = lambda batch: batch["masks"].long() + (batch["image"] > 0.8).long()  # noqa: E731
    watcher = RaterBoundsMonitor(labels, image_id="id", num_classes=3, print_link=False)
    trainer(watcher, tmp_path).validate(module, loader(), verbose=False)
    found = watcher.history[0]
    data = Toy()
    with torch.no_grad():
        preds = module(data.image).argmax(1)
    maps = data.masks.long() + (data.image > 0.8).long()
    by_class = [
        segmentation_bounds(p, ["iou"]).model["iou"] for p in VotePatterns.from_labels(maps, num_classes=3, preds=preds)
    ]
    assert found["val/iou"] == pytest.approx(torch.stack(by_class[1:]).nanmean(0).nanmean().item(), abs=1e-9)
    assert found["val/iou_class2"] == pytest.approx(by_class[2].nanmean().item(), abs=1e-9)


def test_validation_within_an_epoch(tmp_path):
    watcher = monitor()
    trainer(watcher, tmp_path, max_epochs=2, val_check_interval=0.5).fit(Module(), loader(16), loader())
    assert [row["epoch"] for row in watcher.history] == [0, 0, 1, 1]
    assert all(row["val/n_images"] == N for row in watcher.history)


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"overfit_batches": 1}, {"limit_val_batches": 0}])
def test_debugging_switches(tmp_path, options):
    watcher = monitor()
    trainer(watcher, tmp_path, **options).fit(Module(), loader(), loader())
    assert [row["val/n_images"] for row in watcher.history] == {
        "fast_dev_run": [4],
        "overfit_batches": [4, 4],
        "limit_val_batches": [],
    }[next(iter(options))]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_resuming_goes_on_where_it_was(tmp_path):
    def fit(epochs, **kwargs):
        torch.manual_seed(0)
        watcher = monitor()
        saver = ModelCheckpoint(tmp_path / f"{epochs}-{len(kwargs)}", save_top_k=-1)
        run = trainer([watcher, saver], tmp_path, max_epochs=epochs, enable_checkpointing=True)
        run.fit(Module(), loader(), loader(), **kwargs)
        return watcher.history, saver.best_model_path

    whole, _ = fit(4)
    _, path = fit(2)
    rest, _ = fit(4, ckpt_path=path)
    assert [row["epoch"] for row in rest] == [2, 3]
    for found, right in zip(rest, whole[2:], strict=True):
        assert found == pytest.approx(right, nan_ok=True)


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("in_a_list", [True, False])
def test_both_namespaces_with_their_own_callbacks_and_loggers(tmp_path, namespace, in_a_list):
    pytest.importorskip(namespace)
    pl = importlib.import_module(namespace)
    callbacks, loggers = (importlib.import_module(f"{namespace}.{part}") for part in ("callbacks", "loggers"))

    watcher = monitor()
    saver = callbacks.ModelCheckpoint(tmp_path / "best", monitor="val/iou", mode="max")
    stopper = callbacks.EarlyStopping("val/iou", mode="max", patience=5)
    run = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[stopper, watcher, saver] if in_a_list else watcher,
        enable_checkpointing=in_a_list,
        logger=[
            loggers.CSVLogger(tmp_path),
            loggers.MLFlowLogger(
                "x", tracking_uri=f"sqlite:///{tmp_path}/m.db", artifact_location=(tmp_path / "artifacts").as_uri()
            ),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    run.fit(type("Theirs", (Steps, pl.LightningModule), {})(), loader(), loader())
    assert len(watcher.history) == 2
    assert "val/iou" in run.callback_metrics
    if in_a_list:
        assert saver.best_model_score is not None
