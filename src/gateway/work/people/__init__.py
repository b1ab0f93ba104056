"""Accounts, members and their rights, bindings to platform accounts, teams."""
