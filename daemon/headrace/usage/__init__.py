"""
What was used: by whom, of which model, in which lane, by minute, day and month; at what cost, and what was saved.

    tally.py     adds up what attempts spent and what calls came to, in memory. Pure
    store.py     posts that to Redis once a second, exactly once, and reads it back (post.lua)
    question.py  what is asked of it, and the answer: filtered, grouped, added up. Pure
    traffic.py   one line a call, for rehearsals; off by default
    show.py      an answer as a table, CSV or JSON
"""

from headrace.usage.question import Granularity, Question, Row
from headrace.usage.store import Store
from headrace.usage.tally import Tally

__all__ = ["Granularity", "Question", "Row", "Store", "Tally"]
