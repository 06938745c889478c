"""What is shown of passwords, of characters that steer a terminal, and of texts that look like formulas."""

from __future__ import annotations

import base64
import io
import time

import pandas as pd
import pytest
from rich.console import Console

from irrbench._display import (
    SafeConsole,
    hidden_keys,
    hide_in_command,
    hide_secrets,
    printable,
    to_csv,
    without_password,
    without_secrets,
)
from irrbench._files import read_frame, write_frame

HIDDEN = [
    ("https://me:secret@host:5000/base", "https://PASSWORD@host:5000/base"),
    ("https://secret@host", "https://PASSWORD@host"),
    ("HTTPS://me:secret@[::1]:5000/", "HTTPS://PASSWORD@[::1]:5000/"),
    ("https://host/?token=secret&x=1", "https://host/?token=PASSWORD&x=1"),
    ("https://host?%70assword=secret", "https://host?%70assword=PASSWORD"),
    ("postgresql://me:se/cr@et:x@host/db", "postgresql://me:PASSWORD@host/db"),
    ("postgresql://me:se?cret@host/db", "postgresql://me:PASSWORD@host/db"),
    ("postgresql://me:s%40cret@host/db?sslpassword=secret", "postgresql://me:PASSWORD@host/db?sslpassword=PASSWORD"),
    ("postgresql+psycopg2://me:secret@[::1]:5432/db", "postgresql+psycopg2://me:PASSWORD@[::1]:5432/db"),
    ("postgresql://host/db?user=me@corp&password=se@cret/x", "postgresql://host/db?user=me@corp&password=PASSWORD"),
    ("mysql+pymysql://host/db?pwd=secret", "mysql+pymysql://host/db?pwd=PASSWORD"),
    ("mysql+pymysql://host/db?user=me&passwd=secret", "mysql+pymysql://host/db?user=me&passwd=PASSWORD"),
    ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret", "mssql+pyodbc:///?odbc_connect=PASSWORD"),
    ("ftp://me:secret@host/mlruns", "ftp://me:PASSWORD@host/mlruns"),
    ("--tracking-uri=https://me:secret@host", "--tracking-uri=https://PASSWORD@host"),
    *((f"http://host/?{name}=secret", f"http://host/?{name}=PASSWORD") for name in ("key", "auth", "jwt", "bearer")),
    ("https://host/#token=secret", "https://host/#token=PASSWORD"),
    ("mssql+pyodbc://host/db?driver=x;PWD=se;cret", "mssql+pyodbc://host/db?driver=x;PWD=PASSWORD"),
    ("mssql+pyodbc:///?driver=x%3BPWD%3Dsecret", "mssql+pyodbc:///?driver=x%3BPWD%3DPASSWORD"),
    ("postgresql:///db?options=-c%20password%3Dsecret", "postgresql:///db?options=-c%20password%3DPASSWORD"),
    # without a scheme, or with less than one
    ("me:secret@host/db", "me:PASSWORD@host/db"),
    ("me:se/cr@et@host/db", "me:PASSWORD@host/db"),
    ("//me:secret@host/db", "//me:PASSWORD@host/db"),
    ("http:/me:secret@host", "http:/PASSWORD@host"),
    ("http:///me:secret@host", "http:///PASSWORD@host"),
    ("http:me:secret@host", "http:PASSWORD@host"),
    ("postgresql:me:secret@host/db", "postgresql:PASSWORD@host/db"),
    ("postgresql:/me:secret@host/db", "postgresql:PASSWORD@host/db"),
]
SHOWN = [
    *("http://127.0.0.1:5000", "http://host:5000/x@y", "http://[::1]:5000/", "postgresql://me@host/db", "databricks"),
    *(
        "postgresql://me:@host/db",
        "sqlite:////data/me@home:x@y/mlflow.db",
        "sqlite:///a@b.db",
        "file:///home/me@x/runs",
    ),
    *("s3://bucket/a:b@c", "/home/me@x:y@z/mlruns", "tcp://host:8786", "postgresql://host/db?sslkey=/etc/client.key"),
    *(
        "http://host/?keyspace=x&monkey=y&author=z",
        "me@host:5000/db",
        "host:5000",
        "outputs/me:x@y",
        "file:/runs/a:b@c",
    ),
    "C:\\runs\\me@x",
]


@pytest.mark.parametrize(("address", "shown"), [*HIDDEN, *((address, address) for address in SHOWN)])
def test_an_address_is_shown_without_its_password(address, shown):
    assert without_password(address) == shown
    assert without_password(shown) == shown


