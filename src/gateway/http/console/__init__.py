"""The pages for people: rendered on the server, with assets of our own, and usable without a script."""
