"""Files are written completely or not at all, whatever the disk does, and locks hold."""

import errno
import math
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest

from irrbench._files import open_regular, prepare_folder, read_frame, try_lock, write_atomically, write_frame
from irrbench.config import ConfigError


def full_disk(place):
    place.write_text("image_id,iou\na,")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_and_costs_nothing_that_was_there(tmp_path):
    path = tmp_path / "per_image.csv"
    table = pd.DataFrame({"image_id": ["007", "NA"], "iou": [0.1, 0.25]})
    write_frame(path, table)
    message = (
        r"per_image\.csv cannot be written: No space left on device\. Expected a folder with free space .*"
        r"choose another --output\. What was finished before is kept"
    )
    with pytest.raises(ConfigError, match=message):
        write_atomically(path, full_disk)
    assert read_frame(path).to_dict("list") == table.to_dict("list")
    assert [file.name for file in tmp_path.iterdir()] == ["per_image.csv"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a power cut leaves the name and loses the content."""
    path, events = tmp_path / "done.json", []
    sync, replace = os.fsync, Path.replace

    def note_sync(descriptor):
        events.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        sync(descriptor)

    def note_name(draft, target):
        events.append(target)
        return replace(draft, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_name)
    write_atomically(path, lambda place: place.write_text("whole"))
    assert events == [(path.stat().st_ino, len("whole")), path]


def test_tables_come_back_as_they_were(tmp_path):
    table = pd.DataFrame(
        {
            "image_id": ["007", "NA", "", "nan", "a,b"],
            "iou": [0.1, math.nan, 1 / 3, 1e-300, 1.0],
            "iou_floor": [math.nan] * 5,
            "n_raters": [4, 3, 4, 4, 2],
        }
    )
    found = read_frame(write_frame(tmp_path / "t.csv", table))
    assert found["image_id"].tolist() == table["image_id"].tolist()
    numbers = ["iou", "iou_floor", "n_raters"]
    pd.testing.assert_frame_equal(found[numbers], table[numbers], check_exact=True)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_who_may_read_a_file_is_for_the_users_umask_to_say(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = write_atomically(tmp_path / "new" / "report.html", lambda place: place.write_text("a patient"))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    assert path.parent.stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_file_that_never_was_is_not_there_in_half(tmp_path):
    with pytest.raises(ConfigError, match="No space left"):
        write_atomically(tmp_path / "new" / "per_image.csv", full_disk)
    assert not list((tmp_path / "new").iterdir())


LAYOUT = {"folders": ["figures", "cells", "cells/*"], "files": ["report.html"]}


@pytest.mark.parametrize(
    ("taken", "found"),
    [
        ("out", r"out cannot be written: it is no folder\."),
        ("out/figures", r"out/figures cannot be written: it is no folder\."),
        ("out/report.html/", r"out/report\.html cannot be written: it is a folder\."),
    ],
)
def test_what_stands_in_the_way_is_named_before_anything_is_trained(tmp_path, taken, found):
    place = tmp_path / taken
    place.parent.mkdir(exist_ok=True)
    place.mkdir() if taken.endswith("/") else place.write_text("a file")
    with pytest.raises(ConfigError, match=f"{found} Remove or rename it, or choose another --output"):
        prepare_folder(tmp_path / "out", **LAYOUT)
    (tmp_path / "above").write_text("a file")
    with pytest.raises(ConfigError, match=r"above/out cannot be written: \S*/above is no folder\. Remove or rename it"):
        prepare_folder(tmp_path / "above" / "out")


def test_what_stands_in_the_way_of_a_file_is_named(tmp_path):
    (tmp_path / "a.csv").mkdir()
    (tmp_path / "figures").write_text("a file")
    for path, found in (("a.csv", "it is a folder"), ("figures/b.png", r"\S*/figures is no folder")):
        with pytest.raises(ConfigError, match=rf"{path} cannot be written: {found}\. Remove or rename it"):
            write_atomically(tmp_path / path, lambda place: place.write_text("whole"))


@pytest.mark.parametrize("name", ["figures", "cells", "cells/net-0123"])
@pytest.mark.parametrize("target", ["theirs", "theirs/not there yet", "out-2", "/"])
def test_no_link_in_an_output_folder_leads_what_is_written_out_of_it(tmp_path, name, target):
    theirs, link = tmp_path / "theirs", tmp_path / "out" / name
    for folder in (theirs, tmp_path / "out-2", link.parent):
        folder.mkdir(parents=True)
    (theirs / ".a.abcdefg1.part.csv").write_text("not ours")
    link.symlink_to(tmp_path / target)
    message = rf"out/{name} is a link that leads out of the output folder, to .*Remove the link, or choose another"
    with pytest.raises(ConfigError, match=message):
        prepare_folder(tmp_path / "out", **LAYOUT)
    assert [path.name for path in theirs.iterdir()] == [".a.abcdefg1.part.csv"]


def test_an_output_folder_may_be_a_link_and_hold_links_to_itself(tmp_path):
    (tmp_path / "scratch" / "store" / "figures").mkdir(parents=True)
    (tmp_path / "scratch" / "figures").symlink_to("store/figures")
    (tmp_path / "scratch" / "others").symlink_to(tmp_path)  # nothing is written there
    (tmp_path / "out").symlink_to("scratch")
    assert prepare_folder(tmp_path / "out", **LAYOUT) == tmp_path / "out"
    write_atomically(tmp_path / "out" / "figures" / "a.png", lambda place: place.write_text("whole"))
    assert (tmp_path / "scratch" / "store" / "figures" / "a.png").read_text() == "whole"


def test_a_link_to_a_file_beside_the_cells_is_nobodys_concern(tmp_path):
    (tmp_path / "notes.txt").write_text("kept")
    (tmp_path / "out" / "cells").mkdir(parents=True)
    (tmp_path / "out" / "cells" / "notes.txt").symlink_to(tmp_path / "notes.txt")
    assert prepare_folder(tmp_path / "out", **LAYOUT) == tmp_path / "out"


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "theirs").write_text("kept")
    for path in (tmp_path / "report.html", tmp_path / "leads nowhere"):
        path.symlink_to(tmp_path / ("theirs" if path.suffix else "missing"))
        write_atomically(path, lambda place: place.write_text("whole"))
        assert (path.is_symlink(), path.read_text()) == (False, "whole")
    assert (tmp_path / "theirs").read_text() == "kept"
    assert not (tmp_path / "missing").exists()


def test_an_interrupt_leaves_the_old_file(tmp_path):
    path = tmp_path / "done.json"
    path.write_text("{}")

    def interrupted(place):
        place.write_text("{")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "{}"
    assert [file.name for file in tmp_path.iterdir()] == ["done.json"]


def test_a_lock_is_held_by_one_and_is_free_afterwards(tmp_path):
    path = tmp_path / "new" / "lock"
    with try_lock(path) as first, try_lock(path) as second:
        assert (first, second) == (True, False)
    with try_lock(path) as again:
        assert again
    assert path.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gives_the_lock_to_everybody(tmp_path, monkeypatch, number):
    def no_locks(*_arguments):
        raise OSError(number, "no locks here")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with try_lock(tmp_path / "lock") as first, try_lock(tmp_path / "lock") as second:
        assert (first, second) == (True, True)
    assert write_atomically(tmp_path / "a.txt", lambda path: path.write_text("whole")).read_text() == "whole"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.parent / "elsewhere")])
def test_a_lock_that_cannot_be_opened_is_an_error(tmp_path, make):
    make(tmp_path / "lock")
    message = r"lock cannot be written: it is (no regular file|a folder)\. Remove or rename it"
    with pytest.raises(ConfigError, match=message), try_lock(tmp_path / "lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_what_may_never_end_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="it is no regular file"):
            open_regular(path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(tmp_path / "loop")


def test_a_file_is_opened_up_to_the_size_that_is_read(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(3 * 2**30)  # a sparse file: nothing is written
    with pytest.raises(OSError, match=r"it holds 3,221,225,472 bytes; at most 1,073,741,824 are read"):
        open_regular(tmp_path / "large", at_most=2**30)
    (tmp_path / "small").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "small")
    with open_regular(tmp_path / "link", at_most=3) as file:
        assert file.read() == b"abc"


def test_a_lock_ends_with_its_process_though_forked_children_live_on(tmp_path):
    code = "import os, sys, time\nfrom pathlib import Path\nfrom irrbench._files import try_lock\n"
    code += "with try_lock(Path(sys.argv[1])) as ours:\n"
    code += "    if not os.fork(): print(ours, flush=True)\n    time.sleep(600)"
    command = [sys.executable, "-c", code, tmp_path / "lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as holder:
        assert holder.stdout.readline() == "True\n"
        with try_lock(tmp_path / "lock") as ours:
            assert not ours
        holder.kill()
        holder.wait()
        with try_lock(tmp_path / "lock") as ours:
            assert ours
        os.killpg(holder.pid, signal.SIGKILL)


def test_drafts_of_killed_processes_are_removed_when_the_folder_is_used_again(tmp_path, monkeypatch):
    places = [tmp_path, tmp_path / "figures", tmp_path / "cells" / "a-1"]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        for name in (".a.abcdefg1.part.csv", ".b.abcdefg1.part", ".theirs.part", ".live.abcdefg1.part.csv"):
            (place / name).write_text("half a fi")
    with ExitStack() as living:
        for place in places:
            assert living.enter_context(try_lock(place / ".live.abcdefg1.part.csv"))
        prepare_folder(tmp_path, **LAYOUT)
    for place in places:
        assert sorted(file.name for file in place.iterdir() if file.is_file()) == [
            ".live.abcdefg1.part.csv",
            ".theirs.part",
        ]
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOLCK, "no locks here")))
    prepare_folder(tmp_path)
    assert (tmp_path / ".live.abcdefg1.part.csv").exists()  # perhaps another machine writes it
