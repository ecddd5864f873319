"""The pure pieces of the command line."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from controlplane.cli import dev, main, output, serving
from controlplane.cli.agent import Agent
from controlplane.cli.batch import read_lines
from controlplane.cli.client import Problem, Unreachable, refusal, server_url
from controlplane.cli.database import place
from controlplane.cli.environment import settings_with
from controlplane.cli.executions import _took
from controlplane.cli.failure import MEANING, ExitCode, Failure
from controlplane.cli.follow import Seen, progress_line, report
from controlplane.cli.next_step import as_command
from controlplane.cli.payload import json_or_text, read_input, read_json, submit_body
from controlplane.domain.explain import explain
from controlplane.domain.standing import Standing
from controlplane.settings import Settings
from tests.standings import SAMPLES

EXACT = '{"a": 1.10, "big": 123456789012345678901234567890, "a": [ ]}'


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine reaches a test."""
    for name in ("DATABASE_URL", "CONTROLPLANE_API_KEY", "CONTROLPLANE_SECRET_KEY", "CONTROLPLANE_SERVER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command that ran in here takes its log handler with it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_input_is_sent_byte_for_byte() -> None:
    """Numbers keep their digits, members their order and spaces, all the way into the body."""
    body = submit_body(read_input(EXACT, []), idempotency_key="k")

    assert EXACT.encode() in body


def test_input_comes_from_a_file(tmp_path: Path) -> None:
    """@file is read; the line end that editors add does not count."""
    (tmp_path / "input.json").write_text(EXACT + "\n")

    assert read_input(f"@{tmp_path / 'input.json'}", []) == EXACT.encode()


def test_no_input_is_an_empty_object() -> None:
    """A reasoner without arguments needs no --input."""
    assert read_input(None, []) == b"{}"


def test_pairs_are_put_into_the_input() -> None:
    """A pair overrules the member of the same name; the others stay as they were given."""
    raw = read_input('{"rate": 1.10, "name": "x"}', ["name=y", "n=2.50"])

    assert raw == b'{"rate":1.10,"name":"y","n":2.50}'


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("3", b"3"),
        ("1.50", b"1.50"),
        ("true", b"true"),
        ('["a"]', b'["a"]'),
        ('"3"', b'"3"'),
        ("a=b", b'"a=b"'),
        ("", b'""'),
        ("NaN", b'"NaN"'),
        ("01", b'"01"'),
        ("grün", '"grün"'.encode()),
    ],
)
def test_a_value_is_json_or_text(text: str, sent: bytes) -> None:
    """What is strict JSON is sent as it is, everything else as text."""
    assert json_or_text(text) == sent


@pytest.mark.parametrize("given", ["{", "[1]", "3", '{"a": NaN}', "@/nowhere", '{"a": "\ud800"}'])
def test_bad_input_is_a_failure(given: str) -> None:
    """Input that is no JSON object is refused before anything is sent."""
    with pytest.raises(Failure) as caught:
        read_input(given, [])

    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize("pair", ["name", "=x"])
def test_a_pair_needs_a_name_and_a_value(pair: str) -> None:
    """key=value, both halves."""
    with pytest.raises(Failure, match="key=value"):
        read_input(None, [pair])


def test_every_line_of_a_batch_has_a_key() -> None:
    """Made from the number of the line, unless it brings its own; the rest of it stays as it was given."""
    raw = b'{"target":"n.f","input":%b}\n\n {} \r\n{"idempotency_key":"mine"}' % EXACT.encode()

    lines = list(read_lines(raw, key="k"))

    assert lines == [
        (1, b'{"idempotency_key":"k-1","target":"n.f","input":%b}' % EXACT.encode()),
        (3, b'{"idempotency_key":"k-3"}'),
        (4, b'{"idempotency_key":"mine"}'),
    ]


@pytest.mark.parametrize("line", [b"{", b"[1]", b"3", b'{"a": NaN}', b"\xff"])
def test_a_line_that_is_no_object_is_a_failure(line: bytes) -> None:
    """It is named, and nothing is sent."""
    with pytest.raises(Failure, match="Line 2 is not") as caught:
        list(read_lines(b"{}\n" + line, key="k"))

    assert caught.value.code == ExitCode.USAGE


