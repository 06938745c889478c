"""Damaged and odd input: named or refused, never a traceback, never a silently wrong number.

What is promised of damaged files: whatever the damage, an answer or a ``ReadError`` within bounded memory. In formats
with checksums (png, npz, nii.gz) no changed bit goes unnoticed that changes a pixel; a file that was cut short is
noticed in every format but jpg. In npy, tif, jpg and nii, which have no checksums, a changed bit may be another value
that no reader can tell from the right one.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import string
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from irrbench.data import DataError, check_folder, load_folder, load_predictions
from irrbench.data.io import read_header, read_image, read_mask, read_values
from irrbench.data.manifest import read_manifest
from irrbench.data.rater_data import SPLITS
from irrbench.data.readers import ReadError
from tests.data.toys import save

MASK = np.random.default_rng(4).random((12, 20)) < 0.4
CHECKED = (".png", ".npz", ".nii.gz", ".npy.gz", ".bmp.gz", ".pgm.gz")
PLAIN = (".npy", ".tif", "-lzw.tif", ".jpg", ".nii", ".gif", ".bmp", ".pgm", ".ppm", ".pbm")
ITK = (".nrrd", "-raw.nrrd", ".mha", "-raw.mha")
ENDINGS = (*CHECKED, *PLAIN, *ITK)
READ = (read_header, read_image, read_values, read_mask)
fast = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
long = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path, ending):
    array = MASK.astype(np.uint8) * 255
    if ending == ".npz":
        np.savez_compressed(path, array)
    elif ending.startswith(".nii"):
        nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    elif ending in ITK:
        sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression="raw" not in ending)
    elif ending == ".npy.gz":
        with gzip.open(path, "wb") as file:
            np.save(file, array)
    elif ending.endswith(".gz"):
        with gzip.open(path, "wb") as file:
            Image.fromarray(array).save(file, {".bmp.gz": "BMP", ".pgm.gz": "PPM"}[ending])
    elif ending == "-lzw.tif":
        Image.fromarray(array).save(path, compression="tiff_lzw")
    else:
        save(path, array)
    return path.read_bytes()


def outcome(read, path):
    """What a reader gives; anything but a ``ReadError`` with words for a remedy is a failure."""
    try:
        return read(path)
    except ReadError as error:
        if not (error.found and error.expected and error.remedy):
            raise AssertionError("an error without words") from error
        return None


def sound(path):
    return {read: outcome(read, path) for read in READ}


def check(path, content, right, *, exact):
    path.write_bytes(content)
    for read, expected in right.items():
        found = outcome(read, path)
        if exact and found is not None:
            assert same(found, expected)


def same(found, expected):
    if isinstance(expected, tuple):
        return all(same(*pair) for pair in zip(found, expected, strict=True))
    return np.array_equal(found, expected)


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_was_cut_short_is_noticed_or_whole_enough(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    content = write(path, ending)
    right = sound(path)
    for length in [*range(0, len(content), max(1, len(content) // 25)), *range(len(content) - 9, len(content))]:
        header, *pixels = right
        check(path, content[:length], {read: right[read] for read in pixels}, exact=ending != ".jpg")
        check(path, content[:length], {header: right[header]}, exact=ending != ".bmp")  # its palette decides


def fuzz_bits(tmp_path, ending, bits):
    path = tmp_path / f"a{ending}"
    content = write(path, ending)
    right = sound(path)
    del right[read_header]  # it may believe a damaged header: pixels are never read by it
    for bit in bits(len(content) * 8):
        check(path, flipped(content, bit), right, exact=ending in CHECKED)
        outcome(read_header, path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_changed_bit_is_noticed_wherever_there_are_checksums(tmp_path, ending):
    fuzz_bits(tmp_path, ending, lambda count: range(0, count, max(1, count // 80) | 1))


def one_of_each_byte(count):
    """Another one in each; `make fuzz` takes all."""
    return range(count) if os.environ.get("IRRBENCH_HYPOTHESIS") == "fuzz" else range(0, count, 9)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_changed_bit_of_every_byte(tmp_path, ending, monkeypatch):
    monkeypatch.setitem(globals(), "MASK", MASK[:4, :6])  # most bits are the header's
    fuzz_bits(tmp_path, ending, one_of_each_byte)


@pytest.mark.parametrize("ending", ENDINGS)
@fast
@given(content=st.binary(max_size=60), place=st.integers(0, 400))
def test_other_content_under_a_known_ending(tmp_path, ending, content, place):
    path = tmp_path / f"a{ending}"
    whole = write(path, ending)
    for damaged in (content, whole[:place] + content + whole[place + len(content) :]):
        path.write_bytes(damaged)
        for read in READ:
            outcome(read, path)


def test_a_flipped_mask_in_a_folder_is_named(folder):
    path = folder / "masks" / "ben" / "a.png"
    path.write_bytes(flipped(path.read_bytes(), 8 * 45))
    with pytest.raises(DataError, match=r"masks/ben/a\.png: found a damaged PNG \(a checksum is wrong\)"):
        load_folder(folder)


def bomb_npz(path):
    """An archive that unpacks to more than it declares, or declares more than there is."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**14, 2**15)})
    np.savez_compressed(path, x=np.zeros((2, 2), np.uint8))
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(1000))


