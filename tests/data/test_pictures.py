"""Pictures as viewers show them: every turn of EXIF, every plain format, packed or not."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from irrbench.data import check_folder, load_folder, load_predictions
from irrbench.data.io import read_both_ways, read_header, read_image, read_mask
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
        assert ending == ".tif" or header.turned == (turn in range(2, 9))
    ways = read_both_ways(path)
    assert (ways is None) == (ending == ".tif" or turn not in range(2, 9))
    if ways is not None:
        np.testing.assert_array_equal(ways[0], upright)
        np.testing.assert_array_equal(ways[1], np.asarray(Image.open(path)))


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
    data = load_folder(folder)
    assert data.values["images"] == "8 bit; 1 turned as EXIF says"
    np.testing.assert_array_equal(data.image(0)[0], pixels[::-1, ::-1].astype(np.float32) / 255)
    Image.fromarray(pixels).save(folder / "images/a.png", exif=exif(6))
    problems = check_folder(folder)
    assert len({problem.kind for problem in problems}) == 1
    assert "found size 12 x 20; expected 20 x 12, the size of its image" in str(problems[0])
    assert "draw it on a.png as viewers show it (its EXIF turns it)" in problems[0].remedy


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
    monkeypatch.setattr("irrbench.data.readers.MAX_BYTES", 1000)
    (tmp_path / "a.pgm.gz").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(ReadError, match="found over 1,000 bytes"):
        read_mask(tmp_path / "a.pgm.gz")


@pytest.mark.parametrize("ending", [".gif", ".tif"])
def test_several_pages_are_refused(tmp_path, ending):
    pages = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    pages[0].save(tmp_path / f"a{ending}", save_all=True, append_images=pages[1:])
    with pytest.raises(ReadError, match="found 2 pages; expected one page"):
        read_mask(tmp_path / f"a{ending}")
