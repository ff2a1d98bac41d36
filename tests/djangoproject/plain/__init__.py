"""A site in plain Django: the code that README prints, and what the tests need to use it."""
