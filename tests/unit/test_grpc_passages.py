"""Messages under way, by their connections: which of them are late, and how much of them may have come."""

from __future__ import annotations

from headrace.edge.grpc_passages import Course, Passages
from headrace.edge.tcp_lines import Peer

ANN, BOB = ("192.0.2.1", 5), ("192.0.2.2", 5)


class Looked:
    """Messages that are looked at, each by its number; `so_far` says how far their connections are."""

    def __init__(self) -> None:
        self.peers: dict[int, Peer | None] = {}
        self.so_far: dict[Peer | None, int] = {ANN: 0, BOB: 0, None: 0}
        self.passages = Passages(self.peers.__getitem__)
        self.looks = 0

    def begin(self, number: int, peer: Peer | None) -> None:
        self.peers[number] = peer
        self.passages.new[number] = None

    def look(self, now: float) -> None:
        def so_far(peer: Peer | None) -> int:
            self.looks += 1
            return self.so_far[peer]

        self.passages.look(now, so_far)

    def late(self, peer: Peer | None, now: float) -> int:
        return len(list(self.passages.courses[peer].late(now, 30)))


def test_thousands_over_one_connection_cost_a_look_at_that() -> None:
    looked = Looked()
    for number in range(4000):
        looked.begin(number, ANN)
    looked.look(0)
    looked.looks = 0
    looked.look(1)
    assert looked.looks == 1
    assert len(looked.passages) == 4000


def test_what_stands_still_is_late_and_what_goes_on_is_not() -> None:
    looked = Looked()
    for number, peer in enumerate((ANN, BOB, None)):
        looked.begin(number, peer)
    looked.look(0)
    looked.so_far[ANN] = 2000
    looked.look(20)
    assert [looked.late(peer, 31) for peer in (ANN, BOB, None)] == [0, 1, 1]
    assert looked.late(ANN, 51) == 1


def test_a_little_is_no_progress() -> None:
    looked = Looked()
    looked.begin(1, ANN)
    looked.look(0)
    for now in range(10, 40, 10):
        looked.so_far[ANN] += 100
        looked.look(now)
    assert looked.late(ANN, 31) == 1


def test_who_came_later_has_its_own_time() -> None:
    looked = Looked()
    for number in range(3):
        looked.begin(number, ANN)
        looked.look(10.0 * number)
    assert [looked.late(ANN, now) for now in (30, 31, 41, 51)] == [0, 1, 2, 3]


def test_what_goes_on_for_far_too_long_is_late() -> None:
    looked = Looked()
    looked.begin(1, ANN)
    for now in range(0, 310, 10):
        looked.so_far[ANN] += 2000
        looked.look(now)
    assert looked.late(ANN, 301) == 1


def test_sizes_and_the_end() -> None:
    looked = Looked()
    looked.begin(1, ANN)
    looked.look(0)
    looked.so_far[ANN] = 5000
    looked.begin(2, ANN)
    looked.begin(3, BOB)
    looked.look(1)
    assert looked.passages.courses[ANN].size(9000) == 9000
    looked.passages.over(1)
    assert looked.passages.courses[ANN].size(9000) == 4000
    for number in (2, 3):
        looked.passages.over(number)
    assert looked.passages.courses == {}
    assert len(looked.passages) == 0


def test_what_nobody_has_looked_at_leaves_nothing() -> None:
    looked = Looked()
    looked.begin(1, ANN)
    looked.passages.over(1)
    looked.look(0)
    assert looked.passages.of(1) is None
    assert looked.passages.courses == dict[Peer | None, Course]()
