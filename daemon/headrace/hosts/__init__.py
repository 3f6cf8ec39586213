"""
The processes that share one Redis, each as it says that it is, and drained when an operator wants it.

    fact.py      what a process says of itself, and which ones a name means. Pure
    register.py  kept in Redis, beat by beat; read by whoever looks
    drains.py    marks that put a process out of service, and back
"""

from headrace.hosts.drains import Drains
from headrace.hosts.fact import Drain, Fact, State
from headrace.hosts.register import Register

__all__ = ["Drain", "Drains", "Fact", "Register", "State"]
