"""What each key has used of its limits: counted where requests come in, summed in the keeper."""
