"""A small study: smooth lesions, three raters, a patient for every two images, one rater with second drawings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from irrbench.data import RaterData
from irrbench.reliability import Study, StudyOptions, study
from irrbench.simulate import draw_lesions

RATERS = ("anna", "ben", "cem")
IMAGES, SIZE = 24, (20, 28)
OPTIONS = StudyOptions(cells=[4, 5], min_images=1, resamples=50, scores=["iou", "accuracy", "tpr"])
QUICK = replace(OPTIONS, cells=[3], quadrature=False)


def make_data(images: int = IMAGES, *, roi: bool = True, seed: int = 0, prevalence: float = 0.3) -> RaterData:
    drawn = draw_lesions(
        images, sensitivity=[0.95, 0.9, 0.8], specificity=[0.98, 0.95, 0.97], size=SIZE, prevalence=prevalence, rng=seed
    )
    rng = np.random.default_rng(seed)
    ids = [f"i{place:02d}" for place in range(images)]
    manifest = pd.DataFrame(
        {
            "group": [f"p{place // 2}" for place in range(images)],
            "age": rng.normal(40, 10, images),
            "site": rng.choice(["A", "B"], images),
        },
        index=pd.Index(ids, name="image_id"),
    )
    region = np.ones(SIZE, bool)
    region[:, :3] = False
    return RaterData.from_arrays(
        [rng.random((1, *SIZE)).astype(np.float32) for _ in ids],
        list(drawn.masks.numpy()),
        name="toy",
        raters=RATERS,
        image_ids=ids,
        rois=[region] * images if roi else None,
        manifest=manifest,
        group_column="group",
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data() -> RaterData:
    return make_data()


@pytest.fixture(scope="session")
def found(data: RaterData) -> Study:
    return study(data, OPTIONS, progress=False)