def test_a_secret_needs_its_webhook() -> None:
    """A secret that would sign nothing is a mistake."""
    with pytest.raises(Failure, match="--webhook URL"):
        submit_body(b"{}", idempotency_key="k", webhook_secret="s")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("http://[::1]:1/", "http://[::1]:1"),
        ("https://a.example/x/", "https://a.example/x"),
    ],
)
def test_addresses_of_servers(given: str, url: str) -> None:
    """What may be left out of an address is put in."""
    assert server_url(given) == url


@pytest.mark.parametrize("given", ["", "ftp://x", "http://", "http://[::1", "http://x:99999", "http://x:abc"])
def test_what_is_no_address(given: str) -> None:
    """What cannot be asked is a wrong use, not an outage."""
    with pytest.raises(Failure, match="not the address"):
        server_url(given)


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "malformed_json", ExitCode.USAGE),
        (401, "unauthorized", ExitCode.AUTH),
        (404, "target_not_found", ExitCode.NOT_FOUND),
        (409, "already_finished", ExitCode.CONFLICT),
        (422, "invalid", ExitCode.USAGE),
        (422, "idempotency_conflict", ExitCode.CONFLICT),
        (500, "error", ExitCode.INTERNAL),
        (503, "shutting_down", ExitCode.UNREACHABLE),
    ],
)
def test_every_refusal_has_its_exit_code(status: int, code: str, exit_code: ExitCode) -> None:
    """A script can tell what kind of refusal it was."""
    assert refusal(status, Problem(code=code, detail="No.")).code == exit_code


def test_a_refusal_says_what_and_how_to_go_on() -> None:
    """Subject, reason and next step stand in one line."""
    problem = Problem(code="target_not_found", detail="Nobody serves it.", where="path", fix="Did you mean a.b?")

    assert str(refusal(404, problem, about="a.c")) == "a.c: Nobody serves it. Did you mean a.b?"


def test_only_outages_are_tried_again() -> None:
    """503 passes by itself, 404 does not."""
    assert isinstance(refusal(503, Problem()), Unreachable)
    assert isinstance(refusal(429, Problem()), Unreachable)
    assert not isinstance(refusal(404, Problem()), Unreachable)


def test_controls_of_a_terminal_are_shown_not_obeyed() -> None:
    """A log line cannot colour, clear or turn around the screen; other scripts and emoji stay."""
    assert output.plain("a\x1b[31mb\u202ec\n😀 grün") == "a\\x1b[31mb\\u202ec\n😀 grün"


def test_a_result_is_printed_byte_for_byte(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """stdout has the result alone, as it came."""
    body = b'{"status":"succeeded","result":' + EXACT.encode() + b"}"
    report(Seen.of(body), "exec_1", as_json=False)

    assert capfdbinary.readouterr().out == EXACT.encode() + b"\n"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("failed", ExitCode.EXECUTION_FAILED),
        ("timeout", ExitCode.EXECUTION_FAILED),
        ("cancelled", ExitCode.CANCELLED),
    ],
)
def test_an_end_without_success_is_a_failure(status: str, code: ExitCode) -> None:
    """How an execution ended is the exit code."""
    body = b'{"status":"%b","error_message":"boom\\nand more"}' % status.encode()
    with pytest.raises(Failure, match="boom and more") as caught:
        report(Seen.of(body), "exec_1", as_json=False)

    assert caught.value.code == code


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        ('{"done":3,"total":10}', "3/10"),
        ('{"done":3,"message":"reading"}', "3 reading"),
        ('{"fraction":0.5}', "50%"),
        ("{}", None),
    ],
)
def test_progress_in_one_line(progress: str, line: str | None) -> None:
    """Whatever a node says of its progress, it is one line."""
    assert progress_line({"progress": msgspec.Raw(progress.encode())}) == line


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(8, "0.008 s"), (12_345, "12 s"), (150_000, "2 min 30 s"), (9_000_000, "2 h 30 min"), (None, None)],
)
def test_durations_read_well(milliseconds: int | None, shown: str | None) -> None:
    """Milliseconds and days are both readable."""
    assert _took(milliseconds) == shown