def test_a_message_names_no_password_in_any_form():
    address = "postgresql://me:p%2Fw@rd%20x@host/db?sslpassword=inner%3Dpart"
    pair = base64.b64encode(b"me:tok3n").decode()
    for said, shown in (
        (f"{address} is shut", "postgresql://me:PASSWORD@host/db?sslpassword=PASSWORD is shut"),
        ("host 'rd%20x@host'", "host 'PASSWORD@host'"),
        ("password 'p/w@rd x' and p%2Fw%40rd%20x", "password 'PASSWORD' and PASSWORD"),
        ("inner=part, inner%3Dpart", "PASSWORD, PASSWORD"),
        ("other: ftp://you:hidden@host/x", "other: ftp://you:PASSWORD@host/x"),
        ("me and a wardrobe stay", "me and a wardrobe stay"),
    ):
        assert hide_secrets(said, address) == shown
    assert hide_secrets("no host 'rd@host'", "mysql://me:abcdef@rd@host") == "no host 'PASSWORD@host'"
    assert hide_secrets(f"Authorization: Basic {pair}", "https://me:tok3n@host") == "Authorization: Basic PASSWORD"


OURS = (
    "data1: 16 images of 3 raters; mlflow store at 127.0.0.1:5432; test iou 0.1234, path /home/data/test/images, an "
    "admin (--data=data, seed=1234), sqlite:///mlflow.db; run `/bin/mlflow db upgrade data`; data-1; unet2/net1.csv"
)
COMMON = ["mlflow", "data", "test", "1234", "5432", "iou", "images", "admin", "a", "net1", "as", "db"]


@pytest.mark.parametrize("word", COMMON)
def test_a_common_word_as_password_ruins_no_message_and_is_hidden_where_it_is_meant(word, monkeypatch):
    address = f"postgresql://me:{word}@host/base"
    assert hide_secrets(OURS, address) == OURS
    said = f"{address}: password {word!r}, Password: {word}, Bearer {word}, password={word}; unknown host {word}@host"
    shown = said.replace(f":{word}@", ":PASSWORD@").replace(f"'{word}'", "'PASSWORD'").replace(f" {word}", " PASSWORD")
    shown = shown.replace(f"={word}", "=PASSWORD")
    assert hide_secrets(said, address) == shown
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", word)
    assert hide_secrets(OURS) == OURS
    assert hide_secrets(said) == shown if len(word) > 3 else hide_secrets(said)


def test_a_password_that_the_address_shows_anyway_is_masked_in_the_address_alone():
    address = "postgresql://mlflow:mlflow@host/mlflow"
    said = f"{address}: role 'mlflow' of \"mlflow\" is unknown: `mlflow db upgrade`"
    assert hide_secrets(said, address) == said.replace(address, "postgresql://mlflow:PASSWORD@host/mlflow")


@pytest.mark.parametrize(
    "secret", ["hunter2", "mlflow2024", "Zq9xS", "correcthorsebatterystaple", "t0k3n", "a-b", "p/w", "12345678901"]
)
def test_a_password_that_is_no_common_word_is_hidden_in_any_sentence(secret):
    for said in (f"FATAL: {secret} is wrong", f"({secret})", f"no {secret}, {secret}.", f"me:{secret}"):
        assert hide_secrets(said, f"postgresql://me:{secret}@host/base") == said.replace(secret, "PASSWORD")


def test_what_a_text_gives_by_the_name_of_a_secret_is_hidden():
    for said, shown in (
        ("found '{password: secret, n: 1}'", "found '{password: PASSWORD, n: 1}'"),
        ('{"n": 1, "api_key":"se cret"}', '{"n": 1, "api_key":PASSWORD}'),
        ("line 3:\n  hf_token: secret\n", "line 3:\n  hf_token: PASSWORD\n"),
        ("DRIVER=x;UID=me;PWD=secret;", "DRIVER=x;UID=me;PWD=PASSWORD;"),
        ("Net(credentials={'user': 'me', 'value': 'secret'})", "Net(credentials=PASSWORD"),
        ("  - password: two words, n: 1", "  - password: PASSWORD, n: 1"),
        ("no store at 'http//me:secret@host:5000'", "no store at 'http//PASSWORD@host:5000'"),
    ):
        assert hide_secrets(said) == shown
    for said in (
        "invalid token: it is too old",
        "runs/token=5/x",
        "seed=1",
        "monkey=1, keyspace: x",
        "{n_tokens: 5}",
        "options.password: found 5",
        "bypass=True, low_pass=0.5, nsig=3, token=7, {pass: 3, fail: 1}, self.cls_token=nn.Parameter(x), password=None",
        "def forward(self, x, token: Tensor, password: None)",
    ):
        assert hide_secrets(said) == said


@pytest.mark.parametrize("piece", ["a", "a.", "x=1&", "?a", "{", "{password", " - ", "_secret", "http//me:x@h "])
def test_a_text_of_any_length_is_read_once(piece):
    """A store may answer with anything: no pattern looks at a character again and again."""
    text = f"http://host?{piece * (200_000 // len(piece))}"
    begin = time.process_time()
    hide_secrets(text)
    without_password(text)
    assert time.process_time() - begin < 5  # quadratic: minutes


