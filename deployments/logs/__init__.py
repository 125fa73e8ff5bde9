"""What the processes of models print: read where it lands, kept by the keeper, told to who listens."""