def test_a_dsn_is_shown_without_its_secrets() -> None:
    """Neither user nor password gets into a message."""
    assert place("postgresql://u:geheim@db.example:5433/cp?sslmode=require") == "db.example:5433/cp"


def test_an_open_address_needs_a_key() -> None:
    """The network is not let in without a key."""
    with pytest.raises(Failure, match="CONTROLPLANE_API_KEY"):
        serving.require_key_if_open(Settings(host="0.0.0.0"))
    serving.require_key_if_open(Settings(host="0.0.0.0", api_key="k"))
    serving.require_key_if_open(Settings(host="127.0.0.1"))


def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that has to be mended stands in the line."""
    monkeypatch.setenv("CONTROLPLANE_LEASE_SECONDS", "soon")

    with pytest.raises(Failure, match="CONTROLPLANE_LEASE_SECONDS"):
        settings_with()


def test_options_stand_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not given on the command line comes from the environment."""
    monkeypatch.setenv("CONTROLPLANE_PORT", "1234")
    monkeypatch.setenv("DATABASE_URL", "postgresql://environment")
    settings = settings_with(database_url="postgresql://given", port=None)

    assert (settings.database_url, settings.port) == ("postgresql://given", 1234)


def test_a_taken_port_is_a_conflict_or_passed_over() -> None:
    """serve insists on its port, dev takes the next."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(port=taken.getsockname()[1])
        with pytest.raises(Failure, match="taken") as caught:
            serving.listen(settings)
        with serving.listen(settings, next_free=True) as listener:
            url = serving.url_of(listener, settings)

    assert caught.value.code == ExitCode.CONFLICT
    assert url != f"http://127.0.0.1:{settings.port}"


def test_a_note_is_withdrawn_by_its_writer_only(tmp_path: Path) -> None:
    """A second dev in the same folder keeps its own."""
    note = tmp_path / "dev.json"
    dev._write(note, "http://127.0.0.1:1", None)
    written = json.loads(note.read_text())
    note.write_text(json.dumps(written | {"pid": written["pid"] + 1}))
    dev._withdraw(note)

    assert note.exists()


def test_the_death_of_an_agent_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The server goes on, so the line says how to run the agent again."""
    file = tmp_path / "agent.py"
    file.write_text("print('grün'); raise SystemExit(7)")
    agent = Agent(file)
    agent.start("http://127.0.0.1:1", api_key=None)
    agent.told.wait(10)
    agent.end()
    said = capfd.readouterr().err

    assert "agent | grün" in said
    assert (
        f"exit code 7). The server goes on; run it again: CONTROLPLANE_SERVER=http://127.0.0.1:1 python {file}" in said
    )


@pytest.mark.parametrize(
    ("fix", "said"),
    [
        ("Let it go on: POST /api/v1/resume.", "Let it go on: `controlplane resume --all`."),
        (
            "See it: GET /api/v1/executions/exec_1/attempts; once more: POST /api/v1/executions/exec_1/retry.",
            "See it: `controlplane executions attempts exec_1`; once more: `controlplane executions retry exec_1`.",
        ),
        (
            "Wait, or raise it: PUT /api/v1/limits/key:a/b.",
            "Wait, or raise it: `controlplane limits set key:a/b --concurrency-max N`.",
        ),
        ("Wait, or raise it: PUT /api/v1/limits/key:a b.", "Wait, or raise it: PUT /api/v1/limits/key:a b."),
        ("Decide it: https://people.example/r-1", "Decide it: https://people.example/r-1"),
    ],
)
def test_the_next_step_is_a_command(fix: str, said: str) -> None:
    """Where there is one that says the same; the rest of the sentence stays."""
    assert as_command(fix, lambda words: f"`controlplane {words}`") == said


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_every_next_step_has_a_command(sample: Standing) -> None:
    """No explanation leaves who reads it on the command line with a request to send by hand."""
    assert "/api/v1" not in as_command(explain(sample).fix or "", str)


def test_an_agent_that_does_not_drain_is_killed(tmp_path: Path) -> None:
    """A second Ctrl-C does not wait."""
    file = tmp_path / "agent.py"
    file.write_text("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); signal.pause()")
    agent = Agent(file)
    agent.start("http://127.0.0.1:1", api_key=None)
    ending = threading.Thread(target=agent.end)
    ending.start()
    agent.kill()
    ending.join(10)

    assert not ending.is_alive()


