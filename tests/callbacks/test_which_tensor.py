"""Which tensor is scored: a network's output and nothing inside it, beside it or before it; else an error."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate

from irrbench.callbacks import RaterBoundsMonitor
from irrbench.callbacks.captures import tensors_in
from tests.callbacks import by_hand
from tests.callbacks.toys import Toy, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

Pair = namedtuple("Pair", "seg edge")
DIFFERENCE = lambda m, b, o: o["y"][:, 1] - o["y"][:, 0]  # noqa: E731


@dataclass
class Output:
    edge: torch.Tensor
    seg: torch.Tensor


@dataclass
class Slots:
    __slots__ = ("a", "b")
    a: torch.Tensor
    b: tuple


class Model(OrderedDict):
    """A dict with attributes, as transformers' outputs are."""

    def __init__(self, seg, rest):
        super().__init__(seg=seg, rest=rest)
        self.seg = seg


class Task(pl.LightningModule):
    """A module of somebody's own: a network, and a function of it and the batch in place of the step."""

    def __init__(self, net, step, **parts):
        super().__init__()
        self.net, self.step = net, step
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.net(x)

    def validation_step(self, batch, _):
        return self.step(self, batch)


def conv(channels=1, inputs=1):
    torch.manual_seed(channels)
    return nn.Conv2d(inputs, channels, 3, padding=1)


def monitor(**options):
    return RaterBoundsMonitor(
        "masks", **{"roi": "roi", "image_id": "id", "print_link": False, "verbose": False} | options
    )


def validate(module, path, data=None, **options):
    watcher = monitor(**options)
    trainer(watcher, path).validate(module, DataLoader(data or Toy(), batch_size=4), verbose=False)
    return watcher.history[0]["val/iou"]


def message(module, path, **options):
    with pytest.raises(ValueError, match=r".") as caught:
        validate(module, path, **options)
    return str(caught.value)


def by_numpy(logits, data=None):
    data = data or Toy()
    return by_hand.iou(data.masks, logits.detach().reshape(data.roi.shape).numpy() > 0, data.roi)


class Heads(nn.Module):
    """A network with parts of several channels and a head of one, put together by a function."""

    def __init__(self, combine, seg=2):
        super().__init__()
        self.combine, self.seg, self.edge, self.norm = combine, conv(seg), conv(1), nn.InstanceNorm2d(1, affine=True)

    def forward(self, x):
        x = self.norm(x)
        return self.combine(self.seg(x), self.edge(x))


class Attentive(nn.Module):
    """Two classes, with an attention map of one channel inside."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.Sequential(conv(1), nn.Sigmoid()), conv(2)

    def forward(self, x):
        return self.head(x * self.attention(x))


class Criterion(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.hot = nn.Sigmoid(), nn.Upsample(scale_factor=1)

    def forward(self, logits, masks):
        return (self.act(logits) - self.hot(masks)).square().mean()


class Normalise(nn.Module):
    def forward(self, x):
        return (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True)


def nothing(*_):
    """What a step returns that returns nothing."""


def call(module, batch):
    module(batch["image"])


def call_forward(module, batch):
    target = batch["masks"].float().mean(1, keepdim=True) > 0.5
    module.net.forward(batch["image"])
    return {"val_loss": torch.tensor(0.5), "target": target}


def unseen(module, batch):
    """What no module's call shows."""
    return nn.functional.conv2d(batch["image"], module.net.weight, module.net.bias, padding=1)


