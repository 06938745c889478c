"""QUBIQ and KiTS21: made NIfTI files of the same layouts."""

import numpy as np
import pytest
from PIL import Image

from irrbench.convert import convert_public
from irrbench.data import load_folder
from tests.convert.public.makers import blob, rows, same, written

nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")


def save(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def shown(array):
    """A slice whose axes go right and to the front, as radiologists see it."""
    return array[::-1, ::-1].T


def qubiq(root, organ, *, task=1, raters=3, cases=("case01", "case02"), split="Training", image=None):
    made = {}
    for place, case in enumerate(cases):
        folder = root / "training_data_v3_QC" / organ / split / case
        values = np.random.default_rng(place).normal(100, 20, (20, 26)).astype(np.float32) if image is None else image
        save(folder / "image.nii.gz", values)
        for rater in range(1, raters + 1):
            mask = blob((20, 26), 100 * place + 10 * rater + len(split))
            save(folder / f"task{task:02d}_seg{rater:02d}.nii.gz", mask.astype(np.uint8))
            made[f"rater{rater}", case] = shown(mask)
    return made


def test_qubiq_takes_one_task_and_its_validation_as_test(tmp_path):
    cases = [f"case{number:02d}" for number in range(1, 11)]
    made = qubiq(tmp_path / "in", "prostate", task=2, cases=cases)
    qubiq(tmp_path / "in", "prostate", task=1, cases=cases, raters=2)
    qubiq(tmp_path / "in", "kidney")
    more = qubiq(tmp_path / "in", "prostate", task=2, cases=["case11"], split="Validation")
    done = convert_public("qubiq", tmp_path / "in", tmp_path / "out", target="prostate-2", progress=False)
    assert done.left_out == ()
    assert same(written(tmp_path / "out"), made | more)
    splits = {name: row["split"] for name, row in rows(tmp_path / "out").items()}
    assert (splits["case11"], splits["case05"], splits["case01"]) == ("test", "val", "train")
    assert any("the published validation images are test" in note for note in done.notes)
    assert len(load_folder(tmp_path / "out", progress=False).raters) == 3


def test_qubiq_cases_of_two_splits_may_have_one_name(tmp_path):
    qubiq(tmp_path / "in", "kidney", cases=["case01"])
    qubiq(tmp_path / "in", "kidney", cases=["case01"], split="Validation")
    convert_public("qubiq", tmp_path / "in", tmp_path / "out", target="kidney", progress=False)
    assert set(rows(tmp_path / "out")) == {"train-case01", "val-case01"}
    assert len({row["group"] for row in rows(tmp_path / "out").values()}) == 2


@pytest.mark.parametrize("behind", [False, True])
def test_qubiq_takes_one_sequence_of_several(tmp_path, behind):
    levels = np.stack([np.arange(520).reshape(20, 26) % (50 * (k + 1)) for k in range(4)])
    qubiq(tmp_path / "in", "brain-tumor", image=(np.moveaxis(levels, 0, -1) if behind else levels).astype(np.float32))
    options = {"target": "brain-tumor-1", "sequence": 3, "progress": False}
    done = convert_public("qubiq", tmp_path / "in", tmp_path / "out", **options)
    assert done.left_out == ()
    stored = np.asarray(Image.open(tmp_path / "out" / "images" / "case01.png")).astype(float)
    expected = shown(levels[2]) if behind else levels[2]  # in front of others the affine says nothing of these
    assert np.corrcoef(stored.ravel(), expected.ravel())[0, 1] > 0.99
    done = convert_public("qubiq", tmp_path / "in", tmp_path / "other", **{**options, "sequence": 2})
    assert done.images == 2


def test_a_sequence_that_is_not_there_is_a_problem_with_words(tmp_path):
    qubiq(tmp_path / "in", "kidney", image=np.ones((20, 26, 4), np.float32), cases=["case01"])
    qubiq(tmp_path / "in", "kidney", image=np.ones((20, 27), np.float32), cases=["case02"])
    qubiq(tmp_path / "in", "kidney", cases=["case03"])
    done = convert_public("qubiq", tmp_path / "in", tmp_path / "out", target="kidney", sequence=5, progress=False)
    found = {problem.file: problem.found for problem in done.left_out}
    assert found["case01"] == "sequence 5 of 4"
    assert "size 20 x 26" in found["case02 by rater1"]
    assert list(rows(tmp_path / "out")) == ["case03"]


def test_one_raters_bad_mask_leaves_the_others(tmp_path):
    made = qubiq(tmp_path / "in", "kidney", cases=["case01", "case02"])
    folder = next((tmp_path / "in").rglob("case01"))
    save(folder / "task01_seg01.nii.gz", np.ones((20, 27), np.uint8))
    (folder.parent / "case02" / "task01_seg02.nii.gz").write_bytes(b"no NIfTI")
    done = convert_public("qubiq", tmp_path / "in", tmp_path / "out", target="kidney", progress=False)
    assert {problem.file for problem in done.left_out} == {"case01 by rater1", "case02 by rater2"}
    bad = {("rater1", "case01"), ("rater2", "case02")}
    assert same(written(tmp_path / "out"), {key: mask for key, mask in made.items() if key not in bad})


def test_an_axis_of_length_one_is_no_sequence(tmp_path):
    made = qubiq(tmp_path / "in", "prostate", image=np.random.default_rng(0).normal(size=(20, 26, 1)))
    for path in (tmp_path / "in").rglob("task*"):
        save(path, np.asarray(nibabel.load(path).dataobj)[..., None])
    done = convert_public("qubiq", tmp_path / "in", tmp_path / "out", target="prostate-1", progress=False)
    assert done.left_out == ()
    assert same(written(tmp_path / "out"), made)


KITS_AFFINE = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-3, 0, 0, 0], [0, 0, 0, 1]], float)
DEPTH = 5


