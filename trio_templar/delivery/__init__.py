"""From a publication to a socket.

What becomes of a publication that a socket does not take at once has a verb each:

    wait      it is in the backlog of its client until the socket takes it
    refuse    it is not taken: its client is being closed
    conflate  a newer one takes its place
    drop      it goes although somebody wants it: by the policy of its room, or because its client is cut
    void      it goes because nobody wants it any more: its subscription has ended
    give up   to let go of what waits, for whatever reason

To cut a client is to drop its publications and to close it.
"""
