"""
Answers kept for the next one who asks: near before far, complete ones only, byte for byte as upstream said them.

control.py says what a caller asks of the cache and status.py what it is told; fingerprint.py which calls deserve one answer;
policy.py which answers may be kept at all. entry.py is what is kept. store.py is the port; memory.py, disk.py and redis.py
are its tiers (filter.py spares the disk the calls it cannot answer); purges.py is how a purge reaches hosts that were away;
and tiered.py is the whole: the `Cache` of the flow.
"""
