"""What a machine has to compute with, and how busy that is."""
