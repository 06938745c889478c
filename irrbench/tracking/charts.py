"""What is on MLflow's chart page: bars for test, lines for validation, all runs, best first, in sections with titles.

A grid with label noise has its score over the dose in front. The state of the page is JSON, deflated and in base64.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from irrbench.scores import SCORES, base_score, record
from irrbench.tracking.doses import CELL_DOSE, DOSE_KEY, ROBUSTNESS
from irrbench.tracking.store import RESULT_TAGS, ROLE_TAG

SHOWN_RUNS = 100  # that MLflow's page loads at once, the first in the view's order
SECTION_ORDER = ("test", "val")
COLUMNS, MAX_COLUMNS = MappingProxyType({1: 1, 2: 2, 4: 2}), 3  # by the number of charts
PICTURES, FIGURES = "pictures", "figures of the study"
OF_PICTURES = MappingProxyType({PICTURES: 1, FIGURES: 2})  # columns: the models' pictures of an image in one row
RELIABILITY = "reliability"
LAST_SECTIONS = (RELIABILITY, FIGURES, PICTURES)
AGREEMENT = MappingProxyType(  # of a study's measures those with a chart, and its title
    {
        "alpha": "Krippendorff's alpha",
        "pixel_icc_quadrature": "pixel ICC",
        "pixel_icc": "pixel ICC, Laplace",
        "extent_icc": "extent ICC",
        "ac1": "Gwet's AC1",
    }
)
# What MLflow's page writes into every view, section, card and line chart.
FILTERS = {"searchFilter": "", "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": []}
SHOWN = {"modelVersionFilter": "All Runs", "runsHiddenMode": "SHOW_ALL", "hideEmptyCharts": True}
# Lower cards than 400 cut the legend after two runs.
SECTION = {"display": True, "isReordered": True, "cardHeight": 400, "deleted": False, "isGenerated": False}
CARD = {"runsCountToCompare": 100, "deleted": False, "isGenerated": False}
X_AXIS = {"xAxisKey": "step", "xAxisScaleType": "linear", "selectedXAxisMetricKey": "", "useGlobalXaxisKey": False}
Y_AXIS = {"yAxisKey": "metric", "yAxisExpressions": [], "scaleType": "linear", "range": {}}
SMOOTHING = {"lineSmoothness": 0, "useGlobalLineSmoothing": False}
NOISE_FIT, BETWEEN = "_noise_fit", " between floor and ceiling"
OTHER_FORMS = ("_normalized", "_floor", "_ceiling", "_majority", "_upper")
BAR_HEIGHT, BESIDE_BARS = 22, 190  # pixels a run: the number in a bar is as high as the bar; title, axis and legend
DOSE_HEIGHT = 560  # pixels: the naive rater lies far below, and lines of recipes close to each other


def chart_keys(metric_keys: Iterable[str], scores: Sequence[str]) -> list[str]:
    """Return the metric keys to draw, in order: ``test``, ``val``, other splits; within each by score.

    >>> chart_keys(["val/f1", "val/iou", "val/loss", "test/iou"], ["iou", "f1"])
    ['test/iou', 'val/iou', 'val/f1']
    """
    ranked = []
    for key in set(metric_keys):
        split, *rest = key.split("/")
        named = [scores.index(part) for part in rest if part in scores]
        named += [0] if rest and rest[-1] == f"{scores[0]}{NOISE_FIT}" else []
        if split == RELIABILITY:
            named = [place for place, part in enumerate(AGREEMENT) if rest == [part]]
        if named and split != ROBUSTNESS:
            ranked.append((_section_rank(split), named[0], key))
    return [key for *_, key in sorted(ranked)]


def says_little(key: str, drawn: Collection[str]) -> bool:
    """Whether the chart that MLflow makes of a key says nothing beside the drawn ones: counts, and other forms."""
    stem = key.rpartition("_")[0]
    if key in {DOSE_KEY, CELL_DOSE, "noise/reached", "noise/label_iou"}:
        return True
    if key.endswith(("/n_images", "epoch")) or key.startswith(f"{RELIABILITY}/"):
        return key not in drawn
    return key not in drawn and stem in drawn and key.endswith(OTHER_FORMS)


def view_state(
    keys: Sequence[str],
    main: str,
    pictures: Mapping[str, int],
    *,
    logged: Collection[str] = (),
    runs: int = 0,
    options: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the state of MLflow's runs page that shows one chart per key, sorted by the first.

    Args:
        keys: metric keys in the order of :func:`chart_keys`.
        main: the score whose charts make the first section, test and validation side by side.
        pictures: keys of logged pictures, with the step to open each at.
        logged: all keys: of others MLflow makes charts by itself, which are hidden where they say nothing.
        runs: how many have bars; those of many need higher cards.
        options: on which scores depend, such as ``tolerance``, for the charts' titles.
    """
    sections = section_titles(keys, main, options)
    headline = next((title for title in sections.values() if title.endswith(BETWEEN)), "")
    charts = [
        _card("BAR", key, section, metricKey=key)
        if key.startswith(("test/", f"{RELIABILITY}/"))
        else _card("LINE", key, section, metricKey=key, **X_AXIS, **Y_AXIS, **SMOOTHING)
        for key, section in sections.items()
    ]
    for chart in charts:  # MLflow 3.17 shows the key instead
        chart["displayName"] = chart_title(chart["metricKey"], options)
    of_pictures = {key: FIGURES if key.startswith(f"{RELIABILITY}/") else PICTURES for key in pictures}
    for key, section in of_pictures.items():
        charts.append(_card("IMAGE", key, section, imageKeys=[key], step=pictures[key], showRunParams=False))
        charts[-1]["displayName"] = key.partition("/")[2]
    names = sorted(
        {*sections.values(), *of_pictures.values()},
        key=lambda name: (name != headline, _section_rank(name.partition(":")[0]), name),
    )
    hidden = [key for key in sorted(logged) if says_little(key, keys)]
    generated = Counter(key.rpartition("/")[0] for key in {*logged} - {*keys, *hidden})
    drawn = {name: [chart for chart in charts if chart["metricSectionId"] == _identity(name)] for name in names}
    charts += [
        _card(kind, key, key.rpartition("/")[0], metricKey=key, **more) | {"isGenerated": True, "deleted": True}
        for key in hidden
        for kind, more in (("BAR", {}), ("LINE", {**X_AXIS, **Y_AXIS, **SMOOTHING}))
    ]
    scores = _scores_of(keys[0]) if keys else []
    of_raters = [f"metrics.`{key}`" for key in keys]
    return {
        **FILTERS,
        **SHOWN,
        "isAccordionReordered": True,
        "orderByKey": f"metrics.`{keys[0]}`" if keys else "attributes.start_time",
        "orderByAsc": any(not record(score).higher_is_better for score in scores),  # no score: from high to low
        "selectedColumns": [f"tags.`{tag}`" for tag in RESULT_TAGS] if scores else of_raters,
        "compareRunCharts": charts,
        "compareRunSections": [_section(name, drawn[name], generated=generated[name], runs=runs) for name in names],
    }


