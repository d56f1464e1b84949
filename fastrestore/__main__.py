"""`python -m fastrestore` is the command `fastrestore`."""

from fastrestore.cli import main

main()