TWO = ["several channels", "`num_classes=2`", "[:, 1] - o['y'][:, 0]", "y[:, 1] - y[:, 0]"]
NONE_OF_TWO = ["No predictions found", "(4, 2, 8, 10)", *TWO[1:]]
RECIPES = {
    # a part of the output of several channels, or inside the network
    "tuple": (lambda: Heads(lambda seg, edge: (seg, edge)), call, [*TWO, "'Task[1]'"]),
    "named tuple": (lambda: Heads(Pair), call, [*TWO, "Task['seg'] (4, 2, 8, 10)"]),
    "dict": (lambda: Heads(lambda seg, edge: {"out": seg, "aux": {"edge": edge}}), call, [*TWO, "Task['aux']['edge']"]),
    "dataclass": (lambda: Heads(lambda seg, edge: Output(edge, seg)), call, [*TWO, "Task['edge']"]),
    "object": (lambda: Heads(lambda seg, edge: SimpleNamespace(seg=seg, edge=edge)), call, TWO),
    "edge inside": (lambda: Heads(lambda seg, edge: seg * edge.sigmoid()), call, NONE_OF_TWO),
    "norm first": (lambda: nn.Sequential(nn.BatchNorm2d(1), conv(2)), call, NONE_OF_TWO),
    "no channel axis inside": (
        lambda: nn.Sequential(conv(1), nn.Flatten(1, 2), nn.Unflatten(1, (1, 8)), conv(2)),
        call,
        NONE_OF_TWO,
    ),
    "attention": (Attentive, call, NONE_OF_TWO),
    "three classes": (
        lambda: Heads(lambda seg, edge: (seg, edge), seg=3),
        call,
        ["several channels", "`num_classes=3`", "`name=`", "o['logits'][:, k]"],
    ),
    # before or after the network, in the step
    "normalisation called": (lambda: conv(2), lambda m, b: m(m.norm(b["image"])), NONE_OF_TWO),
    "trained normalisation": (lambda: conv(2), lambda m, b: m(m.batch_norm(b["image"])), [*TWO, "'batch_norm'"]),
    "head called": (lambda: conv(2), lambda m, b: nothing(m.head(m(b["image"]))), [*TWO, "'head'"]),
    "both heads called": (lambda: conv(2), lambda m, b: (m.head(b["image"]), m(b["image"])), TWO),
    "by function": (
        lambda: conv(1),
        lambda m, b: {"val_loss": unseen(m, b).mean(), "target": b["masks"].float().mean(1) > 0.5},
        ["No predictions found", "outputs['target'] is a label", "no forward call was seen", "not of scripted"],
    ),
    "parts of network": (
        lambda: Heads(lambda seg, edge: (seg, edge)),
        call_forward,
        ["several channels", "'net[1]'"],
    ),
    "two forwards": (
        lambda: conv(1),
        lambda m, b: nothing(m.head.forward(m.net.forward(b["image"]))),
        ["2 tensors", "`predictions='net'` or `predictions='head'`"],
    ),
    "scripted network": (
        lambda: conv(1),
        lambda m, b: nothing(m.scripted(m.net(b["image"]))),
        ["net (4, 1, 8, 10) is the only tensor seen", "calls of scripted (scripted)", "`predictions='net'`"],
    ),
    "flipped": (
        lambda: conv(1),
        lambda m, b: {"loss": m(b["image"].flip(-1)).flip(-1).mean()},
        ["Task was called with the batch's image in another order"],
    ),
    "flipped without a channel axis": (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 8)), conv(1)),
        lambda m, b: nothing(m(b["image"][:, 0].flip(1))),
        ["another order"],
    ),
    "other images": (lambda: conv(1), lambda m, b: nothing(m.net(b["image"].roll(1, 0))), ["net", "another order"]),
    "copied label": (
        lambda: conv(1),
        lambda m, b: {"val_loss": unseen(m, b).mean(), "first": b["masks"][:, 0].float().clone()},
        ["outputs['first'] is a label"],
    ),
    "votes as logits": (
        lambda: conv(1),
        lambda m, b: {"soft": 6 * b["masks"].double().mean(1) - 3, "net": unseen(m, b).mean()},
        ["outputs['soft'] is a label"],
    ),
    "returned label": (lambda: conv(1), lambda m, b: b["masks"].sum(1) > 1, ["outputs is a label"]),
    "returned image": (
        lambda: conv(1),
        lambda m, b: {"x": b["image"][:, 0], "y": b["image"] / 1},
        ["outputs['x']", "is a label or"],
    ),
    # several that fit
    "deep supervision": (
        lambda: Heads(lambda seg, edge: [edge, edge / 2]),
        call,
        ["2 tensors", "'Task[0]'", "'Task[1]'"],
    ),
    "deep supervision of two classes": (lambda: Heads(lambda seg, edge: [seg, seg / 2]), call, NONE_OF_TWO),
    "test-time augmentation": (
        lambda: conv(1),
        lambda m, b: {"mean": (m(b["image"]) + m(b["image"].flip(-1)).flip(-1)) / 2},
        ["3 tensors", "Task (4, 1, 8, 10), Task (4, 1, 8, 10). Say which by `predictions='mean'`. Or return"],
    ),
    "sigmoid called": (lambda: conv(1), lambda m, b: nothing(m.act(m(b["image"]))), ["2 tensors", "'act'"]),
    "nested outputs": (
        lambda: conv(1),
        lambda m, b: {"all": [m.net.forward(b["image"]), {"b": m.net.forward(b["image"]) * 2}]},
        ["'all.0'", "'all.1.b'"],
    ),
    # windows of the image
    "windows": (
        lambda: conv(1),
        lambda m, b: [m(b["image"][..., :6]), m(b["image"][..., 4:])],
        ["sliding windows", "stitched"],
    ),
    "windows as a batch": (
        lambda: conv(2),
        lambda m, b: nothing(m(torch.cat(b["image"].split(5, -1)))),
        ["sliding windows"],
    ),
    "windows of all sizes": (
        lambda: conv(2),
        lambda m, b: [m(b["image"][:2, :, :4]) for _ in range(4)],
        ["sliding windows"],
    ),
}


