"""What was received against what was sent, after the clock has stopped: exactly once, in order, and how late."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.load import Client
from bench.publisher import Publication
from bench.wire import MARK, TOKEN_BYTES

Tokens = list[str]

FAULTS = ("lost", "duplicated", "disordered", "strange")


@dataclass
class Verdict:
    """Faults of a whole phase, and the latency of each delivery in seconds, sorted."""

    lost: int = 0
    duplicated: int = 0
    disordered: int = 0
    strange: int = 0
    frame_bytes: float = 0.0
    latencies: Sequence[float] = field(default_factory=list)

    def quantile(self, part: float) -> float:
        """Return the latency below which `part` of the deliveries stayed; NaN if there were none."""
        if not self.latencies:
            return float("nan")
        return self.latencies[min(len(self.latencies) - 1, int(part * len(self.latencies)))]


def check(clients: Iterable[Client], publications: Iterable[Publication]) -> Verdict:
    """Compare what each client got with what was published to its room, publisher by publisher."""
    sent_at, expected = _sent(publications)
    verdict = Verdict()
    latencies = array("d")
    good: dict[int, Tokens] = {}  # for each room, a list already found to be right: most others are equal to it
    received_bytes = 0
    for client in clients:
        stream = b"".join(client.chunks)
        received_bytes += len(stream)
        tokens = [piece[-TOKEN_BYTES:].decode("latin-1") for piece in stream.split(MARK)[:-1]]
        if tokens != good.get(client.room) and _judge(verdict, tokens, expected[client.room]):
            good[client.room] = tokens
        _add_latencies(latencies, client, tokens, sent_at)
    verdict.latencies = sorted(latencies)
    verdict.frame_bytes = received_bytes / max(1, len(latencies))
    return verdict


def _sent(publications: Iterable[Publication]) -> tuple[dict[str, float], dict[int, Tokens]]:
    """Return when each token was sent, and what each room must get."""
    sent_at: dict[str, float] = {}
    expected: dict[int, Tokens] = defaultdict(list)
    for publication in publications:
        rooms = publication.rooms or (publication.room,) * len(publication.tokens)
        for room, token in zip(rooms, publication.tokens, strict=True):
            sent_at[token] = publication.at
            expected[room].append(token)
    return sent_at, expected


def _judge(verdict: Verdict, got: Tokens, expected: Tokens) -> bool:
    """Count the faults of one client; return whether there were none."""
    wanted, have = Counter(expected), Counter(got)
    lost = (wanted - have).total()
    strange = sum(count for token, count in have.items() if token not in wanted)
    duplicated = (have - wanted).total() - strange
    disordered = 0 if lost or duplicated or strange else int(_by_publisher(got) != _by_publisher(expected))
    verdict.lost += lost
    verdict.strange += strange
    verdict.duplicated += duplicated
    verdict.disordered += disordered
    return not (lost or strange or duplicated or disordered)


def _by_publisher(tokens: Tokens) -> dict[str, Tokens]:
    """Publishers run side by side: the order of each one's publications is what a room keeps."""
    streams: dict[str, Tokens] = defaultdict(list)
    for token in tokens:
        streams[token[:2]].append(token)
    return streams


def _add_latencies(latencies: "array[float]", client: Client, tokens: Tokens, sent_at: dict[str, float]) -> None:
    """A publication has arrived with the read that brought its MARK."""
    done = 0
    for when, chunk in zip(client.times, client.chunks, strict=True):
        until = done + chunk.count(MARK)
        for token in tokens[done:until]:
            latencies.append(when - sent_at.get(token, when))
        done = until
