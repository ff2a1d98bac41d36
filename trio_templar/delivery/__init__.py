"""From a publication to a socket.

Its way has a verb for each step:

    publish   a publisher wants it to reach its rooms
    let in    the entrance has space for it
    append    it is in the log, where each node reads it
    keep      the history of a node has it, for those who come back
    hand on   the fan-out of a node has it, for those who are there
    offer     the outbox of a subscription is given it; to do so for all subscriptions of the room is a pass

What becomes of one that a socket does not take at once has a verb too:

    wait      it is in the backlog of its client until the socket takes it
    refuse    it is not taken: its client is being closed
    conflate  a newer one takes its place
    drop      it goes although somebody wants it: by the policy of its room, or because its client is cut
    void      it goes because nobody wants it any more: its subscription has ended
    give up   to let go of what waits, for whatever reason
    lose      it is conflated or dropped, and the client lives on: it will be told how many it lost

To cut a client is to drop its publications and to close it.
"""
