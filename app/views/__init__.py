"""One folder a page: what it draws, its charts and its numbers."""
