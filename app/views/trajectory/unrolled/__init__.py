"""What leaving one example out changes in this very training run: predicted by unrolling, and true."""
