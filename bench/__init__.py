"""Figures of the gateway beside its peers, on one Postgres, in one run. `make bench`; the table is RESULTS.md."""
