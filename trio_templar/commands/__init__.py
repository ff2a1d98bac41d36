"""The commands of `trio-templar`, one module each: `serve` runs a gateway, the others talk to one that runs.

Each module has a `COMMAND`; `cli` makes the parser from them, reads argv and environment, and turns errors into one
line and an exit status. Nothing here imports Trio, httpx or rich before a command runs: `--help` is to be quick.
"""
