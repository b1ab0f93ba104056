"""Issues: the filing of issues, and the page that shows one."""
