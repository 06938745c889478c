"""What values of masks mean: decided for a rater's folder, said, and contradicted by no file without a word."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from irrbench.config import load_config
from irrbench.data import DataError, check_folder, load_folder
from irrbench.data.io import read_mask, read_single_mask
from irrbench.data.values import Rule, read_marks
from tests.data.toys import RATERS, SIZES, draw, save

MASK = draw("a", "ben")


def write(folder, rater, make, ending=".png"):
    """Replace all masks of a rater by what ``make`` makes of the drawing, an array or a picture."""
    for image_id in SIZES:
        path = folder / "masks" / rater / f"{image_id}.png"
        path.unlink()
        made = make(draw(image_id, rater))
        path = path.with_name(f"{image_id}{ending}")
        if isinstance(made, Image.Image):
            made.save(path)
        else:
            save(path, np.asarray(made))


def palette(mask, colours):
    picture = Image.new("P", mask.shape[::-1])
    picture.putpalette([part for colour in colours for part in colour])
    picture.putdata(mask.astype(int).ravel().tolist())
    return picture


def stacked(*channels):
    return np.stack(channels, axis=-1).astype(np.uint8)


def jpg(mask, **options):
    """A JPEG of a mask of blocks, as people save them: 8 times enlarged, so that there is something to ring."""
    place = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(place, "jpeg", **options)
    return Image.open(place)


WHITE, BLACK, RED, GREEN = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0)
ENCODINGS = {
    "8 bit": (lambda mask: mask.astype(np.uint8) * 255, ".png", "0/255"),
    "one": (lambda mask: mask.astype(np.uint8), ".png", "0/1"),
    "1 bit": (Image.fromarray, ".png", "bool"),
    "16 bit": (lambda mask: mask.astype(np.uint16) * 65535, ".png", "0/65535"),
    "16 bit of one": (lambda mask: mask.astype(np.uint16), ".tif", "0/1"),
    "32 bit": (lambda mask: mask.astype(np.int32) * 7, ".tif", "0/7"),
    "float": (lambda mask: mask.astype(np.float32), ".tif", "0/1"),
    "half": (lambda mask: mask * np.float16(0.5), ".npy", "0/0.5"),
    "bool": (lambda mask: mask, ".npy", "bool"),
    "grey beside alpha": (lambda mask: stacked(mask * 255, np.full(mask.shape, 255)), ".png", "0/255"),
    "grey on nothing": (lambda mask: stacked(mask * 255, mask * 255), ".png", "0/255"),
    "white, shown by alpha": (lambda mask: stacked(*[np.full(mask.shape, 255)] * 3, mask * 255), ".png", "0/255"),
    "colours": (lambda mask: stacked(*[mask * 255] * 3), ".png", "0/255"),
    "red on black": (lambda mask: stacked(mask * 255, mask * 0, mask * 0), ".png", "0/#ff0000"),
    "red on nothing": (lambda mask: stacked(mask * 255, mask * 0, mask * 0, mask * 255), ".png", "0/#ff0000"),
    "palette of greys": (lambda mask: palette(mask, [BLACK, WHITE]), ".png", "0/255"),
    "white first": (lambda mask: palette(~mask, [WHITE, BLACK]), ".png", "0/255"),
    "class palette": (lambda mask: palette(mask * 2, [BLACK, RED, GREEN]), ".png", "0/2"),
    "red first": (lambda mask: palette(~mask, [RED, BLACK]), ".png", "0/#ff0000"),
    "gif": (lambda mask: mask.astype(np.uint8) * 255, ".gif", "0/255"),
    "bmp": (Image.fromarray, ".bmp", "bool"),
    "pgm": (lambda mask: mask.astype(np.uint8) * 255, ".pgm", "0/255"),
    "ppm": (lambda mask: stacked(*[mask * 255] * 3), ".ppm", "0/255"),
    "pbm": (Image.fromarray, ".pbm", "bool"),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_is_the_same_mask_and_said(folder, name):
    right = load_folder(folder)
    make, ending, text = ENCODINGS[name]
    write(folder, "ben", make, ending)
    data = load_folder(folder)
    assert data.digest() == right.digest()
    assert data.values["ben"] == text
    assert data.values["anna"] == "0/255"
    assert data.subset([0]).values == data.values
    assert data.values["images"] == "8 bit"


@pytest.mark.parametrize("quality", [75, 90, 100])
def test_a_jpeg_of_black_and_white_is_cut_between_them(tmp_path, quality):
    blocks = np.kron(draw("b", "cem"), np.ones((5, 5), bool))
    picture = jpg(blocks, quality=quality)
    picture.save(tmp_path / "a.jpg", quality="keep")
    stored = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)
    assert np.abs(stored - blocks * 255).max() > 1 or quality == 100  # it did lose something
    np.testing.assert_array_equal(read_mask(tmp_path / "a.jpg").marked, blocks)
    assert read_mask(tmp_path / "a.jpg").facts.text() == "0/255"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((0, 1), "a JPEG mask with values from 0 to 1"),
        ((0, 2, 1), "a JPEG mask with values from 0 to 2"),
        ((0, 128, 255), "a JPEG mask with values"),
        ((10, 90), "a JPEG mask with values from"),
    ],
)
def test_a_jpeg_of_anything_else_is_a_problem(folder, values, found):
    (folder / "masks/ben/a.png").unlink()
    array = np.repeat(np.array(values, np.uint8), 8)[None].repeat(16, axis=0)
    Image.fromarray(array).resize((20, 12), Image.Resampling.NEAREST).save(folder / "masks/ben/a.jpg", quality=100)
    (problem,) = check_folder(folder)
    assert problem.file == "masks/ben/a.jpg"
    assert found in problem.found
    assert problem.remedy == "export it as PNG, TIFF, npy or NIfTI"


def test_a_jpeg_in_colour_is_a_problem(folder):
    (folder / "masks/ben/a.png").unlink()
    Image.fromarray(stacked(MASK * 255, MASK * 0, MASK * 0)).save(folder / "masks/ben/a.jpg")
    assert "found colours in a JPEG" in str(*check_folder(folder))


AS_ONE = "0/1, as 4 of the 5 masks here"
ALIKE = "export them alike, or name the values (--folder.classes '{{ben: {}}}') if all are marks"
NAMED = "name the marked values (--folder.classes '{{ben: {}}}'; all of them: --folder.classes '{{ben: {}}}')"
VOID = " or the one of pixels that do not count (--folder.void {})"
CONTRADICTIONS = {
    "classes in one file": (
        (0, 255),
        {"b": (0, 1, 2)},
        "values 0, 1, 2",
        "0/255, as 4 of the 5 masks here",
        ALIKE.format([1, 2, 255]),
    ),
    "classes beside one class": (
        (0, 1),
        {"b": (0, 1, 2)},
        "values 0, 1, 2",
        AS_ONE,
        NAMED.format([1], [1, 2]) + VOID.format(2),
    ),
    "another class": ((0, 1), {"b": (0, 2)}, "values 0/2", AS_ONE, ALIKE.format([1, 2])),
    "another scale": ((0, 1), {"b": (0, 255)}, "values 0/255", AS_ONE, ALIKE.format([1, 255])),
    "void beside marks": ((0, 1), {"b": (0, 1, 255)}, "values 0, 1, 255", AS_ONE, ALIKE.format([1, 255])),
    "no background": (
        (0, 255),
        {"b": (1, 255)},
        "values 1, 255",
        "0/255, as 4 of the 5 masks here",
        ALIKE.format([1, 255]),
    ),
    "classes everywhere": (
        (0, 1, 2),
        {},
        "values 0, 1, 2",
        "0 and one other value",
        NAMED.format([1], [1, 2]) + VOID.format(2),
    ),
    "two greys": (
        (0, 128, 255),
        {},
        "values 0, 128, 255",
        "0 and one other value",
        NAMED.format([255], [128, 255]) + VOID.format(128),
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_file_that_contradicts_its_folder_is_named(folder, name):
    usual, odd, found, expected, remedy = CONTRADICTIONS[name]
    for image_id, size in SIZES.items():
        values = np.array(odd.get(image_id, usual), np.uint8)
        save(folder / "masks/ben" / f"{image_id}.png", np.resize(values, size))
    problems = check_folder(folder)
    assert [problem.file for problem in problems] == [f"masks/ben/{name}.png" for name in odd or SIZES]
    for problem in problems:
        assert problem.found == found
        assert problem.expected == expected
        assert problem.remedy == remedy
    assert len({problem.kind for problem in problems}) == 1


def test_colours_that_contradict_their_folder_are_named(folder):
    write(folder, "ben", lambda mask: stacked(mask * 255, mask * 0, mask * 0))
    save(folder / "masks/ben/c.png", stacked(*[draw("c", "ben") * 255] * 3))
    save(folder / "masks/ben/d.png", stacked(draw("d", "ben") * 0, draw("d", "ben") * 255, draw("d", "ben") * 0))
    problems = check_folder(folder)
    assert [(problem.file, problem.found) for problem in problems] == [
        ("masks/ben/c.png", "values 0/255"),
        ("masks/ben/d.png", "values 0/#00ff00"),
    ]
    assert problems[0].expected == "0/#ff0000, as 3 of the 5 masks here"


def test_repeat_drawings_share_the_meaning_of_their_raters_first_ones(folder):
    save(folder / "masks/ben@2/a.png", draw("a", "ben").astype(np.uint8))
    (problem,) = check_folder(folder)
    assert problem.file == "masks/ben@2/a.png"
    assert problem.expected == "0/255, as 5 of the 6 masks here"
    save(folder / "masks/ben@2/a.png", draw("a", "ben").astype(np.uint8) * 255)
    assert load_folder(folder).values == {"anna": "0/255", "ben": "0/255", "cem": "0/255", "images": "8 bit"}


def test_void_takes_pixels_out_of_the_roi_of_all(folder):
    region = np.ones(SIZES["a"], bool)
    region[:, :3] = False
    for image_id, size in SIZES.items():
        save(
            folder / "roi" / f"{image_id}.png", region.astype(np.uint8) if image_id == "a" else np.ones(size, np.uint8)
        )
    void = np.zeros(SIZES["a"], bool)
    void[2:5, 4:9] = True
    write(folder, "ben", lambda mask: mask.astype(np.uint8))
    save(folder / "masks/ben/a.png", np.where(void, 255, MASK).astype(np.uint8))
    write(folder, "anna", lambda mask: mask)  # bool
    write(folder, "cem", lambda mask: mask.astype(np.uint8))
    data = load_folder(folder, void=255)
    np.testing.assert_array_equal(data.roi(0), region & ~void)
    np.testing.assert_array_equal(data.masks(0)[RATERS.index("ben")], MASK & ~void)
    np.testing.assert_array_equal(data.masks(0)[RATERS.index("cem")], draw("a", "cem"))
    assert data.values["ben"] == "0/1, 255 is void"
    assert data.values["cem"] == "0/1"
    with pytest.raises(DataError, match=r"masks/ben/a\.png: found values 0, 1, 255"):
        load_folder(folder)
    for image_id in SIZES:
        (folder / "roi" / f"{image_id}.png").unlink()
    (folder / "roi").rmdir()
    data = load_folder(folder, void=255)
    np.testing.assert_array_equal(data.roi(0), ~void)
    assert data.roi(1) is None


def test_an_image_that_is_void_throughout_has_no_roi(folder):
    save(folder / "masks/ben/a.png", np.full(SIZES["a"], 9, np.uint8))
    assert "found no marked pixel; expected a region that counts" in str(*check_folder(folder, void=9))


def test_marks_that_are_all_void_are_a_problem(folder):
    assert [problem.file for problem in check_folder(folder, void=255)] == [f"masks/{rater}" for rater in RATERS]
    assert "nothing but 0 and void (255)" in check_folder(folder, void=255)[0].found


def test_classes_name_the_marked_values(folder):
    numbers = {name: np.random.default_rng(ord(name)).integers(0, 4, size) for name, size in SIZES.items()}
    for image_id, values in numbers.items():
        for rater in RATERS:
            save(folder / "masks" / rater / f"{image_id}.png", values.astype(np.uint8))
    data = load_folder(folder, classes=[1, 3])
    for i, image_id in enumerate(SIZES):
        np.testing.assert_array_equal(data.masks(i)[0], np.isin(numbers[image_id], (1, 3)))
    assert data.values["ben"] == "values 0, 1, 2, 3: 1, 3 are marked"
    data = load_folder(folder, classes={rater: [2] for rater in RATERS}, void=3)
    np.testing.assert_array_equal(data.masks(1)[2], numbers["b"] == 2)
    np.testing.assert_array_equal(data.roi(1), numbers["b"] != 3)
    assert data.values["cem"] == "values 0, 1, 2: 2 is marked, 3 is void"
    assert load_folder(folder, classes=[9]).values["ben"] == "values 0, 1, 2, 3: 9 is marked, in no mask"


def test_classes_that_no_mask_can_hold_are_a_problem(folder):
    problems = check_folder(folder, classes=[1])
    assert [problem.file for problem in problems] == [f"masks/{rater}" for rater in RATERS]
    assert problems[0].found == "values 0/255"
    assert problems[0].expected == "some of the classes 1"
    write(folder, "ben", lambda mask: mask.astype(np.uint8))
    data = load_folder(folder, classes={"ben": [1]})
    assert data.values["ben"] == "values 0/1: 1 is marked"
    with pytest.raises(DataError, match=r"classes: found 'tom', unknown; expected some of anna, ben, cem"):
        load_folder(folder, classes={"tom": [1]})


def test_booleans_beside_class_numbers_are_a_problem(folder):
    write(folder, "ben", lambda mask: mask * np.uint8(2))
    (folder / "masks/ben/a.png").unlink()
    np.save(folder / "masks/ben/a.npy", MASK)
    assert "masks/ben/a.npy: found booleans; expected numbers" in str(
        *check_folder(folder, classes={"ben": [2], "anna": [255], "cem": [255]})
    )


def on_white(size, *, margin=2):
    mask = np.full(size, 255, np.uint8)
    mask[margin : size[0] // 2, margin : size[1] // 2] = 0
    return mask


def test_dark_marks_on_white_are_asked_about(folder):
    for image_id, size in SIZES.items():
        save(folder / "masks/ben" / f"{image_id}.png", on_white(size))
    (problem,) = check_folder(folder)
    assert problem.file == "masks/ben"
    assert problem.found == "5 of 5 masks that mark their border and most pixels, as dark marks on white do"
    assert problem.remedy == (
        "--folder.classes '{ben: [0]}' if the marks are dark, --folder.classes '{ben: [255]}' if the marks are light"
    )
    data = load_folder(folder, classes={"ben": [0]})
    np.testing.assert_array_equal(data.masks(0)[1], on_white(SIZES["a"]) == 0)
    np.testing.assert_array_equal(data.masks(0)[0], draw("a", "anna"))
    assert data.values["ben"] == "values 0/255: 0 is marked"
    np.testing.assert_array_equal(load_folder(folder, classes={"ben": [255]}).masks(0)[1], on_white(SIZES["a"]) == 255)


@pytest.mark.parametrize("make", [np.ones, np.zeros, lambda size: on_white(size, margin=0) > 0])
def test_masks_that_are_full_or_empty_or_leave_a_corner_are_no_dark_marks(folder, make):
    for image_id, size in SIZES.items():
        save(folder / "masks/ben" / f"{image_id}.png", np.asarray(make(size)).astype(np.uint8))
    assert check_folder(folder) == []


def test_dark_marks_in_volumes_are_seen():
    volume = np.ones((5, 6, 7), np.uint8)
    volume[1:4, 2:4, 2:5] = 0
    assert read_marks(volume, "numbers", Rule()).facts.framed
    assert not read_marks(1 - volume, "numbers", Rule()).facts.framed


def white_is_zero(path, stored, bits):
    """An uncompressed TIFF whose 0 is shown white, written by hand."""
    height, width = stored.shape
    data = np.packbits(stored.astype(bool), axis=1).tobytes() if bits == 1 else stored.tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0, 273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: height}
    tags[279] = len(data)
    entries = b"".join(
        tag.to_bytes(2, "little") + (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, value in sorted(tags.items())
    )
    path.write_bytes(b"II*\0" + (8).to_bytes(4, "little") + (9).to_bytes(2, "little") + entries + bytes(4) + data)


@pytest.mark.parametrize(("bits", "kind"), [(1, bool), (8, np.uint8), (16, np.dtype("<u2"))])
def test_a_tiff_in_which_white_is_zero_is_no_mask_and_its_image_is_shown_rightly(folder, bits, kind):
    from irrbench.data.io import read_image

    stored = MASK.astype(kind) * (1 if bits == 1 else 2**bits - 1)
    (folder / "masks/ben/a.png").unlink()
    white_is_zero(folder / "masks/ben/a.tif", stored, bits)
    assert "found a TIFF in which white is 0 (WhiteIsZero); expected black as background" in str(*check_folder(folder))
    np.testing.assert_array_equal(read_image(folder / "masks/ben/a.tif")[0], ~MASK)


REFUSED = {
    "hidden colours": lambda m: stacked(m * 255, m * 255, m * 255, ~m * 255),
    "black, shown by alpha": lambda m: stacked(m * 0, m * 0, m * 0, m * 255),
    "half shown": lambda m: stacked(m * 255, m * 255, m * 255, 100 + m * 155),
    "grey hidden": lambda m: stacked(m * 255, ~m * 255),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_opacity_that_says_something_else_is_a_problem(folder, name):
    save(folder / "masks/ben/a.png", REFUSED[name](MASK))
    (problem,) = check_folder(folder)
    assert problem.found == "an opacity that says something else than the colours"


def test_nothing_shown_is_nothing_marked(folder):
    save(folder / "masks/ben/a.png", stacked(*[np.full(SIZES["a"], 255)] * 3, np.zeros(SIZES["a"])))
    data = load_folder(folder)
    assert not data.masks(0)[1].any()
    assert data.present(0)[1]


def test_a_palette_of_black_alone_is_a_problem(folder):
    palette(MASK, [BLACK, BLACK]).save(folder / "masks/ben/a.png")
    assert "found a palette of black alone" in str(*check_folder(folder))


def test_a_palette_with_another_black_is_read_by_its_colours(folder):
    palette(MASK * 2, [BLACK, RED, BLACK]).save(folder / "masks/ben/a.png")
    assert not load_folder(folder).masks(0)[1].any()


def test_slices_and_channels_that_are_mistaken_for_each_other_are_explained(folder):
    (folder / "images/a.png").unlink()
    np.save(folder / "images/a.npy", np.zeros((*SIZES["a"], 6), np.uint8))
    problems = check_folder(folder)
    assert "save a.npy with 1, 3 or 4 channels last" in problems[0].remedy
    np.save(folder / "images/a.npy", np.zeros((*SIZES["a"], 3), np.uint8))
    (folder / "masks/ben/a.png").unlink()
    np.save(folder / "masks/ben/a.npy", np.stack([MASK, ~MASK, MASK], axis=-1))
    (problem,) = check_folder(folder)
    assert problem.found == "3 channels that differ"
    assert "a stack as .nii.gz" in problem.remedy


def test_a_mask_outside_a_folder_has_two_values(tmp_path):
    from irrbench.data.readers import ReadError

    save(tmp_path / "a.png", MASK.astype(np.uint8) * 3)
    np.testing.assert_array_equal(read_single_mask(tmp_path / "a.png"), MASK)
    save(tmp_path / "a.png", MASK.astype(np.uint8) + 1)
    with pytest.raises(ReadError, match="found values 1, 2; expected 0 and one other value"):
        read_single_mask(tmp_path / "a.png")


def test_classes_and_void_are_settings():
    found = load_config(None, ["--folder.classes", "[0]", "--folder.void", "255"]).folder
    assert (found.classes, found.void) == ([0], 255)
    assert load_config(None, ["--folder.classes", "{anna: [0]}"]).folder.classes == {"anna": [0]}


def test_real_marks_that_are_dark_on_white(real_data):
    raw = real_data / "bubil" / "raw"
    problems = check_folder(raw)
    assert [problem.file for problem in problems] == [f"masks/p{number}" for number in range(1, 6)]
    data = load_folder(raw, classes=[0])
    right = load_folder(real_data / "bubil", allow_missing=True)
    for i, image_id in enumerate(data.image_ids):
        stored = np.asarray(Image.open(raw / "masks" / "p3" / f"{image_id}.png"))
        np.testing.assert_array_equal(data.masks(i)[2], stored == 0)
        assert image_id not in right.image_ids or data.masks(i).mean() < 0.5


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bit_whose_lower_half_would_be_lost_are_refused(folder, channels):
    import struct
    import zlib

    height, width = SIZES["a"]
    rows = np.repeat(MASK.astype(">u2")[..., None], channels, axis=-1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0),
        b"IDAT": zlib.compress(raw),
        b"IEND": b"",
    }
    chunks = [
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in parts.items()
    ]
    (folder / "masks/ben/a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert "found colours or opacity of 16 bit" in str(*check_folder(folder))


def test_classes_beside_grey_levels_of_a_small_png_are_asked_about(folder):
    write(folder, "ben", lambda mask: mask.astype(np.uint8) * 85)
    (problem,) = check_folder(folder, classes={"ben": [1]})
    assert (problem.file, problem.found, problem.expected) == ("masks/ben", "values 0/85", "some of the classes 1")
