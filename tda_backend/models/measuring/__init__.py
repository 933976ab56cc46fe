"""What a pass over a task's model takes on this machine: measured on a few rows, before anything is computed."""
