"""The saved chart view of an experiment: bars for test, lines for validation, all runs, best first.

A grid with label noise has its score over the dose in front.

MLflow keeps a shared view in an experiment tag as the state of its own page, deflated and in base64. The format is
internal to MLflow: everything here is best effort and never fails a run.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from irrbench._display import hide_secrets
from irrbench.scores import DEFAULT_SCORES, SCORES, base_score, record
from irrbench.tracking.artifacts import open_artifacts
from irrbench.tracking.calls import call
from irrbench.tracking.connection import StoredRun
from irrbench.tracking.doses import CELL_DOSE, DOSE_KEY, ROBUSTNESS
from irrbench.tracking.files import LOGGED_IMAGES_TAG
from irrbench.tracking.refusals import is_refusal
from irrbench.tracking.store import BOUNDS_TAG, NOTE_TAG, RESULT_TAGS, ROLE_TAG, VIEW_KEY, VIEW_TAG, view_fragment

logger = logging.getLogger(__name__)

MAX_TAG = 20_000
LINK_TEXT = "Charts: models between naive rater and average rater"
DOSES_TEXT = "Charts: score over the dose of label noise"
OWN_VIEW = MappingProxyType({LINK_TEXT: VIEW_KEY})
MAX_RUNS = 200
MAX_RUNS_WITH_PICTURES = 20  # each costs a request
SECTION_ORDER = ("test", "val")
PICTURES = "pictures"
RELIABILITY = "reliability"
# What MLflow's page writes into every view, section, card and line chart.
FILTERS = {"searchFilter": "", "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": []}
SHOWN = {"modelVersionFilter": "All Runs", "runsHiddenMode": "SHOW_ALL", "hideEmptyCharts": True}
# Lower cards than 400 cut the legend after two runs.
SECTION = {"display": True, "isReordered": True, "cardHeight": 400, "deleted": False, "isGenerated": False}
CARD = {"runsCountToCompare": 100, "deleted": False, "isGenerated": False}
X_AXIS = {"xAxisKey": "step", "xAxisScaleType": "linear", "selectedXAxisMetricKey": "", "useGlobalXaxisKey": False}
Y_AXIS = {"yAxisKey": "metric", "yAxisExpressions": [], "scaleType": "linear", "range": {}}
SMOOTHING = {"lineSmoothness": 0, "useGlobalLineSmoothing": False}
MAX_SETS, MAX_FILTER = 12, 600  # data sets and rules with views of their own; characters that their filters add
NOISE_FIT = "_noise_fit"
OTHER_FORMS = ("_normalized", "_floor", "_ceiling", "_majority", "_upper")
BAR_HEIGHT = 18  # pixels a run
DOSE_HEIGHT = 560  # pixels: the naive rater lies far below, and lines of recipes close to each other
_OWN_LINK = re.compile(r"(- )?\[Charts: [^\]]*\]\(#/experiments/[^)]*viewStateShareKey=irrbench")
_PICTURE_NAME = re.compile(r"images/(?P<key>.+?)[+%]step[+%](?P<step>\d+)[+%]")


@call
def view(run: StoredRun, scores: Sequence[str]) -> None:
    """Save the chart view of the run's experiment; see :func:`save_chart_view`."""
    try:
        with run.connection.alone(VIEW_KEY):
            update_chart_view(run.client, run.experiment_id, scores=tuple(scores))
    except Exception as error:
        if not is_refusal(error):
            raise
        # Best effort: a refused view is not kept.
        logger.warning("could not save the chart view: %s", hide_secrets(str(error)))


@call
def first_view(run: StoredRun, keys: Sequence[str]) -> None:
    """Save a view of these metric keys where the experiment has none yet: what models log later replaces it."""
    with run.connection.alone(VIEW_KEY):
        if VIEW_TAG not in run.client.get_experiment(run.experiment_id).tags:
            _save(run.client, run.experiment_id, view_state(keys, "", {}))


def save_chart_view(client: Any, experiment_id: str, *, scores: Sequence[str] = DEFAULT_SCORES) -> bool:
    """Save the view that the deep link opens, and put that link on top of the experiment's description.

    The main score comes first, a bar chart of ``test/<score>`` beside a line chart of ``val/<score>`` over epochs; then
    the other scores on test, on validation and on other splits. Only keys that a run of the experiment has are drawn.
    Best effort: a failure is logged as a warning and nothing is raised.

    Args:
        client: an ``mlflow.MlflowClient``.
        experiment_id: id of the experiment.
        scores: score names, the main score first: runs are ordered by it.

    Returns:
        Whether the view was saved.
    """
    try:
        update_chart_view(client, experiment_id, scores=scores)
    except Exception as error:  # a chart is never worth a training run
        logger.warning("could not save the chart view of experiment %s: %s", experiment_id, hide_secrets(str(error)))
        return False
    return True


