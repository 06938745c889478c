"""What is known of public sets, on the command line and in the documentation."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from irrbench.commands.main import main
from irrbench.commands.parsing import parse
from irrbench.convert.public import OPTIONS, PUBLIC_SETS, describe_sets
from tests.convert.public.test_vessels import chase, drive

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "public_data.md"


@pytest.mark.parametrize(("name", "about"), PUBLIC_SETS.items())
def test_every_set_has_a_reader_terms_and_a_row_in_the_documentation(name, about):
    module, _, function = about.reader.partition(".")
    assert callable(getattr(import_module(f"irrbench.convert.public.{module}"), function))
    assert set(about.options) <= set(OPTIONS)
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| [{name}]({about.url}) |"))
    assert f"{about.doi})" in row
    assert f"| {about.licence.partition(';')[0]}" in row


@pytest.mark.parametrize("name", PUBLIC_SETS)
def test_the_command_line_knows_every_set_and_its_targets(name, capsys):
    about = PUBLIC_SETS[name]
    target = ["--target", list(about.targets)[-1]] if len(about.targets) > 1 else []
    options, _ = parse(["convert", name, "folder", "--output", "out", *target])
    assert (options.format, options.source) == (name, "folder")
    given = set(vars(options)) - {"command", "format", "source", "output", "overwrite", "target", "flags"}
    assert given == set(about.options)
    if target:
        with pytest.raises(SystemExit):
            parse(["convert", name, "folder", "--output", "out"])
        assert "--target" in capsys.readouterr().err


def test_the_list_shows_every_set_and_needs_no_heavy_import(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["convert", "--list"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{describe_sets()}\n"
    code = "import sys; import irrbench.commands.parsing; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_says_costs_licence_and_citation_and_checks_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    drive(tmp_path / "DRIVE")
    assert main(["convert", "drive", "DRIVE", "--output", "data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "test: 2 raters on 2 images" in lines
    assert any(line.startswith("Licence: free for research after registration") for line in lines)
    assert any(line.startswith("Cite: Staal et al. (2004)") for line in lines)
    place = lines.index("irrbench check data --folder.allow_missing true")
    assert lines[place - 2].startswith("Cite:")
    assert lines[-3] == "data: no problems found"
    for line, name in zip(lines[-2:], ("reliability", "benchmark"), strict=True):
        assert re.fullmatch(
            rf"Next: \S*irrbench {name} --data data --folder.allow_missing true( --exclude-below 0)?", line
        )


def test_a_wrong_folder_ends_with_code_2_and_says_what_is_expected(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    chase(tmp_path / "CHASE")
    assert main(["convert", "stare", "CHASE", "--output", "data"]) == 2
    said = capsys.readouterr().err
    assert "no image with masks among 18 files (Image_01L.jpg" in said
    assert "im0001.ah.ppm" in said
    assert not (tmp_path / "data").exists()
