"""Issues: filing them, and the page that shows one."""
