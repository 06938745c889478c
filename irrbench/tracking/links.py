"""Addresses of the saved chart view."""

from __future__ import annotations

import re
import shlex

from irrbench.tracking.names import VIEW_KEY
from irrbench.tracking.store import DEFAULT_TRACKING_URI, absolute_uri, is_server

DEFAULT_PORT = 5000


def view_fragment(experiment_id: str) -> str:
    """Return the part of the address behind the host that opens the saved chart view of an experiment.

    >>> view_fragment("7")
    '#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=irrbench'
    """
    query = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={VIEW_KEY}"
    return f"#/experiments/{experiment_id}/runs?{query}"


def chart_link(tracking_uri: str, experiment_id: str) -> str:
    """Return what opens the charts of an experiment: a link for a server, else the command and the link it serves.

    Args:
        tracking_uri: the store.
        experiment_id: the experiment's id in that store.

    Passwords within the URI are left out: links end up in logs.

    >>> chart_link("https://mlflow.example.org/", "7").split("#")[0]
    'https://mlflow.example.org/'
    >>> chart_link("sqlite:///mlflow.db", "7").split(" -> ")[0]
    'irrbench ui --experiment 7'
    """
    shown = without_password(tracking_uri)
    if is_server(tracking_uri):
        return f"{shown.rstrip('/')}/{view_fragment(experiment_id)}"
    is_default = absolute_uri(tracking_uri) == absolute_uri(DEFAULT_TRACKING_URI)
    store = "" if is_default else f" --tracking-uri {shlex.quote(shown)}"
    command = f"irrbench ui{store} --experiment {experiment_id}"
    return f"{command} -> http://127.0.0.1:{DEFAULT_PORT}/{view_fragment(experiment_id)}"


def without_password(tracking_uri: str) -> str:
    """Return the address of a store as it may be shown.

    >>> without_password("https://me:secret@host/base"), without_password("postgresql://me:secret@host/db")
    ('https://host/base', 'postgresql://me:PASSWORD@host/db')
    """
    if is_server(tracking_uri):
        return re.sub(r"//[^/@]*@", "//", tracking_uri)
    return re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:PASSWORD@", tracking_uri)
