"""`feedline convert`: data of any kind that can be served becomes columns that are read where they lie."""
