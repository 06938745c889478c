"""What exports' addresses lead to is fetched within bounds, from public hosts, and kept where it is a whole picture."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest

from irrbench.commands.main import main
from irrbench.convert import convert_labelbox, download
from irrbench.convert.download import Downloader
from irrbench.data import load_folder
from irrbench.data.readers import ReadError
from tests.convert.hostile import GOOD, serving

BAD = {
    "drip": "less than 16,384 bytes in 0.3 s, or over 600 s in all",
    "drip of headers": "less than 16,384 bytes in 0.3 s",
    "drip without an end": "less than 16,384 bytes in 0.3 s",
    "silence": "less than 16,384 bytes in 0.3 s",
    "endless": "a file of over 100,000 bytes; expected a smaller one",
    "endless chunks": "a file of over 100,000 bytes",
    "endless continuation": "a file of over 100,000 bytes",
    "large": "a file of over 100,000 bytes",
    "short": r"\(\d+ of \d+ bytes came\)",
    "short chunks": r"\(IncompleteRead\)",
    "cut": "image/png in place of a picture: a file that cannot be read",
    "page": "text/html in place of a picture: a file that cannot be read",
    "page as a picture": "image/png in place of a picture: a file that cannot be read",
    "nothing": "image/png in place of a picture: a file that cannot be read",
    "no HTTP": r"\(BadStatusLine\)",
    "status": r"\(BadStatusLine\)",
    "many headers": r"\(HTTPException\)",
    "long header": r"\(LineTooLong\)",
    "closed": "cannot be fetched",
    "404": r"\(HTTP status 404\)",
    "500": r"\(HTTP status 500\)",
    "metadata": r"the address of an internal host \(169\.254\.169\.254\); expected a public one.*--internal-host",
    "private": r"the address of an internal host \(10\.0\.0\.1\)",
    "file": "an address that starts with 'file://'; expected one that starts with https",
    "circle": "over 5 redirects",
}


SLOW = ("drip", "drip of headers", "drip without an end", "silence")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 100_000)
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        yield server


@pytest.fixture
def convert(tmp_path, server):
    def run(**urls):
        labels = [{"label_details": {"created_by": who}, "annotations": {"objects": []}} for who in ("anna", "ben")]
        rows = [
            {"data_row": {"id": f"id-{key}", "global_key": key, "row_data": url}, "projects": {"p": {"labels": labels}}}
            for key, url in urls.items()
        ]
        (tmp_path / "e.ndjson").write_text("\n".join(map(json.dumps, rows)))
        options = {"images": tmp_path / "photos", "download": True, "overwrite": True, "progress": False}
        return convert_labelbox(tmp_path / "e.ndjson", tmp_path / "data", internal_hosts=["127.0.0.1"], **options)

    return run


def photos(tmp_path):
    return sorted(path.name.partition("-")[0] for path in (tmp_path / "photos").iterdir())


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_whole_picture_costs_one_image_and_is_fetched_again(convert, server, tmp_path, monkeypatch, bad):
    server.answers["/a"] = bad
    urls = {"a": f"{server.url}/a", "b": f"{server.url}/good"}
    convert(b=urls["b"])
    with monkeypatch.context() as limits:
        limits.setattr(download, "PATIENCE_SECONDS", 0.3 if bad in SLOW else 30.0)
        done = convert(**urls)
    assert (done.images, len(done.left_out)) == (1, 1)
    with pytest.raises(AssertionError, match=rf"^a: found a: .*{BAD[bad]}"):
        raise AssertionError(str(done.left_out[0]))
    assert len(str(done.left_out[0])) < 400
    assert photos(tmp_path) == ["b"]
    server.answers["/a"] = "good"
    asked = len(server.asked)
    assert (convert(**urls).left_out, photos(tmp_path)) == ((), ["a", "b"])
    assert [path for path, _ in server.asked[asked:]] == ["/a"]
    assert convert(**urls).images == 2
    assert len(server.asked) == asked + 1
    np.testing.assert_array_equal(np.rint(load_folder(tmp_path / "data").image(0) * 255), np.full((1, 12, 20), 7))


def test_a_host_that_takes_no_connection_is_not_waited_for(convert, server, monkeypatch):
    asked = []

    def takes_none(address, timeout=None, *_, **__):
        asked.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", takes_none)
    with pytest.raises(ValueError, match="less than 16,384 bytes in 30 s"):
        convert(a=f"{server.url}/a")
    assert asked == [download.PATIENCE_SECONDS]


@pytest.mark.parametrize("good", ["chunked", "redirect", "endless redirect"])
def test_what_is_whole_is_kept(convert, server, tmp_path, good):
    server.answers["/a"] = good
    assert convert(a=f"{server.url}/a").images == 1
    assert [path.read_bytes() for path in (tmp_path / "photos").iterdir()] == [GOOD]


def test_the_time_in_all_is_limited_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_SECONDS", 0.3)
    with pytest.raises(ReadError, match=r"or over 0\.3 s in all"):
        Downloader(["127.0.0.1"]).fetch(f"{server.url}/drip without an end", tmp_path / "a", {})


def test_a_slow_host_is_left_alone_in_the_end(server, tmp_path, monkeypatch):
    downloader = Downloader(["127.0.0.1", "localhost"])
    with monkeypatch.context() as limits:
        limits.setattr(download, "PATIENCE_SECONDS", 0.2)
        for _ in range(3):
            with pytest.raises(ReadError, match=r"less than 16,384 bytes in 0\.2 s"):
                downloader.fetch(f"{server.url}/silence", tmp_path / "a", {})
    with pytest.raises(ReadError, match=r"127\.0\.0\.1 was too slow 3 times"):
        downloader.fetch(f"{server.url}/good", tmp_path / "a", {})
    assert len(server.asked) == 3
    downloader.fetch(f"http://localhost:{server.server_address[1]}/good", tmp_path / "a", {})
    assert (tmp_path / "a").read_bytes() == GOOD


INTERNAL = (
    "http://127.0.0.1:{port}/good",
    "http://localhost:{port}/good",
    "http://LOCALHOST:{port}/good",
    "http://127.1:{port}/good",
    "http://2130706433:{port}/good",
    "http://[::ffff:127.0.0.1]:{port}/good",
    "http://0.0.0.0:{port}/good",
    "http://user:password@127.0.0.1:{port}/good",
    "http://pictures.example.org:{port}/good",
    "http://169.254.169.254/latest/meta-data/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
)


@pytest.mark.parametrize("url", INTERNAL)
def test_internal_hosts_are_asked_for_nothing(server, tmp_path, monkeypatch, url):
    _resolve(monkeypatch, {"pictures.example.org": "127.0.0.1"})
    with pytest.raises(ReadError, match="found the address of an internal host"):
        Downloader().fetch(url.format(port=server.server_address[1]), tmp_path / "a", {})
    assert server.asked == []


def _resolve(monkeypatch, known):
    """Let names stand for addresses, as a name server would, or for none."""
    real = socket.getaddrinfo

    def resolve(host, *rest, **more):
        if known.get(host, host) is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(known.get(host, host), *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_host_that_the_user_named_may_not_lead_to_another(server, tmp_path, monkeypatch):
    _resolve(monkeypatch, {"pictures.example.org": "127.0.0.1"})
    trusting = Downloader(["Pictures.example.org"])
    url = f"http://pictures.example.org:{server.server_address[1]}"
    trusting.fetch(f"{url}/good", tmp_path / "a", {})
    assert (tmp_path / "a").read_bytes() == GOOD
    with pytest.raises(ReadError, match=r"internal host \(127\.0\.0\.1\)"):
        trusting.fetch(f"{url}/loopback", tmp_path / "a", {})
    assert [path for path, _ in server.asked] == ["/good", "/loopback"]


def test_a_name_that_stands_for_another_address_a_moment_later_is_not_asked(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_addresses", lambda _: ["93.184.216.34"])
    with pytest.raises(ReadError, match="internal host"):
        Downloader().fetch(f"{server.url}/good", tmp_path / "a", {})
    assert server.asked == []


@pytest.mark.parametrize(
    "url", ["ftp://x.test/a", "file:///etc/passwd", "data:image/png;base64,AA", "x", "http:///a", "//x"]
)
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(ReadError, match=r"found an address that starts with .*; expected one that starts with https"):
        Downloader().fetch(url, tmp_path / "a", {})


def test_no_credentials_go_along_a_redirect(server, tmp_path):
    url = server.url.replace("//", "//user:password@")
    Downloader(["127.0.0.1"]).fetch(f"{url}/redirect", tmp_path / "a", {"Authorization": "Bearer secret"})
    (first, sent), (second, sent_on) = server.asked
    assert (first, second) == ("/redirect", "/good")
    assert sent["authorization"] == "Bearer secret"
    assert "authorization" not in sent_on
    assert "password" not in str(server.asked)


def test_a_proxy_of_the_user_may_be_internal(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    _resolve(monkeypatch, {"pictures.example.org": None})  # known to the proxy alone
    server.answers["http://pictures.example.org/a%20b"] = "good"
    Downloader().fetch("http://pictures.example.org/a b", tmp_path / "a", {})
    assert (tmp_path / "a").read_bytes() == GOOD
    with pytest.raises(ReadError, match="internal host"):
        Downloader().fetch("http://10.0.0.1/a", tmp_path / "a", {})


def test_what_killed_downloads_left_is_removed_by_the_next(convert, server, tmp_path):
    (tmp_path / "photos").mkdir()
    assert convert(a=f"{server.url}/good").images == 1
    (whole,) = (tmp_path / "photos").iterdir()
    whole.rename(whole.with_name(f".{whole.stem}.1.part.png"))  # as a process that was killed leaves it
    assert convert(a=f"{server.url}/good").images == 1
    assert list((tmp_path / "photos").iterdir()) == [whole]


def test_a_folder_that_cannot_be_written_costs_the_missing_images(convert, server, tmp_path, monkeypatch):
    convert(b=f"{server.url}/good")
    monkeypatch.setattr("pathlib.Path.replace", _refuse)
    done = convert(a=f"{server.url}/good", b=f"{server.url}/good")
    assert (done.images, str(done.left_out[0]).partition(";")[0]) == (
        1,
        "a: found a, which cannot be written ([Errno 28] No space left on device)",
    )


KEYS_ALIKE = {
    "long": lambda i: (
        f"https://bucket.example.org/projects/thorax/2024/a/very/long/folder/of/pictures/of/patients/p{i}.png"
    ),
    "characters": lambda i: f"a{'/ -_.:'[i % 6]}b{i // 6}",
    "case": lambda i: f"{'Pp'[i % 2]}{i // 2}.png",
    "ending": lambda i: f"p{i // 2}{['', '.png'][i % 2]}",
    "reserved": lambda i: f"{['con', 'CON', 'con.', 'con..', 'Con ', 'nul.png'][i % 6]}{f'-{i // 6}' if i > 5 else ''}",
}


@pytest.mark.parametrize("key", KEYS_ALIKE.values(), ids=KEYS_ALIKE)
def test_images_with_names_alike_each_get_their_own_picture_and_get_it_once(convert, server, tmp_path, key):
    urls = {key(value): f"{server.url}/p{value}" for value in range(60)}
    for asked in (60, 60):
        done = convert(**urls)
        data = load_folder(tmp_path / "data")
        shown = {data.manifest.loc[name, "source"]: np.unique(data.image(i)) for i, name in enumerate(data.image_ids)}
        assert (done.images, len(server.asked)) == (60, asked)
        assert shown == {key(value): pytest.approx([value / 255]) for value in range(60)}
    assert len({path.name.casefold() for path in (tmp_path / "photos").iterdir()}) == 60


def _refuse(*_):
    raise OSError(28, "No space left on device")


def test_the_command_trusts_the_named_host_alone(convert, server, tmp_path, capsys):
    convert(a=f"{server.url}/good")
    (tmp_path / "photos" / next((tmp_path / "photos").iterdir()).name).unlink()
    command = [
        "convert",
        "labelbox",
        f"{tmp_path}/e.ndjson",
        "--images",
        f"{tmp_path}/photos",
        "--download",
        "--overwrite",
    ]
    assert main([*command, "--output", f"{tmp_path}/data"]) == 2
    assert "say --internal-host 127.0.0.1 if that host is yours" in capsys.readouterr().err
    assert main([*command, "--output", f"{tmp_path}/data", "--internal-host", "127.0.0.1"]) == 0
