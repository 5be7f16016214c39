"""What the relay makes of each parameter, as docs/support.md tells: found by asking each wire format's own `parse`.

`python -m tests.support` writes the page. The parameters are those of the official SDKs, so that a new release of theirs with
a new one fails a test until somebody has decided what beces of it.
"""