def update_chart_view(client: Any, experiment_id: str, *, scores: Sequence[str]) -> None:
    """Do what :func:`save_chart_view` does, and raise what MLflow raises."""
    runs = client.search_runs([experiment_id], filter_string=f"tags.\"{ROLE_TAG}\" != ''", max_results=MAX_RUNS)
    logged = {key for run in runs for key in run.data.metrics}
    keys, pictures = chart_keys(logged, scores), logged_pictures(client, runs)
    hidden = [key for key in sorted(logged) if _says_little(key, keys)]
    models = sum(run.data.tags[ROLE_TAG] == "model" for run in runs)
    state = with_doses(view_state(keys, scores[0], pictures, hidden=hidden, runs=models), logged, scores[0])
    while len(encode(state)) > MAX_TAG - MAX_FILTER:
        keys = keys[: len(keys) // 2]
        state = with_doses(view_state(keys, scores[0], {}, runs=models), logged, scores[0])
    filtered = _views_of_sets(state, bounds_sets(runs))
    if curve_keys(logged, scores[0]):
        filtered = {DOSES_TEXT: (f"{VIEW_KEY}-doses", of_curves(state)), **filtered}
    _save(client, experiment_id, state, filtered)


def bounds_sets(runs: Iterable[Any]) -> dict[str, str]:
    """Return what selects the runs of each data set with its rules, by its name; nothing where there is one alone.

    Each is the entry of the bounds tag that most of its runs have.
    """
    tags = [run.data.tags for run in runs]
    counts = Counter(entry for tag in tags for entry in tag.get(BOUNDS_TAG, "").split())
    ceilings = [run for run in runs if run.data.tags.get(ROLE_TAG) == "ceiling" and run.data.tags.get(BOUNDS_TAG)]
    sets = {
        run.info.run_name.partition(" · ")[2] or run.info.run_name: max(
            run.data.tags[BOUNDS_TAG].split(), key=lambda entry: counts[entry]
        )
        for run in ceilings
    }
    return dict(sorted(sets.items())[:MAX_SETS]) if len(sets) > 1 else {}


def _says_little(key: str, drawn: Collection[str]) -> bool:
    """Whether the chart that MLflow makes of a key says nothing beside the drawn ones: counts, and other forms."""
    stem = key.rpartition("_")[0]
    if key in {DOSE_KEY, CELL_DOSE, "noise/reached", "noise/label_iou"}:
        return True
    return key.endswith(("/n_images", "epoch")) or (key not in drawn and stem in drawn and key.endswith(OTHER_FORMS))


def _views_of_sets(state: dict[str, Any], sets: Mapping[str, str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return a view for each data set with its rules, with its key, by what its link says."""
    return {
        f"Charts: {name}": (
            f"{VIEW_KEY}-{entry.rpartition(':')[2][:8]}",
            state | {"searchFilter": f"tags.`{BOUNDS_TAG}` LIKE '%{entry}%'"},
        )
        for name, entry in sets.items()
    }


def _save(
    client: Any,
    experiment_id: str,
    state: dict[str, Any],
    others: Mapping[str, tuple[str, dict[str, Any]]] = MappingProxyType({}),
) -> None:
    """Save a view, and others with their keys; put links to all on top of the experiment's description."""
    client.set_experiment_tag(experiment_id, VIEW_TAG, encode(state))
    links = dict(OWN_VIEW)
    for text, (key, own) in others.items():
        client.set_experiment_tag(experiment_id, f"{VIEW_TAG.rpartition('.')[0]}.{key}", encode(own))
        links[text] = key
    note = client.get_experiment(experiment_id).tags.get(NOTE_TAG, "")
    wanted = linked_note(note, experiment_id, links)
    if wanted != note:
        client.set_experiment_tag(experiment_id, NOTE_TAG, wanted)


def linked_note(note: str, experiment_id: str, links: Mapping[str, str] = OWN_VIEW) -> str:
    """Return a description that begins with the links, followed by the text that was in it before; idempotent.

    Args:
        note: the description.
        experiment_id: of the experiment.
        links: keys of views by what the links say.
    """
    own_text = "\n".join(line for line in note.split("\n") if not _OWN_LINK.match(line)).strip("\n")
    # A list, because lines of one paragraph are joined.
    first, *others = (f"[{text}]({view_fragment(experiment_id, key)})" for text, key in links.items())
    shown = "\n".join([first, *(f"- {link}" for link in others)])
    return f"{shown}\n\n{own_text}" if own_text else shown


def logged_pictures(client: Any, runs: Iterable[Any]) -> dict[str, int]:
    """Return for each picture's key the step at which most runs show it, the latest among equals.

    A chart of pictures opens at one step, and a run without a picture at that step shows an empty frame. Only the
    first twenty runs with pictures are read.
    """
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for run in [run for run in runs if LOGGED_IMAGES_TAG in run.data.tags][:MAX_RUNS_WITH_PICTURES]:
        paths = (file.path for file in open_artifacts(client.tracking_uri, run.info).list_artifacts("images"))
        for key, step in {parsed for parsed in map(parse_name, paths) if parsed is not None}:
            counts[key][step] += 1
    return {key: max(steps, key=lambda step: (steps[step], step)) for key, steps in sorted(counts.items())}


def parse_name(path: str) -> tuple[str, int] | None:
    """Return key and step of a logged picture's file, None for any other file.

    >>> parse_name("images/val~nodule 1+step+14+timestamp+1795373672+6f0c+compressed.webp")
    ('val/nodule 1', 14)
    """
    match = _PICTURE_NAME.match(path)
    return None if match is None else (re.sub("[~#]", "/", match["key"]), int(match["step"]))


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
        if named and split != ROBUSTNESS:
            ranked.append((_section_rank(split), split, named[0], key))
    return [key for *_, key in sorted(ranked)]


def view_state(
    keys: Sequence[str], main: str, pictures: Mapping[str, int], *, hidden: Sequence[str] = (), runs: int = 0
) -> dict[str, Any]:
    """Return the state of MLflow's runs page that shows one chart per key, sorted by the first.

    Args:
        keys: metric keys in the order of :func:`chart_keys`.
        main: the score whose charts make the first section, test and validation side by side.
        pictures: keys of logged pictures, with the step to open each at.
        hidden: keys of which MLflow would make charts by itself, and shall not.
        runs: how many models there are; bars of many need higher cards.
    """
    headline = f"{main} between floor and ceiling"
    of_main = {main, f"{main}{NOISE_FIT}"}
    sections = {key: headline if of_main & {*key.split("/")} else key.split("/")[0] for key in keys}
    names = sorted(set(sections.values()), key=lambda name: (name != headline, _section_rank(name), name))
    charts = [
        _card("BAR", key, section, metricKey=key)
        if key.startswith(("test/", f"{RELIABILITY}/"))
        else _card("LINE", key, section, metricKey=key, **X_AXIS, **Y_AXIS, **SMOOTHING)
        for key, section in sections.items()
    ]
    charts += [_card("IMAGE", key, PICTURES, imageKeys=[key], step=step) for key, step in pictures.items()]
    charts += [
        _card(kind, key, key.rpartition("/")[0], metricKey=key, **more) | {"isGenerated": True, "deleted": True}
        for key in hidden
        for kind, more in (("BAR", {}), ("LINE", {**X_AXIS, **Y_AXIS, **SMOOTHING}))
    ]
    height = max(SECTION["cardHeight"], BAR_HEIGHT * runs)
    scores = [part for part in keys[0].split("/") if base_score(part) in SCORES] if keys else []
    return {
        **FILTERS,
        **SHOWN,
        "isAccordionReordered": True,
        "orderByKey": f"metrics.`{keys[0]}`" if keys else "attributes.start_time",
        "orderByAsc": any(not record(score).higher_is_better for score in scores),  # no score: from high to low
        "selectedColumns": [f"tags.`{tag}`" for tag in RESULT_TAGS] if keys else [],
        "compareRunCharts": charts,
        "compareRunSections": [
            {
                **SECTION,
                **({"cardHeight": height} if name == headline else {}),
                "uuid": _identity(name),
                "name": name,
                "columns": 2 if name in {headline, PICTURES} else 3,
            }
            for name in [*names, *([PICTURES] if pictures else [])]
        ],
    }


def encode(state: dict[str, Any]) -> str:
    """Return a view state as MLflow's page writes it into the tag."""
    packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)
    return "deflate;" + base64.b64encode(packed).decode()


def decode(tag: str) -> dict[str, Any]:
    """Return the view state behind a tag; the inverse of :func:`encode`."""
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(tag.removeprefix("deflate;"))))
    return state


def _section_rank(split: str) -> int:
    return SECTION_ORDER.index(split) if split in SECTION_ORDER else len(SECTION_ORDER)


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
