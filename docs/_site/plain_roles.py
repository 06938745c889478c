"""Docstrings for Markdown: roles as Sphinx has them, :func:`~irrbench.icc.joint_icc`, become `joint_icc`."""

import re

import griffe

ROLE = re.compile(r":\w+:`(~?)([^`]+)`")
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)  # one is a section, too


def _plain(match):
    name = match[2].rpartition(".")[2] if match[1] else match[2]
    return f"`{name}`"


class PlainRoles(griffe.Extension):
    """Replaces roles by code, before docstrings are parsed."""

    def on_instance(self, *, obj, **_):
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", ROLE.sub(_plain, obj.docstring.value))
