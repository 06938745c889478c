"""W&B as far as a sink speaks to it: a run that keeps rows, and ``wandb.init`` that makes and resumes runs."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest


class Config(dict):
    def update(self, other, *, allow_val_change):
        super().update(other)


class Run:
    """Rows as W&B keeps them: what is logged is added to the open row, a commit or a larger step closes it."""

    sweep_id, disabled, offline, group, entity, project = None, False, False, "", "team", "nodules"

    def __init__(self, **options):
        self.id, self.settings = "r1", SimpleNamespace(root_dir="somewhere")
        self.rows, self.ignored, self.step, self.finished = {}, [], 0, False
        self.config, self.summary, self.defined = Config(), {}, {}
        vars(self).update(options)

    def log(self, values, step=None, commit=None):
        if step is not None and step < self.step:
            self.ignored.append(dict(values))
            return
        self.step = self.step if step is None else step
        self.rows.setdefault(self.step, {}).update(values)
        self.summary |= values
        if commit or (commit is None and step is None):
            self.step += 1

    def define_metric(self, name, **options):
        self.defined[name] = options

    def finish(self):
        self.finished = True


@pytest.fixture
def bounds_runs(monkeypatch):
    """Runs that ``wandb.init`` has made, by id; asked for again they go on."""
    runs = {}

    def init(**options):
        run = runs.setdefault(options["id"], Run())
        run.options, run.finished = options, False
        return run

    fake = SimpleNamespace(
        init=init,
        Settings=lambda **options: options,
        Image=lambda picture, caption: (picture.shape[2], caption),
        Table=lambda columns, data: {"columns": columns, "data": data},
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return runs
