"""One request as hypercorn sees it: what is there of a body comes as one piece, and what is behind it after it."""

from __future__ import annotations

import h11
import pytest

from trio_templar.http.exchange import MAX_PIECES, Exchange

HEAD = b"POST /trigger/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def begun() -> Exchange:
    exchange = Exchange()
    exchange.receive_data(HEAD)
    assert isinstance(exchange.next_event(), h11.Request)
    return exchange


def chunks(body: bytes) -> bytes:
    return b"".join(b"1\r\n%c\r\n" % byte for byte in body)


def test_the_pieces_of_a_body_that_are_there_come_as_one() -> None:
    exchange = begun()
    for body in (b"abc", b"de"):
        exchange.receive_data(chunks(body))
        assert exchange.next_event() == h11.Data(body)
        assert exchange.next_event() is h11.NEED_DATA


def test_the_end_of_a_body_and_what_is_behind_it_stay_apart() -> None:
    exchange = begun()
    exchange.receive_data(chunks(b"abc") + b"0\r\n\r\nGET")
    assert exchange.next_event() == h11.Data(b"abc")
    assert exchange.next_event() == h11.EndOfMessage()
    assert exchange.next_event() is h11.PAUSED
    assert exchange.trailing_data == (b"GET", False)


def test_a_body_of_very_many_pieces_lets_others_in_between() -> None:
    exchange = begun()
    body = b"x" * (2 * MAX_PIECES + 1)
    exchange.receive_data(chunks(body) + b"0\r\n\r\n")
    assert [len(exchange.next_event().data) for _ in range(3)] == [MAX_PIECES, MAX_PIECES, 1]
    assert exchange.next_event() == h11.EndOfMessage()


def test_what_was_good_of_a_malformed_body_comes_before_the_error() -> None:
    exchange = begun()
    exchange.receive_data(chunks(b"abc") + b"nonsense\r\n")
    assert exchange.next_event() == h11.Data(b"abc")
    for _ in range(2):
        with pytest.raises(h11.RemoteProtocolError):
            exchange.next_event()
        assert exchange.fault == "a malformed body"
