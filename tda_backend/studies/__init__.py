"""What is computed, kept and followed: study files, methods, steps, the store and jobs."""
