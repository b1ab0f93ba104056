"""A chat platform in memory, unlike Lark in all that the contract leaves open, and the adapters that serve it.

`platform` is the platform: bots, chats, messages, files, limits, and the faults that tests plan. `channels` is what the
author of another platform writes; `kinds` is what they say to the daemon about it. `daemon` serves it all.
"""
