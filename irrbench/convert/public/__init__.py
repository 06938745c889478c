"""Public sets that several people annotated: what each is, and which function knows the layout of its files.

A new set is an entry of :data:`PUBLIC_SETS` and a function that lists the cases of a folder of files. Nothing heavy is
imported here: the command line has its subcommands from this table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PublicSet:
    """What is known of a public set.

    Attributes:
        title: its full name.
        contents: images and raters, as published.
        layout: the names of its files, for messages.
        reader: the module and function in this package that lists the cases of a folder.
        licence: the terms that were found; those of the download page hold.
        citation: what to cite.
        doi: of the citation, or the arXiv address where there is none.
        url: where the files are.
        targets: the questions that can be asked of it, each with its meaning; one alone needs no choice.
        cautions: what its use costs.
        options: further options, of those in :data:`OPTIONS`.
        keeps_singles: whether images of one rater alone are kept.
    """

    title: str
    contents: str
    layout: str
    reader: str
    licence: str
    citation: str
    doi: str
    url: str
    targets: Mapping[str, str]
    cautions: tuple[str, ...] = ()
    options: tuple[str, ...] = field(default=())
    keeps_singles: bool = False


OPTIONS = ("roi", "images", "window", "every_slice", "sequence")
_PERSONS_DIFFER = (
    "The numbers of the raters stand for other persons on other images: irrbench reliability needs --slots."
)
_NO_PATIENTS = "Patients are not published: images of one patient may lie in several splits."
_NO_FIELD = (
    "No field of view comes with it: without --roi DIR the black surroundings count, and scores of background flatter."
)
_VESSELS = {"vessels": "blood vessels"}

PUBLIC_SETS: Mapping[str, PublicSet] = {
    "drive": PublicSet(
        title="DRIVE, Digital Retinal Images for Vessel Extraction",
        contents="40 fundus images of 565 x 584; 20 of training by one observer, 20 of test by two; fields of view",
        layout="images/01_test.tif, 1st_manual/01_manual1.gif, 2nd_manual/01_manual2.gif, mask/01_test_mask.gif",
        reader="vessels.read_drive",
        licence="free for research after registration; see the terms on its page",
        citation="Staal et al. (2004), Ridge-based vessel segmentation in color images of the retina, IEEE TMI 23(4)",
        doi="10.1109/TMI.2004.825627",
        url="https://drive.grand-challenge.org",
        targets=_VESSELS,
        cautions=(
            "The second observer drew the test images alone: train on observer1, score on test (where a ceiling is).",
            "Newer downloads have no manual segmentations of the test images; an older archive has them.",
        ),
        keeps_singles=True,
    ),
    "chase": PublicSet(
        title="CHASE_DB1, retinal vessels of school children",
        contents="28 fundus images of 999 x 960, both eyes of 14 children, by two observers",
        layout="Image_01L.jpg, Image_01L_1stHO.png, Image_01L_2ndHO.png",
        reader="vessels.read_chase",
        licence="CC BY 4.0",
        citation="Fraz et al. (2012), An ensemble classification-based approach applied to retinal blood vessel "
        "segmentation, IEEE TBME 59(9)",
        doi="10.1109/TBME.2012.2205687",
        url="https://researchdata.kingston.ac.uk/96/",
        targets=_VESSELS,
        cautions=("No split is published; groups are children.", _NO_FIELD),
        options=("roi",),
    ),
    "stare": PublicSet(
        title="STARE, Structured Analysis of the Retina: vessels",
        contents="20 fundus images of 700 x 605 by two observers (ah, vk)",
        layout="im0001.ppm(.gz), im0001.ah.ppm(.gz), im0001.vk.ppm(.gz)",
        reader="vessels.read_stare",
        licence="no licence stated; publicly available for research",
        citation="Hoover et al. (2000), Locating blood vessels in retinal images by piecewise threshold probing of a "
        "matched filter response, IEEE TMI 19(3)",
        doi="10.1109/42.845178",
        url="https://cecas.clemson.edu/~ahoover/stare/",
        targets=_VESSELS,
        cautions=("No split is published; 20 images are few for three.", _NO_FIELD),
        options=("roi",),
    ),
    "riga": PublicSet(
        title="RIGA, Retinal Fundus Images for Glaucoma Analysis",
        contents="750 fundus images of three sources, each by six ophthalmologists, drawn as lines into copies",
        layout="MESSIDOR/image1prime.tif, MESSIDOR/image1-1.tif to image1-6.tif (BinRushed and Magrabia alike)",
        reader="riga.read_riga",
        licence="CC BY-NC 4.0",
        citation="Almazroa et al. (2018), Retinal fundus images for glaucoma analysis: the RIGA dataset, SPIE 10579",
        doi="10.1117/12.2293584",
        url="https://doi.org/10.7302/Z23R0R29",
        targets={"disc": "the optic disc, cup included", "cup": "the optic cup"},
        cautions=(
            "Masks are filled from the drawn lines. Where these do not close or touch, that rater is missing there.",
            "Three sources have other sizes and cameras: compare by the column collection.",
            _NO_PATIENTS,
        ),
    ),
    "qubiq": PublicSet(
        title="QUBIQ, Quantification of Uncertainties in Biomedical Image Quantification 2020 and 2021",
        contents="seven tasks on single slices of MR and CT, 24 to 55 cases, by 3, 6 or 7 raters; two on CT volumes",
        layout="<organ>/Training/case01/image.nii.gz, task01_seg01.nii.gz, task01_seg02.nii.gz, ...",
        reader="volumes.read_qubiq",
        licence="as its page says after registration",
        citation="Li et al. (2024), QUBIQ: Uncertainty Quantification for Biomedical Image Segmentation Challenge",
        doi="https://arxiv.org/abs/2405.18435",
        url="https://qubiq21.grand-challenge.org",
        targets={
            "brain-growth": "developing brain, MR, 7 raters",
            **{f"brain-tumor-{task}": f"structure {task} of brain tumours, MR, 3 raters" for task in (1, 2, 3)},
            "kidney": "kidney, CT, 3 raters",
            **{f"prostate-{task}": f"structure {task} of the prostate, MR, 6 raters" for task in (1, 2)},
            "pancreas": "pancreas, CT volumes",
            "pancreatic-lesion": "pancreatic lesion, CT volumes",
        },
        cautions=("The test cases' masks are not published: Validation is taken as test.",),
        options=("window", "every_slice", "sequence"),
    ),
    "bsds500": PublicSet(
        title="BSDS500, Berkeley Segmentation Data Set",
        contents="500 photographs of 481 x 321 by 4 to 9 people; 200 train, 100 val, 200 test",
        layout="images/train/100075.jpg, groundTruth/train/100075.mat",
        reader="bsds.read_bsds500",
        licence="non-commercial research and education",
        citation="Arbelaez et al. (2011), Contour detection and hierarchical image segmentation, IEEE TPAMI 33(5)",
        doi="10.1109/TPAMI.2010.161",
        url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/resources.html",
        targets={
            "boundary": "boundaries as drawn, one pixel thin",
            "band": "all pixels within .0075 of the diagonal of a boundary, the benchmark's tolerance",
        },
        cautions=(
            "Regions have no common names, so boundaries are what can be asked with yes or no.",
            "Of thin lines IoU is near 0 where two people differ by one pixel: take the band, or the score nsd.",
            "People drew at different levels of detail: much of the disagreement is that.",
            _PERSONS_DIFFER,
        ),
    ),
    "gleason2019": PublicSet(
        title="Gleason 2019, grades of prostate cancer in tissue microarrays",
        contents="244 annotated cores of about 5,000 x 5,000 by up to six pathologists",
        layout="Train Imgs/slide001_core003.jpg, Maps1_T/slide001_core003_classimg_nonconvex.png, ..., Maps6_T/...",
        reader="gleason.read_gleason2019",
        licence="as its page says after registration",
        citation="Nir et al. (2018), Automatic grading of prostate cancer in digitized histopathology images, "
        "Medical Image Analysis 50",
        doi="10.1016/j.media.2018.09.005",
        url="https://gleason2019.grand-challenge.org",
        targets={
            "grade-4": "Gleason grade 4 or 5 against the rest",
            "cancer": "Gleason grade 3, 4 or 5 against benign tissue and background",
            "grade-5": "Gleason grade 5 against the rest",
        },
        cautions=(
            "Values 0, 1 and 6 are benign or background, as in the challenge; 2, and those above 6, are refused.",
            "The pathologists drew different numbers of cores. The test cores have no maps and are left out.",
            _NO_PATIENTS,
            "Images are large: set folder.max_side or train.crop.",
        ),
    ),
    "kits21": PublicSet(
        title="KiTS21, kidneys and kidney tumours in CT",
        contents="300 CT volumes; each kidney, tumour and cyst outlined by three people",
        layout="case_00000/imaging.nii.gz, case_00000/segmentations/kidney_instance-1_annotation-1.nii.gz, ...",
        reader="volumes.read_kits21",
        licence="CC BY-NC-SA 4.0",
        citation="Heller et al. (2023), The KiTS21 Challenge: automatic segmentation of kidneys, renal tumors, and "
        "renal cysts in corticomedullary-phase CT",
        doi="https://arxiv.org/abs/2307.01984",
        url="https://github.com/neheller/kits21",
        targets={
            "kidney-and-masses": "kidneys with their tumours and cysts",
            "masses": "tumours and cysts",
            "tumor": "tumours",
        },
        cautions=(
            "Annotation 1 of one structure and annotation 1 of another are not always the same person's.",
            _PERSONS_DIFFER,
            "The aggregated_*_seg files are consensus and no raters: not read.",
        ),
        options=("window", "every_slice"),
    ),
    "isic": PublicSet(
        title="IMA++, multi-annotator skin lesions of the ISIC Archive",
        contents="2,394 dermoscopic images by 2 to 5 of 16 annotators (12,573 more by one); train, val, test",
        layout="ISIC_0000004.JPG, ISIC_0000004_A04_T1_S2_545d08aabae47821f8802550.png, train.csv, val.csv, test.csv, "
        "img_metadata.csv",
        reader="isic.read_isic",
        licence="masks: as the Zenodo record says; images: of each image in the ISIC Archive",
        citation="Abhishek et al. (2025), What can we learn from inter-annotator variability in skin lesion "
        "segmentation?, ISIC workshop at MICCAI",
        doi="10.1007/978-3-032-05825-6_3",
        url="https://doi.org/10.5281/zenodo.14201692",
        targets={"lesion": "the skin lesion"},
        cautions=(
            "Every image has other annotators: most masks are missing, and ceilings of 2 and of 5 do not compare.",
            "Tool (T1 to T3) and skill (S1 expert, S2 novice) differ between masks of one image (tools, skills).",
            "Consensus masks (ST, MV) are no raters: not read.",
        ),
        options=("images",),
    ),
}


def describe_sets(names: Iterable[str] = PUBLIC_SETS) -> str:
    """Public sets for a terminal: contents, licence, what to cite, address.

    Example:
        >>> print(describe_sets().splitlines()[0])
        drive        DRIVE, Digital Retinal Images for Vessel Extraction
    """
    lines = []
    for name in names:
        about = PUBLIC_SETS[name]
        targets = f"--target {', '.join(about.targets)}" if len(about.targets) > 1 else ""
        terms = (f"files: {about.layout}", f"licence: {about.licence}", f"cite: {about.doi}", about.url)
        facts = (about.contents, targets, *terms)
        lines += [f"{name:12} {about.title}", *(f"{'':12} {fact}" for fact in facts if fact), ""]
    return "\n".join(lines)
