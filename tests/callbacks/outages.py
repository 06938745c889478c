"""Servers that misbehave, a training to watch them by, and what has arrived in a store."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import torch

from irrbench.callbacks import RaterBoundsMonitor, SpoolingMLFlowLogger
from irrbench.tracking import delivery as deliveries
from irrbench.tracking.queues import Queues
from irrbench.tracking.server import local_server
from irrbench.tracking.store import absolute_uri
from tests.callbacks.toys import Module, loader, trainer

EPOCHS = 6


class Logging(Module):
    """Logs a loss of its own at every step."""

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        self.log("train/loss", loss)
        return loss


def train(path, uri, *, callbacks=(), epochs=EPOCHS, name="fit", logger=None, **options):
    """Train with both: the monitor and the user's own metrics and hyperparameters."""
    logger = logger or SpoolingMLFlowLogger("toys", name, uri, {"who": "me"}, **options)
    watcher = RaterBoundsMonitor("masks", roi="roi", image_id="id", image="image", num_panels=1, print_link=False)
    torch.manual_seed(0)
    module = Logging()
    logger.log_hyperparams({"lr": 0.01, "net": {"width": 4}})
    run = trainer([watcher, *callbacks], path, max_epochs=epochs, logger=logger)
    run.fit(module, loader(), loader())
    run.test(module, loader(seed=3), verbose=False)
    assert len(watcher.history) == epochs + 1


def arrived(uri):
    """By run: points, parameters, tags, artifacts, data sets; without what differs between two equal trainings."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("toys")
    found = {}
    for run in client.search_runs([experiment.experiment_id]):
        run_id = run.info.run_id
        points = {
            key: sorted((p.step, p.value) for p in client.get_metric_history(run_id, key)) for key in run.data.metrics
        }
        folders = ("", "images", "per_image")
        files = sorted(
            re.sub(r"timestamp\+\d+\+[0-9a-f-]{36}", "T", file.path)
            for folder in folders
            for file in client.list_artifacts(run_id, folder)
        )
        tags = {key: value for key, value in run.data.tags.items() if "run_key" not in key}
        data = sorted((i.dataset.digest, i.tags[0].value) for i in run.inputs.dataset_inputs)
        assert run.info.run_name not in found, "each run once"
        found[run.info.run_name] = (points, run.data.params, tags, files, data, run.info.status)
    return found


def count_points(found):
    return sum(len(points) for run in found.values() for points in run[0].values())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """An MLflow server that can be killed and come back at the same address."""

    def __init__(self, folder):
        self.store, self.port = f"sqlite:///{folder / 'mlflow.db'}", free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._context = None

    def start(self):
        self._context = local_server(self.store, host="127.0.0.1", port=self.port)
        self._process = self._context.__enter__()

    def kill(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self):
        if self._context is not None:
            self._context.__exit__(None, None, None)


@contextmanager
def nobody():
    """An address at which nothing listens."""
    yield f"http://127.0.0.1:{free_port()}"


@contextmanager
def silent_listener():
    """Accepts every connection and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def serving(answer):
    """A server for whose every request a function is called with its handler."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self)

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def slow_server(seconds):
    """Says that it is well, and takes its time for everything else."""

    def answer(request):
        if request.path != "/health":
            time.sleep(seconds)
        request.send_response(200 if request.path == "/health" else 503)
        request.end_headers()

    with serving(answer) as uri:
        yield uri


@contextmanager
def answering(code, body):
    """Answers everything alike."""

    def answer(request):
        request.send_response(code)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body.encode())

    with serving(answer) as uri:
        yield uri


@contextmanager
def locked(database):
    """Holds the only key to an sqlite file."""
    connection = sqlite3.connect(database)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


def forget(uri, spool):
    """End this process's delivery as a crash would: records and folders stay, locks open, nothing more is sent."""
    delivery = deliveries.delivery_for(absolute_uri(uri), spool)
    with delivery._changed:
        delivery._queues = Queues()
        delivery._changed.wait_for(lambda: delivery._worker not in delivery._sending, deliveries.ASK_SECONDS + 1)
        for session in filter(None, [delivery._session, *delivery._inherited]):
            session._lock.release()
    del deliveries._deliveries[os.getpid(), absolute_uri(uri), spool]
