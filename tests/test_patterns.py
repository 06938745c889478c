import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irrbench import VotePatterns
from irrbench._counting import count_on_accelerator, cpu, digest_masks, levels
from irrbench._counting import masks as counting_masks
from irrbench._counting.cpu import count_packed, histogram
from irrbench._counting.digest import mixed
from irrbench._counting.masks import as_bits, as_foreground, as_presence

B, R, H, W = 3, 4, 5, 7


def draw(seed=0, shape=(B, R, H, W)):
    g = torch.Generator().manual_seed(seed)
    masks = torch.rand(shape, generator=g) < 0.4
    spatial = (shape[0], *shape[2:])
    return masks, torch.rand(spatial, generator=g) < 0.7, torch.rand(spatial, generator=g) < 0.5


def slow_counts(masks, roi, preds):
    counts = np.zeros((len(masks), 2, 2 ** masks.shape[1]), int)
    for b in range(len(masks)):
        for place in itertools.product(*map(range, masks.shape[2:])):
            if roi[(b, *place)]:
                code = sum(int(masks[(b, r, *place)]) * 2**r for r in range(masks.shape[1]))
                counts[b, int(preds[(b, *place)]), code] += 1
    return counts


def test_levels_of_one_byte_may_be_256():
    levels = torch.tensor([[0, 255]], dtype=torch.uint8)
    counts = VotePatterns.from_levels(torch.tensor([[[0, 1], [1, 1]]]), levels, num_levels=256).counts
    assert counts.nonzero().tolist() == [[0, 0, 2], [0, 255, 3]]


def test_by_hand():
    masks = torch.tensor([[[[1, 0], [1, 1]], [[1, 1], [0, 0]]]])  # codes 3, 2 / 1, 1
    assert VotePatterns.from_masks(masks).counts.tolist() == [[0, 2, 1, 1]]
    preds = torch.tensor([[[1, 1], [0, 1]]])
    assert VotePatterns.from_masks(masks, preds=preds).counts.tolist() == [[[0, 1, 0, 0], [0, 1, 1, 1]]]
    roi = torch.tensor([[[0, 1], [1, 1]]])
    assert VotePatterns.from_masks(masks, preds=preds, roi=roi).counts.tolist() == [[[0, 1, 0, 0], [0, 1, 1, 0]]]


@pytest.mark.parametrize(
    "shape", [(B, 2, H, W), (B, R, H, W), (B, 6, H, W), (B, 7, H, W), (2, 3, 4, 5, 6), (2, 14, H, W)]
)
def test_equals_a_loop_over_pixels(shape):
    masks, roi, preds = draw(1, shape)
    patterns = VotePatterns.from_masks(masks, roi=roi, preds=preds)
    assert patterns.counts.dtype == torch.int64
    np.testing.assert_array_equal(patterns.counts.numpy(), slow_counts(masks, roi, preds))
    np.testing.assert_array_equal(patterns.totals.numpy(), slow_counts(masks, roi, preds).sum(1))


def test_sixteen_raters():
    masks, roi, _ = draw(2, (2, 16, H, W))
    patterns = VotePatterns.from_masks(masks, roi=roi)
    assert patterns.counts.shape == (2, 2**16)
    assert patterns.counts.sum(1).tolist() == roi.flatten(1).sum(1).tolist()
    marks = (patterns.counts[0].nonzero().flatten()[:, None] >> torch.arange(16)) & 1
    times = patterns.counts[0][patterns.counts[0] > 0]
    assert torch.equal((marks * times[:, None]).sum(0), (masks & roi[:, None])[0].flatten(1).sum(1))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int64, torch.float16, torch.float32]
)
@pytest.mark.parametrize("top", [1, 255])
def test_any_dtype_and_0_255(dtype, top):
    if top == 255 and dtype in (torch.bool, torch.int8):
        pytest.skip("255 does not exist in this dtype")
    masks, roi, preds = draw(3)
    expected = VotePatterns.from_masks(masks, roi=roi, preds=preds).counts
    masks, roi, preds = (x.to(dtype) * top for x in (masks, roi, preds))
    for validate in (True, False):
        found = VotePatterns.from_masks(masks, roi=roi, preds=preds, validate=validate).counts
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
@pytest.mark.parametrize("value", [0, 1, 255])
def test_masks_of_one_value(dtype, value):
    masks = torch.full((2, 3, 4, 5), value, dtype=dtype)
    code = 7 if value else 0
    assert VotePatterns.from_masks(masks).counts.nonzero().tolist() == [[0, code], [1, code]]


