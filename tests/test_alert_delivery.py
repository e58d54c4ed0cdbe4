"""Laws of the delivery of alerts: signed, at least once, in order, and told when it fails."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools import PATIENCE_S

from correnteza.alerts import signing
from correnteza.alerts.delivery import KEPT, Message, Outbox, Undelivered, message, to_command, to_webhook
from correnteza.alerts.signing import HEADER, KEY_HEADER, load_key, signature, verified
from correnteza.alerts.state import Alert, Notification
from correnteza.alerts.watcher import Watcher, watcher
from correnteza.config import Condition, Settings
from correnteza.errors import ConfigError

from .ports import free_ports

KEY = b"a secret of both"
LAG = Condition(name="lag", metric="correnteza_stage_lag_rows", comparison=">", threshold=100, meaning="it is slow")
ALERT = Alert(("lag", "trainer", (("stage", "learner"),)), LAG, 250.0, 60.0)


class Events:
    """What was told, and a way to wait for it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._news = threading.Condition()

    def __call__(self, kind: str, level: str = "info", **detail: Any) -> None:
        with self._news:
            self.told.append((kind, detail))
            self._news.notify_all()

    def wait(self, kind: str) -> dict[str, Any]:
        """The first event of a kind."""
        with self._news:
            assert self._news.wait_for(lambda: any(kind == one for one, _ in self.told), PATIENCE_S), (kind, self.told)
            return next(detail for one, detail in self.told if one == kind)


