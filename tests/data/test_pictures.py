"""Pictures as viewers show them: every turn of EXIF, every plain format, packed or not."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from irrbench.data import check_folder, load_folder, load_predictions
from irrbench.data.io import read_both_ways, read_header, read_image, read_mask
from irrbench.data.problems import DataError, summarize_problems
from irrbench.data.readers import ReadError
from tests.data.toys import RATERS, SIZES, draw, save

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
GREY = PIXELS[..., 0]


def exif(turn):
    found = Image.Exif()
    found[274] = turn
    return found


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("turn", range(1, 10))
@pytest.mark.parametrize("pixels", [PIXELS, GREY], ids=["colour", "grey"])
def test_a_picture_is_turned_as_its_exif_says(tmp_path, ending, turn, pixels):
    path = tmp_path / f"a{ending}"
    Image.fromarray(pixels).save(path, exif=exif(turn))
    # From memory: Pillow scrambles an uncompressed TIFF that it maps from a path, if its sides change places.
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes()))))
    image = np.moveaxis(read_image(path), 0, -1)
    np.testing.assert_array_equal(image if pixels.ndim == 3 else image[..., 0], upright.astype(np.float32) / 255)
    for header in (read_header(path), read_header(path, decode=True)):
        assert header.shape == image.transpose(2, 0, 1).shape
        assert header.turn == (turn if turn in range(2, 9) else 1)
    ways = read_both_ways(path)
    assert (ways is None) == (turn not in range(2, 9))
    if ways is not None:
        np.testing.assert_array_equal(ways[0], upright)
        saved = pixels if ending != ".jpg" else np.asarray(Image.open(path))
        np.testing.assert_array_equal(ways[1], saved)


@pytest.mark.parametrize("turn", [2, 3, 6, 8])
def test_masks_and_predictions_are_turned_too(folder, tmp_path, turn):
    root = tmp_path / "net"
    root.mkdir()
    mask = draw("a", "ben").astype(np.uint8) * 255
    stored = Image.fromarray(mask)
    if turn >= 5:
        stored = stored.transpose(Image.Transpose.TRANSPOSE)
    stored.save(folder / "masks/ben/a.png", exif=exif(turn))
    stored.save(root / "a.png", exif=exif(turn))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(root / "a.png"))) > 0
    data = load_folder(folder)
    np.testing.assert_array_equal(data.masks(0)[RATERS.index("ben")], upright)
    for image_id in list(SIZES)[1:]:
        save(root / f"{image_id}.png", draw(image_id, "ben").astype(np.uint8) * 255)
    np.testing.assert_array_equal(load_predictions(root, data).prediction(0), upright)


def test_a_turned_image_is_said_and_fits_masks_drawn_as_it_is_shown(folder):
    pixels = np.asarray(Image.open(folder / "images/a.png"))
    Image.fromarray(pixels).save(folder / "images/a.png", exif=exif(3))
    data = load_folder(folder, exif="upright")
    assert data.values["images"] == "8 bit; 1 turned as EXIF says, masks without a turn drawn on it as viewers show it"
    np.testing.assert_array_equal(data.image(0)[0], pixels[::-1, ::-1].astype(np.float32) / 255)
    np.testing.assert_array_equal(data.masks(0)[0], draw("a", "anna"))
    Image.fromarray(pixels[:, :19]).save(folder / "images/a.png", exif=exif(6))
    problems = check_folder(folder)
    assert len({problem.kind for problem in problems}) == 1
    assert "found size 12 x 20; expected 19 x 12, the size of its image" in str(problems[0])
    assert "draw it on a.png as viewers show it (its EXIF turns it)" in problems[0].remedy


def shown(array, turn):
    """An array as Pillow's own function shows it."""
    tagged = io.BytesIO()
    Image.fromarray(array).save(tagged, "PNG", exif=exif(turn))
    return np.asarray(ImageOps.exif_transpose(Image.open(tagged)))


def turned_study(root, turn, size, *, ending=".png", way="stored", mask_ending=".png"):
    """A folder with one image that EXIF turns, and masks without a tag; and the masks as viewers show them."""
    rng = np.random.default_rng([turn, *size])
    pixels = rng.integers(0, 256, size, np.uint8)
    (root / "images").mkdir(parents=True)
    Image.fromarray(pixels).save(root / f"images/a{ending}", exif=exif(turn))
    expected = []
    for folder in ("masks/r1", "masks/r2", "masks/r1@2", "roi"):
        stored = ((rng.random(size) < 0.4) * 255).astype(np.uint8)
        save(root / folder / f"a{mask_ending}", stored if way == "stored" else shown(stored, turn))
        expected.append(shown(stored, turn) > 0)
    return expected


def as_read(data):
    return [*data.masks(0), data.drawings(0, "r1")[0][1], data.roi(0)]


UNDECIDED = [
    (2, (12, 20)),
    (3, (12, 20)),
    (4, (12, 20)),
    (3, (9, 9)),
    (5, (9, 9)),
    (6, (9, 9)),
    (7, (9, 9)),
    (8, (9, 9)),
]


