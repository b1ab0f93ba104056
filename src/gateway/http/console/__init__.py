"""The pages for people. They are rendered on the server, load only their own assets, and work without scripts."""
