"""Relates names of files to the ids that they seem to mean: suffixes, prefixes, letter case, zeros, near misses.

Nothing is renamed or accepted: a relation only says in one sentence what a thousand names have in common.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from irrbench.data.problems import Problem

FEW = 3
_MOST_PIECES = 64  # of a name that is compared piece by piece: that takes time by their square
_MOST_COMPARED = 100_000  # pairs of names
_SPELLING = "another spelling (letter case, zeros or separators)"
_PIECES = re.compile(r"[^\W\d_]+|\d+|[\W_]+")  # letters, digits, or what separates them


class Relation(NamedTuple):
    """The id that a name seems to mean, how the name differs from it, and what to do."""

    image_id: str
    found: str
    remedy: str


def relate_names(names: Collection[str], ids: Collection[str]) -> dict[str, Relation]:
    """The relation of each name that is none of the ids but seems to mean one; other names are left out.

    Example:
        >>> relate_names(["1_seg", "2_seg"], ["1", "2"])["2_seg"][:2]
        ('2', "suffix '_seg' behind the image's id")
        >>> relate_names(["7", "A"], ["007", "a"])["7"][:2]
        ('007', "another spelling (letter case, zeros or separators) than in the image's id")
    """
    found: dict[str, Relation] = {}
    for relate in (_by_spelling, _by_affix, _by_missing_affix, _by_replaced_affix, _by_spelling_and_affix):
        rest = set(names) - set(ids) - found.keys()
        found |= relate(rest, ids) if rest and ids else {}
    rest, free = set(names) - set(ids) - found.keys(), sorted(set(ids) - set(names))
    is_few = len(rest) <= max(FEW, len(names) // 10)  # where most names differ, likeness means nothing
    if is_few and len(rest) * len(free) <= _MOST_COMPARED:
        found |= _by_likeness(rest, free)
    return found


def check_names(
    files: Mapping[str, Path],
    ids: Collection[str],
    *,
    place: str,
    shown: Callable[[Path], str],
    unknown: tuple[str, str, str],
    lacking: tuple[str, str] | None,
    wanted: Collection[str] | None = None,
) -> list[Problem]:
    """A problem for each file that is named as no image, and for each image without a file.

    One cause is one problem: an image is not lacking where a file seems to mean it, and none is where no file fits.

    Args:
        files: by the name that should be an id.
        ids: of the images.
        place: the folder, as messages name it.
        shown: a file, as messages name it.
        unknown: what to say of a file that seems to mean no image: found, expected, remedy.
        lacking: what to say of an image without a file: expected, remedy; None where it may be without.
        wanted: the images that must have a file, if not all.
    """
    related, problems = relate_names(files, ids), []
    for name, path in files.items():
        if name in related:
            meant, found, remedy = related[name]
            expected = f"{place}/{meant}{path.name[len(name) :] if path.name.startswith(name) else ''}"
            problems.append(Problem(shown(path), found, expected, remedy, cause=found.partition("(did")[0]))
        elif name not in ids:
            problems.append(Problem(shown(path), *unknown))
    all_wanted = ids if wanted is None else wanted
    meant_ids = {relation.image_id for relation in related.values()}
    absent = [i for i in all_wanted if i not in files and i not in meant_ids]
    if lacking is not None and not set(files).isdisjoint({*ids, *related}):
        share = f" ({place} has none for {len(absent)} of {len(all_wanted)} images)" if len(absent) > 1 else ""
        problems += [Problem(f"{place}/{i}", f"no file{share}", *lacking, cause=f"lacking in {place}") for i in absent]
    return problems


def _plain(name: str) -> str:
    """The name without what spellings differ in: letter case, zeros in front of numbers, separators, Unicode forms."""
    text = re.sub(r"\d+", lambda digits: str(int(digits[0])), unicodedata.normalize("NFKC", name).casefold())
    return re.sub(r"[\W_]+", "_", text)


def _by_key(names: Iterable[str]) -> dict[str, str]:
    """The names by their plain spelling, without those that share one."""
    keys = {name: _plain(name) for name in names}
    times = Counter(keys.values())
    return {key: name for name, key in keys.items() if times[key] == 1}


def _by_spelling(names: Iterable[str], ids: Iterable[str]) -> dict[str, Relation]:
    known, text = _by_key(ids), f"{_SPELLING} than in the image's id"
    return {
        name: Relation(known[key], text, "rename one of them")
        for name in names
        for key in [_plain(name)]
        if key in known
    }


def _inner(name: str) -> Iterator[tuple[str, str, str]]:
    """Every way to cut a name between its pieces: what is before, within and behind."""
    ends = [0, *(piece.end() for piece in _PIECES.finditer(name))]
    for start in range(len(ends) - 1 if len(ends) <= _MOST_PIECES else 0):
        for end in range(len(ends) - 1, start, -1):
            if end - start < len(ends) - 1:
                yield name[: ends[start]], name[ends[start] : ends[end]], name[ends[end] :]


def _common_affixes(names: Collection[str], cores: Collection[str]) -> Iterator[tuple[str, str, str, str]]:
    """Name, core, prefix and suffix of the names around one of the cores, by the affixes that most names have."""
    cores = set(cores)
    cuts = {name: {(before, behind): core for before, core, behind in _inner(name) if core in cores} for name in names}
    while cuts := {name: found for name, found in cuts.items() if found}:
        times = Counter(affixes for found in cuts.values() for affixes in found)
        best = max(times, key=lambda affixes: (times[affixes], -len("".join(affixes)), affixes))
        if times[best] < 2 + len(names) // 10 and len(names) > FEW:
            return  # by chance
        for name in [name for name, found in cuts.items() if best in found]:
            yield (name, cuts.pop(name)[best], *best)


def _around(prefix: str, suffix: str, whose: str) -> str:
    return " and ".join(
        part
        for part in (
            f"prefix {prefix!r} in front of {whose}" if prefix else "",
            f"suffix {suffix!r} behind {whose if not prefix else 'it'}" if suffix else "",
        )
        if part
    )


def _by_affix(names: Collection[str], ids: Collection[str]) -> dict[str, Relation]:
    return {
        name: Relation(core, _around(before, behind, "the image's id"), f"take {_named(before, behind)} off the names")
        for name, core, before, behind in _common_affixes(names, ids)
    }


def _by_missing_affix(names: Collection[str], ids: Collection[str]) -> dict[str, Relation]:
    found: dict[str, Relation] = {}
    for image_id, name, before, behind in _common_affixes(ids, names):
        text = f"a name that lacks {_named(before, behind)} of the image's id"
        found.setdefault(
            name, Relation(image_id, text, f"take {_named(before, behind)} off the images' names, or add it here")
        )
    return found


def _named(before: str, behind: str) -> str:
    return " and ".join(repr(part) for part in (before, behind) if part)


def _by_replaced_affix(names: Collection[str], ids: Collection[str]) -> dict[str, Relation]:
    """Names around the same core as ids, each kind with its own prefix and suffix (``mask_1`` and ``img_1``)."""
    (by_name, own), (by_id, other) = _cores(names), _cores(set(ids) - set(names))
    if not (any(own) or any(other)):
        return {}
    text = f"names like '{own[0]}...{own[1]}', and images' names like '{other[0]}...{other[1]}'"
    remedy = "give both the same name"
    return {name: Relation(by_id[core], text, remedy) for core, name in by_name.items() if core in by_id}


def _cores(names: Collection[str]) -> tuple[dict[str, str], tuple[str, str]]:
    """The names by what is left of them without the prefix and the suffix that all share, and these."""
    if len(names) < 2:
        return {}, ("", "")
    prefix = _shared_start(names)
    suffix = _shared_start([name[len(prefix) :][::-1] for name in names])[::-1]
    return {name[len(prefix) : len(name) - len(suffix)]: name for name in names}, (prefix, suffix)


def _shared_start(names: Iterable[str]) -> str:
    """The longest common start of whole pieces."""
    pieces = zip(*(_PIECES.findall(name) for name in names), strict=False)
    return "".join(same[0] for same in takewhile(lambda each: len(set(each)) == 1, pieces))


def _by_spelling_and_affix(names: Collection[str], ids: Collection[str]) -> dict[str, Relation]:
    """Two differences at once, such as ``IMG_7_Mask`` for ``img_007``."""
    plain_names, plain_ids = _by_key(names), _by_key(ids)
    found: dict[str, Relation] = {}
    for relate in (_by_affix, _by_missing_affix, _by_replaced_affix):
        for plain, relation in relate(plain_names.keys() - found.keys(), plain_ids.keys()).items():
            text = f"{_SPELLING} and {relation.found}"
            found[plain] = Relation(plain_ids[relation.image_id], text, "give both the same name")
    return {plain_names[plain]: relation for plain, relation in found.items()}


def _by_likeness(names: Iterable[str], free: Sequence[str]) -> dict[str, Relation]:
    close = {name: difflib.get_close_matches(name, free, n=1, cutoff=0.8) for name in names}
    return {
        name: Relation(match[0], f"no image of that id (did you mean {match[0]!r}?)", "rename or remove it")
        for name, match in close.items()
        if match
    }
