"""Volumes lie where their files say: one image's files agree, in one order of axes, or are a problem."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from irrbench.data import DataError, check_folder, load_folder, load_predictions
from irrbench.data.io import read_mask, read_values
from irrbench.data.readers import ReadError
from irrbench.data.volumes import aligned, axes_of

nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")

SHAPE = (5, 6, 7)
AFFINE = np.array([[-0.8, 0, 0, 12.5], [0, 1.2, 0, -7.25], [0, 0, 2.5, 3], [0, 0, 0, 1]])
RNG = np.random.default_rng(2)
MASK = RNG.random(SHAPE) < 0.4
OTHER = RNG.random(SHAPE) < 0.4
CODES = ["".join(code) for axes in itertools.permutations(("LR", "PA", "IS")) for code in itertools.product(*axes)]


def tilted(angle):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ AFFINE


def nifti(path, array, affine=AFFINE, codes=None):
    """Write a NIfTI, in another order of axes where ``codes`` says so (by nibabel)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    if codes is not None:
        to = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(codes)))
        image = image.as_reoriented(to)
    nib.save(image, path)
    return image


def itk(path, array, affine=AFFINE):
    """Write what SimpleITK writes, of an array with x first and an affine to the right, front and top."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flip = np.diag([-1, -1, 1.0])
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((flip @ affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin((flip @ affine[:3, 3]).tolist())
    sitk.WriteImage(image, str(path))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "study"
    nifti(root / "images/a.nii.gz", RNG.random(SHAPE).astype(np.float32))
    nifti(root / "masks/r1/a.nii.gz", MASK.astype(np.uint8))
    nifti(root / "masks/r2/a.nii.gz", OTHER.astype(np.uint8))
    return root


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("angle", [0, 0.3])
def test_every_orientation_of_the_same_drawing_is_the_same_mask(tmp_path, codes, angle):
    image = nifti(tmp_path / "a.nii", MASK.astype(np.uint8), tilted(angle), codes)
    assert angle or axes_of(image.affine) == codes == "".join(nib.aff2axcodes(image.affine))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.nii", like=tilted(angle)).marked, MASK)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "PIL"])
def test_masks_rois_and_predictions_follow_their_image(root, tmp_path, codes):
    nifti(root / "masks/r2/a.nii.gz", OTHER.astype(np.uint8), codes=codes)
    nifti(root / "roi/a.nii.gz", (MASK | OTHER).astype(np.uint8), codes=codes)
    data = load_folder(root)
    np.testing.assert_array_equal(data.masks(0), [MASK, OTHER])
    np.testing.assert_array_equal(data.roi(0), MASK | OTHER)
    probability = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    nifti(tmp_path / "net/a.nii.gz", probability, codes=codes)
    np.testing.assert_array_equal(load_predictions(tmp_path / "net", data).prediction(0), probability > 0.5)


def test_agreement_does_not_depend_on_orientation(root):
    from irrbench import VotePatterns, krippendorff_alpha

    def alpha():
        masks = torch.from_numpy(load_folder(root).masks(0))
        return float(krippendorff_alpha(VotePatterns.from_masks(masks[None])))

    nifti(root / "masks/r2/a.nii.gz", MASK.astype(np.uint8))
    assert alpha() == 1
    nifti(root / "masks/r2/a.nii.gz", MASK.astype(np.uint8), codes="RPS")
    assert alpha() == 1


def moved(axis, by):
    affine = AFFINE.copy()
    affine[axis, 3] += by
    return affine


ELSEWHERE = {
    "spacing": (AFFINE @ np.diag([1, 1, 2, 1]), "axes LAS, spacing 0.8 x 1.2 x 5 mm, first voxel at (12.5, -7.25, 3)"),
    "origin": (moved(1, 0.01), "axes LAS, spacing 0.8 x 1.2 x 2.5 mm, first voxel at (12.5, -7.24, 3)"),
    "a flip": (
        np.diag([-1, 1, 1, 1]) @ AFFINE,
        "axes RAS, spacing 0.8 x 1.2 x 2.5 mm, first voxel at (-12.5, -7.25, 3)",
    ),
    "angle": (tilted(0.01), "axes LAS, spacing 0.8 x 1.2 x 2.5 mm, first voxel at (12.57, -7.125, 3)"),
    "nothing": (np.diag([np.nan] * 4), "axes "),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_volume_elsewhere_is_a_problem(root, tmp_path, name):
    affine, found = ELSEWHERE[name]
    data = load_folder(root)
    for path in (root / "masks/r2/a.nii.gz", tmp_path / "net/a.nii.gz"):
        if name == "nothing":
            itk(path, OTHER.astype(np.uint8), AFFINE)
            image = nib.load(path)
            header = image.header.copy()
            header["srow_x"] = np.nan
            header.set_sform(None, 1)
            header["srow_x"] = header["srow_y"] = header["srow_z"] = np.nan
            nib.Nifti1Image(OTHER.astype(np.uint8), None, header).to_filename(path)
        else:
            nifti(path, OTHER.astype(np.uint8), affine)
    (problem,) = check_folder(root)
    assert problem.file == "masks/r2/a.nii.gz"
    assert problem.found.startswith(found)
    assert problem.expected.startswith("axes LAS, spacing 0.8 x 1.2 x 2.5 mm, first voxel at (12.5, -7.25, 3)")
    assert problem.remedy == "resample it to its image's grid, or export it with its image's header"
    with pytest.raises(DataError, match="found axes"):
        load_predictions(tmp_path / "net", data)


def test_a_thousandth_of_a_millimetre_does_not_matter(root):
    nifti(root / "masks/r2/a.nii.gz", OTHER.astype(np.uint8), moved(2, 9e-4))
    np.testing.assert_array_equal(load_folder(root).masks(0)[1], OTHER)


@pytest.mark.parametrize("units", ["mm", "micron"])
@pytest.mark.parametrize("size", [1.0, 5e-4])
@pytest.mark.parametrize("codes", ["RAS", "ARS", "SAR", "PIL"])
def test_voxels_of_a_microscope_have_axes_too(tmp_path, units, size, codes):
    root, affine = tmp_path / "study", tilted(0.3) @ np.diag([size] * 3 + [1])
    affine[:3, 3] *= size
    nifti(root / "images/a.nii.gz", RNG.random(SHAPE).astype(np.float32), affine)
    nifti(root / "masks/r1/a.nii.gz", MASK.astype(np.uint8), affine)
    nifti(root / "masks/r2/a.nii.gz", OTHER.astype(np.uint8), affine, codes)
    for path in root.rglob("*.nii.gz"):
        image = nib.load(path)
        image.header.set_xyzt_units(units)
        nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header).to_filename(path)
    np.testing.assert_array_equal(load_folder(root).masks(0), [MASK, OTHER])


@pytest.mark.parametrize("size", [1.0, 0.01, 5e-4])
@pytest.mark.parametrize("change", ["a voxel", "a tenth of a voxel", "spacing", "axes", "angle"])
def test_what_lies_elsewhere_is_seen_at_every_size_of_voxels(size, change):
    like, array = np.diag([size, size, 2 * size, 1]), np.zeros((4, 4, 4))
    affine = like.copy()
    if change.endswith("voxel"):
        affine[1, 3] += size * (0.1 if "tenth" in change else 1)
    elif change == "spacing":
        affine[0, 0] *= 1.01
    elif change == "axes":
        affine = affine[[2, 1, 0, 3]][:, [2, 1, 0, 3]]  # the long side of voxels goes another way
    else:
        affine[:2, :2] = size * tilted(0.01)[:2, :2] / AFFINE[[0, 1], [0, 1]]
    with pytest.raises(ReadError, match="found axes"):
        aligned(array, affine, like)


def test_places_rounded_by_a_header_are_the_same_place():
    like = np.diag([5e-4, 5e-4, 1e-3, 1])
    like[:3, 3] = 61.2345678, -48.7654321, 12.3456789  # a microscope's stage
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(aligned(array, like.astype(np.float32).astype(float), like), array)
    coarse = np.diag([0.3, 0.3, 5, 1])
    coarse[:3, 3] = 12.3456, 7.8904, 5.4321
    np.testing.assert_array_equal(aligned(array, coarse.round(3), coarse), array)


def test_a_flat_header_is_at_the_place_of_itself():
    flat = np.diag([0.5, 0.5, 0, 1])
    np.testing.assert_array_equal(aligned(np.eye(3), flat, flat.copy()), np.eye(3))
    with pytest.raises(ReadError, match="found axes"):
        aligned(np.eye(3), AFFINE, flat)


def test_files_without_a_place_are_taken_as_they_are(root):
    (root / "masks/r1/a.nii.gz").unlink()
    np.save(root / "masks/r1/a.npy", MASK)
    image = nib.Nifti1Image(OTHER.astype(np.uint8), None)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (0, 0)
    nib.save(image, root / "masks/r2/a.nii.gz")
    data = load_folder(root)
    np.testing.assert_array_equal(data.masks(0), [MASK, OTHER])
    assert data.spacing(0) == pytest.approx((0.8, 1.2, 2.5))


def test_masks_agree_beside_an_image_without_a_place(root):
    (root / "images/a.nii.gz").unlink()
    np.save(root / "images/a.npy", np.zeros(SHAPE, np.float32))
    nifti(root / "masks/r2/a.nii.gz", OTHER.astype(np.uint8), codes="SRA")
    np.testing.assert_array_equal(load_folder(root).masks(0), [MASK, OTHER])
    nifti(root / "masks/r2/a.nii.gz", OTHER.astype(np.uint8), tilted(1.0))
    assert "found axes" in str(*check_folder(root))


def test_spacing_is_kept(root):
    data = load_folder(root)
    assert data.spacing(0) == pytest.approx((0.8, 1.2, 2.5))
    np.testing.assert_allclose(data.affine(0), AFFINE, atol=1e-6)
    assert data.subset([0]).spacing(0) == data.spacing(0)
    small = load_folder(root, max_side=4)
    assert small.shape(0) == (3, 3, 4)
    assert small.spacing(0) == pytest.approx((0.8 * 5 / 3, 1.2 * 2, 2.5 * 7 / 4))


def test_pictures_have_no_spacing(folder):
    data = load_folder(folder)
    assert data.spacing(0) is None
    assert data.affine(0) is None


@pytest.mark.parametrize(("units", "scale"), [("mm", 1), ("meter", 1000), ("micron", 0.001)])
def test_units_of_the_header_count(root, units, scale):
    for path in root.rglob("*.nii.gz"):
        image = nib.load(path)
        image.header.set_xyzt_units(units)
        nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header).to_filename(path)
    assert load_folder(root).spacing(0) == pytest.approx((0.8 * scale, 1.2 * scale, 2.5 * scale))


FORMATS = (".nrrd", ".mha", ".mhd", ".nii.gz")


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("angle", [0, 0.7])
def test_formats_of_itk_are_read_as_nifti_is(tmp_path, ending, angle):
    itk(tmp_path / f"a{ending}", MASK.astype(np.uint8), tilted(angle))
    stored = read_values(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(stored.array, MASK)
    np.testing.assert_allclose(stored.affine, tilted(angle), atol=1e-5)


@pytest.mark.parametrize("ending", FORMATS)
def test_formats_may_be_mixed(root, tmp_path, ending):
    (root / "masks/r2/a.nii.gz").unlink()
    reordered = nib.Nifti1Image(OTHER.astype(np.uint8), AFFINE).as_reoriented(np.array([[2, -1], [0, 1], [1, 1]]))
    itk(root / f"masks/r2/a{ending}", np.asarray(reordered.dataobj), reordered.affine)
    data = load_folder(root)
    np.testing.assert_array_equal(data.masks(0), [MASK, OTHER])
    (root / "images/a.nii.gz").unlink()
    itk(root / f"images/a{ending}", RNG.random(SHAPE).astype(np.float32))
    data = load_folder(root)
    np.testing.assert_array_equal(data.masks(0), [MASK, OTHER])
    assert data.spacing(0) == pytest.approx((0.8, 1.2, 2.5))
    assert data.image(0).shape == (1, *SHAPE)
    net = tmp_path / "net"
    itk(net / f"a{ending}", MASK.astype(np.uint8))
    np.testing.assert_array_equal(load_predictions(net, data).prediction(0), MASK)
    (net / "plans.json").write_text('{"image_reader_writer": "SimpleITKIO"}')
    probability = np.stack([~OTHER, OTHER]).astype(np.float32)
    np.savez(net / "a.npz", probabilities=probability.transpose(0, 3, 2, 1))
    np.testing.assert_array_equal(load_predictions(net, data).prediction(0), OTHER)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_flat_pictures_of_itk_have_height_and_width(tmp_path, ending):
    image = sitk.GetImageFromArray(MASK[0].astype(np.uint8))
    image.SetSpacing((0.5, 2.0))
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    stored = read_values(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(stored.array, MASK[0])
    np.testing.assert_allclose(np.linalg.norm(stored.affine[:3, :2], axis=0), [2.0, 0.5])


def test_an_mhd_has_its_voxels_beside_it_and_nowhere_else(root, tmp_path):
    for path in root.rglob("*.nii.gz"):
        itk(path.with_name("a.mhd"), np.asarray(nib.load(path).dataobj))
        path.unlink()
    assert (root / "masks/r2/a.raw").exists()
    np.testing.assert_array_equal(load_folder(root).masks(0), [MASK, OTHER])
    header = root / "masks/r2/a.mhd"
    for name in ("../r1/a.raw", "/etc/passwd", "none.raw", "LIST", "a%02d.raw 1 2 1", "..\\a.raw"):
        header.write_text(header.read_text().rpartition("ElementDataFile")[0] + f"ElementDataFile = {name}\n")
        assert "found voxels in another file" in str(*check_folder(root))
    header.write_text(header.read_text().replace("ElementDataFile = ..\\a.raw", "ElementDataFile = link.raw"))
    (header.parent / "link.raw").symlink_to(root / "masks/r1/a.raw")
    assert "found voxels in another file" in " ".join(map(str, check_folder(root)))


def test_a_nrrd_that_leads_elsewhere_is_refused(tmp_path):
    path = tmp_path / "a.nrrd"
    path.write_text("NRRD0004\ntype: uchar\ndimension: 2\nsizes: 3 2\nencoding: raw\ndata file: b.raw\n\n")
    (tmp_path / "b.raw").write_bytes(bytes(6))
    with pytest.raises(ReadError, match="found voxels in another file"):
        read_values(path)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_colours_and_series_of_itk_are_refused(tmp_path, ending):
    vectors = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    sitk.WriteImage(vectors, str(tmp_path / f"a{ending}"))
    with pytest.raises(ReadError, match="with 3 numbers a voxel"):
        read_values(tmp_path / f"a{ending}")


def test_axes_in_reverse_are_named(root, tmp_path):
    data = load_folder(root)
    (tmp_path / "net").mkdir()
    np.save(tmp_path / "net/a.npy", MASK.T)
    with pytest.raises(DataError, match=r"found size 7 x 6 x 5; expected 5 x 6 x 7.*Remedy: turn its axes"):
        load_predictions(tmp_path / "net", data)
    (root / "masks/r2/a.nii.gz").unlink()
    np.save(root / "masks/r2/a.npy", MASK.T)
    assert "turn its axes" in check_folder(root)[0].remedy


def test_flat_arrays_are_aligned_too():
    array = np.arange(6).reshape(2, 3)
    flipped = AFFINE @ np.array([[0, 1, 0, 0], [-1, 0, 0, 2], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    like = aligned(array, AFFINE, flipped)
    image = nib.Nifti1Image(array[..., None].astype(np.int16), AFFINE)
    to = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.io_orientation(flipped))
    np.testing.assert_array_equal(like, np.asarray(image.as_reoriented(to).dataobj)[..., 0])
    with pytest.raises(ReadError, match="found axes"):
        aligned(array, AFFINE, AFFINE[:, [0, 2, 1, 3]])


def test_a_stack_of_three_slices_is_no_picture_beside_a_volume(tmp_path):
    root, shape = tmp_path / "study", (6, 7, 3)
    masks = [np.random.default_rng(seed).random(shape) < 0.4 for seed in range(2)]
    nifti(root / "images/a.nii.gz", np.zeros(shape, np.float32))
    for rater, mask in enumerate(masks):
        (root / f"masks/r{rater}").mkdir(parents=True)
        np.save(root / f"masks/r{rater}/a.npy", mask if rater else mask.astype(np.uint8))
    data = load_folder(root)
    np.testing.assert_array_equal(data.masks(0), masks)
    assert (data.values["r0"], data.values["r1"]) == ("0/1", "bool")
    (tmp_path / "net").mkdir()
    np.save(tmp_path / "net/a.npy", masks[1].astype(np.float32))
    np.testing.assert_array_equal(load_predictions(tmp_path / "net", data).prediction(0), masks[1])
    (root / "images/a.nii.gz").unlink()
    np.save(root / "images/a.npy", np.zeros(shape, np.uint8))  # a picture in colour
    assert {problem.found for problem in check_folder(root)} == {"3 channels that differ"}
