"""Data folders and files made to exhaust memory or time, or to lead elsewhere: each is a named problem."""

from __future__ import annotations

import gzip
import io
import os
import socket
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from irrbench.data import DataError, check_folder, load_folder, load_predictions
from irrbench.data.formats import reader_of
from irrbench.data.io import read_header, read_mask, read_values
from irrbench.data.manifest import MAX_OTHER_ROWS
from irrbench.data.naming import relate_names
from irrbench.data.problems import Problem
from irrbench.data.readers import HEADER_BYTES, MAX_PIXELS, SLACK, ReadError
from tests.data.toys import RATERS, SIZES, draw, save

MASK = np.zeros((64, 64), np.uint8)
MASK[8:24, 16:40] = 255
LARGE = 3 * 2**30


def sparse(path, size=LARGE, head=b""):
    """A file of zeros that takes no space on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def saved(kind, **options):
    stream = io.BytesIO()
    Image.fromarray(MASK).save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind, content=b""):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def black_png(width, height, rows):
    """A PNG of one bit a pixel that declares a size, with so many rows of it."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    pixels = zlib.compress(bytes((width // 8 + 1) * rows), 1)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND")


def nifti(shape, *, offset=352.0, extension=b"\0\0\0\0"):
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    head = bytearray(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).to_bytes()[:348])
    struct.pack_into("<4h", head, 40, 3, *shape)
    struct.pack_into("<f", head, 108, offset)
    return bytes(head) + extension


@pytest.mark.parametrize(("ending", "kind"), [(".png", "PNG"), (".jpg", "JPEG"), (".tif", "TIFF"), (".bmp", "BMP")])
def test_a_file_is_not_much_larger_than_its_pixels(tmp_path, ending, kind):
    sparse(tmp_path / f"a{ending}", head=saved(kind))
    for read in (read_header, read_mask):
        with pytest.raises(ReadError, match=r"found over 67,174,400 bytes for 64 x 64 pixels"):
            read(tmp_path / f"a{ending}")


def test_as_many_bytes_as_are_allowed_beside_the_pixels_are_read_over(tmp_path):
    limit = SLACK + 16 * MASK.size
    sparse(tmp_path / "a.png", limit, saved("PNG"))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").marked, MASK > 0)
    sparse(tmp_path / "a.png", limit + 1, saved("PNG"))
    with pytest.raises(ReadError, match=f"over {limit:,} bytes"):
        read_mask(tmp_path / "a.png")


PACKED = {
    ".pgm.gz": (lambda: saved("PPM"), "over 66,536 bytes for 64 x 64 pixels"),
    ".npy.gz": (lambda: npy(MASK), "more bytes than the array declares"),
    ".nii.gz": (lambda: nifti((4, 4, 4)) + bytes(64), "over 2,024 bytes for 4 x 4 x 4 pixels"),
}


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("ending", PACKED)
def test_what_is_packed_behind_the_pixels_is_not_unpacked(tmp_path, monkeypatch, ending):
    monkeypatch.setattr("irrbench.data.readers.SLACK", 1000)
    make, found = PACKED[ending]
    content, read = make(), []
    (tmp_path / f"a{ending}").write_bytes(gzip.compress(content))
    assert read_mask(tmp_path / f"a{ending}").marked.any() == (ending != ".nii.gz")
    (tmp_path / f"a{ending}").write_bytes(gzip.compress(content + bytes(2**26)))
    unpack = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n=-1: (read.append(len(c := unpack(self, n))), c)[1])
    with pytest.raises(ReadError, match=found):
        read_mask(tmp_path / f"a{ending}")
    assert sum(read) < 2**22