def test_axes_in_another_order_are_recognised():
    with pytest.raises(
        ValueError, match=r"at most 16 raters on axis 1; found \(2, 64, 48, 4\), which looks like 4 raters"
    ):
        VotePatterns.from_masks(torch.zeros(2, 64, 48, 4))
    with pytest.raises(
        ValueError, match=r"found \(4, 64, 48\), which has an axis too few. One image is `masks\[None\]`"
    ):
        VotePatterns.from_masks(torch.zeros(4, 64, 48))
    with pytest.raises(ValueError, match=r"from 2 to 16, found 20\. Leave some raters out"):
        VotePatterns.from_masks(torch.zeros(2, 20, 64, 48))


def test_arrays_are_no_tensors():
    with pytest.raises(TypeError, match=r"`masks` must be a torch\.Tensor, found ndarray"):
        VotePatterns.from_masks(np.zeros((2, 3, 4, 4)))


def test_not_contiguous():
    masks, roi, preds = draw(4)
    turned = VotePatterns.from_masks(masks.permute(0, 1, 3, 2), roi=roi.mT, preds=preds.mT)
    assert torch.equal(turned.counts, VotePatterns.from_masks(masks, roi=roi, preds=preds).counts)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.float32])
def test_bits_are_zeros_and_ones_whatever_the_dtype(dtype):
    for one in (1, 255):
        bits = as_bits((one * torch.tensor([[0, 1, 1]])).to(dtype), "masks", validate=True)
        assert (bits.dtype, bits.tolist()) == (torch.uint8, [[0, 1, 1]])
    for values in ([0, 1, 7], [0, 1, 255], [0, 2]) if dtype is not torch.bool else ():
        other = torch.tensor(values).to(dtype)
        assert as_bits(other, "masks", validate=False).tolist() == [int(value > 0) for value in values]
        with pytest.raises(ValueError, match=rf"`roi` must hold 0 and 1 .*found the values {str(values)[1:-1]}\."):
            as_bits(other, "roi", validate=True)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.float32])