@pytest.mark.parametrize(("turn", "size"), UNDECIDED)
@pytest.mark.parametrize("way", ["stored", "upright"])
@pytest.mark.parametrize(("ending", "mask_ending"), [(".png", ".png"), (".jpg", ".npy"), (".tif", ".tif")])
def test_masks_without_a_turn_are_asked_for_where_sizes_do_not_decide(tmp_path, turn, size, way, ending, mask_ending):
    root = tmp_path / "study"
    expected = turned_study(root, turn, size, ending=ending, way=way, mask_ending=mask_ending)
    problems = check_folder(root)
    assert len(problems) == 4
    (line,) = summarize_problems(problems)
    assert "say --folder.exif upright" in line
    assert "stored if on its pixels" in line
    data = load_folder(root, exif=way)
    for mask, right in zip(as_read(data), expected, strict=True):
        np.testing.assert_array_equal(mask, right)


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
@pytest.mark.parametrize("way", ["stored", "upright"])
@pytest.mark.parametrize("said", ["stored", "upright", None])
def test_sizes_decide_where_they_can(tmp_path, turn, way, said):
    expected = turned_study(tmp_path / "study", turn, (12, 20), way=way)
    for mask, right in zip(as_read(load_folder(tmp_path / "study", exif=said)), expected, strict=True):
        np.testing.assert_array_equal(mask, right)


def test_a_mask_with_its_own_turn_or_that_looks_the_same_turned_is_no_question(tmp_path):
    turned_study(tmp_path / "study", 3, (12, 20))
    for folder in ("masks/r1@2", "roi"):
        save(tmp_path / f"study/{folder}/a.png", np.full((12, 20), 255, np.uint8))
    save(tmp_path / "study/masks/r1/a.png", np.zeros((12, 20), np.uint8))
    marked = np.zeros((12, 20), np.uint8)
    marked[1:4, 2:7] = 255
    Image.fromarray(marked).save(tmp_path / "study/masks/r2/a.png", exif=exif(3))
    for said in (None, "stored", "upright"):
        masks = load_folder(tmp_path / "study", exif=said).masks(0)
        np.testing.assert_array_equal(masks, [marked * 0 > 0, marked[::-1, ::-1] > 0])


@pytest.mark.parametrize(("turn", "size"), [*UNDECIDED, (6, (12, 20)), (5, (12, 20))])
@pytest.mark.parametrize("way", ["stored", "upright"])
@pytest.mark.parametrize("sort", ["mask", "probability", "classes first", "classes last"])
def test_predictions_follow_the_same_option(tmp_path, turn, size, way, sort):
    turned_study(tmp_path / "study", turn, size, way=way)
    stored = np.random.default_rng(1).integers(0, 201, size, np.uint8)
    expected = shown(stored, turn) > 100
    probability = (stored if way == "stored" else shown(stored, turn)).astype(np.float32) / 200
    both = np.stack([1 - probability, probability])
    array = {"mask": both[1] > 0.5, "probability": both[1], "classes first": both}.get(sort, np.moveaxis(both, 0, -1))
    save(tmp_path / "net/a.npy", array)
    data = load_folder(tmp_path / "study", exif=way)
    np.testing.assert_array_equal(load_predictions(tmp_path / "net", data).prediction(0), expected)
    for path in (tmp_path / "study").glob("[mr]*/**/*.png"):  # masks without a question
        Image.fromarray(np.full(size, 255, np.uint8)).save(path, exif=exif(turn))
    data = load_folder(tmp_path / "study")
    if (turn, size) in UNDECIDED:
        with pytest.raises(DataError, match=r"no turn in its EXIF.*--folder\.exif upright if.*stored if"):
            load_predictions(tmp_path / "net", data)
    else:
        np.testing.assert_array_equal(load_predictions(tmp_path / "net", data).prediction(0), expected)


def test_an_unknown_way_is_refused(folder):
    with pytest.raises(ValueError, match="exif='Stored': expected one of upright, stored, or None"):
        load_folder(folder, exif="Stored")


def test_damaged_exif_turns_nothing(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(GREY).save(path, exif=b"Exif\0\0II*\0garbage and more of it")
    Image.fromarray(GREY).save(tmp_path / "b.jpg")
    np.testing.assert_array_equal(read_image(path), read_image(tmp_path / "b.jpg"))


PLAIN = {
    ".gif": GREY,
    ".bmp": PIXELS,
    ".ppm": PIXELS,
    ".pgm": GREY,
    ".pbm": GREY > 100,
    ".pnm": PIXELS,
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", PLAIN)
def test_plain_formats_are_read_as_pillow_reads_them(tmp_path, ending, packed):
    path = tmp_path / f"a{ending}"
    Image.fromarray(PLAIN[ending]).save(path, "PPM" if ending == ".pnm" else None)
    with Image.open(path) as picture:
        right = np.asarray(picture.convert("RGB")).astype(np.float32) / 255
    if packed:
        content = path.read_bytes()
        path = tmp_path / f"a{ending}.gz"
        path.write_bytes(gzip.compress(content))
    image = read_image(path)
    np.testing.assert_array_equal(np.moveaxis(image, 0, -1), right if len(image) == 3 else right[..., :1])


def test_numpys_arrays_may_be_packed(tmp_path):
    with gzip.open(tmp_path / "a.npy.gz", "wb") as file:
        np.save(file, np.asfortranarray(GREY > 100))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.npy.gz").marked, GREY > 100)


def test_what_is_unpacked_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("irrbench.data.readers.SLACK", 1000)
    (tmp_path / "a.pgm.gz").write_bytes(gzip.compress(b"P5 1 1 255 " + bytes(10**6)))
    with pytest.raises(ReadError, match="found over 1,016 bytes for 1 x 1 pixels"):
        read_mask(tmp_path / "a.pgm.gz")


@pytest.mark.parametrize("ending", [".gif", ".tif"])
def test_several_pages_are_refused(tmp_path, ending):
    pages = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    pages[0].save(tmp_path / f"a{ending}", save_all=True, append_images=pages[1:])
    with pytest.raises(ReadError, match="found several pages; expected one page"):
        read_mask(tmp_path / f"a{ending}")
