"""The project's addresses are the same everywhere, and what the README links to is there."""

import re
from pathlib import Path

import pytest
import yaml

import irrbench

ROOT = Path(irrbench.__file__).parents[1]
REPOSITORY = "https://github.com/irrbench/irrbench"
SITE = "https://irrbench.github.io/irrbench"
OTHERS = ("https://doi.org/",)

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="not a checkout")


def source_of(address):
    """The file in this checkout that an address shows."""
    if address.startswith(f"{REPOSITORY}/blob/main/"):
        return ROOT / address.removeprefix(f"{REPOSITORY}/blob/main/")
    assert address.startswith(f"{SITE}/"), address
    path = ROOT / "docs" / address.removeprefix(f"{SITE}/")
    return path.with_suffix(".md") if path.suffix == ".html" else path


def test_every_link_of_the_readme_is_absolute_and_leads_to_a_file():
    targets = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert len(targets) > 15
    for target in targets:
        assert target.startswith(OTHERS) or source_of(target).exists(), target


def test_a_link_to_nothing_would_be_found():
    assert not source_of(f"{SITE}/tutorials/nothing.html").exists()
    with pytest.raises(AssertionError):
        source_of("docs/index.md")


def test_package_citation_and_site_have_the_same_addresses():
    site = (ROOT / "mkdocs.yml").read_text()
    assert f"site_url: {SITE}/\n" in site
    assert f'link: "{REPOSITORY}"' in site
    urls = re.search(r"\[project\.urls\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    addresses = dict(re.findall(r'(\w+) = "([^"]+)"', urls))
    assert addresses.pop("Documentation") == f"{SITE}/"
    assert addresses.pop("Repository") == REPOSITORY
    assert all(address.startswith(f"{REPOSITORY}/") for address in addresses.values())
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["url"], citation["repository-code"]) == (SITE, REPOSITORY)
    assert citation["version"] == irrbench.__version__
    assert citation["references"][0]["doi"] == "10.1016/j.xjidi.2022.100133"


def test_no_file_has_another_address_of_the_project():
    files = [ROOT / name for name in ("README.md", "CITATION.cff", "pyproject.toml", "mkdocs.yml", "SECURITY.md")]
    files += [*(ROOT / ".github").rglob("*.yml"), *(ROOT / "docs").rglob("*.md")]
    for file in files:
        for address in re.findall(r"https://[\w./-]*irrbench[\w./-]*", file.read_text()):
            assert address.startswith((REPOSITORY, SITE)), f"{file}: {address}"


def test_issue_forms_can_be_read():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert {form.stem for form in forms} == {"bug", "config", "question", "wrong_number"}
    for form in forms:
        content = yaml.safe_load(form.read_text())
        for field in content.get("body", []):
            assert field["type"] in {"markdown", "textarea", "input"}
            assert field["type"] == "markdown" or {"id", "attributes"} <= set(field)
