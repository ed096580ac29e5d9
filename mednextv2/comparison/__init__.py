"""Several networks on one data set, with one recipe and an equal budget: runs, table and figure."""
