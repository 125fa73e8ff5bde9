"""The console: a page in the browser over the API of this server."""
