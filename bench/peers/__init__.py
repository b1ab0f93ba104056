"""The official SDKs, doing the same durable writes in their event handlers."""
