"""The saved chart views of an experiment: one of each data set with its rules, and the links to them.

MLflow keeps a shared view in an experiment tag; :mod:`irrbench.tracking.charts` makes what is in it. The format is
internal to MLflow: everything here is best effort and never fails a run.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

from irrbench._display import hide_secrets
from irrbench.scores import DEFAULT_SCORES, SCORES
from irrbench.tracking.calls import call
from irrbench.tracking.charts import (
    RELIABILITY,
    SHOWN_RUNS,
    chart_keys,
    curve_keys,
    decode,
    encode,
    of_curves,
    view_state,
    with_doses,
)
from irrbench.tracking.connection import StoredRun
from irrbench.tracking.files import logged_pictures
from irrbench.tracking.refusals import is_refusal
from irrbench.tracking.store import BOUNDS_TAG, NOTE_TAG, ROLE_TAG, VIEW_KEY, VIEW_TAG, view_fragment

logger = logging.getLogger(__name__)

MAX_TAG = 20_000
LINK_TEXT = "Charts: models between naive rater and average rater"
RATERS_TEXT = "Charts: agreement of the raters"
ALL_TEXT = "Charts: all data sets and rules"
DOSES_TEXT = "Charts: score over the dose of label noise"
OWN_VIEW = MappingProxyType({LINK_TEXT: VIEW_KEY})
MAX_RUNS = 200  # models whose metrics and pictures are looked for, the latest
MAX_RUNS_WITH_PICTURES = 20  # of all views together: each costs a request
MAX_SETS, MAX_FILTER = 12, 600  # data sets and rules with views of their own; characters that their filters add
_OWN_LINK = re.compile(r"(- )?\[Charts: [^\]]*\]\(#/experiments/[^)]*viewStateShareKey=irrbench")


@call
def view(run: StoredRun, scores: Sequence[str]) -> None:
    """Save the chart view of the run's experiment; see :func:`save_chart_view`."""
    try:
        with run.connection.alone(VIEW_KEY):
            entries = run.read_tags().get(BOUNDS_TAG, "").split()
            update_chart_view(run.client, run.experiment_id, scores=tuple(scores), first=entries)
    except Exception as error:
        if not is_refusal(error):
            raise
        # Best effort: a refused view is not kept.
        logger.warning("could not save the chart view: %s", hide_secrets(str(error)))


@call
def first_view(run: StoredRun, keys: Sequence[str] = ()) -> None:  # noqa: ARG001 (waiting records may have keys)
    """Save a view for a run without scores of its own: of several scores the one that the view has first stays so."""
    with run.connection.alone(VIEW_KEY):
        tag = run.client.get_experiment(run.experiment_id).tags.get(VIEW_TAG, "")
        update_chart_view(run.client, run.experiment_id, scores=drawn_scores(tag) or DEFAULT_SCORES)


def drawn_scores(tag: str) -> tuple[str, ...]:
    """Return the scores of a saved view in their order; none where there is no view, or somebody's own."""
    with suppress(ValueError, LookupError, TypeError, zlib.error):
        charts = [chart for chart in decode(tag)["compareRunCharts"] if not chart["deleted"]]
        parts = [part for chart in charts for part in chart.get("metricKey", "").split("/")[1:]]
        return tuple(dict.fromkeys(part for part in parts if part in SCORES))
    return ()


