from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import irrbench
from irrbench.commands.main import main, typed_command
from irrbench.commands.parsing import FORMATS
from irrbench.commands.syncing import _say_refused
from irrbench.tracking import RunAddress, chart_link, open_store
from irrbench.tracking.records import Request, write_record
from irrbench.tracking.reference_runs import ReferenceRuns
from irrbench.tracking.spool import Session
from irrbench.tracking.store import program
from tests.callbacks.outages import free_port
from tests.training.study import ids, write_predictions, write_study

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # inside MLflow

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes in /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mlflow.db: an old experiment, one with a tagged run, and a newer one without."""
    folder = tmp_path_factory.mktemp("trained")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    open_store(uri, "old")
    client, experiment_id = open_store(uri, "nodules")
    ReferenceRuns.find_or_create(client, experiment_id, split="val", bounds_id="1f")
    client, other = open_store(uri, "somebody else's")
    client.create_run(other)
    return folder


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def session_members(leader: int) -> list[int]:
    """Return the processes below one, itself included, by walking /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    members = {leader} & set(parents)
    while new := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= new
    return sorted(members)


def alive(pids: list[int]) -> list[int]:
    """Return those that still run; a zombie waits for its parent only."""
    states = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    return [
        pid for pid, stat in states.items() if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    ]


@contextmanager
def running_ui(folder: Path, *options: str):
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen(
        [sys.executable, "-m", "irrbench", "ui", "--no-browser", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        yield process, "".join(lines)
    finally:
        process.terminate()
        process.wait(120)
        process.stdout.close()


def test_a_missing_database_is_an_error_that_names_the_file(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["ui", "--no-browser"]) == 2
    assert re.search(rf"database at {tmp_path}/mlflow\.db, found none\..*--tracking-uri", capsys.readouterr().err)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_port_in_use_is_an_error_that_proposes_another(inside, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["ui", "--no-browser", "--port", str(port)]) == 2
    assert f"--port {port + 1}" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "host"), [([], "127.0.0.1"), (["--host", "::1"], "::1")])
def test_the_server_listens_to_this_machine_alone_by_default(inside, monkeypatch, options, host) -> None:
    asked = []

    def no_server(_uri, *, host, port):
        asked.append(host)
        raise OSError("none here")

    monkeypatch.setattr("irrbench.tracking.server.local_server", no_server)
    assert main(["ui", "--no-browser", *options]) == 2
    assert asked == [host]


def test_an_unknown_experiment_is_an_error_that_lists_what_there_is(inside, capsys) -> None:
    assert main(["ui", "--no-browser", "--experiment", "nodule"]) == 2
    assert re.search(r"found 'nodule'\. There are: .*nodules, old", capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [[], ["uii"], ["ui", "--trackinguri", "x"], ["sync", "--spo", "x"]])
