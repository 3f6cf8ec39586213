"""
Schedule: waiting for a turn.

    turns.py     a call's turn: reserve in all buckets, wait for it in order, give back what is not used
    line.py      who asks the ledger, and who waits until called, in this process; pure
"""
