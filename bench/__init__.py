"""Benchmarks of trio_templar: one script per question, `python -m bench.NAME --help`; `python -m bench` runs them all.

In reading order:

    wire      bytes: handshakes, masked frames, HTTP requests, and the numbered data that makes loss visible
    load      the load generator: raw non-blocking sockets on epoll, and the clients
    publisher posts the triggers, in the same loop
    check     what was received against what was sent, after the clock has stopped
    process   server processes: start, pin to a core, CPU time, memory
    api       the backend: answers every bootstrap from a constant
    target    a running server to measure, and how to start the gateway as one
    phase     one measured phase: connect, publish, and the figures of it
    report    the table, the progress bar and the JSON file
    options   arguments that several scripts share

    limit fanout ping rooms connect memory slow core compare        the questions
    peers/    the other servers `compare` measures
"""
