"""The acker: the ledger of open trees, the input log and the dead letters, in a process of its own."""