def test_numbers_are_told_on_an_accelerator_as_on_a_cpu(monkeypatch, dtype):
    monkeypatch.setattr(counting_masks, "_SAME_BITS", {})  # by which numbers are read on a CPU alone
    for values in ([0, 1, 1, 0], [0, 255], [255], [1], [0], []):
        given = torch.tensor(values, dtype=dtype)
        assert as_foreground(given, "masks", validate=True).tolist() == [value > 0 for value in values]
    for values in ([0, 1, 2], [0, 1, 255], [0, 7], [-1, 0], [-1, 0, 1], [-255, 0, 255]):
        with pytest.raises(ValueError, match="`masks` must hold 0 and 1"):
            as_foreground(torch.tensor([[values]], dtype=dtype), "masks", validate=True)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_presence_is_told_by_numbers_too_but_not_by_weights(dtype):
    masks = torch.tensor([[[1, 0], [1, 1], [0, 1]]])
    present, truth = torch.tensor([[1, 0, 1]]), torch.tensor([[True, False, True]])
    found = VotePatterns.from_masks(masks, present=present.to(dtype))
    assert torch.equal(found.present, truth)
    assert torch.equal(found.counts, VotePatterns.from_masks(masks, present=truth).counts)
    if dtype is not torch.bool:
        with pytest.raises(ValueError, match=r"`present` must hold 0 and 1 .*found the values 0, 2\. Raters have no"):
            as_presence(2 * present.to(dtype))
        unlooked = VotePatterns.from_masks(masks, present=2 * present.to(dtype), validate=False)
        assert torch.equal(unlooked.present, truth)


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ([0, 1, 2], "Class numbers need `num_classes=3`"),
        ([0, 2], "Class numbers need `num_classes=3`"),
        ([0, 1, 255], "If 255 is void, pass `ignore_index=255`"),
        ([-1, 0], "If -1 is void, pass `ignore_index=-1`"),
        ([0, 1, 3, 255], r"Class numbers need `num_classes=4` .* 255 is void, pass `ignore_index=255`"),
        ([0.0, 0.5, 1.0], "must be cut at a threshold first"),
        ([0.0, float("nan")], "NaN is no opinion: take pixels that do not count out by `roi`"),
        ([0.5, 255.0], "must be cut at a threshold first"),
        ([0.0, 257.0], "If all but 0 is marked, pass `masks != 0`"),
        ([-2, -1, 0], "Marks are 1, all else is 0"),
    ],
)
def test_refuses_other_values_and_says_what_to_do(values, remedy):
    masks = torch.tensor(values).repeat(2, 1)[None]
    found = ", ".join(f"{v:g}" for v in values)
    with pytest.raises(ValueError, match=rf"`masks` must hold 0 and 1 .*found the values {found}\. .*{remedy}"):
        VotePatterns.from_masks(masks)
    with pytest.raises(ValueError, match=r"`roi` must hold 0 and 1 .*Pass `roi > 0`"):
        VotePatterns.from_masks(torch.ones_like(masks, dtype=torch.bool), roi=masks[:, 0])


def test_label_maps_hold_class_numbers():
    labels = torch.tensor([[[0, 1, 2], [0, 2, 2]]])
    assert len(VotePatterns.from_labels(labels.float(), num_classes=3)) == 3
    for wrong, message in (
        (labels + 0.5, r"must be class numbers 0 \.\. 3, found fractions"),
        (labels - 3, r"must lie in 0 \.\. 3 .* found -3 \.\. -1\. .*`ignore_index=-3`"),
        (labels.masked_fill(labels == 2, 255), r"found 0 \.\. 255\. Raise `num_classes`.*`ignore_index=255`"),
        (labels.float().log(), r"must lie in 0 \.\. 3"),
    ):
        with pytest.raises(ValueError, match=message):
            VotePatterns.from_labels(wrong, num_classes=4)


def digest(masks, **options):
    return VotePatterns.from_masks(masks, digest=True, **options).digest


def test_the_digest_knows_where_marks_are():
    masks, roi, preds = draw(8, (5, 3, 40, 37))
    known = digest(masks, roi=roi)
    assert len(set(known.tolist())) == 5
    assert torch.equal(digest(masks, roi=roi, preds=preds), known)
    assert torch.equal(digest(masks & roi[:, None]), known)
    assert torch.equal(digest(masks[3:4], roi=roi[3:4]), known[3:4])
    assert torch.equal(digest(255 * masks.to(torch.uint8), roi=roi), known)
    for other in (masks.roll(64, -1), masks.flip(1), masks.flip(2), masks.roll(1, 2)):  # with equal counts, or nearly
        assert (digest(other, roi=roi) != known).all()


