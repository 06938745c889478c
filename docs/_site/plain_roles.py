"""Docstrings name other objects as Sphinx does, :func:`~irrbench.icc.joint_icc`; the site shows `joint_icc`."""

import re

import griffe

ROLE = re.compile(r":\w+:`(~?)([^`]+)`")


def _plain(match):
    name = match[2].rpartition(".")[2] if match[1] else match[2]
    return f"`{name}`"


class PlainRoles(griffe.Extension):
    """Replaces roles by code, before docstrings are parsed."""

    def on_instance(self, *, obj, **_):
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(_plain, obj.docstring.value)
