"""What the ledger promises, tried with faults on a real relay: each script prints its figures and exits 1 on a miss."""
