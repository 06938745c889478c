"""Models of label noise: each a function of mask, strength and generator."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from irrbench.training.noise import NOISE_MODELS, check_noise, make_noise, spoil
from irrbench.training.outlines import fill_outlines, rank_corners, trace_outlines

STRENGTHS = {"px": (0.4, 0.8, 1.6, 3.2, 6.4), "share": (0.02, 0.1, 0.3, 0.6, 0.9), "components": (0.5, 1, 2, 4, 8)}
BORDER = ("boundary", "shrink", "grow")


def blob(shape=(48, 40), centre=(22, 19), radius=8.0, lobes=0.2):
    offsets = [axis - c for axis, c in zip(np.indices(shape), centre, strict=True)]
    angle = np.arctan2(offsets[0], offsets[1])
    return np.sqrt(sum(o**2 for o in offsets)) < radius * (1 + lobes * np.sin(3 * angle))


def rng(*key):
    return np.random.default_rng(key)


def named(name, masks=None):
    return make_noise(name, masks=lambda: [blob(radius=4)] if masks is None else masks)


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("name", NOISE_MODELS)
def test_strength_0_is_the_mask_itself_and_a_seed_gives_one_mask(name):
    mask, noise = blob(), named(name)
    assert (noise(mask, 0, rng(1)) == mask).all()
    strength = STRENGTHS[noise.unit][2]
    found = noise(mask, strength, rng(1))
    assert found.dtype == bool
    assert (noise(mask, strength, rng(1)) == found).all()
    assert any((noise(mask, strength, rng(k)) != found).any() for k in range(2, 9))
    assert mask.sum() == blob().sum()  # untouched


@pytest.mark.parametrize("name", NOISE_MODELS)
def test_one_preparation_gives_what_the_function_gives_whatever_the_order_of_strengths(name):
    mask, noise = blob(), named(name)
    at = noise.prepare(mask, rng(3))
    for strength in reversed(STRENGTHS[noise.unit]):
        assert (at(strength) == noise(mask, strength, rng(3))).all()


@pytest.mark.parametrize("name", NOISE_MODELS)
def test_more_strength_is_less_agreement(name):
    noise, masks = named(name), [blob(centre=(20 + i % 5, 19), radius=5 + i % 4) for i in range(60)]
    means = [
        np.mean([iou(mask, noise(mask, strength, rng(i))) for i, mask in enumerate(masks)])
        for strength in (0, *STRENGTHS[noise.unit])
    ]
    assert (np.diff(means) < 0.005).all()
    assert means[0] == 1
    assert means[-1] < 0.75


@pytest.mark.parametrize("name", NOISE_MODELS)
@pytest.mark.parametrize("mask", [np.zeros((9, 7), bool), np.ones((9, 7), bool), np.eye(9, 7, dtype=bool)])
def test_masks_without_a_border_and_at_the_edge(name, mask):
    donors = [np.ones((2, 2), bool)]
    found = named(name, donors)(mask, STRENGTHS[NOISE_MODELS[name].unit][1], rng(0))
    assert found.shape == mask.shape
    has_border = mask.any() and not mask.all()
    if name in ("boundary", "shrink", "grow", "simplify", "miss") and not mask.any():
        assert not found.any()
    if name in BORDER and not has_border:
        assert (found == mask).all()


@pytest.mark.parametrize("name", NOISE_MODELS)
def test_volumes(name):
    z, y, x = np.indices((9, 14, 12))
    mask = (z - 4) ** 2 + (y - 7) ** 2 + (x - 6) ** 2 < 12
    noise = named(name, [mask[2:5, 4:9, 4:9]])
    strength = STRENGTHS[noise.unit][3]
    found = [noise(mask, strength, rng(k)) for k in range(5)]
    assert all(each.shape == mask.shape for each in found)
    assert np.mean([iou(mask, each) for each in found]) < 0.9
    assert (noise(mask, 0, rng(0)) == mask).all()


@pytest.mark.parametrize("name", BORDER)
def test_nothing_appears_apart_from_the_lesion(name):
    """Pixels far from the border change together with all that lies between, or not at all."""
    specks = changed = 0
    for k in range(40):
        mask = blob(radius=6)
        found = named(name)(mask, 4.0, rng(k))
        parts, number = label(found, np.ones((3, 3)))
        touching = set(np.unique(parts[mask])) - {0}
        outside = [part for part in range(1, number + 1) if part not in touching]
        specks += sum((parts == part).sum() for part in outside)
        changed += (found != mask).sum()
    assert specks <= 0.02 * changed


def mean_area(noise, strength, number=400):
    areas = []
    for k in range(number):
        mask = blob(centre=(24, 20), radius=5 + k % 5, lobes=0.1 * (k % 4))
        areas.append(noise(mask, strength, rng(k)).sum() / mask.sum())
    return np.mean(areas)


@pytest.mark.parametrize(
    ("name", "strength", "low", "high"),
    [
        ("boundary", 1.0, 0.97, 1.03),
        ("boundary", 3.0, 0.95, 1.05),
        ("shift", 2.0, 0.97, 1.03),
        ("simplify", 2.0, 0.97, 1.03),
        ("shrink", 1.0, 0, 0.8),
        ("grow", 1.0, 1.2, 9),
        ("miss", 0.3, 0, 0.8),
        ("invent", 0.5, 1.1, 9),
        ("flip", 0.02, 1.05, 9),
    ],
)
def test_bias_is_what_the_model_says(name, strength, low, high):
    assert low < mean_area(named(name), strength) < high
    assert NOISE_MODELS[name].bias == ("none" if low > 0.9 and high < 1.1 else "smaller" if high < 1 else "larger")


# Slow references


def border_by_hand(mask, strength, *, outward):
    """Every pixel's distance to the nearest one of the other side, where the border moves evenly."""
    found = mask.copy()
    for place in np.argwhere(~mask if outward else mask):
        others = np.argwhere(mask if outward else ~mask)
        nearest = min(float(np.hypot(*(place - other))) for other in others)
        if nearest - 0.5 < strength:
            found[tuple(place)] = outward
    return found