def kits(root, *, cases=2, people=3):
    """Slices first, from head to foot, as KiTS stores them; kidneys in all slices, a tumour in the middle one."""
    volumes = {}
    for number in range(cases):
        case = f"case_{number:05d}"
        units = np.random.default_rng(number).integers(-500, 500, (DEPTH, 20, 26)).astype(np.int16)
        save(root / "data" / case / "imaging.nii.gz", units, KITS_AFFINE)
        for person in range(1, people + 1):
            for region, instance, places in (("kidney", 1, range(1, DEPTH)), ("kidney", 2, [3]), ("tumor", 1, [2])):
                mask = np.zeros((DEPTH, 20, 26), np.uint8)
                for place in places:
                    mask[place] = blob((20, 26), 17 * number + 5 * person + 3 * instance + place, share=0.05 * place)
                name = f"{region}_instance-{instance}_annotation-{person}.nii.gz"
                save(root / "data" / case / "segmentations" / name, mask, KITS_AFFINE)
                volumes[case, person, region, instance] = mask > 0
        save(root / "data" / case / "aggregated_MAJ_seg.nii.gz", mask, KITS_AFFINE)
    return volumes


def union(volumes, case, person, regions):
    return np.any([mask for key, mask in volumes.items() if key[:2] == (case, person) and key[2] in regions], axis=0)


def test_kits_joins_the_structures_of_an_annotation_on_the_slice_marked_most(tmp_path):
    volumes = kits(tmp_path / "in")
    done = convert_public("kits21", tmp_path / "in", tmp_path / "out", target="kidney-and-masses", progress=False)
    made, places = {}, {}
    for case in ("case_00000", "case_00001"):
        whole = [union(volumes, case, person, ("kidney", "tumor")) for person in (1, 2, 3)]
        places[case] = int(np.argmax(sum(mask.sum(axis=(1, 2)) for mask in whole)))
        made |= {(f"annotation{person}", case): whole[person - 1][places[case]] for person in (1, 2, 3)}
    assert done.left_out == ()
    assert same(written(tmp_path / "out"), made)  # IPL: slices as stored, nothing is turned
    manifest = rows(tmp_path / "out")
    assert {case: int(row["slice"]) for case, row in manifest.items()} == places
    assert manifest["case_00000"]["group"] == "case_00000"
    assert load_folder(tmp_path / "out", progress=False).raters == ("annotation1", "annotation2", "annotation3")


def test_kits_windows_hounsfield_units_and_takes_every_slice(tmp_path):
    kits(tmp_path / "in", cases=1)
    options = {"target": "kidney-and-masses", "window": (-100, 300), "every_slice": True, "progress": False}
    done = convert_public("kits21", tmp_path / "in", tmp_path / "out", **options)
    assert done.images == DEPTH - 1
    units = np.asarray(nibabel.load(tmp_path / "in" / "data" / "case_00000" / "imaging.nii.gz").dataobj)
    stored = np.asarray(Image.open(tmp_path / "out" / "images" / "case_00000-0002.png"))
    assert np.array_equal(stored, np.round(np.clip((units[2] + 100) / 400, 0, 1) * 65535))
    assert {row["group"] for row in rows(tmp_path / "out").values()} == {"case_00000"}


def test_kits_takes_raters_who_have_all_structures_and_cases_that_have_the_target(tmp_path):
    kits(tmp_path / "in")
    segments = tmp_path / "in" / "data" / "case_00000" / "segmentations"
    (segments / "tumor_instance-1_annotation-2.nii.gz").unlink()
    for path in (tmp_path / "in" / "data" / "case_00001" / "segmentations").glob("tumor*"):
        path.unlink()
    done = convert_public("kits21", tmp_path / "in", tmp_path / "out", target="tumor", progress=False)
    assert set(written(tmp_path / "out")) == {("annotation1", "case_00000"), ("annotation3", "case_00000")}
    assert any("1 cases without tumor by any rater are left out" in note for note in done.notes)
    assert any("needs --slots" in note for note in done.notes)


def test_a_volume_without_an_affine_and_a_mask_that_lies_elsewhere_are_problems(tmp_path):
    kits(tmp_path / "in", cases=3)
    folder = tmp_path / "in" / "data"
    image = nibabel.Nifti1Image(np.zeros((DEPTH, 20, 26), np.int16), None)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, folder / "case_00000" / "imaging.nii.gz")
    moved = KITS_AFFINE + np.array([[0, 0, 0, 9.0]] + [[0] * 4] * 3)
    name = "kidney_instance-1_annotation-1.nii.gz"
    save(folder / "case_00001" / "segmentations" / name, np.ones((DEPTH, 20, 26), np.uint8), moved)
    done = convert_public("kits21", tmp_path / "in", tmp_path / "out", target="kidney-and-masses", progress=False)
    found = {problem.file: problem.found for problem in done.left_out}
    assert "does not say where its axes lie" in found["data/case_00000/imaging.nii.gz"]
    assert "first voxel" in found["case_00001 by annotation1"]
    assert done.images == 2
