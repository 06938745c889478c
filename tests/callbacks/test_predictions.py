"""Where predictions come from, and what a user is told where they cannot be found."""

import pytest
import torch
from torch import nn

from irrbench import VotePatterns, segmentation_bounds
from irrbench.callbacks import ForwardAgain, RaterBoundsMonitor
from irrbench.callbacks.batch import NO_RATERS, RATERS_LAST, advise_on_masks
from tests.callbacks.toys import Module, Toy, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def monitor(masks="masks", **kwargs):
    return RaterBoundsMonitor(masks, **({"roi": "roi", "image_id": "id", "print_link": False} | kwargs))


def score(logits, data=None):
    data = data or Toy()
    patterns = VotePatterns.from_masks(data.masks, roi=data.roi, preds=logits.squeeze(1) > 0)
    return segmentation_bounds(patterns, ["iou"]).model["iou"].nanmean().item()


def fit(module, path, watcher=None, callbacks=(), **kwargs):
    watcher = watcher or monitor()
    torch.manual_seed(0)
    trainer([watcher, *callbacks], path, **kwargs).fit(module, loader(), loader())
    return watcher.history


def message(module, path, watcher):
    """The error at the first batch, before anything is trained."""
    steps = []
    module.training_step = lambda *_: steps.append(1)
    with pytest.raises(ValueError, match=r".") as caught:
        fit(module, path, watcher)
    assert not steps
    return str(caught.value)


def movedim(batch):
    return batch["masks"].movedim(1, -1)


@pytest.mark.parametrize(
    ("give", "options"),
    [
        ("nothing", {}),
        ("nothing", {"roi": None}),
        ("tensor", {"roi": None, "image": "image"}),
        ("dict", {"roi": None}),
        ("dict", {"roi": None, "predictions": "preds"}),
    ],
)
def test_raters_on_the_last_axis_are_guessed(tmp_path, give, options):
    text = message(Module(give), tmp_path, monitor(movedim, **options))
    assert "(4, 8, 10, 3)" in text
    assert "raters seem to be on the last axis" in text
    assert "movedim(-1, 1)" in text


def test_masks_without_an_axis_of_raters_are_guessed(tmp_path):
    text = message(Module(), tmp_path, monitor(lambda batch: batch["masks"][:, 0], roi=None))
    assert "no axis of raters" in text


@pytest.mark.parametrize(
    ("masks", "others", "advice"),
    [
        ((4, 3, 8, 10), [(4, 1, 8, 10), (4, 8, 10)], ""),
        ((4, 3, 8, 10), [(4, 1, 16, 20)], ""),
        ((4, 8, 10, 3), [(4, 1, 8, 10)], RATERS_LAST),
        ((4, 8, 10), [(4, 1, 8, 10)], NO_RATERS),
        ((2, 512, 512, 4), [], RATERS_LAST),
        ((2, 5, 6, 7, 3), [(2, 5, 6, 7)], RATERS_LAST),
        ((2, 3, 5, 6, 7), [(2, 1, 5, 6, 7)], ""),
        ((2, 3, 3, 3), [(2, 1, 3, 3)], ""),
    ],
)
def test_advice_on_masks(masks, others, advice):
    assert advise_on_masks(masks, others) == advice


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"roi": lambda b: b["roi"][:, :4]}, "`roi` must be (4, 8, 10) or (4, 1, 8, 10), as the masks are"),
        ({"roi": lambda b: b["roi"][:2]}, "`roi` must be a tensor for 4 images, found bool (2, 8, 10)"),
        ({"present": lambda b: torch.ones(4, 2)}, "`present` must be (4, 3)"),
        ({"present": lambda b: torch.full((4, 3), 0.3)}, "`present` must hold 0 and 1 (or bool)"),
        ({"image_id": lambda b: b["id"][:3]}, "`image_id` must hold one id an image: 4 expected, 3 found"),
        ({"masks": lambda b: b["masks"].float() * 0.5}, "`masks` must hold 0 and 1"),
        ({"masks": lambda b: b["masks"][:, :1]}, "number of raters must be from 2 to 16, found 1"),
        ({"predictions": "loss"}, "`predictions='loss'` must be predictions (4, 8, 10) or (4, 1, 8, 10)"),
        ({"predictions": lambda *_: None}, "what `predictions` returned must be a tensor of predictions, found None"),
        ({"predictions": ForwardAgain("picture")}, "`image='picture'` is not in the batch"),
    ],
)
def test_what_does_not_fit_shows_in_the_sanity_check(tmp_path, options, text):
    assert text in message(Module("dict"), tmp_path, monitor(**({"predictions": "preds"} | options)))


