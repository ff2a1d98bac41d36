"""One client, and all of them: from the first byte of a handshake to the last of a goodbye."""
