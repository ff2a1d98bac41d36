"""Bytes in and out, and the addresses where they come in."""