def jpg_with_exif():
    content, segment = saved("JPEG"), b"\xff\xe1" + struct.pack(">H", 65535) + b"Exif\0\0" + bytes(65527)
    return content[:2] + segment * (HEADER_BYTES // len(segment) + 1) + content[2:]


def jpg_of_small_segments():
    content = saved("JPEG")
    return content[:2] + b"\xff\xe5\0\2" * 2**19 + content[2:]


def png_of_text():
    content = saved("PNG")
    return content[:33] + chunk(b"tEXt", bytes(HEADER_BYTES)) + content[33:]


HEADERS = {
    "exif.jpg": jpg_with_exif,
    "segments.jpg": jpg_of_small_segments,
    "text.png": png_of_text,
    "comment.pgm": lambda: b"P5\n#" + b"x" * 2**20 + b"\n64 64 255\n" + bytes(4096),
    "header.npy": lambda: b"\x93NUMPY\2\0" + struct.pack("<I", HEADER_BYTES) + bytes(HEADER_BYTES),
    "header.npy.gz": lambda: gzip.compress(b"\x93NUMPY\2\0" + struct.pack("<I", HEADER_BYTES) + bytes(HEADER_BYTES), 1),
}


@pytest.mark.parametrize("name", HEADERS)
def test_what_stands_before_the_pixels_is_bounded(tmp_path, name):
    (tmp_path / name).write_bytes(HEADERS[name]())
    for read in (read_header, read_values):
        with pytest.raises(ReadError, match="found over 8,388,608 bytes before the pixels"):
            read(tmp_path / name)


def test_the_list_of_an_archive_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("irrbench.data.readers.HEADER_BYTES", 2000)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for number in range(100):
            archive.writestr(f"{number}.npy", b"")
    with pytest.raises(ReadError, match="over 2,000 bytes before the pixels"):
        read_values(tmp_path / "a.npz")


def test_archives_are_packed_as_numpy_packs_them(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("arr_0.npy", npy(MASK))
    with pytest.raises(ReadError, match=r"unusual compression; expected numpy.savez_compressed's"):
        read_values(tmp_path / "a.npz")


def test_the_limit_of_pixels_is_the_one_that_is_named(tmp_path):
    path, side = tmp_path / "a.png", 2**14
    assert side * side == MAX_PIXELS
    path.write_bytes(black_png(side, side, side))
    assert read_header(path).shape == (1, side, side)
    assert reader_of(path).values(path).array.shape == (side, side)  # more than Pillow alone would read
    for width, height in ((side, side + 1), (60000, 60000)):
        path.write_bytes(black_png(width, height, 1))
        with pytest.raises(ReadError, match=r"an absurd declared size.*; expected at most 268,435,456 pixels"):
            read_header(path)


def test_pillow_keeps_its_own_limit(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    save(tmp_path / "a.png", MASK)
    read_mask(tmp_path / "a.png")
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path, monkeypatch):
    content = saved("JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(content)
    read_mask(tmp_path / "a.jpg")
    monkeypatch.setattr("irrbench.data.pictures._MOST_SCANNED", MASK.size * 20)
    (tmp_path / "a.jpg").write_bytes(content[:-2] + content[start:-2] * 20 + content[-2:])
    with pytest.raises(ReadError, match="very many scans"):
        read_mask(tmp_path / "a.jpg")


def test_a_png_of_very_many_parts_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("irrbench.data.pictures._MOST_CHUNKS", 100)
    content = saved("PNG")
    for count, found in ((20, None), (200, "over 100 chunks")):
        (tmp_path / "a.png").write_bytes(content[:-12] + chunk(b"teSt") * count + content[-12:])
        if found is None:
            read_mask(tmp_path / "a.png")
        else:
            with pytest.raises(ReadError, match=found):
                read_mask(tmp_path / "a.png")


def test_an_array_of_very_many_axes_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", MASK.reshape((1,) * 28 + MASK.shape))
    with pytest.raises(ReadError, match="found 30 axes; expected at most 8"):
        read_values(tmp_path / "a.npy")


@pytest.mark.parametrize("offset", [1e30, float("nan"), -1.0, HEADER_BYTES + 2.0**10])
def test_the_voxels_of_a_nifti_file_begin_soon(tmp_path, offset):
    (tmp_path / "a.nii").write_bytes(nifti((4, 4, 4), offset=offset) + bytes(64))
    with pytest.raises(ReadError, match=r"voxels from byte|HeaderDataError"):
        read_values(tmp_path / "a.nii")


def test_extensions_of_a_nifti_file_are_not_read(tmp_path):
    extension = b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 2)  # declares two gigabytes of DICOM
    content = nifti((4, 4, 4), offset=1024.0, extension=extension)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content.ljust(1024, b"\0") + bytes(range(64))))
    np.testing.assert_array_equal(read_values(tmp_path / "a.nii.gz").array.ravel("F"), range(64))


NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n{}\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\n{}\n"
ELSEWHERE = {
    "up.nrrd": NRRD.format("data file: ../../etc/passwd\n"),
    "list.nrrd": NRRD.format("data file: LIST\n/etc/passwd\n"),
    "windows.nrrd": NRRD.format("data file: /etc/passwd\n").replace("\n", "\r\n"),
    "up.mha": META.format("ElementDataFile = ../../etc/passwd"),
    "colon.mha": META.format("ElementDataFile : /etc/passwd"),
    "pattern.mha": META.format("ElementDataFile = /etc/passw%c 100 100 1"),
    "two.mha": META.format("Comment = x\rElementDataFile = LOCAL\nElementDataFile = /etc/passwd"),
    "list.mhd": META.format("ElementDataFile = LIST\n/etc/passwd"),
    "other.mhd": META.format("ElementDataFile = z.raw"),
    "link.mhd": META.format("ElementDataFile = link.raw"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_header_leads_to_no_other_file(tmp_path, name):
    pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    (tmp_path / name).write_bytes(ELSEWHERE[name].encode() + bytes(64))
    for other in ("LIST", "z.raw", "real.raw"):
        (tmp_path / other).write_bytes(bytes(64))
    (tmp_path / "link.raw").symlink_to("real.raw")
    with pytest.raises(ReadError, match="voxels in another file"):
        read_values(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.nrrd", NRRD.format("# x\n" * 20_000), "a header without an end"),
        ("a.mha", META.format("Comment = x\n" * 6_000 + "ElementDataFile = LOCAL"), "a header without an end"),
        ("a.nrrd", NRRD.format("byte skip: -1\n"), "byte skip: -1"),
        ("a.nrrd", NRRD.format("line skip: 1000000000\n"), "line skip: 1000000000"),
        ("a.mha", META.format("HeaderSize = 100000000000\nElementDataFile = LOCAL"), "HeaderSize = 100000000000"),
    ],
)
def test_a_header_ends_and_skips_nothing(tmp_path, name, content, found):
    pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    (tmp_path / name).write_bytes(content.encode() + bytes(64))
    with pytest.raises(ReadError, match=found):
        read_values(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nrrd", NRRD.format("byte skip: 0\nline skip: 0\n")),
        ("a.mha", META.format("HeaderSize = 0\nElementDataFile = LOCAL")),
        ("a.mhd", META.format("HeaderSize = -1\nElementDataFile = a.raw")),
    ],
)
def test_a_header_that_skips_nothing_is_read(tmp_path, name, content):
    pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    (tmp_path / "a.raw").write_bytes(bytes(range(64)))
    (tmp_path / name).write_bytes(content.encode() + bytes(range(64)))
    np.testing.assert_array_equal(read_values(tmp_path / name).array.ravel("F"), range(64))


def test_the_raw_file_of_an_mhd_is_a_file_of_its_size(tmp_path):
    pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    (tmp_path / "a.mhd").write_text(META.format("ElementDataFile = a.raw"))
    sparse(tmp_path / "a.raw")
    with pytest.raises(ReadError, match="over 67,109,888 bytes for 4 x 4 x 4 pixels"):
        read_values(tmp_path / "a.mhd")
    (tmp_path / "a.raw").unlink()
    os.mkfifo(tmp_path / "a.raw")
    with pytest.raises(ReadError, match="it is no regular file"):
        read_values(tmp_path / "a.mhd")


def pipe(path):
    os.mkfifo(path)


def open_socket(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(path))