def section_titles(keys: Sequence[str], main: str, options: Mapping[str, str]) -> dict[str, str]:
    """Return the title of each key's section: the main score's, a split's, or that of a split's scores with a remark.

    Titles of charts are MLflow's own, so units, tolerances and directions stand in titles of sections.

    >>> section_titles(["test/iou", "test/f1", "test/hd95"], "iou", {"spacing": "1 px"})["test/hd95"]
    'test: hd95 in px (lower is better)'
    """
    of_main, remarks = {main, f"{main}{NOISE_FIT}"}, {key: remark(key, options) for key in keys}
    titles: dict[str, str] = {}
    said: dict[str, dict[str, None]] = {}
    for key, text in remarks.items():
        if text:
            said.setdefault(key.split("/")[0], {})[f"{_scores_of(key)[0]}{text}"] = None
    for key in keys:
        split = key.split("/")[0]
        titles[key] = f"{split}: {', '.join(said[split])}" if remarks[key] else split
        if of_main & {*key.split("/")}:
            titles[key] = f"{main}{remark(f'test/{main}', options)}{BETWEEN}"
    return titles


def chart_title(key: str, options: Mapping[str, str]) -> str:
    """Return the title of a chart: its key, with unit, tolerance and direction.

    >>> chart_title("val/nsd", {"tolerance": "2 px"})
    'val/nsd at 2 px'
    """
    return AGREEMENT.get(key.removeprefix(f"{RELIABILITY}/"), f"{key}{remark(key, options)}")


def remark(key: str, options: Mapping[str, str]) -> str:
    """Return what a reader must know of the score in a key: its unit, its tolerance, and that less is better.

    >>> remark("test/hd95/site1", {"spacing": "of each image, in mm"})
    ' in mm (lower is better)'
    """
    if not (scores := _scores_of(key)):
        return ""
    known = record(scores[0])
    unit = re.sub(r"of each image, in |[\d.e+ x-]+ ", "", options.get("spacing", ""), count=1)
    text = f" in {unit}" if known.is_distance and unit else ""
    text += f" at {options[known.at]}" if known.at in options else ""
    return text if known.higher_is_better else f"{text} (lower is better)"


