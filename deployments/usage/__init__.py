"""What each request took: its record, and the keeper's store of them."""
