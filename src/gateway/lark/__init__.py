"""Lark and Feishu: sans-IO judgement of their REST answers and events, and the client and long connection that carry them."""
