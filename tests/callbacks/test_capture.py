"""What watching a module's forward calls must not do to it, and what must not mislead it."""

import copy
import pickle

import pytest
import torch
from pytorch_lightning import callbacks
from pytorch_lightning.callbacks import StochasticWeightAveraging
from torch import nn
from torch.utils.checkpoint import checkpoint

from irrbench.callbacks import ForwardAgain, RaterBoundsMonitor
from irrbench.callbacks.predictions import Capture, PredictionFinder, distinct, is_compiled
from tests.callbacks.toys import Module, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def monitor(**kwargs):
    return RaterBoundsMonitor(roi="roi", image_id="id", print_link=False, **kwargs)


def fit(module, path, watcher=None, **kwargs):
    watcher = watcher or monitor()
    torch.manual_seed(0)
    trainer(watcher, path, **kwargs).fit(module, loader(), loader())
    return watcher.history


def there_and_back(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 (our own)


def test_equal_numbers_in_two_places_are_two():
    a = torch.ones(2, 3)
    assert len(distinct([Capture("a", a), Capture("b", a.clone()), Capture("c", a.detach()), Capture("d", a[:1])])) == 3


class Late(Module):
    """Its network comes into being after the callbacks' setup."""

    def __init__(self, hook):
        super().__init__(call="net")
        network, self.net = self.net, None
        setattr(self, hook, lambda *_, **__: setattr(self, "net", network))


@pytest.mark.parametrize("hook", ["configure_model", "setup"])
def test_networks_made_late_are_watched_too(tmp_path, hook):
    assert "val/iou" in fit(Late(hook), tmp_path)[-1]


class Reentrant(Module):
    def forward(self, x):
        return checkpoint(self.net, x.requires_grad_(), use_reentrant=True)


class NotReentrant(Module):
    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=False)


class ByHand(Reentrant):
    """Two backward passes a step, the network's after the first."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        self.manual_backward(sum(p.square().sum() for p in self.parameters()))
        self.manual_backward(super().training_step(batch, index))
        self.optimizers().step()


@pytest.mark.parametrize("kind", [Reentrant, NotReentrant, ByHand])
def test_what_a_backward_pass_runs_once_more_is_not_taken_in(tmp_path, kind):
    history = fit(kind(), tmp_path, monitor(stages=("train", "validate")), max_epochs=1)
    assert [next(key for key in row if key.endswith("n_images")) for row in history] == [
        "val/n_images",
        "train/n_images",
    ]


class Exports(Module):
    """Saves and scripts its network while it trains."""

    def on_validation_epoch_end(self):
        torch.jit.script(self.net)
        self.copies = [there_and_back(self.net), copy.deepcopy(self.net)]

    def on_train_batch_end(self, *_):
        torch.jit.script(self.net)
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in self.modules())


def test_a_network_can_be_saved_and_scripted_in_the_middle(tmp_path):
    module = Exports()
    assert len(fit(module, tmp_path)) == 2
    assert not any(part._forward_hooks for net in module.copies for part in net.modules())


AVERAGING = [lambda: StochasticWeightAveraging(1e-2, swa_epoch_start=1)]
AVERAGING += [callbacks.EMAWeightAveraging] if hasattr(callbacks, "EMAWeightAveraging") else []  # of later versions


@pytest.mark.parametrize("averaging", AVERAGING)
def test_weight_averaging_copies_the_module_and_trains_the_same(tmp_path, averaging):
    weights = []
    for watchers in ([], [monitor(stages=("train", "validate"))]):
        torch.manual_seed(0)
        module = Module()
        trainer([*watchers, averaging()], tmp_path, max_epochs=4).fit(module, loader(), loader())
        weights.append(module.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


class Breaks(Module):
    def validation_step(self, batch, index):
        self(batch["image"])
        raise KeyboardInterrupt if self.give == "interrupt" else RuntimeError("broken")


@pytest.mark.parametrize("give", ["interrupt", "error"])
def test_a_training_that_breaks_leaves_no_hook_behind(tmp_path, give):
    module = Breaks(give)
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        fit(module, tmp_path)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_the_monitor_can_be_sent_to_other_processes():
    watcher = monitor(predictions=ForwardAgain("image"))
    for other in (there_and_back(watcher), copy.deepcopy(watcher)):
        assert other.scores == watcher.scores
    assert there_and_back(monitor()).stages == ("validate", "test")


def test_compiled_modules_are_told_from_others():
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    assert not is_compiled(net)
    assert is_compiled(nn.Sequential(torch.compile(net, backend="eager")))
    net.compile(backend="eager")
    assert is_compiled(nn.Sequential(net))


def test_hooks_of_a_compiled_module_stay_and_others_go():
    capture, net = PredictionFinder(None, num_classes=None), nn.Sequential(nn.Conv2d(1, 1, 1))
    capture.setup(net)
    assert not net._forward_hooks
    capture.attach(net)
    capture.attach(net)
    assert len(net._forward_hooks) == 1
    capture.release()
    assert not net._forward_hooks
    compiled = nn.Sequential(torch.compile(net, backend="eager"))
    capture.setup(compiled)
    capture.release()
    assert compiled._forward_hooks
    capture.detach()
    assert not compiled._forward_hooks


class CopiedWithin(Module):
    """Its step calls the network by `forward`, and copies it while its calls are watched."""

    def validation_step(self, batch, index):
        if not index:
            self.copied = copy.deepcopy(self.net)
        self.net.forward(batch["image"])


def test_calls_of_forward_are_seen_by_several_monitors_and_nothing_stays(tmp_path):
    module, watchers = CopiedWithin(), [monitor(), monitor(name="other"), monitor(name="named", predictions="net")]
    for _ in range(2):
        trainer(watchers, tmp_path).validate(module, loader(), verbose=False)
        assert not any("forward" in vars(part) for name, part in module.named_modules() if "copied" not in name)
    assert len({*(next(v for k, v in w.history[1].items() if k.endswith("/iou")) for w in watchers)}) == 1
    x = torch.ones(1, 1, 4, 4)
    with torch.no_grad():
        expected = module.net(x)
        module.net[0].weight.zero_()
        assert torch.equal(module.copied(x), expected)  # with weights of its own
        assert torch.equal(module.copied.forward(x), expected)


def test_a_part_with_a_forward_of_its_own_keeps_it(tmp_path):
    module = Module()
    own = module.net[3].forward = lambda x: 2 * x
    history = fit(module, tmp_path)
    assert vars(module.net[3])["forward"] is own
    assert "val/iou" in history[-1]


class CompilesAFunction(Module):
    def __init__(self):
        super().__init__()
        self.graphs = 0
        self.function = torch.compile(lambda x: self.net(x) + 0, backend=self.count, fullgraph=True)

    def count(self, graph, _):
        self.graphs += 1
        return graph.forward

    def validation_step(self, batch, _):
        self.function(batch["image"])


def test_a_compiled_function_of_a_step_is_compiled_no_more_often(tmp_path):
    graphs = []
    for watchers in ([], [monitor(verbose=False)]):
        torch.compiler.reset()
        runner = trainer(watchers, tmp_path, inference_mode=False)
        for module in [CompilesAFunction()] * 2:
            runner.validate(module, loader(8), verbose=False)
        graphs.append(module.graphs)
    assert graphs[0] <= graphs[1] == 1
