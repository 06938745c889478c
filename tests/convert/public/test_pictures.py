"""RIGA, BSDS500, Gleason 2019 and IMA++: made files of the same layouts."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.io import savemat

from irrbench.convert import convert_public
from irrbench.convert.public.riga import fill_lines
from irrbench.data import load_folder
from irrbench.data.readers import ReadError
from tests.convert.public.makers import blob, photo, rows, same, write, written

SIDE = (120, 140)


def draw_rings(pixels, *rings, colour=(0, 0, 255), width=1):
    """Circles (centre x, y, radius) drawn into a copy."""
    picture = Image.fromarray(pixels.copy())
    for x, y, radius in rings:
        ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    return np.asarray(picture)


def disc_of(x, y, radius):
    rows_, columns = np.indices(SIDE)
    return (rows_ - y) ** 2 + (columns - x) ** 2 <= (radius + 0.5) ** 2


@pytest.fixture
def riga(tmp_path):
    """Two photographs by three raters; the third left a gap in one line."""
    root = tmp_path / "in"
    for folder, ending, count in (("MESSIDOR", ".tif", 2), ("BinRushed/BinRushed1-Corrected", ".jpg", 1)):
        for number in range(1, count + 1):
            plain = np.full((*SIDE, 3), 120, np.uint8)
            write(root / folder / f"Image{number}prime{ending}", plain)
            for rater in (1, 2, 3):
                drawn = draw_rings(plain, (70, 60, 38 + rater), (72, 62, 15 + rater), width=2)
                if (folder, number, rater) == ("MESSIDOR", 2, 3):
                    drawn = drawn.copy()
                    drawn[60:64, :60] = plain[60:64, :60]
                write(root / folder / f"Image{number}-{rater}{ending}", drawn)
    write(root / "BinRushed" / "BinRushed1" / "image1-1.jpg", plain)
    return root


@pytest.mark.parametrize(("target", "radius", "centre"), [("disc", 38, (70, 60)), ("cup", 15, (72, 62))])
def test_riga_fills_the_lines_up_to_their_middle(tmp_path, riga, target, radius, centre):
    done = convert_public("riga", riga, tmp_path / "out", target=target, progress=False)
    found = written(tmp_path / "out")
    assert set(rows(tmp_path / "out")) == {"MESSIDOR-1", "MESSIDOR-2", "BinRushed1-Corrected-1"}
    for rater in (1, 2, 3):
        for name in ("MESSIDOR-1", "BinRushed1-Corrected-1"):
            expected = disc_of(*centre, radius + rater - 1)  # the middle of a line of two pixels
            difference = np.count_nonzero(found[f"expert{rater}", name] != expected)
            assert difference < 2 * np.pi * radius  # less than one pixel of border
    (problem,) = done.left_out
    assert problem.file == "MESSIDOR-2 by expert3"
    assert "lines that enclose" in problem.found
    assert done.missing == 1
    assert any("binrushed1 is left out: binrushed1-corrected is there" in note for note in done.notes)
    assert rows(tmp_path / "out")["BinRushed1-Corrected-1"]["collection"] == "BinRushed"


def test_riga_refuses_lines_that_do_not_lie_around_each_other():
    lines = draw_rings(np.zeros((*SIDE, 3), np.uint8), (30, 60, 20), (90, 60, 20)).any(axis=-1)
    with pytest.raises(ReadError, match="lie side by side"):
        fill_lines(lines)
    with pytest.raises(ReadError, match="enclose 0 parts"):
        fill_lines(np.zeros(SIDE, bool))


def test_the_half_of_a_line_that_lies_in_the_cup_is_worked_out_by_hand():
    lines = np.zeros((30, 30), bool)
    for edge, width in ((3, 1), (10, 4)):  # squares: an outer line of one pixel, an inner one of four
        lines[edge : 30 - edge, edge : 30 - edge] = True
        lines[edge + width : 30 - edge - width, edge + width : 30 - edge - width] = False
    disc, cup = fill_lines(lines)
    assert disc.sum() == 24 * 24 - 4  # a line of one pixel is as near to both: inside, but for its corners
    assert cup[15].nonzero()[0].tolist() == list(range(12, 18))  # two of four pixels on each side


@pytest.fixture
def bsds(tmp_path):
    root, made = tmp_path / "in" / "BSR" / "BSDS500" / "data", {}
    for split, number, people in (("train", "100075", 3), ("val", "101085", 2), ("test", "2018", 3)):
        write(root / "images" / split / f"{number}.jpg", photo((40, 60)))
        cells = np.empty((1, people), object)
        for place in range(people):
            boundary = np.zeros((40, 60), np.uint8)
            boundary[:, 20 + place] = 1
            cells[0, place] = {"Segmentation": np.ones((40, 60), np.uint16), "Boundaries": boundary}
            made[f"annotator{place + 1}", number] = boundary > 0
        path = root / "groundTruth" / split / f"{number}.mat"
        path.parent.mkdir(parents=True)
        savemat(path, {"groundTruth": cells}, do_compression=split != "val")
    write(root / "images" / "test" / "Thumbs.jpg", photo((4, 4)))
    return root.parent.parent.parent, made


def test_bsds500_keeps_boundaries_and_its_split(tmp_path, bsds):
    root, made = bsds
    done = convert_public("bsds500", root, tmp_path / "out", target="boundary", progress=False)
    assert same(written(tmp_path / "out"), made)
    assert {name: row["split"] for name, row in rows(tmp_path / "out").items()} == {
        "100075": "train",
        "101085": "val",
        "2018": "test",
    }
    assert (done.missing, done.left_out) == (1, ())
    assert any("3 raters: the majority of the others, of whom there is an even number" in note for note in done.notes)
    assert any("irrbench reliability needs --slots" in note for note in done.notes)


def test_bsds500_bands_are_as_wide_as_the_benchmarks_tolerance(tmp_path, bsds):
    root, made = bsds
    convert_public("bsds500", root, tmp_path / "out", target="band", progress=False)
    tolerance = 0.0075 * np.hypot(40, 60)  # .54 of a pixel
    for key, mask in written(tmp_path / "out").items():
        places = np.argwhere(made[key])
        expected = [[min(np.hypot(*(places - (y, x)).T)) <= tolerance for x in range(60)] for y in range(40)]
        assert np.array_equal(mask, expected)


def test_bsds500_says_what_is_wrong_with_a_file_and_unpacks_no_bomb(tmp_path, bsds):
    root, _ = bsds
    folder = next(root.rglob("groundTruth"))
    savemat(folder / "train" / "100075.mat", {"other": np.ones(3)})
    bomb = zlib.compress(bytes(2**20)) * 1
    packed = zlib.compressobj(9)
    bomb = b"".join(packed.compress(bytes(2**22)) for _ in range(70)) + packed.flush()  # 280 MiB of zeros
    header = (folder / "val" / "101085.mat").read_bytes()[:128]
    (folder / "val" / "101085.mat").write_bytes(header + struct.pack("<II", 15, len(bomb)) + bomb)
    done = convert_public("bsds500", root, tmp_path / "out", target="boundary", progress=False)
    found = {problem.file.rpartition("/")[2]: problem.found for problem in done.left_out}
    assert found["101085.mat"] == "over 268,435,456 bytes when unpacked"
    assert "groundTruth" in found["100075.mat"]
    assert list(rows(tmp_path / "out")) == ["2018"]


@pytest.fixture
def gleason(tmp_path):
    root = tmp_path / "in"
    grades = {}
    for core in ("slide001_core003", "slide001_core004", "slide002_core001"):
        write(root / "Train Imgs" / f"{core}.jpg", photo((40, 40)))
        for number in (1, 3, 5):
            if (core, number) == ("slide002_core001", 5):
                continue
            plane = np.zeros((40, 40), np.uint8)
            for grade in (1, 3, 4, 5, 6):
                plane[blob((40, 40), 100 * number + grade, share=0.1)] = grade
            grades[f"pathologist{number}", core] = plane
            write(root / f"Maps{number}_T" / f"Maps{number}_T" / f"{core}_classimg_nonconvex.png", plane)
    write(root / "Test" / "Test_imgs" / "slide005_core001.jpg", photo((40, 40)))
    return root, grades


@pytest.mark.parametrize(("target", "least"), [("grade-4", 4), ("cancer", 3), ("grade-5", 5)])
def test_gleason_asks_for_grades_from_one_on(tmp_path, gleason, target, least):
    root, grades = gleason
    done = convert_public("gleason2019", root, tmp_path / "out", target=target, progress=False)
    expected = {key: (plane >= least) & (plane <= 5) for key, plane in grades.items()}
    assert same(written(tmp_path / "out"), expected)
    assert done.missing == 1
    assert any("1 cores without a map, as those of Test, are left out" in note for note in done.notes)
    assert rows(tmp_path / "out")["slide002_core001"]["slide"] == "slide002"


def test_gleason_refuses_values_that_are_no_grades(tmp_path, gleason):
    root, _ = gleason
    write(root / "Maps1_T" / "Maps1_T" / "slide001_core003_classimg_nonconvex.png", np.full((40, 40), 2, np.uint8))
    write(root / "Maps1_T" / "Maps1_T" / "slide001_core004_classimg_nonconvex.png", np.zeros((40, 41), np.uint8))
    done = convert_public("gleason2019", root, tmp_path / "out", target="cancer", progress=False)
    assert {problem.file: problem.found for problem in done.left_out} == {
        "slide001_core003 by pathologist1": "values 2",
        "slide001_core004 by pathologist1": "size 40 x 41",
    }
    assert done.images == 3


@pytest.fixture
def isic(tmp_path):
    root, made = tmp_path / "in", {}
    drawings = (
        ("ISIC_0000004", "A04", "T1", "S2", "545d08aabae47821f8802550"),
        ("ISIC_0000004", "A06", "T1", "S1", "54ea8ac3bae47871b5e00cd2"),
        ("ISIC_0000013", "A02", "T3", "S1", "57be07fe9fc3c1434763a313"),
        ("ISIC_0000013", "A02", "T1", "S1", "57be07fe9fc3c1434763a399"),
        ("ISIC_0000013", "A04", "T3", "S1", "545cf086bae47821f88024e4"),
        ("ISIC_0000015", "A04", "T3", "S1", "545cea86bae47821f88024cc"),
        ("ISIC_0000016", "A04", "T3", "S1", "545cea86bae47821f88024cd"),
        ("ISIC_0000016", "A02", "T3", "S1", "545cea86bae47821f88024ce"),
    )
    seen = set()
    for place, (name, rater, *rest) in enumerate(drawings):
        mask = blob((30, 40), place)
        write(root / "segs" / f"{'_'.join((name, rater, *rest))}.png", mask)
        made[f"{rater}{'@2' if (name, rater) in seen else ''}", name] = mask
        seen.add((name, rater))
    write(root / "segs" / "ISIC_0000004_MV_MV_MV_MV.png", blob((30, 40), 90))
    write(root / "segs" / "ISIC_0000004_ST_ST_ST_ST.png", blob((30, 40), 91))
    for name in ("ISIC_0000004", "ISIC_0000013", "ISIC_0000015"):
        write(tmp_path / "images" / f"{name}.JPG", photo((30, 40)), format="JPEG")
    (root / "train.csv").write_text("ISIC_id\nISIC_0000004\n")
    (root / "val.csv").write_text("ISIC_id\nISIC_0000013\n")
    (root / "test.csv").write_text("img_filename,n\nISIC_0000015.JPG,1\n")
    (root / "img_metadata.csv").write_text(
        "isic_id,sex,patient_id,diagnosis_1\nISIC_0000004,female,IP_1,Benign\nISIC_0000013,,,Malignant\n"
    )
    return root, {key: mask for key, mask in made.items() if key[1] in ("ISIC_0000004", "ISIC_0000013")}


def test_isic_takes_annotators_repeats_splits_and_patients(tmp_path, isic):
    root, made = isic
    done = convert_public("isic", root, tmp_path / "out", images=tmp_path / "images", progress=False)
    assert same(written(tmp_path / "out"), made)
    manifest = rows(tmp_path / "out")
    assert [manifest[name]["split"] for name in sorted(manifest)] == ["train", "val"]
    assert [manifest[name]["group"] for name in sorted(manifest)] == ["IP_1", "ISIC_0000013"]
    assert manifest["ISIC_0000004"]["skills"] == "A04:S2 A06:S1"
    assert manifest["ISIC_0000013"]["diagnosis_1"] == "Malignant"
    assert [problem.file for problem in done.left_out] == ["ISIC_0000016"]
    assert "say --images DIR" in done.left_out[0].remedy
    assert any("1 image with masks of fewer than two raters left out" in note for note in done.notes)
    assert load_folder(tmp_path / "out", allow_missing=True, progress=False).raters == ("A02", "A04", "A06")


def test_isic_without_tables_says_what_is_missing(tmp_path, isic):
    root, _ = isic
    for path in root.glob("*.csv"):
        path.unlink()
    done = convert_public("isic", root, tmp_path / "out", images=tmp_path / "images", progress=False)
    assert any("train.csv, val.csv, test.csv, img_metadata.csv" in note for note in done.notes)
    assert any("no table names patients" in note for note in done.notes)
    assert "group" not in rows(tmp_path / "out")["ISIC_0000004"]


def test_the_folder_keeps_its_terms(tmp_path, isic):
    root, _ = isic
    convert_public("isic", root, tmp_path / "out", images=tmp_path / "images", progress=False)
    about = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert (about["set"], about["target"], about["doi"]) == ("isic", "lesion", "10.1007/978-3-032-05825-6_3")
    assert io.StringIO(about["licence"]).read()