class TwoChannels(Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 2, 3, padding=1)

    def loss(self, logits, batch):
        return logits.mean()


class HalfSize(TwoChannels):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 1, 3, padding=1, stride=2)


class CallsFunction(TwoChannels):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 1, 3, padding=1)

    def run_net(self, x):
        return nn.functional.conv2d(x, self.net.weight, self.net.bias, padding=1)

    def forward(self, x):
        return self.run_net(x)


class Scripted(Module):
    def __init__(self):
        super().__init__(call="net")
        self.net = torch.jit.script(self.net)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (TwoChannels, ["the forward calls gave TwoChannels (4, 2, 8, 10)", "pass `num_classes=2`"]),
        (HalfSize, ["HalfSize (4, 1, 4, 5)", "of another size than the masks"]),
        (CallsFunction, ["no forward call was seen", "ForwardAgain('<image>')"]),
        (Scripted, ["no forward call was seen", "not of scripted ones"]),
    ],
)
def test_what_was_seen_instead_is_named_with_a_remedy(tmp_path, kind, parts):
    text = message(kind(), tmp_path, monitor())
    assert "No predictions found: expected a tensor (4, 8, 10) or (4, 1, 8, 10)" in text
    for part in parts:
        assert part in text


def test_classes_are_expected_where_they_were_announced(tmp_path):
    text = message(
        Module(), tmp_path, monitor(num_classes=3, predictions=lambda m, b, _: m(b["image"]).repeat(1, 4, 1, 1))
    )
    assert "(4, 8, 10) or (4, 3, 8, 10)" in text
    assert "is it `num_classes=4` instead of 3?" in text


@pytest.mark.parametrize("kind", [CallsFunction, Scripted])
def test_the_forward_can_be_run_once_more(tmp_path, kind):
    module = kind()
    history = fit(module, tmp_path, monitor(predictions=ForwardAgain("image")))
    with torch.no_grad():
        assert history[-1]["val/iou"] == pytest.approx(score(module(Toy().image)), abs=1e-9)


class Fragile(Module):
    """Dropout and batch norm, one part frozen."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 1, 1))

    def on_train_epoch_start(self):
        self.net[1].eval()

    def run_net(self, x):
        assert self.net[2].training == torch.is_grad_enabled()
        assert not self.net[1].training
        return self.net(x)


def test_running_it_once_more_leaves_a_training_as_it_was(tmp_path):
    again = monitor(stages=("train", "validate"), predictions=ForwardAgain("image"))
    weights = []
    for watchers in ([], [again]):
        torch.manual_seed(0)
        module = Fragile()
        trainer(watchers, tmp_path).fit(module, loader(shuffle=True), loader())
        weights.append(module.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert {"train/iou", "val/iou"} <= {key for row in again.history for key in row}


class ReturnsProbabilities(Module):
    def validation_step(self, batch, _):
        return {"p": self(batch["image"]).sigmoid()}


def test_a_returned_tensor_beside_a_forwards_output_is_not_guessed_at(tmp_path):
    text = message(ReturnsProbabilities(), tmp_path, monitor())
    assert "2 tensors have the shape of predictions: outputs['p']" in text
    assert "by `predictions='p'` or `predictions='ReturnsProbabilities'`" in text


class ReturnsLogits(Module):
    def validation_step(self, batch, _):
        logits = self(batch["image"])
        return {"loss": logits.mean(), "logits": logits.detach(), "again": logits}


def test_one_tensor_under_several_names_is_one(tmp_path):
    module = ReturnsLogits()
    history = fit(module, tmp_path)
    with torch.no_grad():
        assert history[-1]["val/iou"] == pytest.approx(score(module(Toy().image)), abs=1e-9)
