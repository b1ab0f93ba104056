"""Lark and Feishu: sans-IO reading of REST answers and events; the HTTP client and the long connection."""