def bomb_nifti(path):
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header.set_data_shape((30000, 30000, 2))
    with gzip.open(path, "wb") as file:
        file.write(image.header.binaryblock + bytes(1000))


def bomb_tif(path):
    Image.new("L", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    for tag in (256, 257):  # width and height, each an entry of 12 bytes whose value comes last
        place = content.index(tag.to_bytes(2, "little"))
        content[place + 2 : place + 12] = (
            (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + (70000).to_bytes(4, "little")
        )
    path.write_bytes(content)


@pytest.mark.parametrize(("ending", "write_bomb"), [(".npz", bomb_npz), (".nii.gz", bomb_nifti), (".tif", bomb_tif)])
def test_absurd_declared_sizes_allocate_nothing(tmp_path, ending, write_bomb):
    path = tmp_path / f"a{ending}"
    write_bomb(path)
    for read in READ:
        with pytest.raises(ReadError) as caught:
            read(path)
        assert "an absurd declared size" in caught.value.found


def test_an_array_with_something_behind_it_is_refused(tmp_path):
    save(tmp_path / "a.npy", MASK)
    with (tmp_path / "a.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ReadError, match="found more bytes than the array declares"):
        read_mask(tmp_path / "a.npy")


IDS = ("a", "b", "c", "007", "NA", "x.y", "Größe 1")
CELLS = st.sampled_from(
    (*IDS, *SPLITS, "", " a", "../a", "/etc/passwd", "nan", "1e3", "a,b", 'q"q', "line\nbreak", "\0", "é")
)
COLUMNS = st.lists(
    st.sampled_from(("image_id", "split", "group", "patient", " image_id", "split ", "age", "", "Größe", "image_id")),
    min_size=1,
    max_size=5,
)
TABLES = COLUMNS.flatmap(
    lambda columns: st.tuples(
        st.just(columns),
        st.lists(st.lists(CELLS, min_size=len(columns) - 1, max_size=len(columns) + 1), max_size=9)
        | st.permutations(IDS).map(lambda ids: [[name, *["train"] * (len(columns) - 1)] for name in ids]),
    )
)


def text_of(columns, rows, ends, bom):
    out = io.StringIO()
    if sys.version_info < (3, 11):  # whose csv cannot write it
        rows = [[cell.replace("\0", "") for cell in row] for row in rows]
    csv.writer(out, lineterminator=ends).writerows([columns, *rows])
    return (b"\xef\xbb\xbf" if bom else b"") + out.getvalue().encode()


def judge(root, content):
    """Whatever the manifest: problems with words, or exactly the splits that another reader finds in it."""
    (root / "manifest.csv").write_bytes(content)
    manifest, _, _, problems = read_manifest(root, IDS)
    assert all(problem.found and problem.expected and problem.remedy for problem in problems)
    assert manifest.index.tolist() == list(IDS)
    if problems:
        return
    assert set(manifest["split"]) <= set(SPLITS)
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    stripped = [{str(key).strip(): (value or "").strip() for key, value in row.items()} for row in rows]
    assert sorted(row["image_id"] for row in stripped) == sorted(IDS)
    for row in stripped:
        if "split" in row:
            assert manifest.loc[row["image_id"], "split"] == row["split"]


@fast
@given(table=TABLES, ends=st.sampled_from(("\n", "\r\n")), bom=st.booleans())
def test_any_table_is_read_rightly_or_its_problems_are_named(tmp_path, table, ends, bom):
    judge(tmp_path, text_of(*table, ends, bom))


@fast
@given(content=st.binary(max_size=80) | st.text(string.printable, max_size=80).map(str.encode))
def test_any_bytes_are_a_manifest_or_its_problems_are_named(tmp_path, content):
    judge(tmp_path, content)


@pytest.mark.slow
@long
@given(table=TABLES, ends=st.sampled_from(("\n", "\r\n", "\r")), bom=st.booleans(), content=st.text(max_size=200))
def test_many_tables(tmp_path, table, ends, bom, content):
    judge(tmp_path, text_of(*table, ends, bom))
    judge(tmp_path, content.encode("utf-8", "surrogatepass"))


def test_line_ends_and_a_byte_order_mark_do_not_matter(tmp_path):
    rows = [
        [name, split] for name, split in zip(IDS, ("train", "val", "test", "test", "train", "val", "test"), strict=True)
    ]
    for ends in ("\n", "\r\n", "\r"):
        for bom in (False, True):
            (tmp_path / "manifest.csv").write_bytes(text_of(["image_id", "split"], rows, ends, bom))
            manifest, _, _, problems = read_manifest(tmp_path, IDS)
            assert problems == []
            assert manifest["split"].tolist() == [split for _, split in rows]


NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=12
) | st.sampled_from(
    (".", "..", "a.png", "a.PNG", "a", "CON", "a b", "-rf", "~", "*", "\n", "é", "e\u0301", "@2", "x@2")
)


def fill(root, names, raters):
    for folder in ("images", *(f"masks/{rater}" for rater in raters)):
        for name in names:
            place = root / folder / f"{name}.png"
            try:
                save(place, MASK.astype(np.uint8) * 255)
            except (OSError, ValueError):  # no such name on this file system
                return False
    return True


@fast
@given(
    names=st.lists(NAMES, min_size=1, max_size=3, unique=True),
    raters=st.lists(NAMES, min_size=2, max_size=3, unique=True),
)
def test_any_names_are_ids_and_raters_or_named_as_problems(tmp_path_factory, names, raters):
    root = tmp_path_factory.mktemp("names")
    if not fill(root, names, raters):
        return
    problems = check_folder(root, progress=False)
    if problems:
        assert all(problem.found and problem.remedy for problem in problems)
        with pytest.raises(DataError):
            load_folder(root)
        return
    data = load_folder(root, progress=False)
    assert set(data.image_ids) <= set(names)
    assert set(data.raters) <= set(raters)
    for i in range(len(data)):
        assert (data.masks(i) == MASK).all()
    loaded = load_predictions(root / "masks" / data.raters[0], data, progress=False)
    assert all((loaded.prediction(i) == MASK).all() for i in range(len(data)))


def test_a_column_that_comes_twice_is_named(tmp_path):
    (tmp_path / "manifest.csv").write_text("image_id,split, split\na,train,test\n")
    *_, problems = read_manifest(tmp_path, ["a"])
    assert "found column 'split' more than once" in str(problems[0])
