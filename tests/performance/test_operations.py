"""What must stay cheap, held by counting operations, which no busy machine can disturb."""

from collections import Counter

import numpy as np
import pytest
import torch
from studies.performance.images import Images
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from irrbench import SegmentationBounds, VotePatterns, segmentation_bounds
from irrbench._counting import count_codes, count_on_accelerator, cpu
from irrbench._counting import masks as masks_module


class Tape(TorchDispatchMode):
    """Names of the operations that touch at least so many numbers, and the bytes that they read and write."""

    def __init__(self, at_least):
        super().__init__()
        self.at_least, self.names, self.bytes = at_least, [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        touched = [x for x in (*args, result) if isinstance(x, torch.Tensor) and x.numel() >= self.at_least]
        if touched and not func.is_view:
            self.names.append(func._schema.name.removeprefix("aten::"))
            self.bytes += sum(x.numel() * x.element_size() for x in touched)
        return result


def tape_of(action, at_least):
    with Tape(at_least) as tape:
        action()
    return tape


class Calls:
    """Stands in for numpy and notes calls that read or write so many numbers or more: how many times as many."""

    def __init__(self, at_least, of=np, names=None):
        self.at_least, self.of, self.names = at_least, of, Counter() if names is None else names

    def __getattr__(self, name):
        value = getattr(self.of, name)
        return value if isinstance(value, type) or not callable(value) else Call(self, name, value)


class Call(Calls):
    """One function of numpy; a ufunc has methods, which are noted too."""

    def __init__(self, calls, name, function):
        super().__init__(calls.at_least, function, calls.names)
        self.name = name

    def __call__(self, *args, **kwargs):
        result = self.of(*args, **kwargs)
        touched = max((x.size for x in (*args, result) if isinstance(x, np.ndarray)), default=0) // self.at_least
        if touched and self.name != "empty":
            self.names[self.name] += touched
        return result


@pytest.fixture
def calls(monkeypatch):
    noted = Calls(256 * 256)
    monkeypatch.setattr(cpu, "np", noted)
    monkeypatch.setattr(cpu, "_SUBSET_BUFFER", 2**12)  # else sets of channels are as many as pixels
    return noted.names


@pytest.mark.parametrize("num_raters", [2, 4])
def test_bool_masks_are_read_once(num_raters, calls):
    images = Images.draw(num_images=3, num_raters=num_raters, side=256)
    tape = tape_of(images.count, 256 * 256)
    # Each mask of three images is packed; what follows works on words of 64 pixels. Torch, whose calls of that size
    # would wait for a team of threads, has no part in it.
    assert calls == {"packbits": 3 * (num_raters + 2)}
    assert tape.names == []


def test_a_large_image_is_read_once_too(calls, monkeypatch):
    monkeypatch.setattr(cpu, "_TILE", 256 * 256)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    Images.draw(num_images=2, num_raters=4, side=512).count()
    assert calls == {"packbits": 2 * 4 * 6}


@pytest.mark.parametrize("many", [False, True])
def test_noise_is_counted_in_one_pass(calls, many):
    num_raters = 8 if many else 4
    masks = torch.rand(3, num_raters, 256, 256, generator=torch.Generator().manual_seed(0)) < 0.5
    patterns = tape_of(lambda: VotePatterns.from_masks(masks), cpu.GRAIN)
    in_bytes = {"reduce": 3}  # of the packed masks
    by_pixel = {"unpackbits": 3 * 8, "zeros": 3, "add": 3 * 8, "bitwise_or": 3 * 8} | in_bytes if many else {}
    assert calls == Counter({"packbits": 3 * num_raters}) + Counter(by_pixel)
    assert Counter(patterns.names) == ({"bincount": 3 * 256 * 256 // cpu.GRAIN} if many else {})


@pytest.mark.parametrize("top", [1, 255])
def test_bytes_are_looked_at_once_more_and_never_copied(calls, top):
    images = Images.draw(num_images=3, num_raters=4, side=256).cast(lambda part: top * part.to(torch.uint8))
    assert tape_of(images.count, 256 * 256).names == ["aminmax"] * 3
    assert calls == {"packbits": 3 * 6}


def test_floats_are_looked_at_once_more_in_parts_that_a_cache_holds():
    images = Images.draw(num_images=3, num_raters=4, side=256).cast(Tensor.float)
    noted = Calls(masks_module._TILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks_module, "np", noted)
        assert tape_of(images.count, 256 * 256).names == []
    tiles = 3 * 6 * 256 * 256 // masks_module._TILE
    assert noted.names == {"equal": tiles, "count_nonzero": 2 * tiles}


def test_after_counting_no_operation_grows_with_the_image():
    images = Images.draw(num_images=3, num_raters=4, side=16)

    def tape(times):
        # The search for the best mask depends on the shares of the patterns, so these stay as they are.
        patterns = images.cast(lambda part: part.repeat_interleave(times, -1).repeat_interleave(times, -2)).count()
        segmentation_bounds(patterns)  # the weights of the patterns are computed at the first call and kept
        return tape_of(lambda: segmentation_bounds(patterns), 1)

    small, large = tape(1), tape(4)
    assert small.names == large.names
    assert small.bytes == large.bytes


def test_a_batch_of_a_metric_passes_once_over_masks():
    images = Images.draw(num_images=3, num_raters=4, side=256)
    logits = images.preds.float() - 0.5
    metric = SegmentationBounds()
    tape = tape_of(lambda: metric.update(logits, images.masks, images.roi), images.masks.numel())
    assert tape.names == []
    names = tape_of(lambda: metric.update(logits, images.masks, images.roi), logits.numel()).names
    assert len(names) <= 8, names  # the cut, whether all are finite, the largest


def test_reading_the_end_of_an_epoch_touches_no_pixel():
    images = Images.draw(num_images=3, num_raters=4, side=64)
    metric = SegmentationBounds()
    metric.update(images.preds, images.masks, images.roi)
    assert tape_of(metric.per_image, 64 * 64).names == []


@pytest.mark.parametrize("image_id", [None, "names", "numbers"])
def test_no_batch_waits_for_an_accelerator(image_id):
    # Tensors of the device "meta" have no values. Reading one fails; on an accelerator it makes the host wait.
    images = Images.draw(num_images=3, num_raters=4, side=16).cast(lambda part: part.to("meta"))
    ids = {None: None, "names": ["a", "b", "c"], "numbers": torch.arange(3, device="meta")}[image_id]
    metric = SegmentationBounds(validate_args=False).to("meta")
    for preds in (images.preds, images.preds.float()):
        metric.update(preds, images.masks, images.roi, ids, torch.ones(3, 4, dtype=torch.bool, device="meta"))
    assert len(metric.counts) == 3  # the seed and two batches


def test_asking_for_a_value_would_have_failed():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros(3, device="meta").max().item()


def test_counting_on_accelerators_gives_the_same():
    images = Images.draw(num_images=3, num_raters=4, side=33)
    planes = [x.view(torch.uint8).flatten(2) for x in (images.masks, images.preds[:, None], images.roi[:, None])]
    present = torch.tensor([[True] * 4, [False, True, True, True], [True, False, False, True]])
    *planes, roi = planes
    assert torch.equal(count_on_accelerator(planes, present, roi[:, 0])[0], count_codes(planes, present, roi[:, 0]))
    assert VotePatterns.from_masks(images.masks).counts.sum() == 3 * 33 * 33
