"""
What a body asks: from the JSON that a caller sent to the little that the daemon must know of it, once.

`read` does the reading and knows no loop; `reader` decides where it is done: small bodies in place, all others in the process
beside this one (`aside.py`), so that no body of any shape holds up the other calls.
"""