@pytest.mark.parametrize("name", ["grow", "shrink"])
def test_even_growth_by_hand(name, monkeypatch):
    monkeypatch.setattr("irrbench.training.mask_noise._UNEVEN", 0.0)
    mask = blob((17, 15), (8, 7), 4.5)
    for strength in (0.4, 0.6, 1.0, 1.7, 3.0):
        expected = border_by_hand(mask, strength, outward=name == "grow")
        found = named(name)(mask, strength, rng(0))
        inside = border_by_hand(mask, strength + 1e-6, outward=name == "grow")
        assert ((found == expected) | (found == inside)).all()


def test_mean_growth_is_the_strength():
    """A straight border: how far it moved is the number of pixels that were added in a column."""
    mask = np.zeros((40, 60), bool)
    mask[:15] = True
    moved = [(named("grow")(mask, 3.0, rng(k)).sum() - mask.sum()) / 60 for k in range(200)]
    assert np.mean(moved) == pytest.approx(3.0, abs=0.1)
    spread = [named("boundary")(mask, 3.0, rng(k)).sum(0) - 15 for k in range(200)]
    assert np.mean(spread) == pytest.approx(0, abs=0.2)
    assert np.std(spread) == pytest.approx(3.0, abs=0.3)


def test_shift_by_hand():
    mask = blob((15, 13), (7, 6), 3)
    for k in range(30):
        found = named("shift")(mask, 3.0, rng(k))
        steps = [(dy, dx) for dy in range(-6, 7) for dx in range(-6, 7)]
        moved = {}
        for dy, dx in steps:
            other = np.zeros_like(mask)
            for y, x in np.argwhere(mask):
                if 0 <= y + dy < 15 and 0 <= x + dx < 13:
                    other[y + dy, x + dx] = True
            moved[dy, dx] = other
        lengths = [np.hypot(*step) for step, other in moved.items() if (other == found).all()]
        assert any(0.5 < length < 5.5 for length in lengths)
    lost = named("shift")(mask, 100.0, rng(0))
    assert not lost.any()


def test_missed_components_by_hand():
    mask = np.zeros((12, 12), bool)
    for place in ((1, 1), (1, 6), (6, 1), (6, 6), (10, 10)):
        mask[place[0] : place[0] + 2, place[1] : place[1] + 2] = True
    mask[8, 8] = True  # touches the fourth by a corner
    kept = np.zeros(2)
    for k in range(400):
        found = named("miss")(mask, 0.3, rng(k))
        parts, number = label(mask, np.ones((3, 3)))
        assert number == 5
        for part in range(1, number + 1):
            assert found[parts == part].all() or not found[parts == part].any()
            kept += [found[parts == part].all(), 1]
        assert not (found & ~mask).any()
    assert kept[0] / kept[1] == pytest.approx(0.7, abs=0.03)
    assert not named("miss")(mask, 1.0, rng(0)).any()


def test_flipped_pixels_by_hand():
    mask = blob((50, 60), (20, 30), 9)
    changed = [(named("flip")(mask, 0.25, rng(k)) != mask) for k in range(20)]
    assert np.mean(changed) == pytest.approx(0.25, abs=0.01)
    first, second = np.array(changed[0]), named("flip")(mask, 0.5, rng(0)) != mask
    assert (second | ~first).all()  # the same pixels, and more
    assert (named("flip")(mask, 1.0, rng(0)) != mask).all()