def test_a_reader_that_left_ends_the_command() -> None:
    """`controlplane … | head` ends without a word, as other programs do."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "controlplane", "generate-secret-key"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)

    assert (ended.returncode, ended.stderr) == (output.READER_LEFT, b"")


def test_help_imports_neither_server_nor_client() -> None:
    """--help answers at once."""
    heavy = "{'fastapi', 'httpx', 'asyncpg', 'sqlalchemy', 'pydantic'} & set(sys.modules)"
    code = f"import sys; from controlplane.cli import main; code = main(['--help']); sys.exit(code or str({heavy}))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ended.stderr.strip() == "set()"


def test_help_tells_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """A script's author finds the codes where they look first."""
    assert main(["--help"]) == ExitCode.OK

    shown = capsys.readouterr().out
    assert all(f"{code.value} {meaning}" in shown for code, meaning in MEANING.items())


@pytest.mark.parametrize(
    "arguments", [["bogus"], ["call"], ["call", "a.b", "--bogus"], ["executions"], ["serve", "--port", "x"]]
)
def test_wrong_use_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What was wrong, and where the right options are found."""
    assert main(arguments) == ExitCode.USAGE

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--help" in said


@pytest.mark.parametrize(
    ("arguments", "environment", "hint"),
    [
        (["serve"], {}, "controlplane dev"),
        (["serve"], {"DATABASE_URL": "postgresql://x/y"}, "generate-secret-key"),
        (["serve"], {"DATABASE_URL": "postgresql://x/y", "CONTROLPLANE_SECRET_KEY": "x"}, "kid:base64"),
        (["serve", "--host", "0.0.0.0"], {}, "CONTROLPLANE_API_KEY"),
        (["migrate"], {}, "DATABASE_URL"),
        (["migrate"], {"DATABASE_URL": "mysql://x/y"}, "scheme"),
        (["migrate"], {"DATABASE_URL": "postgresql://u:pa/ss@x/y"}, "cannot be parsed"),
        (["prune"], {}, "DATABASE_URL"),
        (["prune", "--dry-run"], {"CONTROLPLANE_KEEP_FAILED_DAYS": "0"}, "CONTROLPLANE_KEEP_FAILED_DAYS"),
        (["prune", "--dry-run"], {"CONTROLPLANE_KEEP_LOGS_DAYS": "soon"}, "CONTROLPLANE_KEEP_LOGS_DAYS"),
        (["prune", "--dry-run"], {"CONTROLPLANE_KEEP_DEAD_DAYS": "nan"}, "CONTROLPLANE_KEEP_DEAD_DAYS"),
        (["call", "batch"], {}, "node_id.reasoner_name"),
        (["executions", "show", "../nodes"], {}, "exec_"),
        (["dev", "nowhere.py"], {}, "nowhere.py"),
        (["dev", "--host", "0.0.0.0"], {}, "CONTROLPLANE_API_KEY"),
    ],
)
def test_what_is_missing_is_named_with_the_next_step(
    arguments: list[str],
    environment: dict[str, str],
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing starts half configured, and the line says what to do."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert main(arguments) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert hint in said
    assert "pa/ss" not in said
    assert said.count("\n") == 1


def test_webhook_headers_are_pairs() -> None:
    """They go with the webhook, and what is no pair is refused."""
    body = json.loads(submit_body(b"{}", idempotency_key="k", webhook_url="http://h", webhook_headers=["A=b=c", "D=e"]))

    assert body["webhook"] == {"url": "http://h", "headers": {"A": "b=c", "D": "e"}}
    for said in ("A", "=b"):
        with pytest.raises(Failure, match="name=value"):
            submit_body(b"{}", idempotency_key="k", webhook_url="http://h", webhook_headers=[said])


def test_an_option_that_is_json() -> None:
    """As the bytes it is; what is none names the option."""
    assert read_json(' {"a": 1.10}', "--retry") == b'{"a": 1.10}'
    with pytest.raises(Failure, match="--retry is not JSON"):
        read_json("{", "--retry")