@pytest.mark.filterwarnings("ignore:.*Using the fallback")
@pytest.mark.parametrize("name", RECIPES)
def test_what_is_not_plainly_the_output_is_an_error_that_helps(tmp_path, name):
    net, step, parts = RECIPES[name]
    extras = {"norm": nn.InstanceNorm2d(1), "batch_norm": nn.BatchNorm2d(1), "head": conv(1, 2), "act": nn.Sigmoid()}
    if name in ("both heads called", "two forwards"):
        extras["head"] = conv(1)
    if name == "scripted network":
        extras["scripted"] = torch.jit.script(conv(1))
    text = message(Task(net(), step, **extras), tmp_path)
    for part in parts:
        assert part in text, text


class Returns(nn.Module):
    """An output in a container, beside what is none."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap, self.body = wrap, conv(1)

    def forward(self, x):
        return self.wrap(self.body(x))


class Loss(nn.Module):
    """A network that gives its loss alone."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(conv(3), nn.ReLU(), conv(1, 3))

    def forward(self, x):
        return {"loss": self.inner(x).mean(), "losses": self.inner.state_dict()["0.bias"]}


NET = lambda m, b: m.net(b["image"])  # noqa: E731
STITCHED = lambda m, b: torch.cat([m.net(b["image"][..., :5]), m.net(b["image"][..., 5:])], -1)  # noqa: E731
SURE = {  # network, step, and the logits that are right
    "one channel": (lambda: nn.Sequential(nn.BatchNorm2d(1), conv(4), nn.ReLU(), conv(1, 4)), call, NET),
    "in a dict": (
        lambda: Returns(lambda y: {"out": y, "features": y.repeat(1, 6, 1, 1)[..., ::2, ::2]}),
        call,
        lambda m, b: m.net.body(b["image"]),
    ),
    "in a dataclass": (lambda: Returns(lambda y: Output(y.mean(), y)), call, lambda m, b: m.net.body(b["image"])),
    "in an object": (
        lambda: Returns(lambda y: SimpleNamespace(sample=[y], extra=None)),
        call,
        lambda m, b: m.net.body(b["image"]),
    ),
    "beside smaller ones": (
        lambda: Returns(lambda y: [y, y[..., ::2, ::2], y[..., ::4, ::4]]),
        call,
        lambda m, b: m.net.body(b["image"]),
    ),
    "smp by forward": (
        lambda: smp.Unet("resnet18", encoder_depth=3, decoder_channels=(8, 8, 8), in_channels=1, encoder_weights=None),
        lambda m, b: nothing(m.net.forward(b["image"])),
        NET,
    ),
    "module by forward": (lambda: conv(1), lambda m, b: nothing(m.forward(b["image"])), NET),
    "scripted parts": (
        lambda: nn.Sequential(torch.jit.script(conv(4)), conv(1, 4)),
        lambda m, b: nothing(m.net(b["image"])),
        NET,
    ),
    "channels in another order": (
        lambda: conv(1, 3),
        lambda m, b: nothing(m.net(b["colour"].flip(1))),
        lambda m, b: m.net(b["colour"].flip(1)),
    ),
    "channels last": (
        lambda: conv(1, 3),
        lambda m, b: nothing(m.net(b["last"].movedim(-1, 1))),
        lambda m, b: m.net(b["colour"]),
    ),
    "turned within the network": (
        lambda: Returns(lambda y: y.flip(-1)),
        lambda m, b: nothing(m.net(b["image"])),
        NET,
    ),
    "Sequential by forward": (lambda: nn.Sequential(nn.Sequential(conv(4), nn.ReLU()), conv(1, 4)), call_forward, NET),
    "loss with a sigmoid inside": (
        lambda: conv(1),
        lambda m, b: {"loss": m.criterion(m(b["image"]), b["masks"].float())},
        NET,
    ),
    "data parallel": (lambda: nn.DataParallel(conv(1)), call, NET),
    "within a loss": (Loss, call, lambda m, b: m.net.inner(b["image"])),
    "normalisation called": (
        lambda: conv(1),
        lambda m, b: call(m, {"image": m.norm(b["image"])}),
        lambda m, b: m.net(m.norm(b["image"])),
    ),
    "two preparations": (
        lambda: conv(1),
        lambda m, b: call(m, {"image": m.norm(m.drop(b["image"]))}),
        lambda m, b: m.net(m.norm(b["image"])),
    ),
    "normalised colours": (
        lambda: conv(1, 3),
        lambda m, b: call(m, {"image": m.norm(b["colour"])}),
        lambda m, b: m.net(m.norm(b["colour"])),
    ),
    "beside the target": (
        lambda: conv(1),
        lambda m, b: {"loss": m(b["image"]).mean(), "target": b["masks"].sum(1) > 1},
        NET,
    ),
    "beside a rater": (
        lambda: conv(1),
        lambda m, b: {"loss": m(b["image"]).mean(), "rater": b["masks"][:, 1].float()},
        NET,
    ),
    "beside a soft label": (
        lambda: conv(1),
        lambda m, b: {"loss": m(b["image"]).mean(), "soft": b["masks"].float().mean(1)},
        NET,
    ),
    "beside the image": (lambda: conv(1), lambda m, b: {"logits": m(b["image"]), "image": b["image"] / 2}, NET),
    "returned by the step": (
        lambda: conv(2),
        lambda m, b: m(b["image"])[:, 1] - m(b["image"])[:, 0],
        lambda m, b: m.net(b["image"]).diff(dim=1),
    ),
    "stitched by the step": (lambda: conv(1), lambda m, b: {"p": STITCHED(m, b)}, STITCHED),
}


