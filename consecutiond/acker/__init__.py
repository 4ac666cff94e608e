"""The acker: the one process that owns the ledger, the input log and the dead letters."""
