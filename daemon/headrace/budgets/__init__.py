"""
Budgets as people see and steer them, over all processes on one Redis.

    override.py   what is laid over the configuration at run time, for a while: a limit's figures, a caller's hold. Pure
    overrides.py  kept in Redis, gone by in every process (load.lua)
    census.py     what each process knows of its buckets and of who waits, asked of all of them
    board.py      all of that together: limits, buckets, levels, who waits
    gauges.py     limits as this process sees them, as metrics
    show.py       the same as a table or JSON
"""

from headrace.budgets.board import Board
from headrace.budgets.census import Census
from headrace.budgets.gauges import LimitGauges
from headrace.budgets.overrides import Overrides

__all__ = ["Board", "Census", "LimitGauges", "Overrides"]
