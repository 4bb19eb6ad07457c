"""How the project's own data came to be: scripts that run from a checkout and are not installed."""
