"""Nothing in a batch hook waits for the device; nothing asks what a logger or trainer is, or touches their insides.

Tensors on the meta device have no values: whoever asks for one, as `.item()`, `bool()`, `.tolist()` or `nonzero` do,
gets an error there, where an accelerator would have to be waited for.
"""

import ast
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import irrbench
from irrbench.callbacks import RaterBoundsMonitor

META = torch.device("meta")
CALLBACKS = Path(irrbench.__file__).parent / "callbacks"


class OnMeta(nn.Module):
    device = META


def batch(dtype, ids):
    g = torch.Generator().manual_seed(0)
    parts = {
        "image": torch.randn(4, 1, 8, 10, generator=g),
        "masks": torch.rand(4, 3, 8, 10, generator=g) < 0.4,
        "roi": torch.rand(4, 8, 10, generator=g) < 0.9,
        "present": torch.ones(4, 3, dtype=torch.bool),
        "label": torch.rand(4, 1, 8, 10, generator=g),
    }
    parts["masks"], parts["roi"] = parts["masks"].to(dtype), parts["roi"].to(dtype)
    return {key: value.to(META) for key, value in parts.items()} | {"id": ids}


def run(monitor, stage, batches, outputs):
    trainer = SimpleNamespace(
        sanity_checking=False,
        callbacks=[],
        lr_scheduler_configs=[],
        val_dataloaders=[0],
        test_dataloaders=[0],
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
    )
    module = OnMeta()
    monitor.begin(stage, None, module)
    for given, found in zip(batches, outputs, strict=True):
        monitor.before_step(stage, module, given)
        monitor.after_step(stage, trainer, module, found, given, 0)
    return monitor._evaluators[stage][0]


@pytest.mark.parametrize(
    ("stage", "ids", "dtype", "preds"),
    [
        ("train", list("abcd"), torch.bool, torch.float32),
        ("train", torch.arange(4, device=META), torch.uint8, torch.bfloat16),
        ("validate", torch.arange(4, device=META), torch.bool, torch.bool),
        ("validate", list("abcd"), torch.float32, torch.float32),
    ],
)
def test_batch_hooks_wait_for_no_device(stage, ids, dtype, preds):
    monitor = RaterBoundsMonitor(
        roi="roi",
        image_id="id",
        present="present",
        image="image",
        label="label",
        predictions="p",
        stages=("train", "validate"),
    )
    given = [batch(dtype, ids) for _ in range(2)]
    outputs = [{"p": torch.zeros(4, 1, 8, 10, dtype=preds, device=META)} for _ in given]
    with pytest.MonkeyPatch.context() as patch:
        # An epoch's first batch is looked at: that its masks hold 0 and 1 only, and for an id that comes twice.
        if dtype is not torch.bool or isinstance(ids, torch.Tensor):
            _skip_first_look(patch)
        state = run(monitor, stage, given, outputs)
    assert len(state.metric.info) == 3  # nothing, and two batches
    assert [len(waiting.kept) for waiting in state.panels._waiting] == [
        4,
        4,
    ]  # their ranks are read when they have come


def _skip_first_look(patch):
    from irrbench.evaluation import evaluator

    class Unvalidated(evaluator.SegmentationBounds):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, validate_args=False, **kwargs)

    patch.setattr(evaluator, "SegmentationBounds", Unvalidated)


def test_several_classes_wait_for_no_device():
    with pytest.MonkeyPatch.context() as patch:
        _skip_first_look(patch)
        monitor = RaterBoundsMonitor(predictions="p", num_classes=3)
        given = [{"masks": torch.zeros(4, 2, 8, 10, dtype=torch.int64, device=META)}] * 2
        state = run(monitor, "validate", given, [{"p": torch.zeros(4, 3, 8, 10, device=META)}] * 2)
    assert len(state.metric.info) == 3


def test_the_device_above_shows_who_waits():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros(3, device=META).max().item()
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.zeros(3, device=META).any())


def sources():
    return {path.name: ast.parse(path.read_text()) for path in sorted(CALLBACKS.glob("*.py"))}


def inner_members(tree):
    """Underscored attributes of what is not `self` or a class of ours: `trainer._x`, `pl_module._x`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = ast.unparse(node.value)
            if root.split(".")[0].split("(")[0] in {
                "trainer",
                "pl_module",
                "module",
                "logger",
                "mlflow_logger",
                "other",
            }:
                yield f"{root}.{node.attr}"


def asked_classes(tree):
    """First arguments of isinstance that are a trainer, a logger or a module of the user's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            subject = ast.unparse(node.args[0])
            if subject.split(".")[0] in {"trainer", "pl_module", "module"} or subject in {"other", "logger"}:
                yield ast.unparse(node)


def test_no_private_member_of_a_trainer_and_no_question_of_class():
    for name, tree in sources().items():
        assert not list(inner_members(tree)), name
        assert not list(asked_classes(tree)), name


def test_this_could_fail():
    tree = ast.parse(
        "trainer._evaluation_loop; isinstance(trainer.logger, MLFlowLogger); self._x; isinstance(other, X)"
    )
    assert list(inner_members(tree)) == ["trainer._evaluation_loop"]
    assert len(list(asked_classes(tree))) == 2
