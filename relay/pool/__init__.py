"""The Poe keys: which are asked in which order, who waits for one, and what becomes of those that fail.

choosing  candidates, best first, in memory; what is claimed is the ledger's to say
queueing  who waits when all are busy
health    what a failure says about a key or an account, and for how long: pure
keeping   writes it down, with the block that the ledger holds to
"""

from __future__ import annotations

from relay.pool.choosing import Tier, conversation_of, order, tiers
from relay.pool.keeping import Failure, Keeper, Trial
from relay.pool.queueing import Queue

__all__ = ["Failure", "Keeper", "Queue", "Tier", "Trial", "conversation_of", "order", "tiers"]