def test_invented_components_are_whole_and_grow_in_number():
    donor = np.zeros((9, 8), bool)
    donor[2:4, 3:6] = donor[7, 1] = True
    noise, empty = named("invent", [donor]), np.zeros((60, 50), bool)
    counts = []
    for k in range(300):
        at = noise.prepare(empty, rng(k))
        few, many = at(2.0), at(4.0)
        assert not (few & ~many).any()
        counts.append(few.sum() + 0.0)
    assert np.mean(counts) == pytest.approx(2.0 * (6 + 1) / 2, rel=0.1)  # a mean of two, each of 6 pixels or of 1
    assert min(counts) == 0


def test_invention_needs_donors_and_can_be_sent_to_another_process():
    with pytest.raises(ValueError, match="give some, masks="):
        make_noise("invent")
    with pytest.raises(ValueError, match="none of them marks anything"):
        named("invent", [np.zeros((4, 4), bool)])(blob(), 3.0, rng(0))
    noise = named("invent")
    sent = pickle.loads(pickle.dumps(noise))  # noqa: S301
    assert (sent(blob(), 3.0, rng(0)) == noise(blob(), 3.0, rng(0))).all()


# Outlines


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 11), st.floats(0.05, 0.95))
@settings(max_examples=60)
def test_outlines_filled_again_are_the_mask(seed, height, width, share):
    mask = rng(seed).random((height, width)) < share
    outlines = trace_outlines(mask)
    assert (fill_outlines(outlines, mask.shape) == mask).all()
    assert sum(map(len, outlines)) % 2 == 0


def test_corners_by_hand():
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], float)
    assert rank_corners(square)[[0, 2]].tolist() == [np.inf, np.inf]
    assert rank_corners(square)[[1, 3]] == pytest.approx(np.sqrt(8))


def test_simplified_masks_have_few_corners():
    corners = [sum(map(len, trace_outlines(named("simplify")(blob(radius=12), s, rng(0))))) for s in (0, 3.0, 1000.0)]
    assert corners[0] > corners[1]
    triangle = np.array([rank_corners(trace_outlines(blob(radius=12))[0])])
    assert (triangle > 3).sum() < 12


# Labels


@pytest.mark.parametrize("name", NOISE_MODELS)
def test_labels_stay_labels_and_the_region_of_interest_is_kept(name):
    votes = [blob(radius=radius) for radius in (4, 6, 8)]
    soft, roi = np.mean(votes, axis=0, dtype=np.float32), np.zeros((48, 40), bool)
    roi[:, :20] = True
    noise = named(name)
    strength = STRENGTHS[noise.unit][3]
    for clean in (soft, votes[1].astype(np.float32), np.zeros((48, 40), np.float32)):
        found = spoil(clean, noise, strength, (0, 1), roi)
        assert found.dtype == np.float32
        assert (found[~roi] == clean[~roi]).all()
        assert ((found >= 0) & (found <= 1)).all()
        assert 3 * found == pytest.approx(np.rint(3 * found), abs=1e-5)
        if clean is not soft:
            assert set(np.unique(found)) <= {0.0, 1.0}
        assert (spoil(clean, noise, 0.0, (0, 1), roi) == clean).all()
        assert (spoil(clean, noise, strength, (0, 1), roi) == found).all()


def test_a_soft_label_is_the_sum_of_its_spoilt_levels():
    votes = [blob(radius=radius) for radius in (4, 6, 8, 8)]
    soft, noise = np.mean(votes, axis=0), named("shift")
    expected = np.mean([noise(vote, 2.0, rng(5)) for vote in votes], axis=0)
    assert spoil(soft, noise, 2.0, [5]) == pytest.approx(expected, abs=1e-6)


def test_a_shifted_label_at_every_level_shifts_alike():
    soft = np.zeros((9, 9))
    soft[4, 3:6] = 0.25, 1, 0.5
    found = spoil(soft, named("shift"), 1.5, [2])
    assert sorted(np.unique(found)) == [0, 0.25, 0.5, 1]


# Names and classes


class Lines:
    """Marks every so many rows."""

    largest = 30

    def __init__(self, every: int = 2, masks: object = None) -> None:
        self.every, self.masks = every, masks

    def __call__(self, mask, strength, rng):
        found = mask.copy()
        found[rng.integers(self.every) :: self.every][: int(strength)] = 1
        return found.astype(np.uint8)


