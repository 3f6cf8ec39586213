"""
The live page, its JSON and its events: what all hosts on one Redis do, from whichever is asked.

    bins.py      the last quarter of an hour: how full buckets were, what was refused; merged over processes. Pure
    recent.py    what a process remembers: those bins, waits by caller, the calls that ended last
    reporter.py  what a process says of itself, asked of all of them
    looks.py     a look at all of them at once, with what the board says of budgets
    fresh.py     made at most once in a while, however many ask
    rows.py      what is shown: a struct a row
    budgets.py, callers.py, tickets.py, calls.py, usage.py   rows of each view
    views.py     the views by name
    feed.py      views as they change, for all who look
    acts.py      what an operator may do
    asker.py     who looks, and what it may
    door.py      the listener; places.py its addresses
    page.py, tables.py, call_tables.py, cells.py, pictures.py, html.py, words.py, assets.py   how it looks
"""
