"""
Why a call was slow, and how long one would wait now.

    told.py      what is kept of a call that is worth it, and which are. Pure
    timeline.py  the same as phases, one after the other. Pure
    book.py      kept in Redis for a day, of all processes (keep.lua)
    story.py     all that is known of one id: its calls, its ticket, the tries of all hosts
    reasons.py   what tickets that have not ended wait for
    forecast.py  which limits hold for a call, how full they are, how long it would wait
"""

from headrace.explain.book import Book
from headrace.explain.forecast import Asked, Forecast, Forecasts
from headrace.explain.reasons import Reasons
from headrace.explain.story import Stories, Story
from headrace.explain.told import Told

__all__ = ["Asked", "Book", "Forecast", "Forecasts", "Reasons", "Stories", "Story", "Told"]
