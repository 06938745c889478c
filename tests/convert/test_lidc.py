"""LIDC-IDRI's own CT around the outlines: tiny DICOM series and a tiny database, made here."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
from PIL import Image

from irrbench.convert import convert_lidc
from irrbench.data import DataError, load_folder
from irrbench.datasets.lidc import find_nodules

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")

SCORES = ("subtlety", "texture", "malignancy", "margin", "spiculation", "lobulation", "sphericity", "calcification")
PATIENTS = {"LIDC-IDRI-9001": "1.2.3.1", "LIDC-IDRI-9002": "1.2.3.2"}
SLICES = (-10.0, -8.0, -6.0)


def outline(left, top, side):
    """A closed walk around a square, as the database writes it; inside are (side - 1) ** 2 pixels."""
    right, bottom = left + side, top + side
    walk = [(x, top) for x in range(left, right)] + [(right, y) for y in range(top, bottom)]
    walk += [(x, bottom) for x in range(right, left, -1)] + [(left, y) for y in range(bottom, top, -1)]
    return "\n".join(f"{x},{y}" for x, y in walk)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("lidc") / "outlines.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE scans (id, series_instance_uid, patient_id, slice_thickness, pixel_spacing)")
        connection.execute(f"CREATE TABLE annotations (id, scan_id, {', '.join(SCORES)})")
        connection.execute("CREATE TABLE contours (id, annotation_id, inclusion, image_z_position, coords)")
        for scan, (patient, series) in enumerate(PATIENTS.items()):
            connection.execute("INSERT INTO scans VALUES (?, ?, ?, 2.0, 0.7)", (scan, series, patient))
            for reader in range(4):
                annotation = 10 * scan + reader
                connection.execute("INSERT INTO annotations VALUES (?,?,3,3,3,3,3,3,3,3)", (annotation, scan))
                for z in SLICES[1:]:
                    coords = outline(300 + reader, 200, 9 if z == SLICES[1] else 6)
                    connection.execute("INSERT INTO contours VALUES (0, ?, 1, ?, ?)", (annotation, z, coords))
    connection.close()
    return path


def pixels(z):
    """Stored values whose Hounsfield units are known: column + row on the middle slice, air elsewhere."""
    rows, columns = np.indices((512, 512))
    return (rows + columns if z == SLICES[1] else np.zeros((512, 512))).astype(np.int16)


def write_slice(path, series, z, number, *, values=None):
    file = pydicom.dataset.FileDataset(str(path), {}, preamble=b"\0" * 128)
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = pydicom.uid.generate_uid()
    file.SeriesInstanceUID, file.InstanceNumber, file.Modality = series, number, "CT"
    file.ImagePositionPatient, file.PixelSpacing = [0, 0, z], [0.7, 0.7]
    values = pixels(z) if values is None else values
    file.Rows, file.Columns = values.shape
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 1
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 16, 15
    file.RescaleSlope, file.RescaleIntercept = 2, -1024
    file.PixelData = values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


@pytest.fixture
def dicom(tmp_path):
    series = PATIENTS["LIDC-IDRI-9001"]
    for number, z in enumerate(SLICES):
        write_slice(tmp_path / "ct" / "deep" / f"{number}.dcm", series, z, number)
    (tmp_path / "ct" / "LICENSE").write_text("not DICOM")
    return tmp_path / "ct"


def test_the_real_slice_stands_under_the_masks_of_the_embedded_data(dicom, database, tmp_path):
    done = convert_lidc(dicom, tmp_path / "data", size=64, window=(-1024, 1020), database=database, progress=False)
    assert (done.images, done.left_out, done.problems) == (1, (), ())
    assert done.notes == (f"1 images of scans that are not in {dicom}",)
    data = load_folder(tmp_path / "data")
    nodule = next(one for one in find_nodules(64, 0, database=database) if one.row["patient_id"] == "LIDC-IDRI-9001")
    assert data.image_ids == ("LIDC-IDRI-9001_n0",)
    assert data.raters == ("r1", "r2", "r3", "r4")
    assert data.masks(0).sum((1, 2)).tolist() == [64] * 4  # the largest slice: 8 x 8 pixels within the outline
    np.testing.assert_array_equal(data.masks(0), nodule.masks)
    x, y = (int(data.manifest[f"window_{axis}"].iloc[0]) for axis in "xy")
    units = 2.0 * (np.indices((512, 512)).sum(0)[y : y + 64, x : x + 64]) - 1024
    expected = np.round(np.clip((units + 1024) / 2044, 0, 1) * 255)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "data/images/LIDC-IDRI-9001_n0.png")), expected)
    assert data.groups == ["LIDC-IDRI-9001"]
    rows, columns = np.nonzero(data.masks(0)[0])
    assert (columns.min() + x, rows.min() + y) == (301, 201)


def test_every_slice_and_the_whole_of_it(dicom, database, tmp_path):
    options = {"database": database, "every_slice": True, "progress": False}
    done = convert_lidc(dicom, tmp_path / "data", size=512, **options)
    assert done.images == 2
    data = load_folder(tmp_path / "data")
    assert data.image_ids == ("LIDC-IDRI-9001_n0_s0", "LIDC-IDRI-9001_n0_s1")
    assert [data.masks(i)[0].sum() for i in range(2)] == [64, 25]
    assert data.shape(0) == (512, 512)
    assert len(set(data.groups)) == 1
    assert convert_lidc(dicom, tmp_path / "data", limit=1, overwrite=True, **options).images == 1


def test_a_missing_or_damaged_slice_is_listed(dicom, database, tmp_path):
    options = {"database": database, "size": 64, "progress": False}
    path = dicom / "deep" / "1.dcm"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"LIDC-IDRI-9001_n0: found 1\.dcm, which cannot be read"):
        convert_lidc(dicom, tmp_path / "data", **options)
    write_slice(path, PATIENTS["LIDC-IDRI-9001"], SLICES[1], 1, values=np.zeros((20, 30), np.int16))
    with pytest.raises(DataError, match=r"found 1\.dcm of size 20 x 30; expected 512 x 512"):
        convert_lidc(dicom, tmp_path / "data", **options)
    path.unlink()
    with pytest.raises(DataError, match=r"found no slice at z = -8 mm"):
        convert_lidc(dicom, tmp_path / "data", **options)


def test_folders_without_lidc_are_refused(database, tmp_path):
    with pytest.raises(DataError, match="found no such folder; expected a folder of DICOM files"):
        convert_lidc(tmp_path / "none", tmp_path / "data", database=database)
    write_slice(tmp_path / "other" / "0.dcm", "9.9.9", -8.0, 1)
    with pytest.raises(DataError, match="found 1 CT series, none of LIDC-IDRI"):
        convert_lidc(tmp_path / "other", tmp_path / "data", database=database)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 16}, "size=16: expected 32 to 512"),
        ({"window": (5, 5)}, r"window=\(5, 5\): expected Hounsfield units, the lower first"),
        ({"limit": 0}, "limit=0: expected at least 1 image"),
    ],
)
def test_options_are_checked(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        convert_lidc(tmp_path, tmp_path / "data", **options)