class Wrong:
    """Another shape, or numbers."""

    def __init__(self, value: float = 0.5, side: int = 3) -> None:
        self.found = np.full((side, side), value)

    def __call__(self, mask, strength, rng):
        return self.found


class OwnDraws:
    """Random numbers of its own, from the first strength of 1 on."""

    def __call__(self, mask, strength, rng):
        return mask ^ (np.random.default_rng().random(mask.shape) < 0.3) if strength >= 1 else mask


class Counts:
    """Keeps something from one call to the next."""

    def __init__(self, each: int = 1) -> None:
        self.calls, self.each = 0, each

    def __call__(self, mask, strength, rng):
        self.calls += 1
        return np.roll(mask, self.calls // self.each, 1)


class OneArgument:
    """Not what is called."""

    def __call__(self, mask):
        return mask


class Fails:
    """Raises."""

    def __init__(self, largest: object = 2) -> None:
        self.largest = largest

    def __call__(self, mask, strength, rng):
        raise KeyError("spacing")


HERE = "tests.training.test_noise"


def own(name, **init_args):
    return make_noise("class_path", class_path=f"{HERE}.{name}", init_args=init_args)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "OneArgument",
            r"test_noise.OneArgument fails when it is called with mask, strength and generator: TypeError: ",
        ),
        ("Fails", r"KeyError: 'spacing'. It must take \(mask, strength, rng\): bool \(\*S\), a number and a numpy"),
    ],
)
def test_a_class_that_fails_is_named_with_the_call_that_was_expected(name, message):
    with pytest.raises(ValueError, match=message):
        own(name)(blob(), 1.0, rng(0))


@pytest.mark.parametrize("largest", ["wide", None, -1, float("nan"), float("inf")])
def test_a_largest_strength_that_is_none_is_refused(largest):
    with pytest.raises(ValueError, match=r"attribute largest of .*Fails must be a number above 0, .*; found"):
        own("Fails", largest=largest)


def test_a_class_that_ignores_the_generator_is_refused_at_the_first_strength_that_shows_it():
    at = own("OwnDraws").prepare(blob(), rng(0))
    assert (at(0.5) == blob()).all()
    with pytest.raises(ValueError, match=r"OwnDraws gives another mask .* Draw all random numbers from the generator"):
        at(1.0)
    with pytest.raises(ValueError, match="keep nothing from one call to the next"):
        own("Counts").prepare(blob(), rng(0))(1.0)


def test_a_class_is_called_twice_on_the_first_masks_that_mark_something():
    noise = own("Counts", each=10**6)
    for number in range(30):
        noise.prepare(blob() if number % 2 else np.zeros((3, 3), bool), rng(number))(1.0)
    assert noise.prepare.__self__.function.calls == 30 + 8


def test_a_class_of_ones_own():
    donors = [blob()]
    noise = make_noise("class_path", class_path=f"{HERE}.Lines", init_args={"every": 3}, masks=lambda: donors)
    assert (noise.largest((4, 4)), noise.bias, noise.unit) == (30.0, "unknown", "")
    at = noise.prepare(np.zeros((9, 4), bool), rng(0))
    assert at(1).dtype == bool
    assert at(1).sum() == 4
    assert (at(1) <= at(2)).all()  # the same draws at any strength
    assert at.__closure__ is not None


@pytest.mark.parametrize(
    ("init_args", "message"), [({}, "must return a mask of bool, or of 0 and 1"), ({"side": 4}, r"of shape \(3, 3\)")]
)
def test_results_of_a_class_are_checked(init_args, message):
    noise = make_noise("class_path", class_path=f"{HERE}.Wrong", init_args=init_args)
    with pytest.raises(ValueError, match=message):
        noise(np.zeros((3, 3), bool), 1.0, rng(0))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("shrnk", {}, "Did you mean 'shrink'?"),
        ("shrink", {"init_args": {"px": 2}}, r"'shrink' takes no options, found init_args \(px\)"),
        ("shrink", {"class_path": "a.B"}, "takes no options, found class_path"),
        ("class_path", {}, "needs a class_path"),
        ("class_path", {"class_path": f"{HERE}.Line"}, "Did you mean 'Lines'?"),
        ("class_path", {"class_path": f"{HERE}.Lines", "init_args": {"evry": 2}}, "Did you mean 'every'?"),
    ],
)
def test_wrong_names_and_options(model, options, message):
    with pytest.raises(ValueError, match=message):
        check_noise(model, **options)


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_wrong_strengths(strength):
    with pytest.raises(ValueError, match="must be a number of 0 or more"):
        named("flip")(blob(), strength, rng(0))
    with pytest.raises(ValueError, match="must be a number of 0 or more"):
        spoil(blob(), named("flip"), strength, [0])
