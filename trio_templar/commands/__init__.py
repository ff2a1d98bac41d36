"""The commands of `trio-templar`: `serve` runs a gateway, the others talk to one that runs.

Each has a module with its `COMMAND`; the other modules are what these need. `cli` makes the parser from them, reads
argv and environment, and turns errors into one line and an exit status. A command's module imports Trio, httpx and rich
only when the command runs, so that `--help` is quick.
"""
