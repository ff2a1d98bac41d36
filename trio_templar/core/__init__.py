"""Pure and synchronous: no Trio, no I/O, no clock, no logging."""
