"""Samples of a probabilistic model while it trains."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from irrbench import SegmentationBounds, VotePatterns, sample_bounds, segmentation_bounds
from irrbench.callbacks import RaterBoundsMonitor
from irrbench.metrics.inputs import mean_of_samples
from tests.callbacks.test_no_waiting import batch, run
from tests.callbacks.toys import Module, Toy, loader, trainer

NUM = 5
SCORES = ("iou", "ged", "energy_score")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def monitor(**options):
    return RaterBoundsMonitor(roi="roi", image_id="id", **{"scores": SCORES, "print_link": False} | options)


def fit(path, watcher, module=None, callbacks=(), **options):
    torch.manual_seed(0)
    module = module or Module()
    trainer([*([watcher] if watcher else []), *callbacks], path, **options).fit(module, loader(), loader())
    return module


class Draws:
    """A function for `samples=` that draws, and keeps what it gave in the latest epoch."""

    def __init__(self, num=NUM):
        self.num, self.given, self.drawn = num, {}, []

    def __call__(self, module, batch, outputs):
        assert not torch.is_grad_enabled()
        image = batch["image"]
        noise = torch.randn(len(image), self.num, *image.shape[2:])
        self.drawn.append(noise[0, 0, 0, 0].item())
        logits = module.net((image + noise).flatten(0, 1).unsqueeze(1)).unflatten(0, noise.shape[:2])
        self.given |= dict(zip(batch["id"], logits, strict=True))
        return logits  # (B, M, 1, H, W)


def right(logits, *, threshold=0.5):
    """Scores of the samples, and of the mean of their probabilities."""
    toy = Toy()
    preds = (logits.sigmoid() > threshold)[:, :, 0]
    mean = logits.sigmoid().mean(1)[:, 0] > threshold
    own = sample_bounds(toy.masks, preds, roi=toy.roi)
    iou = segmentation_bounds(VotePatterns.from_masks(toy.masks, roi=toy.roi, preds=mean), ["iou"])
    return {"ged": own.model["ged"], "energy_score": own.model["energy_score"], "iou": iou.model["iou"], "bounds": own}


def test_a_function_draws_them_and_training_is_what_it_was(tmp_path):
    draws = Draws()
    best = ModelCheckpoint(tmp_path, monitor="val/ged", mode="min", save_weights_only=True)
    watcher = monitor(samples=draws)
    module = fit(tmp_path, watcher, callbacks=[best], enable_checkpointing=True)
    last = watcher.history[-1]
    expected = right(torch.stack([draws.given[name] for name in Toy().names]))
    for score in SCORES:
        assert last[f"val/{score}"] == pytest.approx(expected[score].nanmean().item())
    assert last["val/ged_ceiling"] == pytest.approx(expected["bounds"].ceiling["ged"].mean().item())
    assert float(best.best_model_score) == pytest.approx(min(row["val/ged"] for row in watcher.history), abs=1e-6)
    assert len(set(draws.drawn)) == len(draws.drawn) > 2  # other random numbers in each batch, the same in each run
    again = Draws()
    fit(tmp_path / "again", monitor(samples=again))
    assert again.drawn == draws.drawn
    alone = fit(tmp_path / "alone", None)
    assert all(torch.equal(x, y) for x, y in zip(module.parameters(), alone.parameters(), strict=True))


def test_a_key_of_what_the_step_returns_and_predictions_of_their_own(tmp_path):
    class Returning(Module):
        def validation_step(self, batch, _):
            logits = self.net(batch["image"])
            shifts = torch.linspace(-1, 1, NUM).view(-1, 1, 1, 1)
            return {"drawn": {"masks": (logits[:, None] + shifts > 0)[:, :, 0]}, "preds": logits - 0.3}

    watcher = monitor(samples="drawn.masks", predictions="preds")
    module = fit(tmp_path, watcher, Returning())
    toy = Toy()
    with torch.no_grad():
        returned = module.validation_step({"image": toy.image}, 0)
    own = sample_bounds(toy.masks, returned["drawn"]["masks"], roi=toy.roi)
    assert watcher.history[-1]["val/ged"] == pytest.approx(own.model["ged"].mean().item())
    patterns = VotePatterns.from_masks(toy.masks, roi=toy.roi, preds=returned["preds"][:, 0] > 0)
    iou = segmentation_bounds(patterns, ["iou"]).model["iou"].nanmean().item()
    assert watcher.history[-1]["val/iou"] == pytest.approx(iou)


def test_the_forward_calls_of_drawing_are_no_predictions(tmp_path):
    # Predictions are found by their shape among the step's calls, beside which samples are drawn by another call.
    watcher = monitor(samples=Draws(), predictions="net")
    module = fit(tmp_path, watcher)
    toy = Toy()
    with torch.no_grad():
        preds = module.net(toy.image)[:, 0] > 0
    expected = segmentation_bounds(VotePatterns.from_masks(toy.masks, roi=toy.roi, preds=preds), ["iou"])
    assert watcher.history[-1]["val/iou"] == pytest.approx(expected.model["iou"].nanmean().item())


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (lambda *_: None, r"`samples` must give a tensor \(B, M, \*S\), M masks an image; found None"),
        (lambda m, b, o: b["masks"][:, 0], r"`samples` must be \(B, M, \*S\) = \(4, M, 8, 10\) .*found \(4, 8, 10\)"),
        ("drawn", r"`samples='drawn'` is not in what the step returned: .*'preds'.*pass `samples=lambda module"),
    ],
)
def test_what_is_refused_at_the_first_batch(tmp_path, samples, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, monitor(samples=samples), Module("dict"))


def test_nothing_waits_for_the_device():
    watcher = RaterBoundsMonitor(
        roi="roi", image_id="id", present="present", samples="s", scores=SCORES, stages=("validate",), verbose=False
    )
    given = [batch(torch.bool, list("abcd")) for _ in range(2)]
    outputs = [{"s": torch.zeros(4, NUM, 1, 8, 10, device="meta")} for _ in given]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watcher._owned.metric.__class__, "_validates", lambda *_: False)  # as after the first batch
        evaluator = run(watcher, "validate", given, outputs)
    assert evaluator.metric.fields[-1].device.type == "meta"


def test_scores_of_samples_ask_for_them_at_once():
    with pytest.raises(ValueError, match=r"`samples` must say where the samples \(B, M, \*S\) are"):
        monitor()


def test_another_number_of_samples_is_refused_at_its_batch(tmp_path):
    draws = Draws()

    def fewer(module, batch, outputs):
        draws.num = 3 if len(batch["id"]) < 4 else NUM
        return draws(module, batch, outputs)

    with pytest.raises(ValueError, match=r"same number of samples: `samples` is \(2, 3, .*before it was \(4, 5"):
        fit(tmp_path, monitor(samples=fewer))


@pytest.mark.parametrize("from_logits", [True, False])
def test_the_mean_of_samples(from_logits):
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 5, 6, 7, generator=g)
    logits[0, :, 0] = 60.0  # surer than single precision holds
    given = logits if from_logits else logits.sigmoid()
    options = {"from_logits": from_logits, "threshold": 0.3}
    masks = torch.rand(2, 3, 6, 7, generator=g) < 0.5
    binary = mean_of_samples(given, 2, num_classes=None, **options)
    assert torch.equal(mean_of_samples(given.unsqueeze(2), 2, num_classes=None, **options), binary)
    metrics = [SegmentationBounds(["iou"], **options) for _ in range(2)]
    metrics[0].update(binary, masks)
    metrics[1].update(logits.sigmoid().mean(1) > 0.3, masks)
    assert metrics[0].per_image()["iou"].equals(metrics[1].per_image()["iou"])
    votes = mean_of_samples(logits > 0, 2, num_classes=None, **options)
    assert torch.equal(votes, (logits > 0).sum(1) >= 2)
    # Label maps: the mean probability of each class, or the most frequent one.
    scores = torch.randn(2, 5, 3, 6, 7, generator=g)
    probabilities = scores.softmax(2)
    mean = mean_of_samples(scores if from_logits else probabilities, 2, num_classes=3, **options)
    assert torch.equal(mean.argmax(1), probabilities.mean(1).argmax(1))
    labels = scores.argmax(2)
    assert torch.equal(mean_of_samples(labels, 2, num_classes=3, **options), labels.mode(1).values)
