"""TensorZero's gateway as its wheel has it, in a process that does nothing else. Says its address as the relay does."""

from __future__ import annotations

import os
import sys
import threading

from tensorzero import _start_http_gateway

# It writes its log to the standard output.
said = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
gateway = _start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
print(f"TensorZero listens on {gateway.base_url}", file=said, flush=True)
threading.Event().wait()
