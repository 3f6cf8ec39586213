"""
Single-flight: identical calls in the air share one upstream call, in this process (flight.py, flights.py) and across
processes and hosts (lease.py). A flight never remembers: what is kept after the landing is the cache's work.
"""
