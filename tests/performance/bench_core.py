"""To be run by hand, with pytest-benchmark: ``python -m pytest tests/performance/bench_core.py -W default``."""

import pytest
import torch
from studies.performance.images import Images

from irrbench import SegmentationBounds, krippendorff_alpha, segmentation_bounds
from irrbench.icc import pixel_icc


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("num_raters", [2, 4, 6, 12])
def test_count(benchmark, num_raters):
    assert len(benchmark(Images.draw(num_raters=num_raters).count)) == 8


@pytest.mark.parametrize("function", [segmentation_bounds, krippendorff_alpha, pixel_icc])
def test_from_patterns(benchmark, function):
    benchmark(function, Images.draw(num_images=64, side=128).count())


def test_metric_batch(benchmark):
    images = Images.draw()
    logits = images.preds.float() - 0.5

    def batch():
        metric = SegmentationBounds()
        metric.update(logits, images.masks, images.roi)
        return metric

    assert len(benchmark(batch).counts) == 2
