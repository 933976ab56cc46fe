"""Claims of the papers: verdicts, figures and shipped results."""
