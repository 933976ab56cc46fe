"""SOURCE: a training run shortened to segments (arXiv 2405.12186)."""
