"""`python -m trio_templar`."""

from trio_templar.commands.cli import main

main()
