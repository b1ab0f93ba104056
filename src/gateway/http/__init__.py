"""The HTTP side: app factory, server, authentication, and one module per resource."""
