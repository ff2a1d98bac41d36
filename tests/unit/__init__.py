"""Unit tests: no network but loopback, no real time."""