def save_chart_view(client: Any, experiment_id: str, *, scores: Sequence[str] = DEFAULT_SCORES) -> bool:
    """Save the view that the deep link opens, and put that link on top of the experiment's description.

    The main score comes first, a bar chart of ``test/<score>`` beside a line chart of ``val/<score>`` over epochs; then
    the other scores on test, on validation and on other splits. Only keys that a run of the experiment has are drawn.
    Of several data sets or rules the view shows those of the latest model; views of the others, and of all, have links
    of their own. Best effort: a failure is logged as a warning and nothing is raised.

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


def update_chart_view(client: Any, experiment_id: str, *, scores: Sequence[str], first: Collection[str] = ()) -> None:
    """Do what :func:`save_chart_view` does, and raise what MLflow raises.

    Args:
        client: an ``mlflow.MlflowClient``.
        experiment_id: id of the experiment.
        scores: score names, the main score first.
        first: entries of a run's bounds tag: of several data sets and rules the view shows those; the latest model's if
            not given.
    """
    filters = (f"tags.\"{ROLE_TAG}\" {sign} 'model'" for sign in ("=", "!="))  # bounds may be the oldest of many runs
    found = [run for own in filters for run in client.search_runs([experiment_id], own, max_results=MAX_RUNS)]
    runs = [run for run in found if run.data.tags.get(ROLE_TAG)]
    sets = bounds_sets(runs)
    states = {"": ViewOf(client, runs, scores, views=len(sets) or 1).state()} | {
        entry: ViewOf(client, _with_bounds(runs, entry), scores, entry, len(sets)).state() for entry in sets.values()
    }
    others = {}
    if curve_keys({key for run in runs for key in run.data.metrics}, scores[0]):
        others[DOSES_TEXT] = (f"{VIEW_KEY}-doses", of_curves(states[""]))
    for name, entry in sets.items():
        others[f"Charts: {name}"] = (f"{VIEW_KEY}-{entry.rpartition(':')[2][:8]}", states[entry])
    if sets:
        others[ALL_TEXT] = (f"{VIEW_KEY}-all", states[""])
    latest = next((one for one in sets.values() if one in first), "") or _latest_set(runs, sets)
    name = next((name for name, entry in sets.items() if entry == latest), "")
    is_study = {run.data.tags[ROLE_TAG] for run in runs} == {RELIABILITY}
    text = RATERS_TEXT if is_study else f"{LINK_TEXT} ({name})" if name else LINK_TEXT
    _save(client, experiment_id, {text: (VIEW_KEY, states[latest]), **others})


class ViewOf(NamedTuple):
    """What a view is made of.

    Attributes:
        client: an ``mlflow.MlflowClient``.
        runs: that the view is to show.
        scores: the main one first.
        entry: of the bounds tag, by which the runs are found; all runs of the experiment without one.
        views: how many there are, which share the requests for pictures.
    """

    client: Any
    runs: Sequence[Any]
    scores: Sequence[str]
    entry: str = ""
    views: int = 1

    def state(self) -> dict[str, Any]:
        """The state of MLflow's page, small enough for a tag."""
        logged = {key for run in self.runs for key in run.data.metrics}
        keys = chart_keys(logged, self.scores)
        shown = dict(self._shown(), logged=logged)
        most = max(1, MAX_RUNS_WITH_PICTURES // self.views)
        state = self._state(keys, logged_pictures(self.client, _mixed(self.runs), most=most), logged, shown)
        while keys and len(encode(state)) > MAX_TAG - MAX_FILTER:
            keys = keys[: len(keys) // 2]
            state = self._state(keys, {}, logged, {**shown, "logged": ()})
        return state

    def _state(
        self, keys: Sequence[str], pictures: Mapping[str, int], logged: Collection[str], shown: Mapping[str, Any]
    ) -> dict[str, Any]:
        state = with_doses(view_state(keys, self.scores[0], pictures, **shown), logged, self.scores[0])
        if self.entry:
            state["searchFilter"] = f"tags.`{BOUNDS_TAG}` LIKE '%{self.entry}%'"
        if len(self.runs) > SHOWN_RUNS and not curve_keys(logged, self.scores[0]):
            # By score the naive rater would be the last, and not be drawn.
            state |= {"orderByKey": f"tags.`{ROLE_TAG}`", "orderByAsc": True}
        return state

    def _shown(self) -> dict[str, Any]:
        """How many runs have bars, and the options that the scores of all have in common."""
        found = defaultdict(set)
        for run in self.runs:
            if run.data.tags[ROLE_TAG] == "ceiling":
                for key, value in run.data.params.items():
                    found[key.rpartition("/")[2]].add(value)
        options = {key: value for key, (value, *more) in found.items() if not more}
        return {"runs": sum(run.data.tags[ROLE_TAG] != RELIABILITY for run in self.runs), "options": options}


def _mixed(runs: Sequence[Any]) -> list[Any]:
    """Runs in an order in which the first few are of all data sets: a picture without a card gets one from MLflow."""
    seen: Counter[str] = Counter()
    order = {}
    for run in runs:
        tag = run.data.tags.get(BOUNDS_TAG, "")
        order[run.info.run_id] = seen[tag]
        seen[tag] += 1
    return sorted(runs, key=lambda run: order[run.info.run_id])


def _with_bounds(runs: Iterable[Any], entry: str) -> list[Any]:
    """The runs of one data set with its rules."""
    return [run for run in runs if entry in run.data.tags.get(BOUNDS_TAG, "").split()]


def _latest_set(runs: Iterable[Any], sets: Mapping[str, str]) -> str:
    """The entry of the data set with its rules that the latest model has; "" where there is one alone."""
    models = sorted((run for run in runs if run.data.tags[ROLE_TAG] == "model"), key=lambda run: -run.info.start_time)
    listed = (entry for run in models for entry in run.data.tags.get(BOUNDS_TAG, "").split())
    return next((entry for entry in listed if entry in sets.values()), "")


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


def _save(client: Any, experiment_id: str, views: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
    """Save views with their keys, by what their links say; put the links on top of the experiment's description."""
    for key, state in views.values():
        client.set_experiment_tag(experiment_id, f"{VIEW_TAG.rpartition('.')[0]}.{key}", encode(state))
    note = client.get_experiment(experiment_id).tags.get(NOTE_TAG, "")
    wanted = linked_note(note, experiment_id, {text: key for text, (key, _) in views.items()})
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
    plain = str.maketrans("[]\n", "() ")  # a name may be anything
    first, *others = (f"[{text.translate(plain)}]({view_fragment(experiment_id, key)})" for text, key in links.items())
    shown = "\n".join([first, *(f"- {link}" for link in others)])
    return f"{shown}\n\n{own_text}" if own_text else shown