SPECIAL = {
    "a pipe": pipe,
    "a socket": open_socket,
    "a folder": lambda path: path.mkdir(),
    "a link that leads nowhere: Too many": lambda path: path.symlink_to(path.name),
    "a link that leads nowhere: No such": lambda path: path.symlink_to("nowhere"),
    "a link that leads outside": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("place", ["images", "masks/ben", "roi"])
@pytest.mark.parametrize("found", SPECIAL)
def test_what_is_no_file_is_named_beside_all_other_problems(folder, monkeypatch, place, found):
    monkeypatch.chdir(folder)
    save(folder / "masks/cem/c.png", np.zeros((3, 3), np.uint8))
    (folder / place).mkdir(exist_ok=True)
    (folder / place / "a.png").unlink(missing_ok=True)
    SPECIAL[found](folder / place / "a.png")
    texts = [str(problem) for problem in check_folder(folder)]
    assert any(text.startswith(f"{place}/a.png: found ") and found in text for text in texts)
    assert any("masks/cem/c.png: found size 3 x 3" in text for text in texts)


MANIFESTS = {
    "it is no regular file": pipe,
    "it holds 3,221,225,472 bytes; at most 67,108,864 are read": sparse,
    "a link that leads outside": lambda path: path.symlink_to("/etc/passwd"),
    "cannot be read \\(No such file": lambda path: path.symlink_to("nowhere"),
    "a link that leads outside|cannot be read \\(Too many": lambda path: path.symlink_to(path.name),
    "a row of 100,001 columns": lambda path: path.write_text("image_id" + ",x" * 100_000 + "\na\n"),
    "over 10,005 rows": lambda path: path.write_text("image_id\n" + "a\n" * (MAX_OTHER_ROWS + 6)),
    "a path|which leaves the folder": lambda path: path.write_text("image_id\n../../etc/passwd\n/etc/passwd\n"),
    "field larger than field limit": lambda path: path.write_text(f"image_id,x\na,{'x' * 200_000}\n"),
}


@pytest.mark.parametrize("found", MANIFESTS)
def test_a_manifest_is_a_table_of_the_folder(folder, found):
    save(folder / "masks/cem/c.png", np.zeros((3, 3), np.uint8))
    MANIFESTS[found](folder / "manifest.csv")
    with pytest.raises(DataError, match=rf"manifest\.csv: found [^\n]*({found})") as error:
        load_folder(folder)
    assert "masks/cem/c.png: found size 3 x 3" in str(error.value)


def test_a_folder_of_rois_that_leads_nowhere_is_not_taken_for_none(folder):
    (folder / "roi").symlink_to("nowhere")
    with pytest.raises(DataError, match="roi: found no such folder"):
        load_folder(folder)


@pytest.mark.parametrize(
    "found", ["a pipe", "a link that leads nowhere: No such", "a link that leads nowhere: Too many"]
)
def test_a_folder_of_a_rater_that_cannot_be_entered_is_not_taken_for_none(folder, found):
    save(folder / "masks/cem/c.png", np.zeros((3, 3), np.uint8))
    SPECIAL[found](folder / "masks/dora")
    texts = [str(problem) for problem in check_folder(folder)]
    assert any(text.startswith(f"masks/dora: found {found}") for text in texts)
    assert any("masks/cem/c.png: found size 3 x 3" in text for text in texts)


def test_long_parts_of_a_message_lose_their_middle():
    text = str(Problem("a" * 10**6, "b" * 10**6, "c", "d"))
    assert len(text) < 1100
    assert text.endswith("; expected c. Remedy: d.")


@pytest.mark.parametrize("content", ["[" * 200_000, '{"labels": {"a": "' + "9" * 5000 + '"}}'])
def test_a_dataset_json_of_anything_is_read_over(folder, tmp_path, content):
    predict(tmp_path / "net")
    (tmp_path / "net/dataset.json").write_text(content)
    assert len(load_predictions(tmp_path / "net", load_folder(folder))) == len(SIZES)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (sparse, "cannot be read .it holds 3,221"),
        (lambda path: path.symlink_to("/etc/passwd"), "a link that leads out"),
    ],
)
def test_what_nnunet_wrote_is_a_file_of_its_folder(folder, tmp_path, make, found):
    predict(tmp_path / "net")
    make(tmp_path / "net/dataset.json")
    with pytest.raises(DataError, match=rf"1 problem\n.*net/dataset\.json: found {found}|{found}"):
        load_predictions(tmp_path / "net", load_folder(folder))


def predict(root):
    for image_id in SIZES:
        save(root / f"{image_id}.png", draw(image_id, RATERS[0]).astype(np.uint8) * 255)


def test_names_of_very_many_pieces_are_compared_as_a_whole():
    long = "a1" * 60_000
    assert relate_names([long, f"{long}_seg", "b_seg"], ["b", "c"])["b_seg"].image_id == "b"