def split_mix(number: int) -> int:
    """Output ``number + 1`` of SplitMix64 with seed 0, in Python's integers."""
    z = (number + 1) * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def slow_digest(masks, tile):
    """One image's ``(R, N)``: a number of the rater, of the part of the image, and of the 32 pixels, for each mark."""
    total = 0
    for r, mask in enumerate(masks.tolist()):
        for n in (n for n, is_marked in enumerate(mask) if is_marked):
            start, inside = n // tile * tile, n % tile
            bit = 8 * (inside // 8 % 4) + 7 - inside % 8
            part = split_mix(start) | 1 if start else 1
            total += (split_mix(r - len(masks)) | 1) * part * (split_mix(inside // 32) << bit)
    return (total + 2**63) % 2**64 - 2**63


def test_the_digest_is_of_published_numbers_and_stays_as_checkpoints_hold_it(monkeypatch):
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert [number % 2**64 for number in mixed(torch.arange(4)).tolist()] == published
    masks, _, _ = draw(13, (2, 3, 300))
    for tile in (cpu._TILE, 128):
        monkeypatch.setattr(cpu, "_TILE", tile)
        assert digest(masks).tolist() == [slow_digest(image, tile) for image in masks]


def test_the_digest_of_any_number_of_raters():
    masks, roi, _ = draw(14, (2, 19, 9, 11))
    present = torch.ones(2, 19, dtype=torch.bool)
    present[1, 10] = False
    known = digest_masks(masks, present, roi)
    parts = [
        digest(masks[:, first : first + 8], present=present[:, first : first + 8], roi=roi) for first in (0, 8, 16)
    ]
    assert torch.equal(known, parts[0] + 3 * parts[1] + 5 * parts[2])
    assert torch.equal(digest_masks(255 * masks.float(), present, 255 * roi.int()), known)
    assert torch.equal(digest_masks(masks, present, torch.ones_like(roi)), digest_masks(masks, present, None))
    assert (digest_masks(masks[:, [*range(8, 16), *range(8), 16, 17, 18]], present, roi) != known).all()
    assert (digest_masks(masks, torch.ones_like(present), roi) == known).tolist() == [True, False]


def test_moving_one_mark_changes_the_digest():
    masks = torch.zeros(1, 2, 4096, dtype=torch.bool)
    found = set()
    for place in [*range(130), *range(63, 4096, 64)]:  # a word's last bit is what a product modulo 2**64 knows least of
        for rater in (0, 1):
            masks[0, rater, place] = True
            found.add(digest(masks).item())
            masks[0, rater, place] = False
    assert len(found) == 2 * (130 + 64 - 2)


def test_tiles_and_threads_do_not_change_the_digest(monkeypatch):
    masks, roi, _ = draw(9, (2, 3, 40, 96))
    whole = digest(masks, roi=roi)
    swapped = torch.cat([masks[:, :, 20:], masks[:, :, :20]], 2)
    monkeypatch.setattr(cpu, "_TILE", 20 * 96)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    parts = digest(masks, roi=roi)
    assert torch.equal(digest(masks[:1], roi=roi[:1]), parts[:1])
    assert (digest(swapped) != digest(masks)).all()
    assert whole.dtype == parts.dtype == torch.int64


def test_absent_raters_are_ignored_whatever_their_mask_says():
    masks, roi, preds = draw(5)
    present = torch.ones(B, R, dtype=torch.bool)
    present[1, 2] = present[2, 0] = present[2, 3] = False
    blank = masks & present[:, :, None, None]
    found = VotePatterns.from_masks(masks, roi=roi, preds=preds, present=present)
    assert torch.equal(found.counts, VotePatterns.from_masks(blank, roi=roi, preds=preds).counts)
    assert torch.equal(found.present, present)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 40)), max_size=30), st.sampled_from([256, 300]))
def test_counting_by_words_is_counting_by_pixels(runs, size):
    codes = np.repeat(*np.array(runs, int).reshape(-1, 2).T).astype(np.uint8)
    assert histogram(codes, size).tolist() == [codes.tolist().count(code) for code in range(size)]


def runs_of_marks(rng, shape, longest):
    """Bool marks whose neighbours are alike, as in masks: whole words of one code, and words of several."""
    flips = rng.random(shape) < 1 / rng.integers(1, longest, (*shape[:-1], 1))
    return torch.from_numpy(np.logical_xor.accumulate(flips, axis=-1))


def counted_one_by_one(masks, roi, preds, present):
    counts = np.zeros((len(masks), 2, 2 ** masks.shape[1]), int)
    for b, n in np.argwhere(roi.numpy()):
        votes = [bool(masks[b, r, n]) and bool(present[b, r]) for r in range(masks.shape[1])]
        counts[b, int(preds[b, n]), sum(vote << r for r, vote in enumerate(votes))] += 1
    return counts.tolist()