def _scores_of(key: str) -> list[str]:
    return [part for part in key.split("/")[1:] if base_score(part) in SCORES]


def _section(name: str, charts: Sequence[Mapping[str, Any]], *, generated: int, runs: int) -> dict[str, Any]:
    """A section whose rows are full, as far as that goes, and whose bars are high enough for numbers in them."""
    height = SECTION["cardHeight"]
    if any(chart["type"] == "BAR" for chart in charts) and name != RELIABILITY:
        height = max(height, BESIDE_BARS + BAR_HEIGHT * min(runs, SHOWN_RUNS))
    columns = OF_PICTURES.get(name) or COLUMNS.get(len(charts) + generated, MAX_COLUMNS)
    return {**SECTION, "cardHeight": height, "uuid": _identity(name), "name": name, "columns": columns}


def encode(state: dict[str, Any]) -> str:
    """Return a view state as MLflow's page writes it into the tag."""
    packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)
    return "deflate;" + base64.b64encode(packed).decode()


def decode(tag: str) -> dict[str, Any]:
    """Return the view state behind a tag; the inverse of :func:`encode`."""
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(tag.removeprefix("deflate;"))))
    return state


def _section_rank(split: str) -> tuple[int, str]:
    first, last = list(SECTION_ORDER), list(LAST_SECTIONS)
    place = first.index(split) - len(first) if split in first else last.index(split) + 1 if split in last else 0
    return place, split


def _card(kind: str, key: str, section: str, **options: Any) -> dict[str, Any]:
    identity, section_identity = _identity(f"{kind} {key}"), _identity(section)
    return {**CARD, "uuid": identity, "type": kind, "displayName": key, "metricSectionId": section_identity, **options}


def _identity(name: str) -> str:
    return f"irrbench-{re.sub('[^a-z0-9]+', '-', name.lower())}"


# A grid with label noise.


def with_doses(state: dict[str, Any], logged: Collection[str], main: str) -> dict[str, Any]:
    """Return a view with charts of the score over the dose of noise in front; without such metrics the view itself.

    Runs with curves come first, because MLflow draws the first hundred runs, and lists them in this order in legends.

    Args:
        state: of the view.
        logged: keys of metrics.
        main: the main score.
    """
    curves, name = curve_keys(logged, main), f"{main} over the dose of noise"
    axis = {**X_AXIS, "xAxisKey": "metric", "selectedXAxisMetricKey": DOSE_KEY, "displayPoints": True}
    charts = [_card("LINE", key, name, metricKey=key, **axis, **Y_AXIS, **SMOOTHING) for key in curves]
    if {CELL_DOSE, f"test/{main}"} <= set(logged):
        ends = {axis: {"key": key, "type": "METRIC"} for axis, key in (("xaxis", CELL_DOSE), ("yaxis", f"test/{main}"))}
        charts.append(_card("SCATTER", f"test/{main} over dose", name, **ends))
    if not charts:
        return state
    section = {**SECTION, "uuid": _identity(name), "name": name, "columns": 2, "cardHeight": DOSE_HEIGHT}
    return {
        **state,
        **({"orderByKey": f"metrics.`{curves[0]}`"} if curves else {}),
        "compareRunCharts": [*charts, *state["compareRunCharts"]],
        "compareRunSections": [section, *state["compareRunSections"]],
    }


def curve_keys(logged: Iterable[str], main: str) -> list[str]:
    """Return the keys of a score over the doses of each noise.

    >>> curve_keys(["robustness/flip/iou", "robustness/dose", "test/iou"], "iou")
    ['robustness/flip/iou']
    """
    return sorted(key for key in logged if key.startswith(f"{ROBUSTNESS}/") and key.endswith(f"/{main}"))


def of_curves(state: dict[str, Any]) -> dict[str, Any]:
    """Return a view with doses that shows runs with curves, and the bounds, alone; other sections are closed."""
    first, *others = state["compareRunSections"]
    return {
        **state,
        "searchFilter": f"tags.`{ROLE_TAG}` != 'model'",
        "compareRunCharts": [chart for chart in state["compareRunCharts"] if chart["type"] != "SCATTER"],
        "compareRunSections": [first, *(section | {"display": False} for section in others)],
    }
