"""Where finished predictions lie: a file an image, nnU-Net's output folder, a folder of several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from irrbench.data.files import extension, without_ending
from irrbench.data.layout import files_by_id
from irrbench.data.problems import DataError, Problem

NNUNET_FILES = ("dataset.json", "plans.json", "predict_from_raw_data_args.json")
_BESIDE = (*NNUNET_FILES, "summary.json", "postprocessing.json", "postprocessing.pkl")


class PredictionFiles(NamedTuple):
    """Files by image id, and whether nnU-Net wrote them (whose archives have NIfTI's axes in reverse)."""

    by_id: Mapping[str, Path]
    is_nnunet: bool


def find_predictions(
    root: Path, image_ids: Sequence[str], known: Sequence[str]
) -> tuple[PredictionFiles, list[Problem]]:
    """The files of the images, and everything that names alone show to be wrong.

    In nnU-Net's folders a case goes by the id of its image with or without the channel (``_0000``), probabilities
    (npz) come before masks, and what nnU-Net writes beside them is skipped.

    Args:
        root: the folder.
        image_ids: the images that need a prediction.
        known: all images that may have one.
    """
    is_nnunet = any((root / name).is_file() for name in NNUNET_FILES)
    archives = {path.name[:-4] for path in root.glob("*.npz")} if is_nnunet else set()

    def skip(name: str) -> bool:
        beside = name in _BESIDE or name.endswith(".pkl")
        return is_nnunet and (beside or (extension(name) not in (None, ".npz") and without_ending(name) in archives))

    files, found = files_by_id(root, root, purpose="one prediction for each image", skip=skip)
    problems = [problem._replace(file=str(root / problem.file)) for problem in found]
    if is_nnunet:
        cases = {name.removesuffix("_0000"): name for name in known}
        files = {name if name in known else cases.get(name, name): path for name, path in files.items()}
    problems += [
        Problem(f"{root}/{name}", "no file", "a prediction for each image", "predict it too")
        for name in image_ids
        if name not in files
    ]
    problems += [
        Problem(str(files[name]), "a prediction for an unknown image", "the ids of the data", "rename or remove it")
        for name in sorted(set(files) - set(known))
    ]
    return PredictionFiles(files, is_nnunet), problems


def find_models(root: str | Path) -> dict[str, Path]:
    """The models whose predictions ``root`` holds: itself, or each folder in it.

    Raises:
        DataError: there is no such folder, or it is empty.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError([Problem(str(root), "no such folder", "a folder of predictions", "correct the path")])
    entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    folders = [path for path in entries if path.is_dir()]
    if any(path.is_file() and extension(path.name) for path in entries):
        return {root.resolve().name: root}
    if not folders:
        raise DataError([Problem(str(root), "an empty folder", "predictions, or a folder for each model", "add them")])
    return {path.name: path for path in folders}
