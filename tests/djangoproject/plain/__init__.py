"""A site in plain Django: the code that README prints, and what its tests add."""
