"""A data directory and a configuration of the tests' own, before Django's settings are read."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

if "POE_RELAY_DATA_DIR" not in os.environ:
    _directory = tempfile.mkdtemp(prefix="poe-relay-test-")
    atexit.register(shutil.rmtree, _directory, ignore_errors=True)
    os.environ["POE_RELAY_DATA_DIR"] = _directory
# pytest-xdist's workers have databases of their own: a dead process's spool of one is none of another's business.
if _worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["POE_RELAY_DATA_DIR"] = os.path.join(os.environ["POE_RELAY_DATA_DIR"], _worker)
# A config.toml of whoever runs the tests is not the tests'.
os.environ.setdefault("POE_RELAY_CONFIG", os.devnull)
# Served processes read the balances of their Poe accounts: never from Poe itself, with keys that a test made up.
os.environ.setdefault("POE_RELAY_POE__API_URL", "http://127.0.0.1:9")