def test_plain_values_are_shown_without_secrets():
    values = {
        "address": "me:secret@host",
        "labels": ["rater:anna@clinic.org", "soft"],
        "options": {"password": 5, "nested": [{"api_key": "secret", "tls": True}], "credentials": {"user": "secret"}},
        "init_args": {
            "max_token": 512,
            "low_pass": 2.5,
            "key": "image",
            "url": "ftp://me:secret@host",
            "token": None,
            "side": (1, 2),
        },
    }
    hidden = {"password": "PASSWORD", "nested": [{"api_key": "PASSWORD", "tls": True}]}
    assert without_secrets(values) == {
        "address": "me:PASSWORD@host",
        "labels": values["labels"],
        "options": {**hidden, "credentials": {"user": "PASSWORD"}},
        "init_args": {**values["init_args"], "url": "ftp://me:PASSWORD@host"},
    }
    assert list(hidden_keys({"options": hidden})) == ["options.password", "options.nested.0.api_key"]


def test_a_value_in_yaml_is_noted_without_its_secrets_and_names_of_models_are_kept():
    models = "[{class_path: a.Net, init_args: {n: 1, password: two words, credentials: {user: me, value: secret}}}]"
    hidden = (
        "[{class_path: a.Net, init_args: {n: 1, password: PASSWORD, credentials: {user: PASSWORD, value: PASSWORD}}}]"
    )
    assert hide_in_command(["--models", models, "--labels", "[ soft ]"]) == ["--models", hidden, "--labels", "[ soft ]"]
    assert hide_in_command(["--options", "{password: [secret"]) == ["--options", "PASSWORD"]
    named = ["--predictions", "two-pass=preds", "--predictions=my-secret=preds"]
    assert hide_in_command(named) == named


def test_secrets_of_the_environment_are_in_no_message(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0k3n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc/def")
    assert hide_secrets("Bearer t0k3n, signed with abc/def") == "Bearer PASSWORD, signed with PASSWORD"
    assert hide_secrets("signed with abc%2Fdef") == "signed with PASSWORD"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    pair = base64.b64encode(b"me:t0k3n").decode()
    assert hide_secrets(f"Authorization: Basic {pair}") == "Authorization: Basic PASSWORD"


def test_a_command_is_noted_without_secrets():
    typed = ["train.py", "--token", "secret", "--seed", "1", "--api_key=secret", "uri=ftp://a:b@c", "--password", "-v"]
    assert hide_in_command(typed) == [
        *("train.py", "--token", "PASSWORD", "--seed", "1", "--api_key=PASSWORD", "uri=ftp://a:PASSWORD@c"),
        *("--password", "-v"),
    ]
    typed = [
        "--executor_options",
        "{password: secret, n: 1}",
        "--tracking-uri",
        "me:secret@host",
        "--labels",
        "rater:a@b",
    ]
    assert hide_in_command([*typed, "--x={api_key: secret}", "model.token=secret", "--url=//me:secret@host"]) == [
        *("--executor_options", "{password: PASSWORD, n: 1}", "--tracking-uri", "me:PASSWORD@host"),
        *("--labels", "rater:a@b", "--x={api_key: PASSWORD}", "model.token=PASSWORD", "--url=//me:PASSWORD@host"),
    ]


NAMES = ["\x1b[2J\x1b]0;owned\x07", "a\rb", "\u202egnp.exe", "[red]r[/]", "[/]", ":smile:", "\x9b31m", "\udcff", "ü漢"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_steers_no_terminal_and_is_no_markup(name):
    stream = io.StringIO()
    console = SafeConsole(file=stream, force_terminal=True, color_system=None, width=200)
    console.print(name, f"in a sentence: {name}")
    lines = stream.getvalue()
    lines.encode()  # the half of a character cannot be written
    assert not set(lines) & set("\x07\x1b\r\x9b\u202e")
    visible = printable(name.replace("\x07", "").replace("\r", ""))  # rich drops these itself
    assert lines == f"{visible} in a sentence: {visible}\n"


def test_an_isolated_name_stays_isolated():
    text = "\N{FIRST STRONG ISOLATE}\N{HEBREW LETTER ALEF}\N{POP DIRECTIONAL ISOLATE}, line\n\tline"
    assert printable(text) == text


def test_texts_that_look_like_formulas_are_texts_and_come_back(tmp_path):
    plain, wide = ["=cmd|'/c calc'!A1", "'=x", "''=y", "'quoted", "-a", "+b", "@sum(a)"], "\N{FULLWIDTH EQUALS SIGN}1"
    texts = [*plain, wide, "\ta", "\ra", "a\rb", "-5", "+1e3", "'-5", "007", "NA", ""]
    table = pd.DataFrame({"image_id": texts, "score": [-0.5] * len(texts), "=h": [True] * len(texts)})
    written = to_csv(table).replace('"', "")
    starts = [line[0] for line in written.split("\n")[1 : len(plain) + 4]]
    assert starts == ["'"] * len(starts)
    assert written.partition("\n")[0] == "image_id,score,'=h"
    assert ",-0.5," in written
    pd.testing.assert_frame_equal(read_frame(write_frame(tmp_path / "t.csv", table)), table, check_dtype=False)


def test_a_plain_console_would_have_failed():
    with pytest.raises(Exception, match="closing tag"):
        Console(file=io.StringIO()).print("[/]")
