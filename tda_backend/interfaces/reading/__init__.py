"""Reading a study: stored rows, scores at any λ, payloads for the browser."""
