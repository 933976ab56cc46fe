"""What a person's own task is: its code in normal form, and the values that this code gives."""