@settings(max_examples=120)
@given(
    st.integers(2, 8),
    st.integers(1, 5),
    st.integers(1, 300),
    st.sampled_from([64, 256, 2**21]),
    st.sampled_from([2, 100, 1000]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_counting_by_words_is_counting_one_by_one(num_raters, num_images, num_pixels, tile, run, little, seed):
    rng = np.random.default_rng(seed)
    masks = runs_of_marks(rng, (num_images, num_raters, num_pixels), run)
    preds, roi = (runs_of_marks(rng, (num_images, num_pixels), 2 * run) for _ in range(2))
    present = torch.from_numpy(rng.random((num_images, num_raters)) < 0.8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "_TILE", tile)
        patch.setattr(cpu, "_WORDS_AT_ONCE", 2)
        patch.setattr(cpu, "_SUBSET_BUFFER", 2**9)
        if not little:  # as if images were large
            patch.setattr(cpu, "_FEW_SUBSET_WORDS", 0)
            patch.setattr(cpu, "_MANY_WORDS", 0)
        found = VotePatterns.from_masks(masks, roi=roi, preds=preds, present=present).counts
    assert found.tolist() == counted_one_by_one(masks, roi, preds, present)


@pytest.mark.parametrize("num_images", [1, 2, 3])
def test_words_of_one_code_count_for_their_own_image(monkeypatch, num_images):
    monkeypatch.setattr(cpu, "_FEW_SUBSET_WORDS", 0)  # as if images were large
    masks = torch.zeros(num_images, 5, 256, dtype=torch.bool)
    for image in range(num_images):
        masks[image, : image + 1] = True
    counts = VotePatterns.from_masks(masks).counts
    assert counts.nonzero().tolist() == [[image, 2 ** (image + 1) - 1] for image in range(num_images)]
    assert counts.sum(1).tolist() == [256] * num_images


@pytest.mark.parametrize("num_raters", [4, 9, 14])
def test_tiles_add_up(monkeypatch, num_raters):
    masks, roi, preds = draw(12, (3, num_raters, 15, 17))
    present = torch.rand(3, num_raters, generator=torch.Generator().manual_seed(1)) < 0.7
    whole = VotePatterns.from_masks(masks, roi=roi, preds=preds, present=present).counts
    monkeypatch.setattr(cpu, "_TILE", 64)
    assert torch.equal(VotePatterns.from_masks(masks, roi=roi, preds=preds, present=present).counts, whole)


def test_threads_add_up(monkeypatch):
    masks, roi, preds = draw(12, (5, 4, 40, 17))
    whole = VotePatterns.from_masks(masks, roi=roi, preds=preds).counts
    monkeypatch.setattr(cpu, "_TILE", 128)
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        pools = []
        monkeypatch.setattr(cpu, "ThreadPoolExecutor", lambda n, pools=pools: pools.append(n) or ThreadPoolExecutor(n))
        assert torch.equal(VotePatterns.from_masks(masks, roi=roi, preds=preds).counts, whole)
        assert pools == ([] if threads == 1 else [3])


@pytest.mark.parametrize("with_roi", [False, True])
def test_both_ways_of_counting_agree(with_roi):
    masks, roi, preds = draw(6)
    present = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]]).bool()
    planes = [(255 * x.to(torch.uint8)).flatten(2) for x in (masks, preds[:, None])]
    inside = roi.flatten(1) if with_roi else None
    counts, found = count_on_accelerator(planes, present, inside)
    assert torch.equal(counts, count_packed(planes, present, inside))
    inside_marks = masks.flatten(2) & present[:, :, None] & (roi.flatten(1)[:, None] if with_roi else True)
    for image, known in zip(inside_marks.tolist(), found.tolist(), strict=True):
        codes = [sum(mask[n] << r for r, mask in enumerate(image)) for n in range(H * W)]
        assert (sum(code * split_mix(n) for n, code in enumerate(codes)) - known) % 2**64 == 0
    other = [planes[0].roll(1, 2), planes[1]]
    assert (count_on_accelerator(other, present, inside)[1] != found).tolist() == present.any(1).tolist()
    assert torch.equal(count_on_accelerator([planes[0], 255 - planes[1]], present, inside)[1], found)


