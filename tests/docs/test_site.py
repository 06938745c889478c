"""The built site: no warning, no dead link, nothing loaded from elsewhere, all public names, pictures in notebooks."""

import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import irrbench

ROOT = Path(irrbench.__file__).parents[1]
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
MODULES = ("irrbench", "irrbench.callbacks", "irrbench.evaluation", "irrbench.metrics")

pytest.importorskip("mkdocs_jupyter", reason="the extra docs is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="not a checkout")]


class Page(HTMLParser):
    """The ids of a page, what it links to, what it loads, its pictures and the kinds of its outputs."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loaded, self.pictures, self.outputs = {""}, [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found["id"]} if found.get("id") else set()
        self.links += [found["href"]] if tag == "a" and found.get("href") else []
        self.outputs += [found["data-mime-type"]] if found.get("data-mime-type") else []
        self.pictures += [found["src"]] if tag == "img" else []
        if tag in LOADED and found.get(LOADED[tag]) and found.get("rel") not in {"canonical", "prev", "next"}:
            self.loaded.append(found[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "NO_MKDOCS_2_WARNING": "1",
        "PYTHONPATH": str(ROOT),  # for the kernels of the notebooks
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert not done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text()) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def test_every_link_and_picture_inside_the_site_is_there(site, pages):
    broken = []
    for path, page in pages.items():
        for address in [*page.links, *page.loaded]:
            if address.startswith(("http:", "https:", "mailto:", "data:")):
                continue
            target, fragment = urldefrag(unquote(address))
            file = (path.parent / target).resolve() if target else path
            if not file.is_file() or (fragment and file.suffix == ".html" and fragment not in pages[file].ids):
                broken.append(f"{path.relative_to(site)}: {address}")
    assert not broken
    assert sum(len(page.links) for page in pages.values()) > 1000


def test_nothing_is_loaded_from_elsewhere(pages):
    for path, page in pages.items():
        assert not [address for address in page.loaded if address.startswith(("http", "//"))], path
        assert "cdn" not in path.read_text().partition("<body")[0], path


def test_notebooks_were_run_and_hold_pictures(pages):
    notebooks = {path: page for path, page in pages.items() if path.parent.name == "notebooks"}
    assert len(notebooks) == 3
    for path, page in notebooks.items():
        assert sum(source.startswith("data:image/png") for source in page.pictures) >= 2, path
        assert "application/vnd.jupyter.stderr" not in page.outputs, path


def test_every_public_name_has_its_place_in_the_reference(pages):
    ids = set().union(*(page.ids for path, page in pages.items() if path.parent.name == "api"))
    missing = [
        f"{module}.{name}"
        for module in MODULES
        for name in import_module(module).__all__
        if not {f"{module}.{name}", f"irrbench.metrics.{name}"} & ids
    ]
    assert not missing


def test_the_help_of_each_command_is_shown_without_paths_of_this_machine(site):
    text = (site / "reference" / "commands.html").read_text()
    assert "--exclude-below SHARE" in text
    assert str(ROOT) not in text


def test_files_that_pages_show_are_on_them(site):
    script = (ROOT / "docs" / "examples" / "smp_training.py").read_text()
    shown = unescape(re.sub("<[^>]+>", "", (site / "tutorials" / "training.html").read_text()))
    assert script.strip().splitlines()[-1] in shown
    assert not [path for path in site.rglob("*.html") if re.search(r"--8 ?< ?--", unescape(path.read_text()))]
