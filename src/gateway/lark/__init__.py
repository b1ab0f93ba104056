"""Lark and Feishu: sans-IO judgement of REST answers and events; the client and the connection that carry them."""
