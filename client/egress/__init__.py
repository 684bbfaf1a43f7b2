"""The only door out: gate, outbox, log of what left, privacy ledger."""