@given(st.integers(2, 6), st.integers(0, 5), st.integers(0, 2**31))
def test_dropping_a_rater_is_never_having_had_one(num_raters, rater, seed):
    rater %= num_raters
    masks, roi, preds = draw(seed, (2, num_raters, 3, 4))
    patterns = VotePatterns.from_masks(masks, roi=roi, preds=preds)
    if num_raters == 2:
        with pytest.raises(ValueError, match="One rater has no peers"):
            patterns.drop_rater(rater)
        return
    others = [r for r in range(num_raters) if r != rater]
    expected = VotePatterns.from_masks(masks[:, others], roi=roi, preds=preds)
    assert torch.equal(patterns.drop_rater(rater).counts, expected.counts)
    assert patterns.drop_rater(rater).present.shape == (2, num_raters - 1)


def test_label_maps_are_one_class_against_the_rest():
    g = torch.Generator().manual_seed(7)
    labels, preds = torch.randint(0, 3, (B, R, H, W), generator=g), torch.randint(0, 3, (B, H, W), generator=g)
    for c, patterns in enumerate(VotePatterns.from_labels(labels, num_classes=3, preds=preds)):
        assert torch.equal(patterns.counts, VotePatterns.from_masks(labels == c, preds=preds == c).counts)
    with pytest.raises(ValueError, match=r"`labels` must lie in 0 \.\. 1 .*found 0 \.\. 2"):
        VotePatterns.from_labels(labels, num_classes=2)


def test_refuses_shapes_that_do_not_belong_together():
    masks, roi, preds = draw()
    with pytest.raises(ValueError, match=r"`roi` must be \(3, 5, 7\).*found \(3, 7, 5\)"):
        VotePatterns.from_masks(masks, roi=roi.mT)
    with pytest.raises(ValueError, match=r"`preds` must be \(3, 5, 7\).*found \(2, 5, 7\)"):
        VotePatterns.from_masks(masks, preds=preds[:2])
    with pytest.raises(ValueError, match=r"`present` must be \(3, 4\), found \(4, 3\)"):
        VotePatterns.from_masks(masks, present=torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"`masks` must be \(B, R, \*S\).*found \(5, 7\)"):
        VotePatterns.from_masks(masks[0, 0])
    with pytest.raises(ValueError, match=r"from 2 to 16, found 1\. One rater has no peers"):
        VotePatterns.from_masks(masks[:, :1])
    with pytest.raises(ValueError, match=r"from 2 to 16, found 17\. Leave some raters out"):
        VotePatterns.from_masks(torch.zeros(1, 17, 20, 20))


def test_from_counts():
    masks, roi, preds = draw()
    patterns = VotePatterns.from_masks(masks, roi=roi, preds=preds)
    again = VotePatterns.from_counts(patterns.counts, num_raters=R)
    assert again.has_preds
    assert torch.equal(again.totals, patterns.totals)
    with pytest.raises(
        ValueError, match=r"must be \(B, 8\), or \(B, L, 8\) with L of 2 or more, for 3 raters, found \(3, 2, 16\)"
    ):
        VotePatterns.from_counts(patterns.counts, num_raters=3)
    with pytest.raises(ValueError, match="integers from 0 on"):
        VotePatterns.from_counts(-patterns.counts, num_raters=R)
    with pytest.raises(ValueError, match=r"`present` must be \(3, 4\), found \(3, 3\)"):
        VotePatterns.from_counts(patterns.counts, num_raters=R, present=torch.ones(3, 3))


def test_an_empty_batch():
    assert VotePatterns.from_masks(torch.zeros(0, 3, 4, 4)).counts.shape == (0, 8)


