"""Second drawings by the same rater: read, checked, and never a rater of their own."""

from __future__ import annotations

import numpy as np
import pytest

from irrbench.data import DataError, check_folder, load_folder
from irrbench.data.folder import MAX_REPEATS
from tests.data.toys import RATERS, SIZES, draw, save


def draw_again(folder, name, image_id, mask):
    save(folder / "masks" / name / f"{image_id}.png", mask.astype(np.uint8) * 255)


@pytest.fixture
def repeated(folder):
    """Anna drew a and c again and c a third time, ben drew b again."""
    for name, image_id in (("anna@2", "a"), ("anna@2", "c"), ("anna@3", "c"), ("ben@2", "b")):
        draw_again(folder, name, image_id, ~draw(image_id, name[0]))
    return folder


def test_repeats_are_no_raters(repeated):
    data = load_folder(repeated)
    assert data.raters == RATERS
    assert data.masks(0).shape == (3, *SIZES["a"])
    assert data.repeats == ("anna@2", "anna@3", "ben@2")
    assert data.repeated_raters == ("anna", "ben")


def test_repeats_leave_the_digest_alone(folder):
    before = load_folder(folder).digest()
    draw_again(folder, "anna@2", "a", draw("a", "cem"))
    assert load_folder(folder).digest() == before


def test_drawings_come_first_one_first(repeated):
    data = load_folder(repeated)
    masks, there = data.drawings(2, "anna")
    assert there.tolist() == [True, True, True]
    np.testing.assert_array_equal(masks, np.stack([draw("c", "anna"), ~draw("c", "a"), ~draw("c", "a")]))
    masks, there = data.drawings(0, "anna")
    assert there.tolist() == [True, True, False]
    assert not masks[2].any()
    assert data.drawings(3, "anna")[1].tolist() == [True, False, False]
    assert data.drawings(1, "ben")[0].shape == (2, *SIZES["b"])
    assert data.drawings(1, "cem")[1].tolist() == [True]


def test_views_keep_the_repeats(repeated):
    part = load_folder(repeated).subset([2, 0])
    assert part.drawings(0, "anna")[1].tolist() == [True, True, True]
    assert part.drawings(1, "anna")[1].tolist() == [True, True, False]


def test_a_repeat_does_not_stand_for_a_missing_first_drawing(repeated):
    (repeated / "masks" / "anna" / "a.png").unlink()
    data = load_folder(repeated, allow_missing=True)
    assert data.present(0).tolist() == [False, True, True]
    assert data.drawings(0, "anna")[1].tolist() == [False, True, False]


def test_repeats_shrink_as_their_image(repeated):
    masks, _ = load_folder(repeated, max_side=10).drawings(0, "anna")
    np.testing.assert_array_equal(masks[1], ~draw("a", "a")[1::2, 1::2])


def test_repeats_of_raters_who_are_left_out_are_not_read(repeated):
    save(repeated / "masks" / "anna@2" / "a.png", np.zeros((2, 3), np.uint8))
    assert load_folder(repeated, raters=["ben", "cem"]).repeats == ("ben@2",)


def test_a_name_with_an_at_sign_is_a_name(folder):
    for image_id in SIZES:
        draw_again(folder, "dee@home", image_id, draw(image_id, "dee"))
    data = load_folder(folder)
    assert data.raters == (*RATERS, "dee@home")
    assert data.repeats == ()


def test_everything_wrong_with_repeats_is_listed(repeated):
    save(repeated / "masks" / "anna@2" / "a.png", np.zeros((2, 3), np.uint8))
    (repeated / "masks" / "ben@2" / "b.png").write_bytes(b"no picture")
    draw_again(repeated, "cem@2", "unknown", draw("a", "cem"))
    draw_again(repeated, "dee@2", "a", draw("a", "dee"))
    found = "\n".join(map(str, check_folder(repeated)))
    assert "masks/anna@2/a.png: found size 2 x 3; expected 12 x 20, the size of its image" in found
    assert "masks/ben@2/b.png: found a file that cannot be read" in found
    assert "masks/cem@2/unknown.png: found no image of that id" in found
    assert "masks/dee@2: found repeat drawings without first ones; expected a folder masks/dee" in found
    assert len(check_folder(repeated)) == 4


def test_a_repeat_is_refused_as_a_rater(repeated):
    with pytest.raises(DataError, match=r"found 'anna@2', a repeat drawing; .* Remedy: name anna: repeats come along"):
        load_folder(repeated, raters=["anna", "anna@2"])


def test_too_many_repeats_are_refused(folder):
    for drawing in range(2, MAX_REPEATS + 3):
        draw_again(folder, f"anna@{drawing}", "a", draw("a", "anna"))
    with pytest.raises(DataError, match=f"found {MAX_REPEATS + 1} repeat folders; expected at most {MAX_REPEATS}"):
        load_folder(folder)