class Colours(Toy):
    def __getitem__(self, i):
        item = super().__getitem__(i)
        colour = item["image"] * torch.tensor([1.0, 2.0, -1.0]).view(3, 1, 1)
        return item | {"colour": colour, "last": colour.movedim(0, -1)}


@pytest.mark.parametrize("is_loose", [True, False])
def test_a_lone_head_beside_parameters_of_no_call_is_doubted(tmp_path, caplog, is_loose):
    """The main mask may come from maps of another part and such parameters, by functions in the step."""
    net = nn.Sequential(conv(4), nn.AvgPool2d(2))
    module = Task(net, lambda m, b: nothing(m.net(b["image"]), m.edge(b["image"])), edge=conv(1))
    if is_loose:
        module.queries = nn.Parameter(torch.ones(4))
    validate(module, tmp_path)
    text = (
        "edge is scored. But the step also made net (4, 4, 4, 5), and no call that was seen uses the parameters queries"
    )
    assert caplog.text.count(text) == is_loose
    caplog.clear()
    validate(module, tmp_path, predictions="edge")
    assert "But the step" not in caplog.text


@pytest.mark.parametrize("name", SURE)
def test_the_output_is_scored(tmp_path, name):
    net, step, right = SURE[name]
    module, data = Task(net(), step, norm=Normalise(), drop=nn.Dropout(), criterion=Criterion()), Colours()
    found = validate(module, tmp_path, data)
    module.eval()
    with torch.no_grad():
        logits = right(module, default_collate([data[i] for i in range(len(data))]))
    assert found == pytest.approx(by_numpy(logits), abs=1e-9)
    assert 0.05 < found < 0.9


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ({"predictions": "Task[1]"}, "edge"),
        ({"predictions": "net.edge"}, "edge"),
        ({"predictions": "Task[0]", "num_classes": 2}, "seg"),
        ({"num_classes": 2, "predictions": "net.seg"}, "seg"),
    ],
)
def test_a_call_is_scored_that_was_named(tmp_path, options, right):
    module, data = Task(Heads(lambda seg, edge: (seg, edge)), call), Toy()
    watcher = monitor(**options)
    trainer(watcher, tmp_path).validate(module, DataLoader(data, batch_size=4), verbose=False)
    module.eval()
    with torch.no_grad():
        seg, edge = module(data.image)
    logits = {"seg": seg[:, 1] - seg[:, 0], "edge": edge}[right]
    found = watcher.history[0]["val/iou"]
    assert found == pytest.approx(by_numpy(logits), abs=1e-9)
    assert not any(part._forward_hooks for part in module.modules())