@pytest.mark.parametrize("num_levels", [2, 3, 6, 17])
@pytest.mark.parametrize("missing", [False, True])
def test_every_cut_of_the_levels_is_what_the_cut_masks_give(num_levels, missing):
    masks, roi, _ = draw()
    level = torch.randint(0, num_levels, roi.shape, generator=torch.Generator().manual_seed(num_levels))
    present = torch.ones(masks.shape[:2], dtype=torch.bool)
    present[1, 2] = not missing
    patterns = VotePatterns.from_levels(masks, level, num_levels=num_levels, roi=roi, present=present)
    assert patterns.counts.shape == (len(masks), num_levels, 2**R)
    assert patterns.num_levels == num_levels
    cuts = patterns.cuts()
    expected = [
        VotePatterns.from_masks(
            masks[i : i + 1], roi=roi[i : i + 1], preds=level[i : i + 1] >= cut, present=present[i : i + 1]
        )
        for i in range(len(masks))
        for cut in range(1, num_levels)
    ]
    assert torch.equal(cuts.counts, torch.cat([p.counts for p in expected]))
    assert torch.equal(cuts.present, torch.cat([p.present for p in expected]))
    assert torch.equal(patterns.totals, VotePatterns.from_masks(masks, roi=roi, present=present).totals)


def test_levels_are_counted_as_a_loop_counts_them():
    masks, roi, _ = draw()
    level = torch.randint(0, 5, roi.shape, generator=torch.Generator().manual_seed(1))
    counts = torch.zeros(len(masks), 5, 2**R, dtype=torch.int64)
    for i in range(len(masks)):
        for y in range(roi.shape[1]):
            for x in range(roi.shape[2]):
                if roi[i, y, x]:
                    code = sum(int(masks[i, r, y, x]) << r for r in range(R))
                    counts[i, level[i, y, x], code] += 1
    assert torch.equal(VotePatterns.from_levels(masks, level, num_levels=5, roi=roi).counts, counts)


def test_levels_are_counted_on_an_accelerator_as_on_a_cpu():
    masks, roi, _ = draw()
    present = torch.ones(masks.shape[:2], dtype=torch.bool)
    present[0, 1] = False
    number = torch.randint(0, 5, roi.shape, generator=torch.Generator().manual_seed(1)).flatten(1)
    parts = (masks.flatten(2).bool(), number, present, roi.flatten(1).bool(), 5)
    assert torch.equal(levels._count_by_bits(*parts), levels._by_codes(*parts)[0])


def test_probabilities_fall_into_bins_or_between_thresholds():
    masks = torch.zeros(1, 2, 6)
    p = torch.tensor([[0.0, 0.24, 0.25, 0.5, 0.99, 1.0]])
    bins = VotePatterns.from_probabilities(masks, p, levels=4)
    assert bins.counts[0, :, 0].tolist() == [2, 1, 1, 2]
    between = VotePatterns.from_probabilities(masks, p, levels=torch.tensor([0.25, 0.5]))
    assert between.counts[0, :, 0].tolist() == [3, 1, 2]  # as a cut: above the threshold is foreground


def test_levels_and_probabilities_that_cannot_be():
    masks, roi, preds = draw()
    with pytest.raises(ValueError, match=r"`levels` must lie in 0 \.\. 2 \(num_levels\), found 0 \.\. 3"):
        VotePatterns.from_levels(masks, preds.long() * 3, num_levels=3)
    with pytest.raises(ValueError, match="`num_levels` must be 2 or more, found 1"):
        VotePatterns.from_levels(masks, preds.long(), num_levels=1)
    with pytest.raises(ValueError, match=r"`levels` must be \(3, "):
        VotePatterns.from_levels(masks, preds[:, 0].long(), num_levels=2)
    for wrong in (torch.full(roi.shape, 1.5), torch.full(roi.shape, torch.nan)):
        with pytest.raises(ValueError, match=r"`probabilities` must lie in \[0, 1\]"):
            VotePatterns.from_probabilities(masks, wrong)
    with pytest.raises(ValueError, match="`cuts` needs patterns that are split by a prediction"):
        VotePatterns.from_masks(masks).cuts()
