"""Every benchmark still runs, on tiny sizes. What it measured is not judged: a test must not depend on speed."""

import importlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as everything
from bench import compare
from bench.check import check
from bench.load import Client, Load
from bench.peers.peer import NotInstalledError, Peer
from bench.picture import bars
from bench.publisher import Publication, answer_bytes
from bench.report import Column, Report
from bench.target import Target
from bench.wire import Step, data_of, server_frame, text_frame

ROOT = Path(__file__).parent.parent
TINY = {
    "core": ["--seconds", "0.001", "--kept", "1"],
    "limit": ["--clients", "3", "--triggers", "2"],
    "fanout": ["--clients", "3", "--triggers", "4", "--publishers", "1,2"],
    "rooms": ["--rooms", "3", "--publishers", "2", "--triggers", "6", "--batched-triggers", "12", "--batch", "3"],
    "connect": ["--clients", "5", "--publishing", "1"],
    "recover": ["--clients", "5", "--rooms", "2", "--missed", "3"],
    "memory": ["--clients", "3", "--cases", "shared room"],
    "ping": ["--clients", "3", "--triggers", "4", "--publishers", "2", "--quiet-seconds", "0.1", "--kept", "1"],
    "soak": ["--seconds", "1", "--clients", "3", "--quiet-seconds", "1.5"],
    "slow": ["--clients", "3", "--triggers", "3", "--rate", "50"],
    "compare": [
        *("--peers", "gateway", "broadcast", "--clients", "3", "--triggers", "2"),
        *("--publishers", "2", "--rooms", "2", "--room-triggers", "4"),
    ],
}


def run(script: str, folder: Path) -> Any:
    """Run a script as a person does; return what it wrote."""
    file = folder / f"{script}.json"
    command = [sys.executable, "-m", f"bench.{script}", *TINY[script], "--runs", "1", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(script)
    assert "FAULTS" not in done.stdout
    return json.loads(file.read_text())


@pytest.mark.parametrize("script", sorted(TINY))
def test_a_script_runs_and_writes_its_figures(script: str, tmp_path: Path) -> None:
    written = run(script, tmp_path)
    assert written["script"] == script
    assert written["runs"]
    assert {"when", "commit", "machine", "versions", "parameters", "median_min_max"} <= written.keys()
    for runs in written["runs"].values():
        assert len(runs) == 1
        assert all(not one.get(fault) for one in runs for fault in ("lost", "duplicated", "disordered", "strange"))


def test_the_command_that_runs_everything_knows_every_script() -> None:
    assert set(everything.SCRIPTS) == set(TINY)


def test_the_command_that_runs_everything_runs_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(everything.SCRIPTS, "core", ["--runs", "1", *TINY["core"]])
    assert everything.main(["--quick", "--only", "core", "--json", str(tmp_path)]) == 0
    assert (tmp_path / "core.json").exists()


@pytest.mark.parametrize("peer", ["socketio", "channels", "high_templar_2", "high_templar_3", "centrifugo"])
def test_a_peer_that_is_not_installed_says_what_is_missing(
    peer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.peers.peer.ENVIRONMENTS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    module = importlib.import_module(f"bench.peers.{peer}")
    with pytest.raises(NotInstalledError, match=r"apt-get install|--install|on the PATH"), module.PEER.start(1):
        pass


def test_compare_skips_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(_clients: int) -> AbstractContextManager[Target]:
        raise NotInstalledError("no such server")

    monkeypatch.setattr(compare, "pin_generator", lambda: None)
    monkeypatch.setitem(compare.PEERS, "nchan", Peer("nchan", start))
    compare.main(["--peers", "nchan", "--clients", "2", "--triggers", "2", "--runs", "1"])
    assert "skipped nchan: no such server" in capsys.readouterr().out


def received(*numbers: tuple[int, int]) -> Client:
    client = Client(Load(), ("127.0.0.1", 0), (Step(b"", b""),))
    client.chunks = [server_frame(data_of(publisher, number, 60).encode()) for publisher, number in numbers]
    client.times = [1.0 + place for place in range(len(numbers))]
    return client


def sent(*numbers: tuple[int, int]) -> list[Publication]:
    return [Publication(b"", (f"{publisher:02d}-{number:06d}",), at=0.5) for publisher, number in numbers]


def test_publishers_may_interleave_but_each_keeps_its_order() -> None:
    verdict = check([received((0, 0), (1, 0), (0, 1))], sent((0, 0), (0, 1), (1, 0)))
    assert (verdict.lost, verdict.duplicated, verdict.disordered, verdict.strange) == (0, 0, 0, 0)
    assert verdict.latencies == [0.5, 1.5, 2.5]


def test_loss_duplicates_disorder_and_strangers_are_seen() -> None:
    published = sent((0, 0), (0, 1))
    assert check([received((0, 0))], published).lost == 1
    assert check([received((0, 0), (0, 1), (0, 1))], published).duplicated == 1
    assert check([received((0, 1), (0, 0))], published).disordered == 1
    assert check([received((0, 0), (0, 1), (7, 7))], published).strange == 1


def test_each_room_is_judged_by_what_was_published_to_it() -> None:
    one, other = received((0, 0)), received((0, 1))
    other.room = 1
    published = [Publication(b"", ("00-000000", "00-000001"), rooms=(0, 1))]
    assert check([one, other], published).lost == 0


def test_data_has_the_size_that_was_asked_for() -> None:
    assert len(data_of(3, 14, 104)) == 104
    assert json.loads(data_of(3, 14, 104))["seq"] == "03-000014#"
    with pytest.raises(ValueError, match="take a few more"):
        data_of(0, 0, 10)


def test_frames_of_a_client_are_masked() -> None:
    assert text_frame("hi") == b"\x81\x82\0\0\0\0hi"
    assert text_frame("x" * 200)[:4] == b"\x81\xfe\x00\xc8"


def test_the_end_of_an_http_answer_is_found() -> None:
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    assert answer_bytes(plain) == len(plain)
    assert answer_bytes(chunked) == len(chunked)
    assert answer_bytes(plain[:20]) == answer_bytes(chunked[:-3]) == 0


def test_a_report_shows_median_and_range_and_names_faults() -> None:
    report = Report("demo", {}, [Column("ms", "p99 ms")])
    for value in (1.0, 3.0, 2.0):
        report.add("case", {"ms": value, "lost": 1, "generator_bound": value == 3.0})
    assert "2.0 (1.0-3.0)" in report.table()
    assert "FAULTS in case: 3 lost" in report.table()
    assert "generator-bound: 1 of 3 runs of case" in report.table()


def test_the_picture_is_well_formed_and_sorted() -> None:
    picture = bars(
        "CPU <µs>", [("slow", [9.0, 99.0]), ("trio_templar", [1.0, 2.0]), ("none", [float("nan")])], ["8", "1"]
    )
    root = ET.fromstring(picture)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "CPU <µs>"
    assert texts.index("trio_templar") < texts.index("slow")
    assert Counter(texts)["none"] == 0