class Receiver:
    """A webhook that answers with these codes, one after the other, then with 204."""

    def __init__(self, *codes: int) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""
        self._codes = list(codes)
        self._news = threading.Condition()

    def take(self, headers: dict[str, str], body: bytes) -> int:
        with self._news:
            self.requests.append((headers, body))
            self._news.notify_all()
            return self._codes.pop(0) if self._codes else 204

    def wait(self, requests: int) -> None:
        """Until there are so many requests."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.requests) >= requests, PATIENCE_S), self.requests


@contextmanager
def receiving(*codes: int) -> Iterator[Receiver]:
    """A webhook on a free port."""
    receiver = Receiver(*codes)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(receiver.take(dict(self.headers), body))
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def delivering(
    deliver: Callable[[Message], None], clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[Outbox, Events]]:
    """An outbox that tries again at once."""
    told = Events()
    outbox = Outbox("webhook", deliver, told, first_pause_s=0.001, clock=clock)
    outbox.start()
    try:
        yield outbox, told
    finally:
        outbox.stop()


def a_message(name: str = "first") -> Message:
    return Message(name, json.dumps({"key": name}).encode(), time.monotonic())


# Webhook


def test_a_message_is_signed_and_tried_again_under_one_key_until_it_is_taken() -> None:
    with receiving(500, 429, 503) as receiver, delivering(to_webhook(receiver.url, KEY)) as (outbox, told):
        outbox.put(a_message("one"))
        outbox.put(a_message("two"))
        receiver.wait(5)
    assert [headers[KEY_HEADER] for headers, _ in receiver.requests] == ["one", "one", "one", "one", "two"]
    for headers, body in receiver.requests:
        assert verified(KEY, body, headers[HEADER], time.time())
        assert json.loads(body)["key"] == headers[KEY_HEADER]
        assert headers["Content-Type"] == "application/json"
    assert told.told == []


@pytest.mark.parametrize("code", [301, 400, 404, 410])
def test_a_refusal_for_good_is_told_and_the_next_message_goes_on(code: int) -> None:
    """A redirection too: nothing is posted to an address that was not configured."""
    with receiving(code) as receiver, delivering(to_webhook(receiver.url, KEY)) as (outbox, told):
        outbox.put(a_message("one"))
        outbox.put(a_message("two"))
        receiver.wait(2)
        lost = told.wait("alert_not_delivered")
    assert (lost["key"], lost["reason"]) == ("one", f"webhook: it answered {code}")
    assert [headers[KEY_HEADER] for headers, _ in receiver.requests] == ["one", "two"]


def test_a_message_that_nobody_takes_is_given_up_when_it_is_old_and_its_address_is_not_told() -> None:
    clock = iter([0.0, 10.0, 3599.0, 1e6])
    with delivering(to_webhook("http://127.0.0.1:9/secret", KEY), lambda: next(clock)) as (outbox, told):
        outbox.put(Message("one", b"{}", 0.0))
        lost = told.wait("alert_not_delivered")
    assert lost["reason"] == "webhook: no answer: ConnectionError"
    assert next(clock, None) is None


def test_more_messages_than_are_kept_push_out_the_oldest_and_that_is_told() -> None:
    entered, go_on, taken = threading.Event(), threading.Event(), list[str]()

    def deliver(one: Message) -> None:
        entered.set()
        assert go_on.wait(PATIENCE_S)
        taken.append(one.key)

    with delivering(deliver) as (outbox, told):
        outbox.put(a_message("held"))
        assert entered.wait(PATIENCE_S)
        for number in range(KEPT + 2):
            outbox.put(a_message(str(number)))
        assert [detail["key"] for _, detail in told.told] == ["0", "1"]
        go_on.set()
    assert taken == ["held", *map(str, range(2, KEPT + 2))]


def test_a_fault_of_our_own_does_not_end_the_delivery() -> None:
    def deliver(one: Message) -> None:
        if one.key == "bad":
            raise ZeroDivisionError("oh")
        taken.set()

    taken = threading.Event()
    with delivering(deliver) as (outbox, told):
        outbox.put(a_message("bad"))
        outbox.put(a_message("good"))
        assert taken.wait(PATIENCE_S)
    assert told.wait("alert_not_delivered")["reason"] == "webhook: ZeroDivisionError: oh"


# Signature


@given(st.binary(max_size=50), st.binary(max_size=50), st.integers(0, 2**33))
def test_a_signature_holds_for_its_body_its_key_and_its_time_only(body: bytes, other: bytes, unix_s: int) -> None:
    header = signature(KEY, body, unix_s)
    assert verified(KEY, body, header, unix_s + signing.TOLERANCE_S)
    assert not verified(KEY, body, header, unix_s + signing.TOLERANCE_S + 1)
    assert verified(KEY, other, header, unix_s) == (other == body)
    assert not verified(KEY + b"x", body, header, unix_s)
    assert not verified(KEY, body, header.replace(f"t={unix_s}", f"t={unix_s + 1}"), unix_s)


def test_the_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "data" / "alerts.key"
    key = load_key(path, make=True)
    assert load_key(path, make=True) == key == path.read_bytes().strip()
    assert (len(key), stat.S_IMODE(path.stat().st_mode)) == (64, 0o600)
    with pytest.raises(ConfigError, match=r"webhook_key_file.*nowhere"):
        load_key(tmp_path / "nowhere", make=False)
    path.write_text(" \n")
    with pytest.raises(ConfigError, match="is empty"):
        load_key(path, make=False)


# Command


def test_a_command_reads_the_message_and_no_shell_reads_its_arguments(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read() + sys.argv[2].encode())"
    to_command([sys.executable, "-c", program, str(out), "; $(x)"])(Message("k", b'{"a": 1}', 0.0))
    assert out.read_bytes() == b'{"a": 1}; $(x)'


@pytest.mark.parametrize(
    ("command", "reason", "final"),
    [
        ([sys.executable, "-c", "import sys; sys.exit('too bad')"], "exit code 1: too bad", False),
        (["/nowhere/program"], "No such file or directory", True),
    ],
)
def test_a_command_that_fails_says_why(command: list[str], reason: str, final: bool) -> None:
    with pytest.raises(Undelivered, match=reason) as raised:
        to_command(command)(Message("k", b"", 0.0))
    assert raised.value.final == final


# Messages


def test_a_message_says_what_fires_where_since_when_and_has_a_key_of_its_own() -> None:
    notification = Notification((ALERT,), (), 2)
    made = message(notification, "people", 1_700_000_000.0, 5.0)
    told = json.loads(made.body)
    assert told["text"] == (
        "people: FIRING lag (trainer, stage=learner): it is slow [correnteza_stage_lag_rows is 250; alerts at > 100]; "
        "2 more still firing"
    )
    (fires,) = told["firing"]
    assert (fires["since"], told["at"]) == ("2023-11-14T22:12:20.000Z", "2023-11-14T22:13:20.000Z")
    assert (fires["labels"], fires["threshold"], told["resolved"]) == ({"stage": "learner"}, 100.0, [])
    assert message(notification, "people", 1_700_000_000.0, 9.0).key == made.key == told["key"]
    assert message(notification, "people", 1_700_000_001.0, 5.0).key != made.key


# The watcher


def test_a_service_that_dies_and_comes_back_is_two_signed_messages(tmp_path: Path) -> None:
    down = {"name": "service_down", "metric": "up", "comparison": "<", "threshold": 1, "for_s": 0}
    with receiving() as receiver:
        alerts = {"webhook": receiver.url, "group_s": 0, "every_s": 0.1, "conditions": [down]}
        settings = Settings(pipeline={"data_dir": tmp_path}, services={"port_base": 21_280}, alerts=alerts)
        dead, told = {"normalizer"}, Events()

        def fetch(url: str) -> str:
            if settings.services.url("normalizer") in url and dead:
                raise ConnectionError
            return ""

        watching = Watcher(settings, told, watcher(settings, told)._outboxes, fetch=fetch)
        watching.start()
        try:
            receiver.wait(1)
            dead.clear()
            receiver.wait(2)
        finally:
            watching.stop()
    bodies = [json.loads(body) for _, body in receiver.requests]
    assert [[a["service"] for a in body["firing"]] for body in bodies] == [["normalizer"], []]
    assert [[a["service"] for a in body["resolved"]] for body in bodies] == [[], ["normalizer"]]
    key = (tmp_path / "alerts.key").read_bytes().strip()
    assert all(verified(key, body, headers[HEADER], time.time()) for headers, body in receiver.requests)
    assert [kind for kind, _ in told.told] == ["alert_firing", "alert_resolved"]


def test_nothing_is_concluded_once_it_is_asked_to_stop(tmp_path: Path) -> None:
    down = {"name": "service_down", "metric": "up", "comparison": "<", "threshold": 1, "for_s": 0}
    told = Events()
    settings = Settings(pipeline={"data_dir": tmp_path}, alerts={"conditions": [down]})

    def stopping(_: str) -> str:
        watching.ask_to_stop()
        raise ConnectionError

    watching = Watcher(settings, told, (), fetch=stopping)
    watching.look()
    assert told.told == []


def test_the_command_alone_watches_until_it_is_interrupted_though_run_should_not(tmp_path: Path) -> None:
    toml = tmp_path / "correnteza.toml"
    toml.write_text(
        f"""
[pipeline]
data_dir = "{tmp_path}"

[services]
port_base = {free_ports()}
log_format = "json"

[alerts]
enabled = false
every_s = 0.1
command = [{sys.executable!r}, "-c", "import sys; open({str(tmp_path / "told")!r}, 'a').write(sys.stdin.read())"]

[[alerts.conditions]]
name = "service_down"
metric = "up"
comparison = "<"
threshold = 1
for_s = 0
labels = {{ service = "trainer" }}
"""
    )
    command = [sys.executable, "-m", "correnteza", "alerts", "--config", str(toml)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
    assert [line["event"] for line in lines] == ["watching", "alert_firing"]
    assert [a["service"] for a in json.loads((tmp_path / "told").read_text())["firing"]] == ["trainer"]
