"""
Fuzzing: whatever comes from outside makes a decoder say what its contract says, and nothing else.

`table.py` has the targets, one for each decoder that faces a caller, upstream, Redis or whoever configures us; `target.py` runs
one; `mutate.py` makes the inputs out of a corpus, always the same ones for a seed; `found.py` has what broke a decoder once.
"""
