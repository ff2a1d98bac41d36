"""Frames: exact bytes, and the law of a batch: what it renders is what one frame after another would be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol

from tests.unit.conftest import frames
from trio_templar.core.dialects import DIALECTS
from trio_templar.core.frames import CLOSE, PING, TEXT, Batch, Publication, close_frame, header, read_close, text_frame
from trio_templar.errors import Close


def read(data: bytes) -> list[tuple[int, bytes]]:
    """What a client's library makes of server frames: opcodes and payloads."""
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(data)
    found = []
    for frame in protocol.received_frames():
        payload = frame.payload
        assert isinstance(payload, str | bytes | bytearray)
        found.append((int(frame.opcode), payload.encode() if isinstance(payload, str) else bytes(payload)))
    return found


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_header_uses_the_shortest_length(size: int, expected: bytes) -> None:
    assert header(TEXT, size) == expected


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_a_text_frame_is_read_back_whole(size: int) -> None:
    assert frames(text_frame(b"x" * size)) == [(TEXT, b"x" * size)]


def test_a_text_frame_is_what_a_client_reads_as_text() -> None:
    assert read(text_frame("é".encode())) == [(1, "é".encode())]


def test_a_ping_is_an_empty_ping_frame() -> None:
    assert read(PING) == [(9, b"")]


def test_a_close_frame_carries_code_and_reason() -> None:
    assert close_frame(Close(1012, "bye")) == b"\x88\x05\x03\xf4bye"


@pytest.mark.parametrize("code", [1005, 1006, 1015])
def test_a_code_that_stands_for_a_missing_frame_is_never_sent(code: int) -> None:
    assert close_frame(Close(code, "nobody reads this")) == b"\x88\x00"


@given(st.integers(1000, 4999), st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_a_close_frame_always_fits_and_is_valid_text(code: int, reason: str) -> None:
    frame = close_frame(Close(code, reason))
    assert len(frame) <= 127
    assert frame[2:][2:].decode() in reason


def test_a_long_reason_is_cut_at_a_character() -> None:
    frame = close_frame(Close(1000, "a" + "é" * 100))
    assert frame == b"\x88\x7d\x03\xe8a" + "é".encode() * 61


@given(st.sampled_from([1000, 1001, 1012, 4000]), st.text("aé", max_size=50))
def test_what_a_close_frame_says_can_be_read_back(code: int, reason: str) -> None:
    close = Close(code, reason)
    assert read_close(close_frame(close)) == close


def test_an_empty_close_frame_says_1005() -> None:
    assert read_close(b"\x88\x00") == Close(1005, "")


def test_a_reason_that_is_not_text_is_read_anyway() -> None:
    assert read_close(b"\x88\x03\x03\xe8\xff") == Close(1000, "\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("frame", [b"", text_frame(b"\x88\x00"), PING, b"HTTP/1.1 101 Switching Protocols\r\n"])
def test_other_frames_close_nothing(frame: bytes) -> None:
    assert read_close(frame) is None


def test_the_close_opcode_is_final() -> None:
    assert CLOSE == 0x88


publications = st.builds(
    Publication,
    st.binary(max_size=20) | st.sampled_from([b"x" * 100, b"x" * 124, b"y" * 65_500]),
    st.binary(max_size=20) | st.sampled_from([b"z" * 30]),
    st.none(),
)


@given(st.lists(publications, min_size=1, max_size=5), st.lists(st.binary(min_size=1, max_size=140), min_size=1))
def test_a_batch_renders_one_frame_for_each_publication(batch: list[Publication], request_ids: list[bytes]) -> None:
    rendered = Batch(batch)
    for request_id in request_ids:
        expected = b"".join(text_frame(each.left + request_id + each.right) for each in batch)
        assert rendered.render(request_id) == expected


def test_equal_frames_are_built_once() -> None:
    batch = Batch([Publication(b"a", b"b")])
    first = batch.render(b'"one"')
    assert batch.render(bytes(bytearray(b'"one"'))) is first


def test_a_batch_knows_its_count_and_its_bytes() -> None:
    batch = Batch([Publication(b"ab", b"c"), Publication(b"", b"d")])
    assert (batch.count, batch.size) == (2, 4)


def test_the_cutter_of_these_tests_finds_a_torn_frame() -> None:
    whole: Any = text_frame(b"abc")
    with pytest.raises(AssertionError, match="torn"):
        frames(whole[:-1])


def test_a_batch_has_a_key_for_each_path_that_is_asked_for() -> None:
    batch = Batch([Publication(b'{"requestId": ', b', "type": "publish", "data": {"id": 1, "kind": "car"}}')])
    paths: list[tuple[str, ...]] = [("id",), ("kind",), ("id",), ()]
    assert [batch.conflation_key(path) for path in paths] == [b"1", b'"car"', b"1", None]


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (b'{"id": 1, "x": 1e999}', b"1"),
        (b'{"id": 1, "x": "\\ud800"}', None),
        (b'{"id": 1e999}', None),
        (b'{"id": "\\ud800"}', None),
        (b'{"x": 1}', None),
        (b"[1]", None),
        (b"1e999", None),
    ],
)
def test_data_that_is_valid_json_and_no_number_of_ours_ends_nothing(data: bytes, key: bytes | None) -> None:
    batch = Batch([DIALECTS["2"].publication(data)])
    assert batch.conflation_key(["id"]) == key
