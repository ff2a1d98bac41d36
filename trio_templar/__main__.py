"""`python -m trio_templar`."""

from trio_templar.cli import main

main()
