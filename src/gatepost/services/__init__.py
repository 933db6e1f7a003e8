"""What people and systems ask us to do: one file for each noun of the domain."""
