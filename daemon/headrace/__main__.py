"""`python -m headrace`: the same as `headrace`."""

from headrace.main import run

run()
