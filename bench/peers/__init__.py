"""The other servers: each module says how it is installed and how it is started as a `Target`."""