def test_a_misspelt_command_ends_with_code_2(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage: irrbench" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_an_error(monkeypatch, capsys) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main(["ui", "--tracking-uri", "http://127.0.0.1:9", "--no-browser"]) == 2
    assert re.search(r"expected a tracking server at http://127\.0\.0\.1:9, found none", capsys.readouterr().err)


def test_a_file_that_is_no_database_is_an_error(tmp_path, capsys) -> None:
    (tmp_path / "mlflow.db").write_text("no database at all, but some text of some length" * 50)
    assert main(["ui", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db", "--no-browser"]) == 2
    assert re.search(r"expected an MLflow store at .*which cannot be read", capsys.readouterr().err)


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_two_server_processes_and_none_left_behind(folder, number) -> None:
    port = free_port()
    with running_ui(folder, "--port", str(port)) as (process, printed):
        assert f"http://127.0.0.1:{port}/#/experiments/2/runs?" in printed  # the newest that irrbench tagged
        members = session_members(process.pid)
        assert len(members) == 3, "the command itself and two processes of the server"
        process.send_signal(number)
        assert process.wait(120) == 0
        deadline = time.monotonic() + 300
        while alive(members) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert alive(members) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@needs_proc
@pytest.mark.slow
def test_a_server_that_dies_is_reported(folder) -> None:
    with running_ui(folder, "--port", str(free_port()), "--experiment", "old") as (process, printed):
        assert "#/experiments/1/runs?" in printed
        server = next(pid for pid in session_members(process.pid) if pid != process.pid)
        os.kill(server, signal.SIGKILL)
        assert process.wait(120) == 2
        assert "ended by itself" in process.stdout.read()


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spool with two operations for a run that nobody has created, and a half-written third."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    spool = tmp_path / "spool"
    session = Session.create(spool, f"sqlite:///{tmp_path / 'mlflow.db'}")
    for step in range(2):
        session.add(Request("metrics", RunAddress(key="k", experiment="e"), {"values": {"a/b": 0.5}, "step": step}))
    (session.folder / "00000003-metrics-k.tmp").write_text('{"kind":')
    session.close()
    return spool


def test_sync_without_a_spool_has_nothing_to_do(tmp_path, capsys) -> None:
    assert main(["sync", "--spool", str(tmp_path / "none")]) == 0
    assert "Nothing waits: there is no" in capsys.readouterr().out
    (tmp_path / "file").touch()
    assert main(["sync", "--spool", str(tmp_path / "file")]) == 2
    assert "--spool: expected a folder" in capsys.readouterr().err


def test_sync_names_what_waits_in_output_folders(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IRRBENCH_SPOOL", raising=False)
    session = Session.create(tmp_path / "out" / "irrbench-spool", "http://127.0.0.1:9")
    session.add(Request("finish", RunAddress(run_id="r")))
    assert main(["sync"]) == 1
    said = capsys.readouterr().out
    assert "Nothing waits: there is no" in said
    assert "But 1 records wait in out/irrbench-spool. To send them:" in said
    assert "sync --spool out/irrbench-spool" in said


def test_sync_says_what_still_waits_and_why(waiting, tmp_path, capsys) -> None:
    open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", "e")
    capsys.readouterr()
    assert main(["sync", "--spool", str(waiting), "--yes"]) == 1
    printed = capsys.readouterr().out
    assert "delivered 0, still waiting 2" in printed
    assert "the run k of experiment 'e' is not created yet" in printed
    assert "removed 1 records that a killed program had not written to the end" in printed
    assert len(list(waiting.glob("*/*.op"))) == 2
    assert main(["sync", "--spool", str(waiting), "--yes", "--drop-refused"]) == 0
    assert "delivered 0, still waiting 0, dropped 2" in capsys.readouterr().out
    assert not waiting.exists()


def test_sync_asks_before_it_sends(waiting, tmp_path, capsys, monkeypatch) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client, experiment_id = open_store(uri, "e")
    run_id = client.create_run(experiment_id, tags={"irrbench.run_key": "k"}).info.run_id
    answers: list[str] = []

    def ask(_: str) -> str:
        if (typed := answers.pop()) == "Ctrl-D":
            raise EOFError
        return typed

    monkeypatch.setattr("builtins.input", ask)

    def sync(*flags: str, answer: str | None = None) -> tuple[int, str]:
        answers[:] = [] if answer is None else [answer]
        monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: answer is not None))
        capsys.readouterr()
        return main(["sync", "--spool", str(waiting), *flags]), capsys.readouterr().out

    for code, printed in (sync(), sync(answer=""), sync(answer="n"), sync(answer="Ctrl-D")):
        assert code == 1
        assert re.search(rf"{uri}: 2 records of yours since 20\d\d-\d\d-\d\d \d\d:\d\d\n", printed)
        assert f"Nothing was sent. To send it: {program()} sync --spool {waiting} --yes; or for one store" in printed
    said = f"Nothing waits for http://PASSWORD@host. There are records for:\n  {uri}: 2\n"
    assert sync("--tracking-uri", "http://me:s3cret@host") == (1, said)
    assert client.get_metric_history(run_id, "a/b") == []
    code, printed = sync(answer="y")
    assert code == 0
    assert "delivered 2, still waiting 0" in printed
    assert len(client.get_metric_history(run_id, "a/b")) == 2


def test_sync_delivers_and_leaves_no_trace(waiting, tmp_path, capsys) -> None:
    client, experiment_id = open_store(uri := f"sqlite:///{tmp_path / 'mlflow.db'}", "e")
    run_id = client.create_run(experiment_id, tags={"irrbench.run_key": "k"}).info.run_id
    (session,) = (path for path in waiting.iterdir() if path.is_dir())
    write_record(session / "00000003-finish-k.op", Request("finish", RunAddress(key="k", experiment="e")))
    write_record(session / "00000004-finish-k.op", Request("finish", RunAddress(key="k", experiment="e")))
    assert main(["sync", "--spool", str(waiting), "--yes"]) == 0
    assert [point.step for point in client.get_metric_history(run_id, "a/b")] == [0, 1]
    assert not waiting.exists()
    printed = capsys.readouterr().out
    assert "delivered 4, still waiting 0" in printed
    assert "View run" not in printed
    assert printed.count(f"charts: {chart_link(uri, experiment_id)}") == 1


def test_sync_leaves_a_running_program_alone(tmp_path, capsys) -> None:
    session = Session.create(tmp_path / "spool", "http://127.0.0.1:9")
    session.add(Request("metrics", RunAddress(run_id="r")))
    (draft := session.folder / "00000002-metrics-r.tmp").write_text("{")
    named = ["--tracking-uri", "http://me:s3cret@127.0.0.1:9"]
    assert main(["sync", "--spool", str(tmp_path / "spool"), "--drop-refused", *named]) == 1
    printed = capsys.readouterr().out
    assert f"sync --spool {tmp_path}/spool --tracking-uri http://PASSWORD@127.0.0.1:9` again when" in printed
    assert "the program that wrote them still runs" in printed
    assert "still waiting 1" in printed
    assert draft.exists()
    session.close()


COCO = """{"images": [{"id": 1, "file_name": "a.png", "height": 3, "width": 4}], "categories": [],
"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "annotator": "anna", "segmentation": [[0, 0, 2, 0, 2, 2]]},
{"id": 2, "image_id": 1, "category_id": 1, "annotator": "ben", "segmentation": [[0, 0, 2, 0, 2, 2]]}]}"""


def test_convert_says_what_it_wrote_and_that_it_was_checked(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.delattr("irrbench.convert.writing.check_folder")  # the command's own check reads the folder, once
    (tmp_path / "photos").mkdir()
    Image.new("L", (4, 3)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "coco.json").write_text(COCO)
    command = ["convert", "coco", f"{tmp_path}/coco.json", "--images", f"{tmp_path}/photos", "--output"]
    assert main([*command, f"{tmp_path}/data"]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path}/data: 1 images by 2 raters (anna, ben)" in printed
    assert f"irrbench check {tmp_path}/data\nimages      1 image of 3 x 4" in printed  # what check says, and no more
    assert "no images in" in printed
    assert "A benchmark alone needs what is missing" in printed
    assert main([*command, f"{tmp_path}/data"]) == 2
    assert "found a folder in use" in capsys.readouterr().err
    assert main([*command, f"{tmp_path}/data", "--overwrite", "--anonymize"]) == 0
    assert "2 raters (r1, r2)" in capsys.readouterr().out


def test_convert_ends_with_code_1_when_something_is_left_out(tmp_path, capsys) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("L", (4, 3)).save(tmp_path / "photos" / "a.png")
    entry = '{"id": 2, "file_name": "b.png", "height": 3, "width": 4, "annotators": ["anna"]}'
    (tmp_path / "coco.json").write_text(COCO.replace('"width": 4}]', f'"width": 4}}, {entry}]'))
    command = ["convert", "coco", f"{tmp_path}/coco.json", "--images", f"{tmp_path}/photos"]
    assert main([*command, "--output", f"{tmp_path}/data"]) == 1
    printed = capsys.readouterr().out
    assert "left out: b.png: found no file" in printed
    assert "1 images by 2 raters" in printed


def test_convert_takes_a_file_for_each_annotator_and_says_what_it_understood(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in "abc":
        Image.new("L", (4, 3)).save(tmp_path / "photos" / f"{name}.png")
    entries = ", ".join(
        f'{{"id": {number}, "file_name": "{name}.png", "height": 3.0, "width": 4}}'
        for number, name in enumerate("abcde")
    )
    outline = '{"id": 5, "image_id": "0", "category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2]]}'
    box = '{"id": 6, "image_id": 1, "category_id": 1, "segmentation": [], "bbox": [0, 0, 2, 2]}'
    for name, notes in (("anna", outline), ("x=1", f"{outline}, {box}")):
        Path(f"{name}.json").write_text(f'{{"images": [{entries}], "categories": [], "annotations": [{notes}]}}')
    files = ["--from", "anna.json", "--from", "Ben=x=1.json"]
    assert main(["convert", "coco", *files, "--images", "photos", "--output", "data"]) == 1
    assert capsys.readouterr().out.splitlines()[:9] == [
        (
            "left out: 2 times: d.png: found no file; expected 'd.png' in photos. "
            "Remedy: add it, or give the folder that holds it. Also e.png"
        ),
        "1 of kind box left out: they have no outline (--boxes fills them)",
        "1 drawings without any outline count as not drawn",
        "data: 3 images by 2 raters (Ben, anna)",
        "  Ben: drawings 2, empty 1, repeats 0",
        "  anna: drawings 3, empty 2, repeats 0",
        "1 masks are missing, where a rater did not draw an image: read it with --folder.allow_missing true.",
        "irrbench check data --folder.allow_missing true",
        "images      3 images of 3 x 4 (height x width), 1 channel; 2 raters: Ben, anna",
    ]


@pytest.mark.parametrize("tool", ["coco", "label-studio", "cvat"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "found neither; expected FILE, or --from NAME=FILE for each annotator"),
        (["a", "--from", "b"], "found both"),
        (["--from", "x/a.json", "--from", "y/a.json"], "found the name 'a' twice; .* --from NAME=FILE"),
        (["--from", "=a.json"], "found no name in '=a.json'"),
        (["--from", "anna=none"], "none: found a file that cannot be read"),
    ],
)
def test_convert_refuses_files_that_name_no_annotator(tool, arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", tool, *arguments, "--output", "data"]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["coco", "none.json", "--images", ".", "--output", "data"], "none.json: found a file that cannot be read"),
        (["labelbox", "none.ndjson", "--images", ".", "--output", "data"], "none.ndjson: found a file that cannot be"),
        (["lidc", "none", "--output", "data", "--size", "8"], "size=8: expected 32 to 512 pixels"),
    ],
)
def test_convert_refuses_what_it_cannot_read(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_convert_names_the_package_that_is_missing(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert main(["convert", "lidc", str(tmp_path), "--output", str(tmp_path / "data")]) == 2
    assert "DICOM files need pydicom. Remedy: pip install 'irrbench[dicom]'" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--version"])
    assert error.value.code == 0
    assert capsys.readouterr().out == f"irrbench {irrbench.__version__}\n"


def test_the_module_is_the_command_with_all_its_subcommands() -> None:
    done = subprocess.run([sys.executable, "-m", "irrbench", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: irrbench ")
    commands = done.stdout.partition("COMMAND\n")[2]
    assert re.findall(r"^    (\w+)", commands, re.MULTILINE) == COMMANDS


COMMANDS = ["benchmark", "reliability", "check", "convert", "ui", "sync"]


def loaded_by(code: str, folder: Path, *heavy: str) -> list[str]:
    """Which of some modules are loaded after a program that calls `main`."""
    code = f"import sys\nfrom irrbench.commands.main import main\n{code}print(*sorted({set(heavy)} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=environment)
    return done.stdout.splitlines()


HEAVY = ["torch", "lightning", "pytorch_lightning", "matplotlib", "pandas", "mlflow", "scipy"]


def test_help_loads_nothing_heavy(tmp_path) -> None:
    code = f"for command in {[*COMMANDS, ('convert', 'coco')]}:\n"
    code += "    try: main([*([command] if isinstance(command, str) else command), '--help'])\n"
    code += "    except SystemExit: pass\n"
    assert loaded_by(code, tmp_path, *HEAVY, "numpy", "rich", "yaml")[-1] == ""


def test_ui_loads_nothing_heavy_before_it_prints_its_link(folder) -> None:
    """As `ui` would wait seconds for MLflow, and more for torch."""
    code = "from irrbench.tracking import server\n"
    code += "def none(*_, **__): raise OSError('none here')\n"
    code += "server.local_server = none\nmain(['ui', '--no-browser'])\n"
    link, loaded = loaded_by(code, folder, *HEAVY)
    assert link.startswith("http://127.0.0.1:5000/#/experiments/2/runs?")
    assert loaded == ""


def test_sync_loads_nothing_heavy_where_nothing_waits(tmp_path) -> None:
    assert loaded_by("main(['sync'])\n", tmp_path, *HEAVY)[-1] == ""


@pytest.mark.parametrize(
    ("argv", "orig_argv", "expected"),
    [
        (["scripts/benchmark.py"], ".venv/bin/python scripts/benchmark.py --data d", None),
        (["/p/irrbench/__main__.py"], "python -m irrbench benchmark --data 'a b'", None),
        (["/opt/bin/irrbench", "benchmark"], "/opt/bin/python /opt/bin/irrbench benchmark", "irrbench benchmark"),
        (["env/bin/irrbench", "check", "a b"], "env/bin/python env/bin/irrbench check", "env/bin/irrbench check 'a b'"),
    ],
)
def test_the_report_names_the_command_that_was_typed(argv, orig_argv, expected, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", shlex.split(orig_argv))
    monkeypatch.setattr("shutil.which", lambda name: f"/opt/bin/{name}")
    assert typed_command(None, None) == (expected or orig_argv)


def test_a_command_that_was_called_from_code_is_named_too() -> None:
    assert typed_command(["benchmark", "--data", "a b"], None) == "irrbench benchmark --data 'a b'"
    assert typed_command(["--data", "d"], "benchmark") == "irrbench benchmark --data d"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("data") / "study")


def test_check_takes_a_folder_with_or_without_a_flag(study, capsys) -> None:
    for arguments in (
        ["check", str(study)],
        ["check", "--data", str(study)],
        ["check", str(study), "--config", "default"],
    ):
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert f"\n{study}: no problems found\nNext: " in printed
        assert "images      16 images of 32 x 40 (height x width), 1 channel; 3 raters: anna, ben, cem\n" in printed
        assert "splits      8 train (4 groups), 3 val (2), 5 test (3), by column split; groups: group\n" in printed


def test_check_says_what_to_type_next(study, tmp_path, capsys) -> None:
    folder = write_predictions(tmp_path / "p", ids("test"))
    asked = {
        (): ["reliability --data {}", "benchmark --data {}"],
        ("--folder.raters", "[anna, ben]"): [
            "reliability --data {} --folder.raters '[anna, ben]'",
            "benchmark --data {} --folder.raters '[anna, ben]'",
        ],
        ("--predictions", f"p={folder}"): [f"benchmark --data {{}} --predictions p={folder}"],
        ("--scores", "[iou, nsd]"): ["benchmark --data {} --scores '[iou, nsd]'"],
    }
    for flags, commands in asked.items():
        assert main(["check", str(study), *flags]) == 0
        printed = capsys.readouterr().out.splitlines()
        found = [line.partition("irrbench ")[2] for line in printed if line.startswith("Next: ")]
        assert found == [command.format(study) for command in commands]
    assert main(["benchmark", "--data", str(study), "--check", "--seed", "3"]) == 0
    assert f"\nNext: irrbench benchmark --data {study} --seed 3\n" in capsys.readouterr().out


def test_where_all_marks_are_small_the_next_command_keeps_them(tmp_path, monkeypatch, capsys) -> None:
    for rater in ("anna", "ben"):
        for i in range(3):
            mask = np.zeros((40, 50), np.uint8)
            mask[10 : 14 + i, 10:15] = 255
            for path, pixels in ((f"images/{i}.png", mask // 2), (f"masks/{rater}/{i}.png", mask)):
                (tmp_path / "small" / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / "small" / path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small" / "manifest.csv").write_text("image_id,split\n0,train\n1,val\n2,test\n")
    assert main(["check", "small"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "irrbench reliability" in line)
    assert line.endswith("irrbench reliability --data small --exclude-below 0")
    assert main([*line.partition("irrbench ")[2].split(), "--tracking-uri", "none"]) == 0
    assert main(["reliability", "--data", "small", "--tracking-uri", "none"]) == 2


def test_misspelt_commands_and_formats_are_named_with_the_nearest(capsys) -> None:
    cases = {
        ("relability", "--data", "x"): "unknown command 'relability'. Did you mean 'reliability'?",
        ("convert", "driv", "x"): "unknown format 'driv'. Did you mean 'drive'?",
        ("zzz",): "invalid choice: 'zzz'",
    }
    for arguments, message in cases.items():
        with pytest.raises(SystemExit) as error:
            main(list(arguments))
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    assert sorted(re.findall(r"(?m)^    ([a-z0-9-]+)", capsys.readouterr().out)) == sorted(FORMATS)


def test_check_says_the_tolerance_and_the_unit_of_scores_that_use_them(study, capsys) -> None:
    assert main(["check", str(study), "--scores", "[iou, nsd]", "--folder.spacing", "[2, 0.5]"]) == 0
    printed = capsys.readouterr().out
    assert "\ntolerance   2 mm\n" in printed
    assert main(["check", str(study), "--scores", "[iou, nsd]", "--rules.tolerance", "raters"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\ntolerance   \d\S* px: the 95th percentile of the distances between raters' borders", printed)
    assert main(["check", str(study)]) == 0
    assert "\ntolerance" not in capsys.readouterr().out


def test_check_of_a_folder_without_data_shows_how_one_looks(study, tmp_path, capsys) -> None:
    assert main(["check", str(tmp_path)]) == 2
    printed = capsys.readouterr().out
    assert "This is no data folder yet" in printed
    assert "masks/anna/case1.png" in printed
    shutil.copytree(study / "images", tmp_path / "images")
    assert main(["check", str(tmp_path)]) == 2
    assert "This is no data folder yet" not in capsys.readouterr().out


def test_check_takes_predictions_and_keys_of_the_configuration(study, tmp_path, capsys) -> None:
    folder = write_predictions(tmp_path / "p", ids("test")[1:])
    assert main(["check", str(study), "--predictions", f"p={folder}"]) == 2
    assert "test0: found no file" in capsys.readouterr().out.replace("\n", "")
    assert main(["check", str(study), "--folder.raters", "[zoe]"]) == 2
    assert "zoe" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere", "--folder.alow_missing", "true"], "check: unknown flag '--folder.alow_missing'. Did you"),
        (["check", "--folder.allow_missing", "true", "nowhere"], "check: expected flags, found 'nowhere'; see --help"),
        (["check", "--config", "nowhere.yaml"], "a name among default, folder, label_noise, reliability."),
        (["benchmark", "nowhere"], "benchmark: expected flags, found 'nowhere'; see --help"),
    ],
)
def test_what_check_and_benchmark_cannot_use_is_one_message(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_interrupt_says_what_is_kept(monkeypatch, capsys) -> None:
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("irrbench.config.load_config", interrupted)
    monkeypatch.setattr("irrbench.config.load_study_config", interrupted)
    assert main(["benchmark"]) == 130
    assert "interrupted; finished cells are kept" in capsys.readouterr().err
    assert main(["reliability"]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["benchmark", "reliability"])
def test_configurations_are_printed_without_a_checkout(name, tmp_path) -> None:
    printed = []
    for flags in ([], ["--config", {"benchmark": "default"}.get(name, name)]):
        command = [sys.executable, "-m", "irrbench", name, *flags, "--print-config"]
        printed.append(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert printed[0] == printed[1]
    (tmp_path / "c.yaml").write_text(printed[0])
    command = [sys.executable, "-m", "irrbench", name, "--config", "c.yaml", "--print-config"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == printed[0]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_reasons_that_may_never_end_are_not_waited_for(tmp_path, make) -> None:
    make(tmp_path / "reasons.txt")
    said: list[str] = []
    _say_refused(tmp_path, "irrbench sync", said.append, drop=False)
    kept = f"0 records that stores have refused for good are kept in {tmp_path}"
    assert said == [f"{kept}. To remove them: irrbench sync --drop-refused"]
