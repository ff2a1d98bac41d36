"""The log's way out: nobody waits for who reads it, and what is lost is counted."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
from collections.abc import Iterator
from contextlib import suppress

import pytest

from trio_templar.log import JsonFormatter, TextFormatter, announce
from trio_templar.log_writer import WriterHandler

PIPE_BYTES = 4096


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield reader, writer
    for descriptor in (reader, writer):
        with suppress(OSError):  # a test has
            os.close(descriptor)


def logger_to(handler: logging.Handler, formatter: logging.Formatter | None = None) -> logging.Logger:
    handler.setFormatter(formatter or logging.Formatter("%(message)s"))
    logger = logging.Logger("trio_templar.test", logging.INFO)
    logger.addHandler(handler)
    return logger


def read_until(reader: int, end: bytes) -> bytes:
    read = b""
    while end not in read:
        read += os.read(reader, 65536)
    return read


def test_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    handler = WriterHandler(pipe[1])
    logger = logger_to(handler)
    for number in range(100):
        logger.info("%d", number)
    handler.flush()
    assert os.read(pipe[0], 65536).split() == [b"%d" % number for number in range(100)]


def test_nobody_waits_for_who_does_not_read_and_nothing_is_lost_that_fits(pipe: tuple[int, int]) -> None:
    logger = logger_to(WriterHandler(pipe[1]))
    for number in range(500):
        logger.info("%d %s", number, "x" * 100)
    logger.info("end")
    lines = read_until(pipe[0], b"end\n").splitlines()
    assert [int(line.split()[0]) for line in lines[:-1]] == list(range(500))


def test_what_does_not_fit_is_dropped_and_counted(pipe: tuple[int, int]) -> None:
    handler = WriterHandler(pipe[1], max_bytes=10 * PIPE_BYTES)
    logger = logger_to(handler, JsonFormatter())
    for number in range(1000):
        logger.info("%d %s", number, "x" * 200)
    read = read_until(pipe[0], b"log lines dropped")
    logger.info("after")  # it may be dropped too, where the lines before it count a moment longer
    while accounted(read, logger) != 1001:
        assert select.select([pipe[0]], [], [], 30)[0], "a line is neither written nor counted"
        read += os.read(pipe[0], 65536)
    assert accounted(read, logger) > len(read.splitlines()), "some were dropped"


def accounted(read: bytes, logger: logging.Logger) -> int:
    """How many lines of `logger` were written, or are counted as dropped."""
    lines = [json.loads(line) for line in read.splitlines(keepends=True) if line.endswith(b"\n")]
    lost: int = sum(line["count"] for line in lines if line["event"] == "log lines dropped")
    return lost + len([line for line in lines if line["logger"] == logger.name])


@pytest.mark.parametrize("broken", ["full", "gone"])
def test_the_number_of_lines_that_a_broken_stream_lost_is_said_once_it_takes_some(
    broken: str, pipe: tuple[int, int]
) -> None:
    if broken == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
    handler = WriterHandler(descriptor)
    logger = logger_to(handler, TextFormatter())
    for _ in range(3):
        logger.info("lost")
        handler.flush()
    os.dup2(pipe[1], descriptor)
    logger.info("written")
    handler.flush()
    assert [
        line.partition(b" INFO ")[2] or line.partition(b" WARNING ")[2] for line in os.read(pipe[0], 9999).splitlines()
    ] == [
        b"written",
        b"log lines dropped count=3",
    ]


def test_what_is_announced_is_a_line_for_people_or_an_object_at_any_level(pipe: tuple[int, int]) -> None:
    for formatter in (TextFormatter(), JsonFormatter()):
        handler = WriterHandler(pipe[1])
        logger = logger_to(handler, formatter)
        logger.setLevel(logging.ERROR)
        announce(logger, "ready", "trio-templar: ready on x", websockets=["x"])
        handler.flush()
    text, line = os.read(pipe[0], 9999).splitlines()
    assert text == b"trio-templar: ready on x"
    read = json.loads(line)
    assert (read["event"], read["level"], read["websockets"]) == ("ready", "info", ["x"])
