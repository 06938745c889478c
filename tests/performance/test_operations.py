"""What must stay cheap, held by counting operations, which no busy machine can disturb."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from irrbench import SegmentationBounds, VotePatterns, segmentation_bounds
from irrbench.performance.images import Images


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


@pytest.mark.parametrize("num_raters", [2, 4, 6])
def test_bool_masks_are_read_once(num_raters):
    images = Images.draw(num_images=3, num_raters=num_raters, side=256)
    tape = tape_of(images.count, 256 * 256)
    planes = num_raters + 2
    # One plane of codes for all images; each mask is added to it. Nothing of the batch's size is made, and of what is
    # counted no run of pixels with one code is looked at pixel by pixel.
    assert Counter(tape.names) == {"empty": 1, "zero_": 3, "add_": 3 * planes}
    # zero_ has codes in and out; add_ has codes in, mask in, codes out
    assert tape.bytes == 256 * 256 * (1 + 3 * 2 + 3 * 3 * planes)


def test_noise_is_counted_pixel_by_pixel_in_one_pass():
    masks = torch.rand(3, 4, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    names = Counter(tape_of(lambda: VotePatterns.from_masks(masks), 64 * 64).names)
    assert names == {"empty": 1, "zero_": 3, "add_": 3 * 4, "bincount": 3}


def test_bytes_are_looked_at_once_more_and_never_copied():
    images = Images.draw(num_images=3, num_raters=4, side=256).cast(lambda part: part.to(torch.uint8))
    names = Counter(tape_of(images.count, 256 * 256).names)
    assert names == {"aminmax": 3, "empty": 1, "zero_": 3, "add_": 3 * 6}


def test_after_counting_no_operation_grows_with_the_image():
    def tape(side):
        patterns = Images.draw(num_images=3, num_raters=4, side=side).count()
        segmentation_bounds(patterns)  # what patterns mean is worked out at the first call
        return tape_of(lambda: segmentation_bounds(patterns), 1)

    small, large = tape(16), tape(64)
    assert small.names == large.names
    assert small.bytes == large.bytes


def test_a_batch_of_a_metric_passes_once_over_masks():
    images = Images.draw(num_images=3, num_raters=4, side=32)
    logits = images.preds.float() - 0.5
    metric = SegmentationBounds()
    names = Counter(tape_of(lambda: metric.update(logits, images.masks, images.roi), 32 * 32).names)
    assert names["add_"] == 3 * 6
    counting = names["add_"] + names["zero_"] + names["empty"] + names["bincount"]
    assert sum(names.values()) - counting <= 8, names  # the cut, whether all are finite, the largest


def test_reading_the_end_of_an_epoch_touches_no_pixel():
    images = Images.draw(num_images=3, num_raters=4, side=64)
    metric = SegmentationBounds()
    metric.update(images.preds, images.masks, images.roi)
    assert tape_of(metric.per_image, 64 * 64).names == []


@pytest.mark.parametrize("image_id", [None, "names", "numbers"])
def test_no_batch_waits_for_an_accelerator(image_id):
    # Tensors of the device "meta" have no values: whoever asks for one, as a host that waits for a device does, fails.
    images = Images.draw(num_images=3, num_raters=4, side=16).cast(lambda part: part.to("meta"))
    ids = {None: None, "names": ["a", "b", "c"], "numbers": torch.arange(3, device="meta")}[image_id]
    metric = SegmentationBounds(validate_args=False).to("meta")
    for preds in (images.preds, images.preds.float()):
        metric.update(preds, images.masks, images.roi, ids, torch.ones(3, 4, dtype=torch.bool, device="meta"))
    assert len(metric.counts) == 3  # the seed and two batches


def test_asking_for_a_value_would_have_failed():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros(3, device="meta").max().item()


def test_the_way_for_accelerators_counts_the_same():
    from irrbench.counting import _count_by_lanes, count_codes

    images = Images.draw(num_images=3, num_raters=4, side=33)
    planes = [x.view(torch.uint8).flatten(2) for x in (images.masks, images.preds[:, None], images.roi[:, None])]
    present = torch.tensor([[True] * 4, [False, True, True, True], [True, False, False, True]])
    assert torch.equal(_count_by_lanes(planes, present, 6), count_codes(planes, present))
    assert VotePatterns.from_masks(images.masks).counts.sum() == 3 * 33 * 33