def test_findings_that_overlap_are_a_monitor_each(tmp_path):
    """Sigmoids of a channel each: the error for one monitor says what two take."""
    module, data = Task(conv(4), lambda m, b: {"logits": m(b["image"])}), Toy()
    text = message(module, tmp_path)
    assert "for findings that may overlap use a monitor each, with `name=` and `predictions=lambda" in text
    watchers = [monitor(name=f"finding{k}", predictions=lambda m, b, o, k=k: o["logits"][:, k]) for k in range(2)]
    trainer(watchers, tmp_path).validate(module, DataLoader(data, batch_size=4), verbose=False)
    with torch.no_grad():
        logits = module(data.image)
    for k, watcher in enumerate(watchers):
        assert watcher.history[0][f"val/finding{k}/iou"] == pytest.approx(by_numpy(logits[:, k]), abs=1e-9)


def test_a_key_that_is_nearly_right_is_named(tmp_path):
    step = lambda m, b: {"logits": m(b["image"]), "loss": torch.tensor(1.0)}  # noqa: E731
    assert "Did you mean `predictions='logits'`?" in message(Task(conv(1), step), tmp_path, predictions="logit")


def test_a_label_that_begins_empty_is_found_out_later(tmp_path):
    """Where one value is everywhere, a returned label is not told from a prediction; the next batch shows it."""
    data = Toy()
    data.masks[:4] = False
    step = lambda m, b: {"all": b["masks"].double().mean(1)}  # noqa: E731
    with pytest.raises(ValueError, match=r"outputs\['all'\] is a label"):
        validate(Task(conv(1), step), tmp_path, data)


@pytest.mark.parametrize("wrap", [Pair, Slots, Model, lambda a, b: [[{"x": {"seg": a}}], b]])
def test_every_container_is_looked_into(wrap):
    a, b = torch.zeros(2), torch.ones(3)
    found = dict(tensors_in({"y": wrap(a, (b, None, "text", 3))}, depth=6))
    assert len(found) == 2
    assert any(tensor is a for tensor in found.values())
    assert all(path.startswith("['y']") for path in found)


def test_what_is_no_container_is_left_alone():
    loop = SimpleNamespace()
    loop.loop = loop
    for value in (conv(1), torch.Tensor, "text", 3, None, {1, 2}, len, lambda: 3, loop):
        assert not list(tensors_in(value))
