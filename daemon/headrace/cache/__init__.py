"""
Answers kept for the next one who asks: near before far, complete ones only, byte for byte as upstream said them.

control.py says what a caller asks of the cache and status.py what it is told; fingerprint.py which calls deserve one answer;
policy.py which answers may be kept at all; keeping.py for how long, and for whom. entry.py is what is kept. memory.py, disk.py
and redis.py are the tiers (filter.py spares the disk the calls it cannot answer), tally.py what each of them counts, gauges.py
what it holds, as metrics. A purge is what selector.py means, and purges.py is how it reaches hosts that were away. tiered.py
is the whole: the `Cache` of the flow.
"""
